"""Bugs planted in consumer groups on purpose, as ``planted`` does for everything else; the scenario of groups must catch them.

The coordinator keeps what must be kept twice: the live group refuses early, and ``apply`` refuses by the order of the log. So a
bug in one half alone mostly does no harm; those here are in what nobody checks again, or in both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final
from unittest.mock import patch

from raftlog.broker.coordinator import Coordinator
from raftlog.broker.group_machine import GroupMachine, Settled
from raftlog.core.groups.effects import Answer, Propose
from raftlog.core.groups.live import LiveGroup
from raftlog.core.groups.outcomes import joined
from raftlog.core.groups.records import GroupRecord
from raftlog.core.groups.state import Applied, GroupsState
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb

Plant = Callable[[], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def commit_without_generation() -> Iterator[None]:
    """Whoever commits, commits: neither half looks at member or generation."""
    with patch.object(GroupsState, "_check_commit", lambda *_: None), patch.object(LiveGroup, "check_commit", lambda *_: None):
        yield


@contextlib.contextmanager
def answer_commits_at_once() -> Iterator[None]:
    """A commit is acknowledged when it is appended."""

    def propose(self: GroupMachine, command: pb.GroupCommand, *, now_ms: int, settled: Settled) -> None:
        original(self, command, now_ms=now_ms, settled=settled if not command.HasField("commit_offsets") else lambda _: None)
        if command.HasField("commit_offsets"):
            settled(Applied())

    original = GroupMachine.propose
    with patch.object(GroupMachine, "propose", propose):
        yield


@contextlib.contextmanager
def tell_generations_at_once() -> Iterator[None]:
    """Members hear of a generation before it is durable, so that two coordinators may tell the same number differently."""

    def complete(self: LiveGroup, now_ms: int) -> None:
        original(self, now_ms)
        if not self._proposed or not self.members:
            return
        proposed = self._effects[-1]
        assert isinstance(proposed, Propose)
        state = GroupsState(groups={self.group_id: GroupRecord(group_id=self.group_id, generation=self.generation)})
        state.apply(1, proposed.command)
        for member in self.members:
            if member.join_ticket is not None:
                answer = joined(state.groups[self.group_id], member.member_id)
                self._effects.insert(0, Answer(member.join_ticket, answer))
                member.join_ticket = None

    original = LiveGroup._complete
    with patch.object(LiveGroup, "_complete", complete):
        yield


@contextlib.contextmanager
def begin_groups_anew_at_a_failover() -> Iterator[None]:
    """A new coordinator does not look at what is replicated of its groups: their generations begin at 1 again."""

    def on_led(self: Coordinator, term: int | None) -> None:
        with patch.object(self.machine.state, "groups", {}):
            original(self, term)

    def bring_to_life(self: Coordinator, group_id: str) -> LiveGroup:
        record = GroupRecord(group_id=group_id)
        live = self._live[group_id] = LiveGroup(record, limits=self._config.groups, now_ms=self._now_ms())
        return live

    original = Coordinator._on_led
    with (
        patch.object(Coordinator, "_on_led", on_led),
        patch.object(Coordinator, "_bring_to_life", bring_to_life),
        patch.object(GroupsState, "_check_new_generation", lambda *_: None),
    ):
        yield


@contextlib.contextmanager
def read_offsets_without_a_barrier() -> Iterator[None]:
    """A deposed coordinator answers where a group is."""

    async def barrier(self: Coordinator) -> None:
        self.check_serving()

    with patch.object(Coordinator, "barrier", barrier):
        yield


@contextlib.contextmanager
def forget_offsets_at_a_restart() -> Iterator[None]:
    """The rows of offsets are not read; a snapshot that lacks them would do the same."""

    def load(self: GroupsState, rows: Any) -> None:
        original(self, (row for row in rows if row[0] != 2))

    original = GroupsState.load
    with patch.object(GroupsState, "load", load):
        yield


GROUP_PLANTS: Final[dict[str, Plant]] = {
    f"groups-{plant.__name__.replace('_', '-')}": plant
    for plant in (
        commit_without_generation, answer_commits_at_once, tell_generations_at_once,
        begin_groups_anew_at_a_failover, read_offsets_without_a_barrier, forget_offsets_at_a_restart,
    )
}  # fmt: skip
"""By name: what ``--planted`` must catch in the mode of groups."""
