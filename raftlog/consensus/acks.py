"""Acknowledgements that come while this node's own commit is under way.

Theory of operation. A turn waits for the commit of the one before, and what has arrived waits with it. Under load the followers
answer to one batch while the leader writes the next; were these answers to wait for that commit, a publish would take two of the
leader's commits instead of one, and a client with so much in flight at most would get half of the pace. So they are counted when
they come: what a majority holds is committed and applied, and whoever waits for it is told.

Rules:

1. Only acknowledgements of a leader's own term, and only frames of nothing else: whatever may change more waits for the turn.
2. What is applied here is written by the next batch, with its applied index (rule of ``turns``): the group is ticked before that.
   Its entries are in the batches before, be that the one under way.
3. The cluster's metadata waits: what applying it does to other groups belongs into a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from raftlog.consensus.group import Group
from raftlog.consensus.messages import from_wire
from raftlog.core.configuration import node_of
from raftlog.model import METADATA_GROUP
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb


class Acks:
    """See the module.

    Args:
        groups: the open groups by id.
        guarded: runs what may find a replica damaged.
        touch: have a group ticked by the next turn.
        fail: this node cannot go on.
    """

    def __init__(
        self, groups: Mapping[int, Group], *, guarded: Callable[[Group, Callable[[], None]], None],
        touch: Callable[[Group], None], fail: Callable[[Exception], None],
    ) -> None:  # fmt: skip
        self._groups, self._guarded, self._touch, self._fail = groups, guarded, touch, fail
        self.counted = 0
        """How many were counted while a commit was under way, since the start."""

    def take(self, node_id: int, turn: pb.Turn) -> bool:
        """Count what a peer's turn says, if it is nothing but acknowledgements; whether that was so."""
        if turn.leaderships or turn.woken or any(turn.HasField(other) for other in ("sleepers", "sleepers_heard", "seed")):
            return False
        if not all(self._counts(node_id, wire) for wire in turn.raft):
            return False
        try:
            for wire in turn.raft:
                group = self._groups[wire.group]
                self._guarded(group, partial(self._count, group, wire))
        except Exception as error:
            self._fail(error)
        return True

    def _counts(self, node_id: int, wire: pb.RaftMessage) -> bool:
        group = self._groups.get(wire.group)
        return (
            group is not None
            and group.group != METADATA_GROUP
            and wire.HasField("append_ack")
            and wire.append_ack.success
            and wire.append_ack.term == group.term
            and node_of(wire.sender) == node_id
            and wire.recipient == group.member.id
            and group.ready
            and not group.suspended
            and not group.member.asleep
        )

    def _count(self, group: Group, wire: pb.RaftMessage) -> None:
        self.counted += 1
        group.member.receive(wire.sender, from_wire(wire, []))
        if group.member.commit_held():
            group.machine.progressed()
            self._touch(group)
        elif not group.settled:
            self._touch(group)
