"""Who leads which group, as far as this node has heard: of its own groups and of what other leaders announce."""

from __future__ import annotations

from collections.abc import Iterable

from raftlog.consensus.group import Group
from raftlog.model import Role
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb


class Leaderships:
    """A table group → (term, node id of its leader), terms never falling, and what is to be announced."""

    def __init__(self, node_id: int) -> None:
        self._node_id = node_id
        self._known: dict[int, tuple[int, int]] = {}
        self._announced: dict[int, pb.Leadership] = {}

    def learn(self, group: int, term: int, leader: int) -> None:
        """Somebody says who leads."""
        if term >= self.term(group):
            self._known[group] = (term, leader)

    def hear(self, turn: pb.Turn) -> None:
        """Learn what a peer announces."""
        for one in turn.leaderships:
            self.learn(one.group, one.term, one.leader_node_id)

    def announce(self, group: int, term: int) -> None:
        """This node leads; the next turn tells everybody."""
        self.learn(group, term, self._node_id)
        self._announced[group] = pb.Leadership(group=group, term=term, leader_node_id=self._node_id)

    def told(self, announced: Iterable[pb.Leadership], *, everybody: bool) -> None:
        """These were announced; where not ``everybody`` heard, the next turn tells all again what is so still."""
        for one in () if everybody else announced:
            if self.leader(one.group) == (one.term, self._node_id):
                self._announced.setdefault(one.group, one)

    def announce_all(self, groups: Iterable[Group]) -> None:
        """A peer is new: tell everybody again what is led here."""
        for group in groups:
            if group.role is Role.LEADER:
                self.announce(group.group, group.term)

    def take_announced(self) -> list[pb.Leadership]:
        """What is to be told now."""
        if not self._announced:
            return []
        announced, self._announced = list(self._announced.values()), {}
        return announced

    def leader(self, group: int) -> tuple[int, int | None]:
        """The highest term that was heard of, and its leader."""
        return self._known.get(group, (0, None))

    def leader_of(self, group: int, local: Group | None) -> tuple[int | None, int]:
        """See ``port.Consensus``; ``local`` is this node's own replica, which mostly knows best."""
        term, leader = self.leader(group)
        if local is None or local.term < term:  # a replica that is out of its group, or not in it yet, hears of no newer term
            return (None if leader == self._node_id else leader), term
        if local.leader is not None:
            return local.leader, local.term
        if local.term > term or local.role is not Role.FOLLOWER or leader == self._node_id:
            return None, local.term
        return leader, term

    def term(self, group: int) -> int:
        """The highest term that was heard of."""
        return self._known.get(group, (0, 0))[0]

    def forget(self, group: int) -> None:
        """This node's replica is dropped. Who leads it elsewhere stays known: the replica may have moved there."""
        if self.leader(group)[1] == self._node_id:
            del self._known[group]

    def lost(self, node_id: int) -> None:
        """A link is down: what its node leads is not known any more."""
        for group in [group for group, (_, leader) in self._known.items() if leader == node_id]:
            del self._known[group]
