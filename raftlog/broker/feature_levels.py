"""Raising the cluster's feature level: every node's part, and that of group 0's leader (``raftlog.core.features``).

The leader asks every node that is part of the cluster what its version supports; then it has each mark its data directory with
the new level; then it raises the level by an entry of group 0, which names what each has said. A node that became part of the
cluster meanwhile makes the entry void. A raise that was cut short has marked some directories, and changed nothing else.

Rules:

1. Nothing is marked before all have been asked: a node that is too old, or down, holds the cluster back and costs it nothing.
2. ``without`` names nodes that do not count: they are down, and come back with a version that supports the level, or never. No
   other node will have a link to a version that does not (``raftlog.node.gate``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from google.protobuf.message import DecodeError

from raftlog.broker.metadata_calls import MetadataCalls
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.core.features import FIRST_VERSION, THIS_VERSION, Features, Level, Supported, newest_common
from raftlog.errors import (
    FatalError,
    FeatureLevelError,
    IndeterminateError,
    InvalidRequestError,
    NotLeaderError,
    RaftlogError,
    UnavailableError,
)
from raftlog.model import LevelReport, NodeSupport
from raftlog.pb.raftlog.internal.v1 import features_pb2 as pb
from raftlog.pb.raftlog.internal.v1 import metadata_pb2
from raftlog.peers.port import Peers

LEVELS_METHOD = "levels"
MARK_METHOD = "mark_level"
RAISE_METHOD = "raise_level"
METHODS = (LEVELS_METHOD, MARK_METHOD, RAISE_METHOD)


class Mark(Protocol):
    """What this node supports, and what its data directory is marked with."""

    @property
    def supported(self) -> Supported:
        """The levels that this node's version understands."""
        ...

    @property
    def level(self) -> int:
        """What its directory is marked with."""
        ...

    def raise_to(self, level: int) -> None:
        """Mark it with a higher level, durably before this returns; a lower one changes nothing.

        Raises:
            FeatureLevelError: this node does not support it.
        """
        ...


class NoMark:
    """A ``Mark`` in memory, for a broker without a data directory. It is marked with the newest level."""

    supported: Supported = THIS_VERSION

    def __init__(self, level: int = THIS_VERSION.high) -> None:
        self.level = level

    def raise_to(self, level: int) -> None:
        """See ``Mark``."""
        self.level = max(self.level, level)


class OwnLevels:
    """What a node knows of levels for itself.

    Args:
        mark: its directory's mark, and what it supports.
        features: is told of the cluster's level.
        version: raftlog's, for people.
    """

    def __init__(self, mark: Mark | None = None, features: Features | None = None, version: str = "") -> None:
        self.mark = NoMark() if mark is None else mark
        self.version = version
        self._features = Features(self.mark.supported) if features is None else features

    def reached(self, level: int) -> None:
        """Group 0 is applied up to a state at ``level``. The directory was marked before; that is not written again."""
        self._features.raised(level)
        self.mark.raise_to(level)


