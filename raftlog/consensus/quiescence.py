"""The sleeping groups of a node: what their members' nodes say to each other in the place of heartbeats, and who wakes when.

Theory of operation. See ``sleeper`` for one member, and ``core.sleepers`` for one link. Here the two are put together: what
members are about to send is noted for the link, what links bring is taken apart again, and where a link is lost, silent or
contradicts itself, the members that slept on its word wake.

Rules:

1. A follower sleeps only on its leader's node's word: the group is in what that node has told over the link there is now.
2. Members that wake for the same reason wake over a time that grows with their number, ``WAKE_S`` each: an election costs all
   nodes of a group some of their loop, and thousands at once would miss each other's deadlines.
3. Nothing here costs by the number of sleeping groups but that: a turn in which nothing wakes is the same for one and 5,000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random

from raftlog.consensus.group import Group
from raftlog.consensus.messages import Append, Message
from raftlog.consensus.outgoing import Mail
from raftlog.consensus.patience import Patience
from raftlog.core.clock import Clock
from raftlog.core.configuration import node_of
from raftlog.core.sleepers import LONG_AGO, Beat, Telling, Told
from raftlog.model import Role
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb

WAKE_S = 0.001
"""Time that each group adds to that over which a link's groups wake: about what their elections cost one node."""


HEARTBEATS = 2
"""A link's heartbeat for its sleeping groups stands for so many of theirs, and is answered within as long: each wakes two nodes
that have nothing else to do. Who waits for it bears the lack of two more."""


