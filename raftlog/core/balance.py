"""Where replicas and leaders should be instead: few moves, each with its reason.

Theory of operation. The placement that there is, is changed in place, one replica at a time, as long as that makes it better:

1. *Evacuation*: what is on nodes that are being drained, or are dead, goes to others. All of it.
2. *Racks*: no two replicas of a partition in one rack while another rack has room.
3. *Counts*: nodes hold about the same number of replicas; the smallest partitions move.
4. *Bytes*: nodes hold about the same number of bytes; a large partition changes places with a small one.
5. *Leaders*: nodes lead about the same share of partitions and of what is written. This only reorders lists: no data moves.

Rules:

1. No step undoes an earlier goal: counts never give up racks, bytes never give up counts or racks.
2. A difference within the tolerance is left alone, and every move makes the larger of two nodes smaller by more than it makes
   the other larger: so balancing ends, and a balanced cluster stays as it is.
3. Partitions that are on the move are left alone, but count where they will be. They are evacuated like others: where they
   are to go may be what has died.
4. The same arguments give the same answer. It is found on an event loop: a move looks at the partitions of one node, by size,
   and takes the first that fits.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

FITTING_MAX = 50
"""Partitions of a node that are looked at for a move: its smallest, or its largest where bytes are to be evened out."""
GAIN_MIN = 1e-9
"""Shares of leadership that differ by less are equal: they are sums of fractions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceNode:
    """A node. One without a rack is a rack of its own."""

    node_id: int
    rack: str = ""
    takes: bool = True
    """Whether replicas may be placed on it: it is up, and not being drained."""
    leaves: str = ""
    """Why all its replicas have to go elsewhere; empty where they may stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancePartition:
    """A partition as it is wanted now: ``nodes`` of its replicas, the preferred leader first."""

    group_id: int
    name: str
    nodes: tuple[int, ...]
    size_bytes: int = 0
    load: float = 0.0
    """Bytes written each second, as far as known."""
    moving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Other replicas for a partition, or the same ones in another order. ``moved`` are the nodes that get it anew."""

    group_id: int
    name: str
    nodes: tuple[int, ...]
    before: tuple[int, ...]
    reason: str
    size_bytes: int

    @property
    def moved(self) -> tuple[int, ...]:
        """Nodes that have no replica of it yet."""
        return tuple(node for node in self.nodes if node not in self.before)


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceLimits:
    """How much is proposed at once, and what difference is left alone."""

    moves_max: int = 1_000
    """Replicas that move for balance. Evacuations and changes of leaders are not counted."""
    count_percent: int = 0
    """A node may hold so much more than the mean, or one replica more."""
    bytes_percent: int = 20
    bytes_gap_min: int = 64 * 1024 * 1024
    """Two nodes that differ by less are equally full, whatever the percentage."""
    leaders_percent: int = 10
    leaders_max: int = 100
    """Partitions that get another preferred leader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What to change; ``stuck`` says by group and in words what could not be placed anywhere."""

    proposals: tuple[Proposal, ...]
    stuck: Mapping[int, str] = field(default_factory=dict)


def evacuate(nodes: Sequence[BalanceNode], partitions: Iterable[BalancePartition]) -> Balance:
    """Only the first goal: what has to leave its node, and where it goes."""
    work = _Work(nodes, partitions, BalanceLimits())
    work.evacuate()
    return work.result()


def balance(nodes: Sequence[BalanceNode], partitions: Iterable[BalancePartition], limits: BalanceLimits) -> Balance:
    """All goals, in their order."""
    work = _Work(nodes, partitions, limits)
    work.evacuate()
    work.spread_racks()
    work.even_counts()
    work.even_bytes()
    work.even_leaders()
    return work.result()


@dataclass(slots=True)
class _Placed:
    was: BalancePartition
    nodes: list[int]
    reasons: list[str] = field(default_factory=list)


