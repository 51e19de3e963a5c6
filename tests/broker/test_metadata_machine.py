"""Group 0 as its proposers see it: outcomes, and what they hear when leadership goes."""

from __future__ import annotations

import asyncio

import pytest

from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.core.entry import EntryHeader, EntryKind, encode
from raftlog.core.metadata_values import Effects
from raftlog.core.tasks import TaskScope
from raftlog.errors import IndeterminateError, NotLeaderError, UnknownTopicOrPartitionError
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from tests.broker.doubles import FOUNDERS, NOW_MS, HandLog

_REGISTER = pb.MetadataCommand(register_node=pb.RegisterNode(node_id=4, grpc_address="h:4"))


class _Group0:
    """The machine over a log that leads in term 1, and a proposal under way."""

    def __init__(self) -> None:
        self.effects: list[Effects] = []
        self.machine = MetadataMachine(self.effects.append)
        self.log = HandLog(0, FOUNDERS, self.machine)
        self.machine.bind(self.log)
        self.log.lead(1)
        self.scope = TaskScope(lambda _: None)

    async def propose(
        self, command: pb.MetadataCommand = _REGISTER, timeout_s: float = 60.0
    ) -> asyncio.Task[tuple[int, Effects]]:
        """Propose, and let it wait."""
        task = self.scope.start(self.machine.propose(command, now_ms=NOW_MS, timeout_s=timeout_s), name="propose")
        await asyncio.sleep(0)
        return task


async def test_the_proposer_hears_what_its_command_did() -> None:
    """Index and effects of its own entry; the others hear of the change too."""
    group = _Group0()
    task = await group.propose()
    assert not task.done()
    group.log.commit()
    index, effects = await task
    assert (index, effects.nodes) == (3, (4,))
    assert [each.nodes for each in group.effects] == [(4,)]
    assert group.machine.state.nodes[4].grpc_address == "h:4"
    await group.machine.wait_applied(3, 0.0)


async def test_a_command_that_is_refused_when_applied_raises_its_error() -> None:
    """The state at its index decides, and nothing is announced."""
    group = _Group0()
    task = await group.propose(pb.MetadataCommand(delete_topic=pb.DeleteTopic(name="t", topic_id=b"x" * 16)))
    group.log.commit()
    with pytest.raises(UnknownTopicOrPartitionError):
        await task
    assert group.effects == []


async def test_whoever_loses_leadership_hears_that_the_outcome_is_unknown() -> None:
    """At once, deposed or truncated or out of time."""
    group = _Group0()
    deposed = await group.propose()
    group.log.follow(2)
    with pytest.raises(IndeterminateError):
        await deposed
    group.log.lead(3)
    truncated = await group.propose()
    group.log.truncate(group.log.last_index)
    with pytest.raises(IndeterminateError):
        await truncated
    late = await group.propose(timeout_s=0.001)
    with pytest.raises(IndeterminateError):
        await late
    closed = await group.propose()
    group.machine.close()
    with pytest.raises(IndeterminateError):
        await closed


async def test_a_follower_refuses_to_propose() -> None:
    """Nothing is appended."""
    group = _Group0()
    group.log.follow(2)
    with pytest.raises(NotLeaderError):
        await group.machine.propose(_REGISTER, now_ms=NOW_MS, timeout_s=1)
    assert group.log.last_index == 2


async def test_an_entry_that_holds_no_command_changes_nothing() -> None:
    """What cannot be read is refused like a wrong command, on all replicas alike."""
    group = _Group0()

    def build(index: int, term: int, _: EntryHeader) -> object:
        return encode(EntryHeader(kind=EntryKind.COMMAND, group=0, index=index, term=term, base_offset=0), b"\xff\xff\xff")

    group.log.append(build)  # type: ignore[arg-type]
    group.log.commit()
    assert group.effects == []
    assert group.log.applied_index == 3


async def test_the_state_is_restored_from_rows() -> None:
    """A restart knows what was applied, before any entry is applied again (I8)."""
    group = _Group0()
    task = await group.propose()
    group.log.commit()
    await task
    again = MetadataMachine(lambda _: None)
    again.bind(group.log.restarted(again))
    assert again.state == group.machine.state
    assert again.applied_index == 3


async def test_waiting_for_an_entry_that_does_not_come_is_bounded() -> None:
    """The change is made, this node just does not know it yet: the answer says so."""
    group = _Group0()
    with pytest.raises(IndeterminateError):
        await group.machine.wait_applied(99, 0.001)
