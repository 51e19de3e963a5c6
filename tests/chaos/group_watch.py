"""Who looks at groups from outside: an auditor asks where they are, and a ghost commits as a member that is none any more.

Both ask one node once, so that what they write down is certain: a commit that was refused did not happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from raftlog.client.wire_errors import from_status
from raftlog.errors import RaftlogError
from raftlog.pb.raftlog.v1.group_service_pb2 import (
    CommitOffsetsRequest,
    FetchOffsetsRequest,
    GroupPartition,
    NewOffset,
)
from raftlog.pb.raftlog.v1.group_service_pb2_grpc import GroupServiceStub
from tests.chaos.client import CALL_TIMEOUT_S, OneNode, outcome_of
from tests.chaos.crowd import Crowd
from tests.chaos.recorder import Recorder
from tests.history.group_events import CommitOffset, CommittedOffset, FetchCommitted, FetchedCommitted

if TYPE_CHECKING:  # exists for the type checker only
    from raftlog.pb.raftlog.v1.group_service_pb2_grpc import GroupServiceAsyncStub

AUDIT_PAUSE_S = 0.15
GHOST_PAUSE_S = 0.7
GHOST_REWINDS = 7
"""How far before the place that a former member had read to its ghost commits: an offset that hardly anybody else commits."""


class GroupNode(OneNode):
    """Also its groups."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.groups: GroupServiceAsyncStub = GroupServiceStub(self._channel)


class Auditor:
    """Asks any node for the committed offset of any group in any partition."""

    def __init__(self, name: str, recorder: Recorder, rng: Random, topic: str, partitions: int, groups: Sequence[str]) -> None:
        self._name, self._recorder, self._rng = name, recorder, rng
        self._topic, self._partitions, self._groups = topic, partitions, groups
        self.known: dict[tuple[str, int], int] = {}
        """Group and partition → the offset that was told last."""

    async def run(self, addresses: Sequence[str], stop: asyncio.Event) -> None:
        """Until ``stop``."""
        nodes = [GroupNode(address) for address in addresses]
        try:
            while not stop.is_set():
                await self.ask(self._rng.choice(nodes), self._rng.choice(self._groups), self._rng.randrange(self._partitions))
                await asyncio.sleep(AUDIT_PAUSE_S)
        finally:
            for node in nodes:
                await node.close()

    async def ask(self, node: GroupNode, group: str, partition: int) -> int:
        """One question; −1 where nothing is committed, or nobody answers."""
        value = FetchCommitted(group=group, topic=self._topic, partition=partition)
        operation = self._recorder.begin(self._name, value)
        request = FetchOffsetsRequest(
            group_id=group, partitions=[GroupPartition(topic=self._topic, partition=partition)]
        )  # fmt: skip
        try:
            [found] = (await node.answer(node.groups.FetchOffsets(request, timeout=CALL_TIMEOUT_S))).offsets
        except RaftlogError as error:
            self._recorder.end(operation, "fail", error=repr(error))
            return -1
        offset = found.committed_offset if found.HasField("committed_offset") else -1
        self._recorder.end(operation, "ok", FetchedCommitted(offset=offset))
        self.known[group, partition] = offset
        return offset


class Ghost:
    """Commits under the name and in the generation of somebody who was a member, when another generation has been told."""

    def __init__(self, name: str, recorder: Recorder, rng: Random, auditor: Auditor, topic: str, crowds: Sequence[Crowd]) -> None:
        self._name, self._recorder, self._rng, self._auditor = name, recorder, rng, auditor
        self._topic, self._crowds = topic, crowds
        self.refused = 0
        """Commits of generations that were over."""

    async def run(self, addresses: Sequence[str], stop: asyncio.Event) -> None:
        """Until ``stop``."""
        nodes = [GroupNode(address) for address in addresses]
        try:
            while not stop.is_set():
                await asyncio.sleep(GHOST_PAUSE_S)
                await self._haunt(self._rng.choice(nodes), self._rng.choice(self._crowds))
        finally:
            for node in nodes:
                await node.close()

    async def _haunt(self, node: GroupNode, crowd: Crowd) -> None:
        newest = max((one.generation for one in crowd.past), default=-1)
        gone = [one for one in crowd.past[-20:] if one.generation < newest and one.partitions]
        if not gone:
            return
        was = self._rng.choice(gone)
        partition, group = self._rng.choice(was.partitions), crowd.plan.name
        offset = self._auditor.known.get((group, partition), -1) - GHOST_REWINDS
        if offset < 0:
            return
        value = CommitOffset(
            group=group, generation=was.generation, member_id=was.member_id, topic=self._topic, partition=partition, offset=offset
        )
        request = CommitOffsetsRequest(
            group_id=group, generation=was.generation, member_id=was.member_id,
            offsets=[NewOffset(topic=self._topic, partition=partition, offset=offset)],
        )  # fmt: skip
        operation = self._recorder.begin(self._name, value)
        try:
            [result] = (await node.answer(node.groups.CommitOffsets(request, timeout=CALL_TIMEOUT_S))).results
            if result.HasField("error"):
                raise from_status(result.error)
        except RaftlogError as error:
            outcome = outcome_of(error)
            self.refused += outcome == "fail"
            self._recorder.end(operation, outcome, error=repr(error))
            return
        self._recorder.end(operation, "ok", CommittedOffset())
