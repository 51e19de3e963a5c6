"""Rounds of the reconciler, and what may happen while one is under way."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from raftlog.broker.config import BrokerConfig
from raftlog.broker.move_codec import report_message
from raftlog.broker.reconciler import Reconciler
from raftlog.core.clock import SystemClock
from raftlog.core.configuration import member_id
from raftlog.core.metadata_values import PartitionMeta
from raftlog.core.reconcile import FollowerReport, GroupReport, Step, StepKind
from raftlog.errors import StalePlacementError
from raftlog.pb.raftlog.internal.v1 import moves_pb2 as pb

FOUNDERS = ((1, 1), (2, 2), (3, 3))
PARTITION = PartitionMeta(
    group_id=7, replicas=(*FOUNDERS, (4, 4)), created_index=1, founders=FOUNDERS, next_replica_id=5, placed_index=9
)  # fmt: skip
GOOD = FollowerReport(match_index=1)
REPORT = GroupReport(group=7, leader=(1, 1), term=3, voters=FOUNDERS, followers={(2, 2): GOOD, (3, 3): GOOD})


class Changes:
    """This node's groups: it leads one, and answers when ``meanwhile`` has happened."""

    def __init__(self) -> None:
        self.meanwhile: Any = lambda: None
        self.calls: list[pb.ChangeGroupCall] = []

    def report(self, _: pb.ReportGroupsCall) -> pb.ReportGroupsAnswer:
        """See ``GroupChanges``."""
        self.meanwhile()
        return pb.ReportGroupsAnswer(reports=[report_message(REPORT)])

    async def change(self, call: pb.ChangeGroupCall) -> None:
        """See ``GroupChanges``."""
        self.calls.append(call)
        raise StalePlacementError("")


def reconciler(log: Any, changes: Any) -> Reconciler:
    """Of a node that leads group 0 as ``log`` says, and group 7; node 4 is to hold a replica of that."""
    topics = {"t": SimpleNamespace(topic_id=b"", partitions=(PARTITION,))}
    machine: Any = SimpleNamespace(log=log, applied_index=9, state=SimpleNamespace(topics=topics, nodes={1: 0, 2: 0, 3: 0, 4: 0}))
    router: Any = SimpleNamespace(leader=lambda _: (1, 3))
    nothing: Any = None
    return Reconciler(
        1, machine=machine, metadata=nothing, router=router, changes=changes, peers=nothing, up=lambda _: True,
        clock=SystemClock(), config=BrokerConfig(),
    )  # fmt: skip


async def test_what_was_decided_in_a_term_is_never_done_in_the_name_of_a_later_one() -> None:
    """A call may wait while another node comes to lead: with its term, a group would take this for what that one has decided."""
    log, changes = SimpleNamespace(term=6, ready=True), Changes()
    step = Step(kind=StepKind.ADD, group=7, replica=(4, 4), leader=(1, 1), term=3)
    assert not await reconciler(log, changes).take(step, REPORT, 5)
    assert [(call.kind, call.controller_term) for call in changes.calls] == [(pb.STEP_KIND_ADD, 5)]


async def test_a_round_is_made_in_one_term() -> None:
    """Else its plan is of another time by when it has been told how the groups are."""
    log, changes = SimpleNamespace(term=5, ready=True), Changes()
    made = reconciler(log, changes)
    await made.round()
    assert len(changes.calls) == 1
    changes.meanwhile = lambda: setattr(log, "term", 6)
    await made.round()
    assert len(changes.calls) == 1


async def test_a_round_follows_what_is_wanted_when_the_groups_have_told() -> None:
    """That a disk is lost may be known by then."""
    changes = Changes()
    made = reconciler(SimpleNamespace(term=5, ready=True), changes)
    partitions = made._machine.state.topics["t"]

    def lost() -> None:
        moved = replace(PARTITION, replicas=((1, 1), (3, 3), (4, 4)), lost=((2, 2),), placed_index=10)
        partitions.partitions = (moved,)  # type: ignore[misc]  # a stand-in

    changes.meanwhile = lost
    await made.round()
    assert [(call.kind, call.member) for call in changes.calls] == [(pb.STEP_KIND_REMOVE, member_id(2, 2))]
