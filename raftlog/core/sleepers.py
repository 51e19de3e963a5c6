"""Which groups sleep over a link between two nodes, as its two ends keep it: pure, ``now_s`` is a parameter.

Theory of operation. A group in which nothing happens sleeps: its leader sends no heartbeats, its followers have no election
timer. In their place stands one small message for all groups of a link, many times a second. It has to prove to each sleeping
follower what its leader's own heartbeat would: that the leader still leads, in that term. So the leader's node keeps which groups
it has told to sleep (``Telling``), and the follower's node what it was told (``Told``). Links keep the order of what is sent, so
the two are the same at each moment of the stream; the heartbeat says count and digest of the one, to be compared with the
other. Whatever ends a leader's sleep is said by name.

Rules:

1. A mismatch is borne for as long as a follower bears a silent leader; then everything told counts no more: the followers wake,
   refuse the epoch, and the leader's node begins another. Waking is always safe: it is a matter of timers only.
2. So is silence, by followers and by leaders; then those that sleep wake one after the other, as long as the silence lasts. What
   was told still counts: the end of the silence proves it, and who sleeps yet may sleep on.
3. Both ends begin anew with each link. A link belongs to one start of each node: so a heartbeat never speaks for another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

LONG_AGO = -1e18
_MASK = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15
_ODD_2 = 0xBF58476D1CE4E5B9


class Beat(NamedTuple):
    """What a node-pair heartbeat says."""

    epoch: int
    groups: int
    digest: int


class _Groups:
    """Group → term, with a digest that is kept up as it changes."""

    __slots__ = ("digest", "terms")

    def __init__(self) -> None:
        self.terms: dict[int, int] = {}
        self.digest = 0

    def add(self, group: int, term: int) -> None:
        self.remove(group)
        self.terms[group] = term
        self.digest ^= _mark(group, term)

    def remove(self, group: int) -> bool:
        term = self.terms.pop(group, None)
        if term is None:
            return False
        self.digest ^= _mark(group, term)
        return True

    def clear(self) -> list[int]:
        groups, self.terms, self.digest = list(self.terms), {}, 0
        return groups


def _mark(group: int, term: int) -> int:
    mixed = (group * _ODD + term) & _MASK
    mixed = (mixed ^ (mixed >> 30)) * _ODD_2 & _MASK
    return mixed ^ (mixed >> 27)


class Telling:
    """The leaders' end: the groups that this node leads and has told the peer to let sleep.

    Args:
        heartbeat_s: between two heartbeats.
        patience_s: how long from now on an answer may be missing.
    """

    def __init__(self, heartbeat_s: float, patience_s: Callable[[], float]) -> None:
        self.epoch = 1
        self.heard_s = LONG_AGO
        """When the peer has answered last."""
        self._groups = _Groups()
        self._heartbeat_s, self._patience_s = heartbeat_s, patience_s
        self._next_s = self._missed_s = LONG_AGO

    def __len__(self) -> int:
        return len(self._groups.terms)

    def __contains__(self, group: int) -> bool:
        return group in self._groups.terms

    @property
    def due_s(self) -> float:
        """When the next heartbeat is to be sent."""
        return self._next_s if self._groups.terms else float("inf")

    def tell(self, group: int, term: int, now_s: float) -> None:
        """The peer is told now that a group is to sleep."""
        if not self._groups.terms:
            self.heard_s = self._next_s = now_s
        self._groups.add(group, term)

    def withdraw(self, group: int) -> bool:
        """A group does not sleep any more; whether the peer was told that it does, and is to hear of it."""
        return self._groups.remove(group)

    def beat(self, now_s: float) -> Beat | None:
        """The heartbeat to send now, if one is due."""
        if now_s < self.due_s:
            return None
        self._next_s = now_s + self._heartbeat_s
        return Beat(self.epoch, len(self._groups.terms), self._groups.digest)

    def silent(self, now_s: float) -> bool:
        """Rule 2: whether the peer has not answered for too long; said again only after as long again."""
        if not self._groups.terms or now_s - max(self.heard_s, self._missed_s) < self._patience_s():
            return False
        self._missed_s = now_s
        return True

    def heard(self, epoch: int, now_s: float) -> bool:
        """The peer has answered; whether that ends a silence."""
        if epoch != self.epoch:
            return False
        ends, self.heard_s, self._missed_s = self._missed_s > self.heard_s, now_s, LONG_AGO
        return ends

    def begin_anew(self) -> list[int]:
        """What was told counts no more: the groups that it was about."""
        self.epoch += 1
        return self._groups.clear()

    def groups(self) -> list[int]:
        """The groups that the peer was told about."""
        return list(self._groups.terms)


class Told:
    """The followers' end: the groups that the peer leads and has told this node to let sleep. ``patience_s``: see rule 1."""

    def __init__(self, patience_s: Callable[[], float]) -> None:
        self._epoch = self._refused = 0
        self._groups = _Groups()
        self._patience_s = patience_s
        self._missed_s = LONG_AGO
        self.matched_s = LONG_AGO
        """When the peer was last known to mean all that it has told."""
        self._mismatched_since_s: float | None = None

    def __contains__(self, group: int) -> bool:
        return group in self._groups.terms

    @property
    def due_s(self) -> float:
        """When the peer's silence has lasted too long."""
        return max(self.matched_s, self._missed_s) + self._patience_s() if self._groups.terms else float("inf")

    def tell(self, epoch: int, group: int, term: int, now_s: float) -> tuple[bool, list[int]]:
        """A group may sleep. Whether it counts, and the groups that what was told before was about, if it counts no more."""
        if epoch == self._refused:
            return False, []
        stale = self._begin(epoch, now_s)
        if not self._groups.terms:
            self.matched_s = now_s
        self._groups.add(group, term)
        return True, stale

    def withdraw(self, group: int) -> bool:
        """The peer says that a group does not sleep any more; whether it was told that it did."""
        return self._groups.remove(group)

    def beat(self, beat: Beat, now_s: float) -> tuple[bool, list[int]]:
        """A heartbeat has come. Whether to refuse its epoch, and the groups that are to wake."""
        if beat.epoch == self._refused:
            return True, []
        stale = self._begin(beat.epoch, now_s)
        if (beat.groups, beat.digest) == (len(self._groups.terms), self._groups.digest):
            self.matched_s, self._mismatched_since_s = now_s, None
            return False, stale
        if self._mismatched_since_s is None:
            self._mismatched_since_s = now_s
        if now_s - self._mismatched_since_s < self._patience_s():
            return False, stale
        return True, stale + self.refuse()

    def _begin(self, epoch: int, now_s: float) -> list[int]:
        if epoch == self._epoch:
            return []
        self._epoch, self.matched_s, self._mismatched_since_s = epoch, now_s, None
        return self._groups.clear()

    def silent(self, now_s: float) -> bool:
        """Rule 2: whether nothing has proved for too long that the peer means what it has told; as ``Telling.silent``."""
        if now_s < self.due_s:
            return False
        self._missed_s = now_s
        return True

    def groups(self) -> list[int]:
        """The groups that were told."""
        return list(self._groups.terms)

    @property
    def missed(self) -> bool:
        """Whether there is a silence."""
        return self._missed_s > self.matched_s

    def refuse(self) -> list[int]:
        """What was told counts no more: the groups that it was about."""
        self._refused, self._mismatched_since_s = self._epoch, None
        return self._groups.clear()
