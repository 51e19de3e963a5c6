"""Sticky and cooperative sticky: as balanced as can be, and of all such assignments one that moves little (KIP-54, KIP-429).

Rules:

1. A partition belongs to whoever claims it in the highest generation. Where two claim it in the same one, it belongs to nobody:
   which of them is right cannot be known. Claims of a partition that does not exist, or that is no longer wanted, are void.
2. What belongs to nobody goes to the wanting member that has least, partitions with few takers first.
3. Then load is levelled: as long as one member has at least two more than another, one partition moves along each step of a
   shortest path between them (each on the path gives one that the next one wants). With equal subscriptions a path is one step,
   and the moves are as few as can be.
4. Cooperative: a partition that has an owner is given to nobody else before that owner has given it up. It is left out of the
   assignment, its owner revokes it and joins again, and the next assignment places it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

from raftlog.core.assignors.member import Assignments, Member, in_order, partitions_of
from raftlog.model import TopicPartition


def assign(members: Sequence[Member], counts: Mapping[str, int]) -> Assignments:
    """Assign ``counts`` (partitions by topic) to ``members``, who have given up what they had."""
    return _Table(members, counts).assignments()


def assign_cooperatively(members: Sequence[Member], counts: Mapping[str, int]) -> Assignments:
    """The same for members that still read what they had: what has to move is in nobody's assignment."""
    claims = _claims(members)
    wanted = _Table(members, counts).assignments()
    return {
        member_id: [tp for tp in tps if claims.get(tp, _NOBODY) <= {member_id}]  # rule 4
        for member_id, tps in wanted.items()
    }


_NOBODY: frozenset[str] = frozenset()


def _claims(members: Sequence[Member]) -> dict[TopicPartition, frozenset[str]]:
    """Who claims each partition in the highest generation of any that does."""
    claims: dict[TopicPartition, tuple[int, frozenset[str]]] = {}
    for member in members:
        for tp in member.owned:
            generation, claimants = claims.get(tp, (member.generation, _NOBODY))
            if member.generation > generation:
                claims[tp] = (member.generation, frozenset((member.member_id,)))
            elif member.generation == generation:
                claims[tp] = (generation, claimants | {member.member_id})
    return {tp: claimants for tp, (_, claimants) in claims.items()}


class _Table:
    """Who has what, by topic: partitions of one topic are alike to all who want it."""

    def __init__(self, members: Sequence[Member], counts: Mapping[str, int]) -> None:
        self._ids = [member.member_id for member in in_order(members)]
        self._topics = {member.member_id: sorted(topic for topic in member.topics if topic in counts) for member in members}
        self._takers: dict[str, list[str]] = defaultdict(list)
        for member_id in self._ids:
            for topic in self._topics[member_id]:
                self._takers[topic].append(member_id)
        self._has: dict[str, dict[str, list[TopicPartition]]] = {member_id: defaultdict(list) for member_id in self._ids}
        self._load = dict.fromkeys(self._ids, 0)
        self._keep(members, counts)
        self._level()

    def assignments(self) -> Assignments:
        """Partitions by member, in order."""
        return {member_id: sorted(tp for tps in topics.values() for tp in tps) for member_id, topics in self._has.items()}

    def _keep(self, members: Sequence[Member], counts: Mapping[str, int]) -> None:
        """Rules 1 and 2."""
        claims = _claims(members)
        free: list[TopicPartition] = []
        for tp in partitions_of(members, counts):
            claimants = claims.get(tp, _NOBODY)
            owner = next(iter(claimants)) if len(claimants) == 1 else None
            if owner is not None and tp.topic in self._topics[owner]:
                self._give(owner, tp)
            else:
                free.append(tp)
        free.sort(key=lambda tp: len(self._takers[tp.topic]))
        for tp in free:
            self._give(min(self._takers[tp.topic], key=self._load.__getitem__), tp)

    def _give(self, member_id: str, tp: TopicPartition) -> None:
        self._has[member_id][tp.topic].append(tp)
        self._load[member_id] += 1

    def _level(self) -> None:
        """Rule 3. Ends: every step makes the sum of the loads' squares smaller."""
        settled: set[str] = set()
        while True:
            loads = [member_id for member_id in self._ids if member_id not in settled]
            if not loads:
                return
            source = max(loads, key=self._load.__getitem__)
            path = self._path_from(source)
            if path is None:
                # Nobody within its reach has much less, and what moves between others changes that for nobody: a member
                # that it can reach reaches no further than itself.
                settled.add(source)
                continue
            for giver, topic, taker in path:
                self._has[taker][topic].append(self._has[giver][topic].pop())
            self._load[path[0][0]] -= 1
            self._load[path[-1][2]] += 1

    def _path_from(self, source: str) -> list[tuple[str, str, str]] | None:
        """The shortest way (giver, topic, taker, step by step) to the least loaded member that has two less than ``source``."""
        came: dict[str, tuple[str, str]] = {}
        seen, topics_seen = {source}, set[str]()
        waiting = deque([source])
        best: str | None = None
        while waiting:
            giver = waiting.popleft()
            for topic, tps in self._has[giver].items():
                if not tps or topic in topics_seen:
                    continue
                topics_seen.add(topic)
                for taker in self._takers[topic]:
                    if taker not in seen:
                        seen.add(taker)
                        came[taker] = (giver, topic)
                        waiting.append(taker)
                        if best is None or self._load[taker] < self._load[best]:
                            best = taker
        if best is None or self._load[best] > self._load[source] - 2:
            return None
        path: list[tuple[str, str, str]] = []
        at = best
        while at != source:
            giver, topic = came[at]
            path.append((giver, topic, at))
            at = giver
        return path[::-1]
