"""Rounds of the reconciler, and what may happen while one is under way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from raftlog.broker.config import BrokerConfig
from raftlog.broker.move_codec import report_message
from raftlog.broker.reconciler import Reconciler
from raftlog.core.clock import SystemClock
from raftlog.core.metadata_values import PartitionMeta
from raftlog.core.reconcile import GroupReport
from raftlog.errors import StalePlacementError
from raftlog.pb.raftlog.internal.v1 import moves_pb2 as pb

FOUNDERS = ((1, 1), (2, 2), (3, 3))
PARTITION = PartitionMeta(
    group_id=7, replicas=(*FOUNDERS, (4, 4)), created_index=1, founders=FOUNDERS, next_replica_id=5, placed_index=9
)  # fmt: skip


class Changes:
    """This node's groups: it leads one, and answers when ``meanwhile`` has happened."""

    def __init__(self) -> None:
        self.meanwhile: Any = lambda: None
        self.calls: list[pb.ChangeGroupCall] = []

    def report(self, _: pb.ReportGroupsCall) -> pb.ReportGroupsAnswer:
        """See ``GroupChanges``."""
        self.meanwhile()
        report = GroupReport(group=7, leader=(1, 1), term=3, voters=FOUNDERS)
        return pb.ReportGroupsAnswer(reports=[report_message(report)])

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
    """Answers may come when another node leads: with its term, a group would take this for what that one has decided."""
    log, changes = SimpleNamespace(term=5, ready=True), Changes()
    made = reconciler(log, changes)
    changes.meanwhile = lambda: setattr(log, "term", 6)
    await made.round()
    assert [(call.kind, call.controller_term) for call in changes.calls] == [(pb.STEP_KIND_ADD, 5)]