class Quiescence:
    """See the module; it is also the members' ``sleeper.Feed``.

    Args:
        groups: the open groups by id.
        clock, rng: the node's.
        patience: how long silence is borne.
        wake_at: have a group ticked at a time; a tick wakes it.
    """

    def __init__(
        self,
        groups: Mapping[int, Group],
        *,
        clock: Clock,
        rng: Random,
        patience: Patience,
        wake_at: Callable[[Group, float], None],
    ) -> None:
        self.asleep: set[int] = set()
        """The open groups whose member here sleeps."""
        self.slept = self.woken = 0
        """How often one has fallen asleep, and has woken, since the start."""
        self._groups, self._clock, self._rng, self._patience, self._wake_at = groups, clock, rng, patience, wake_at
        self._spoken: set[int] = set()  # some peer was told to let these sleep, and was not told anything else since
        self._telling: dict[int, Telling] = {}  # by node, as are the others
        self._told: dict[int, Told] = {}
        self._lost_s: dict[int, float] = {}
        self._withdrawn: dict[int, list[int]] = {}
        self._answers: dict[int, tuple[float, pb.SleepersHeard]] = {}  # when to send them at the latest, and what

    # ---- sleeper.Feed

    def answered_s(self, node_id: int) -> float:
        """See ``sleeper.Feed``."""
        telling = self._telling.get(node_id)
        return LONG_AGO if telling is None else telling.heard_s

    def led_s(self, node_id: int) -> float:
        """See ``sleeper.Feed``."""
        told = self._told.get(node_id)
        return LONG_AGO if told is None else told.matched_s

    def lost_s(self, node_id: int) -> float:
        """See ``sleeper.Feed``."""
        return self._lost_s.get(node_id, LONG_AGO)

    def _patience_s(self) -> float:
        return (self._patience.election_min_s + self._patience.election_max_s) / 2

    def _beat_s(self) -> float:
        return HEARTBEATS * self._patience.heartbeat_s

    def _doubt_s(self) -> float:
        return self._patience.fallback_s

    # ---- what members do

    def ticked(self, group: Group, *, idle: bool) -> None:
        """A group was ticked, and is to be again where it is not ``idle``: it falls asleep where it may."""
        if idle and group.may_sleep() and self._holds(group):
            group.member.sleep()
            group.armed_s = float("inf")
            self.asleep.add(group.group)
            self.slept += 1
        elif group.role is not Role.LEADER:
            self.withdraw(group.group)

    def _holds(self, group: Group) -> bool:
        """Rule 1 in the moment of falling asleep: between the word and now, the link that brought it may have been lost."""
        if group.role is Role.LEADER:
            nodes = {node_of(other) for other in group.member.matches()}
            return all(node in self._telling and group.group in self._telling[node] for node in nodes)
        told = None if group.leader is None else self._told.get(group.leader)
        return told is not None and group.group in told

    def rouse(self, group: Group) -> None:
        """A group has something to do: if it sleeps, it wakes."""
        if group.member.asleep:
            self.woken += 1
            self.asleep.discard(group.group)
            self.withdraw(group.group)
            group.member.wake()

    def sleeps_through(self, group: Group, message: Message) -> bool:
        """Whether a message is nothing to a sleeping group; where it is something, it wakes."""
        if group.member.asleep and group.member.sleeps_through(message):
            return True
        self.rouse(group)
        return False

    def leaves(self, group: Group, node_id: int, append: Append) -> None:
        """An Append to a follower on a node leaves now: note what it says of sleep, and give it the link's epoch."""
        if not append.sleep_epoch:
            self.withdraw(group.group)
            return
        telling = self._telling.get(node_id)
        if telling is None:
            telling = self._telling[node_id] = Telling(self._beat_s(), self._doubt_s)
        telling.tell(group.group, append.term, self._clock.monotonic_s())
        append.sleep_epoch = telling.epoch
        self._spoken.add(group.group)

    def withdraw(self, group: int) -> None:
        """A group does not sleep any more, or is not led here: who was told that it sleeps hears of it with the next frame."""
        if group in self._spoken:
            self._spoken.discard(group)
            for node_id, telling in self._telling.items():
                if telling.withdraw(group):
                    self._withdrawn.setdefault(node_id, []).append(group)

    def gone(self, group: int) -> None:
        """A group is closed, or this replica of it takes part no more. What was told of it counts no longer either: its leader
        learns by the digest that this node does not answer for it."""
        self.asleep.discard(group)
        self.withdraw(group)
        for told in self._told.values():
            told.withdraw(group)

    # ---- what links bring

    def received(self, node_id: int, wire: pb.RaftMessage) -> None:
        """Note what a message of a peer says of sleep; what does not count is taken out of it."""
        append = wire.append_entries
        told = self._told.get(node_id)
        if told is None:
            told = self._told[node_id] = Told(self._patience_s)
        counts, stale = told.tell(append.sleep_epoch, wire.group, append.term, self._clock.monotonic_s())
        if not counts:
            append.sleep_epoch = 0
        self._wake_followers(node_id, stale)

    def on_turn(self, node_id: int, turn: pb.Turn) -> None:
        """Behind the members' messages of a peer's turn: what it says of all that sleep."""
        told, telling = self._told.get(node_id), self._telling.get(node_id)
        for group in turn.woken if told is not None else ():
            if told is not None and told.withdraw(group):
                self._wake_followers(node_id, [group])
        if turn.HasField("sleepers"):
            if told is None:
                told = self._told[node_id] = Told(self._patience_s)
            beat, missed = turn.sleepers, told.missed
            refused, stale = told.beat(Beat(beat.epoch, beat.count, beat.digest), self._clock.monotonic_s())
            if missed and not told.missed:
                self._sleep_on(told.groups())
            by_s = self._clock.monotonic_s() + (0 if refused else self._beat_s())
            if node_id in self._answers:  # the last one waits yet, and would for ever if each beat put it off
                by_s = min(by_s, self._answers[node_id][0])
            self._answers[node_id] = (by_s, pb.SleepersHeard(epoch=beat.epoch, refused=refused))
            self._wake_followers(node_id, stale)
        if turn.HasField("sleepers_heard") and telling is not None:
            if turn.sleepers_heard.refused and turn.sleepers_heard.epoch == telling.epoch:
                self._wake_leaders(telling.begin_anew())
            elif telling.heard(turn.sleepers_heard.epoch, self._clock.monotonic_s()):
                self._sleep_on(telling.groups())

    def link_lost(self, node_id: int) -> None:
        """Nothing that was said over a link counts any more."""
        self._lost_s[node_id] = self._clock.monotonic_s()
        self._withdrawn.pop(node_id, None)
        self._answers.pop(node_id, None)
        told, telling = self._told.pop(node_id, None), self._telling.get(node_id)
        if told is not None:
            self._wake_followers(node_id, told.refuse())
        if telling is not None:
            self._wake_leaders(telling.begin_anew())

    # ---- what time brings

    def due_s(self) -> float:
        """When ``look`` has something to do."""
        first_s = float("inf")
        for telling in self._telling.values():
            first_s = min(first_s, telling.due_s)
        for told in self._told.values():
            first_s = min(first_s, told.due_s)
        for by_s, _ in self._answers.values():
            first_s = min(first_s, by_s)
        return first_s

    def look(self) -> None:
        """Let those wake whose link was silent for too long."""
        now_s = self._clock.monotonic_s()
        for node_id, told in self._told.items():
            if told.silent(now_s):
                self._wake_followers(node_id, told.groups())
        for telling in self._telling.values():
            if telling.silent(now_s):
                self._wake_leaders(telling.groups())

    def post(self, mail: Mail) -> None:
        """Add to a turn's frames what is to be said of all that sleep."""
        for node_id, groups in self._withdrawn.items():
            mail.woken(node_id, groups)
        self._withdrawn = {}
        now_s = self._clock.monotonic_s()
        for node_id, telling in self._telling.items():
            beat = telling.beat(now_s)
            if beat is not None:
                said = mail.turn(node_id).sleepers
                said.epoch, said.count, said.digest = beat
        for node_id, (by_s, answer) in list(self._answers.items()):
            if by_s <= now_s or node_id in mail:  # most ride on what leaves anyway
                mail.turn(node_id).sleepers_heard.CopyFrom(answer)
                del self._answers[node_id]

    # ---- waking

    def _wake_followers(self, node_id: int, groups: Iterable[int]) -> None:
        self._wake(groups, lambda group: group.role is not Role.LEADER and group.leader == node_id)

    def _wake_leaders(self, groups: Iterable[int]) -> None:
        self._wake(groups, lambda group: group.role is Role.LEADER)

    def _sleep_on(self, groups: Iterable[int]) -> None:
        """The silence is over: who was to wake for it, and sleeps yet, need not."""
        for group in groups:
            if group in self.asleep:
                self._groups[group].armed_s = float("inf")

    def _wake(self, groups: Iterable[int], which: Callable[[Group], bool]) -> None:
        """Rule 2."""
        waking = [self._groups[group] for group in groups if group in self.asleep and which(self._groups[group])]
        now_s = self._clock.monotonic_s()
        for group in waking:
            self._wake_at(group, now_s + WAKE_S * len(waking) * self._rng.random())