class _Work:
    """The placement while it is changed."""

    def __init__(self, nodes: Sequence[BalanceNode], partitions: Iterable[BalancePartition], limits: BalanceLimits) -> None:
        self.nodes = {node.node_id: node for node in sorted(nodes, key=lambda node: node.node_id)}
        self.limits = limits
        self.racks: dict[int, str] = {}
        self.barren: set[tuple[int, int]] = set()
        """Pairs of nodes of which the first holds nothing that fits on the second: not to be looked for again at each move."""
        self.placed = [_Placed(one, list(one.nodes)) for one in partitions]
        self.counts, self.bytes = Counter[int](), Counter[int]()
        for one in self.placed:
            self.counts.update(one.nodes)
            for node in one.nodes:
                self.bytes[node] += one.was.size_bytes
        self.on: defaultdict[int, list[_Placed]] = defaultdict(list)
        """By node: what may be moved from it, the smallest first."""
        for one in sorted(self._movable(), key=_by_size):
            for node in one.nodes:
                self.on[node].append(one)
        self.takers = [node for node, info in self.nodes.items() if info.takes and not info.leaves]
        self.moves = 0
        self.stuck: dict[int, str] = {}

    def result(self) -> Balance:
        proposals = tuple(
            Proposal(
                group_id=one.was.group_id, name=one.was.name, nodes=tuple(one.nodes), before=one.was.nodes,
                reason="; ".join(one.reasons), size_bytes=one.was.size_bytes,
            )
            for one in self.placed
            if tuple(one.nodes) != one.was.nodes
        )  # fmt: skip
        return Balance(proposals=proposals, stuck=self.stuck)

    # The goals.

    def evacuate(self) -> None:
        for one in self.placed:
            for node in list(one.nodes):
                info = self.nodes.get(node)
                why = f"node {node} is not part of the cluster" if info is None else info.leaves
                if not why:
                    continue
                target = self._best_target(one, node)
                if target is None:
                    text = f"{one.was.name} has to leave node {node} ({why}), and no other node can take it"
                    self.stuck.setdefault(one.was.group_id, text)
                else:
                    self._move(one, node, target, why)

    def spread_racks(self) -> None:
        for one in self._movable():
            while self.moves < self.limits.moves_max and self._spread(one):
                pass

    def _spread(self, one: _Placed) -> bool:
        racks = Counter(self._rack(node) for node in one.nodes)
        doubled = [node for node in one.nodes if racks[self._rack(node)] > 1]
        free = [node for node in self.takers if node not in one.nodes and self._rack(node) not in racks]
        if not doubled or not free:
            return False
        source, target = max(doubled, key=self._fullness), min(free, key=self._fullness)
        self._count_move(one, source, target, f"rack {self._rack(source)} had two replicas of it")
        return True

    def even_counts(self) -> None:
        allowed = self._allowed(sum(self.counts[node] for node in self.takers), self.limits.count_percent)
        while self.moves < self.limits.moves_max:
            found = self._next_by_count(max(allowed, 1))
            if found is None:
                return
            one, source, target = found
            why = f"node {source} held {self.counts[source]} replicas, node {target} {self.counts[target]}"
            self._count_move(one, source, target, why)

    def even_bytes(self) -> None:
        mean = sum(self.bytes[node] for node in self.takers) / max(len(self.takers), 1)
        gap_min = max(self.limits.bytes_gap_min, mean * self.limits.bytes_percent / 100)
        while self.moves + 2 <= self.limits.moves_max:
            found = self._next_by_bytes(gap_min)
            if found is None:
                return
            large, small, source, target = found
            why = f"node {source} held {_size(self.bytes[source])}, node {target} {_size(self.bytes[target])}"
            self._count_move(large, source, target, why)
            self._count_move(small, target, source, f"{why}: it changed places with {large.was.name}")

    def even_leaders(self) -> None:
        total_load, count = sum(one.was.load for one in self.placed), len(self.placed)

        def weight(one: _Placed) -> float:
            return (1 / count + one.was.load / total_load) / 2 if total_load else 1 / count

        led: defaultdict[int, float] = defaultdict(float)
        firsts: defaultdict[int, list[_Placed]] = defaultdict(list)
        for one in self.placed:
            led[one.nodes[0]] += weight(one)
            if not one.was.moving:
                firsts[one.nodes[0]].append(one)
        allowed = self.limits.leaders_percent / 100 / max(len(self.takers), 1)
        for _ in range(self.limits.leaders_max):
            ways = (self._other_leader(firsts[node], led, weight, allowed) for node in sorted(led, key=lambda n: (-led[n], n)))
            found = next((way for way in ways if way is not None), None)
            if found is None:
                return
            one, other = found
            first = one.nodes[0]
            led[first] -= weight(one)
            led[other] += weight(one)
            firsts[first].remove(one)
            firsts[other].append(one)
            one.nodes.remove(other)
            one.nodes.insert(0, other)
            one.reasons.append(f"node {first} led more than its share, node {other} less")

    def _other_leader(
        self, led_here: list[_Placed], led: Mapping[int, float], weight: Callable[[_Placed], float], allowed: float
    ) -> tuple[_Placed, int] | None:
        """Of the partitions that one node is to lead, the one that another should, and that other: what evens them out most."""
        if not led_here:
            return None
        full = led.get(led_here[0].nodes[0], 0.0)
        gaps = {node: full - led.get(node, 0.0) for node in self.takers}
        gaps = {node: gap for node, gap in gaps.items() if gap > allowed}
        best: tuple[float, _Placed, int] | None = None
        found = 0
        for one in led_here if gaps else ():
            heavy = weight(one)
            for other in one.nodes[1:]:
                gain = min(heavy, gaps.get(other, 0.0) - heavy)
                if gain > GAIN_MIN:
                    found += 1
                    if best is None or gain > best[0] + GAIN_MIN:
                        best = gain, one, other
            if found >= FITTING_MAX:
                break
        return None if best is None else best[1:]

    # How they are reached.

    def _movable(self) -> list[_Placed]:
        return [one for one in self.placed if not one.was.moving]

    def _next_by_count(self, allowed: int) -> tuple[_Placed, int, int] | None:
        """The smallest partition that can go from a fuller node to an emptier one, of the pair that differs most."""
        pairs = [(a, b) for a in self.takers for b in self.takers if self.counts[a] - self.counts[b] > allowed]
        pairs.sort(key=lambda pair: (self.counts[pair[1]] - self.counts[pair[0]], pair))
        for source, target in pairs:
            if (source, target) in self.barren:
                continue
            fitting = list(islice(self._fitting(self.on[source], source, target), FITTING_MAX))
            if not fitting:
                self.barren.add((source, target))
            else:
                fresh = [one for one in fitting if not one.reasons]
                return (fresh or fitting)[0], source, target
        return None

    def _next_by_bytes(self, gap_min: float) -> tuple[_Placed, _Placed, int, int] | None:
        """Two partitions that change places between the nodes that differ most."""
        pairs = [(a, b) for a in self.takers for b in self.takers if self.bytes[a] - self.bytes[b] > gap_min]
        pairs.sort(key=lambda pair: (self.bytes[pair[1]] - self.bytes[pair[0]], pair))
        for source, target in pairs:
            if (source, target) in self.barren or (target, source) in self.barren:
                continue
            gap = self.bytes[source] - self.bytes[target]
            large = list(islice(self._fitting(reversed(self.on[source]), source, target), FITTING_MAX))
            small = list(islice(self._fitting(self.on[target], target, source), FITTING_MAX))
            self.barren |= {pair for pair, found in (((source, target), large), ((target, source), small)) if not found}
            swaps = [
                (abs(gap - 2 * (a.was.size_bytes - b.was.size_bytes)), a.was.group_id, b.was.group_id, a, b)
                for a in large
                for b in small
                if gap_min / 2 < a.was.size_bytes - b.was.size_bytes < gap
            ]
            if swaps:
                _, _, _, a, b = min(swaps, key=lambda swap: swap[:3])
                return a, b, source, target
        return None

    def _fitting(self, partitions: Iterable[_Placed], source: int, target: int) -> Iterator[_Placed]:
        """Those that may go from one node to the other without two of their replicas meeting in a rack."""
        return (one for one in partitions if self._fits(one, source, target))

    def _fits(self, one: _Placed, source: int, target: int) -> bool:
        if target in one.nodes:
            return False
        old, new = self._rack(source), self._rack(target)
        others = [self._rack(node) for node in one.nodes if node != source]
        return old == new or new not in others or old in others

    def _best_target(self, one: _Placed, source: int) -> int | None:
        racks = {self._rack(node) for node in one.nodes if node != source and node in self.nodes}
        free = [node for node in self.takers if node not in one.nodes]
        return min(free, key=lambda node: (self._rack(node) in racks, *self._fullness(node)), default=None)

    def _count_move(self, one: _Placed, source: int, target: int, reason: str) -> None:
        self.moves += 1
        self._move(one, source, target, reason)

    def _move(self, one: _Placed, source: int, target: int, reason: str) -> None:
        one.nodes[one.nodes.index(source)] = target
        one.reasons.append(reason)
        self.counts[source] -= 1
        self.counts[target] += 1
        self.bytes[source] -= one.was.size_bytes
        self.bytes[target] += one.was.size_bytes
        self.barren = {pair for pair in self.barren if pair[0] not in one.nodes or not self._fits(one, *pair)}
        if not one.was.moving:
            self.on[source].remove(one)
            insort(self.on[target], one, key=_by_size)

    def _fullness(self, node: int) -> tuple[int, int, int]:
        return self.counts[node], self.bytes[node], node

    def _rack(self, node: int) -> str:
        rack = self.racks.get(node)
        if rack is None:
            info = self.nodes.get(node)
            rack = self.racks[node] = f"of node {node}" if info is None or not info.rack else info.rack
        return rack

    def _allowed(self, total: int, percent: int) -> int:
        return math.ceil(total / max(len(self.takers), 1) * percent / 100)


def _by_size(one: _Placed) -> tuple[int, int]:
    return one.was.size_bytes, one.was.group_id


def _size(size_bytes: float) -> str:
    """Bytes for a person: ``1.5 GB``."""
    for unit in ("B", "KB", "MB", "GB"):
        if size_bytes < 1_000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1_000
    return f"{size_bytes:.3g} TB"