class FeatureLevels:
    """Both parts.

    Args:
        node_id: this node.
        own: what it knows for itself.
        machine, calls: group 0.
        leader: who leads group 0, None where nobody does.
        peers: the way to the others.
        timeout_s: for one call to another node.
    """

    def __init__(
        self, node_id: int, own: OwnLevels, machine: MetadataMachine, calls: MetadataCalls,
        *, leader: Callable[[], int | None], peers: Peers, timeout_s: float,
    ) -> None:  # fmt: skip
        self._node_id = node_id
        self._own = own
        self._machine = machine
        self._calls = calls
        self._leader = leader
        self._peers = peers
        self._timeout_s = timeout_s

    @property
    def supported(self) -> tuple[int, int]:
        """The lowest and the highest level that this node's version understands."""
        return self._own.mark.supported.low, self._own.mark.supported.high

    async def answer(self, method: str, body: bytes) -> bytes:
        """Answer another node's call.

        Raises:
            InvalidRequestError: the body is not the method's.
            RaftlogError: what the method itself raises.
        """
        try:
            if method == RAISE_METHOD:
                call = pb.RaiseLevelCall.FromString(body)
                report = await self.raise_here(call.level, dry_run=call.dry_run, without=call.without)
                return _to_wire(report, self._machine.state.raised_index).SerializeToString()
            if method == MARK_METHOD:
                self._own.mark.raise_to(pb.MarkLevelCall.FromString(body).level)
        except DecodeError as error:
            raise InvalidRequestError(f"the body of a {method} call cannot be read: {error}") from error
        except FatalError as error:  # of this node's disk; the node goes on without the mark
            raise FeatureLevelError(str(error)) from error
        return self._levels().SerializeToString()

    async def raise_level(self, level: int, *, dry_run: bool, without: Collection[int] = ()) -> LevelReport:
        """Raise the cluster's level, wherever group 0 is led from; see ``raise_here``.

        Raises:
            UnavailableError: nobody leads group 0; nothing was done.
        """
        leader = self._leader()
        if leader is None:
            raise UnavailableError("the metadata group has no leader just now; try again")
        if leader == self._node_id:
            return await self.raise_here(level, dry_run=dry_run, without=without)
        call = pb.RaiseLevelCall(level=level, dry_run=dry_run, without=without)
        timeout_s = 3 * self._timeout_s  # it asks all nodes twice, and proposes
        try:
            said, _ = await self._peers.call(leader, RAISE_METHOD, call.SerializeToString(), timeout_s=timeout_s)
        except InvalidRequestError as error:
            if await self._knows_levels(leader):
                raise
            raise FeatureLevelError(f"node {leader}, the controller, is of the first version; start the new one there") from error
        answer = pb.RaiseLevelAnswer.FromString(said)
        await self._machine.wait_applied(answer.index, self._timeout_s)
        return _of_wire(answer)

    async def raise_here(self, level: int, *, dry_run: bool, without: Collection[int] = ()) -> LevelReport:
        """Raise the cluster's level as the leader of group 0.

        Args:
            level: 0: the newest that all nodes support.
            dry_run: only ask, and say what would come of it.
            without: nodes that do not count, though they are part of the cluster.

        Raises:
            NotLeaderError: this node does not lead group 0; nothing was done.
            FeatureLevelError: some node holds the cluster back; says which, and why.
            InvalidRequestError: there is no such level, or no such node.
            IndeterminateError: the outcome is unknown; look, or do it again.
        """
        if not self._machine.log.ready:
            raise NotLeaderError("this node does not lead the metadata group")
        now, nodes = self._machine.state.level, self._machine.state.nodes
        unknown = sorted(set(without) - nodes.keys())
        if unknown:
            raise InvalidRequestError(f"nodes {unknown} are not part of the cluster; there are {sorted(nodes)}")
        if level and not THIS_VERSION.has(level):
            raise InvalidRequestError(f"there is no feature level {level}; this version knows {THIS_VERSION}")
        asked = await self._ask_all([node_id for node_id in nodes if node_id not in without], LEVELS_METHOD, b"")
        target = level or max(now, _newest(asked))
        report = _report(now, target, asked)
        if dry_run or target == now:
            return report
        if report.held_back:
            raise FeatureLevelError(f"the cluster stays at feature level {now}, not {target}: {report.held_back}")
        marked = await self._ask_all(list(asked), MARK_METHOD, pb.MarkLevelCall(level=target).SerializeToString())
        report = _report(now, target, marked)
        if report.held_back:
            raise FeatureLevelError(f"the cluster stays at feature level {now} for the moment: {report.held_back}; do it again")
        raising = metadata_pb2.RaiseLevel(level=target, nodes=_nodes(marked), without=without)
        await self._calls.call(metadata_pb2.MetadataCommand(raise_level=raising), again=True)
        return LevelReport(level=now, target=target, raised=True, nodes=report.nodes)

    async def _knows_levels(self, node_id: int) -> bool:
        try:
            await self._peers.call(node_id, LEVELS_METHOD, b"", timeout_s=self._timeout_s)
        except RaftlogError:
            return False
        return True

    async def _ask_all(self, nodes: list[int], method: str, body: bytes) -> dict[int, pb.LevelsAnswer | str]:
        async with asyncio.TaskGroup() as group:
            tasks = {node_id: group.create_task(self._ask(node_id, method, body)) for node_id in nodes}
        return {node_id: task.result() for node_id, task in tasks.items()}

    async def _ask(self, node_id: int, method: str, body: bytes) -> pb.LevelsAnswer | str:
        """What a node said, or why it did not."""
        try:
            if node_id == self._node_id:
                answer = await self.answer(method, body)
            else:
                answer, _ = await self._peers.call(node_id, method, body, timeout_s=self._timeout_s)
            return pb.LevelsAnswer.FromString(answer)
        except InvalidRequestError:
            first = FIRST_VERSION  # it knows no such call
            return pb.LevelsAnswer(level_min=first.low, level_max=first.high, incarnation=1)
        except (UnavailableError, IndeterminateError):
            return "it is down, or cannot be reached from the controller"
        except RaftlogError as error:
            return str(error)

    def _levels(self) -> pb.LevelsAnswer:
        known, mark = self._machine.state.nodes.get(self._node_id), self._own.mark
        return pb.LevelsAnswer(
            level_min=mark.supported.low,
            level_max=mark.supported.high,
            mark=mark.level,
            incarnation=0 if known is None else known.incarnation,
            version=self._own.version,
        )


def _newest(asked: Mapping[int, pb.LevelsAnswer | str]) -> int:
    """The newest level that all who answered support."""
    said = [_supported(answer) for answer in asked.values() if isinstance(answer, pb.LevelsAnswer)]
    return newest_common(said) if said else Level.FIRST


def _report(now: int, target: int, asked: Mapping[int, pb.LevelsAnswer | str]) -> LevelReport:
    nodes = []
    for node_id, answer in sorted(asked.items()):
        if isinstance(answer, str):
            nodes.append(NodeSupport(node_id=node_id, problem=answer))
            continue
        supported = _supported(answer)
        problem = "" if supported.has(target) else f"its version supports {supported}"
        nodes.append(
            NodeSupport(
                node_id=node_id, level_min=supported.low, level_max=supported.high, version=answer.version, problem=problem
            )
        )
    return LevelReport(level=now, target=target, raised=False, nodes=tuple(nodes))


def _supported(answer: pb.LevelsAnswer) -> Supported:
    return Supported(answer.level_min, answer.level_max)


def _nodes(marked: Mapping[int, pb.LevelsAnswer | str]) -> list[metadata_pb2.NodeLevels]:
    return [
        metadata_pb2.NodeLevels(
            node_id=node_id, incarnation=answer.incarnation, level_min=answer.level_min, level_max=answer.level_max
        )
        for node_id, answer in sorted(marked.items())
        if isinstance(answer, pb.LevelsAnswer)
    ]


def _to_wire(report: LevelReport, index: int) -> pb.RaiseLevelAnswer:
    nodes = [
        pb.NodeSupport(
            node_id=node.node_id, level_min=node.level_min, level_max=node.level_max, version=node.version, problem=node.problem
        )
        for node in report.nodes
    ]
    return pb.RaiseLevelAnswer(level=report.level, target=report.target, raised=report.raised, nodes=nodes, index=index)


def _of_wire(answer: pb.RaiseLevelAnswer) -> LevelReport:
    nodes = tuple(
        NodeSupport(
            node_id=node.node_id, level_min=node.level_min, level_max=node.level_max, version=node.version, problem=node.problem
        )
        for node in answer.nodes
    )
    return LevelReport(level=answer.level, target=answer.target, raised=answer.raised, nodes=nodes)
