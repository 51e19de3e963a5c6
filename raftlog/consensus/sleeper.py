"""A member that can sleep: what the leader of an idle group says to its followers, and what each needs to sleep and to wake.

Theory of operation. A leader for whose group nothing is left to do tells it with its next heartbeat, the one that also brings the
last commit index: sleep, this is all of the log and committed. A follower for which that is true answers ``Asleep``, and sleeps.
When all have answered, the leader sleeps too. A sleeping member is not ticked. What stands for the heartbeats of its group is
``quiescence``'s. So a group that gets a record now and then costs one heartbeat for it; waiting longer before it sleeps would
cost a thousand such groups more than their records do.

Rules:

1. Sleep is about timers. No term, vote, log or commit index changes by it, and nothing in it is trusted for safety.
2. A leader sleeps only when every member, learners too, has matched its log and knows it to be committed, all links are up,
   and nothing waits in the group.
3. Any message wakes a member first, but for the late echoes of falling asleep (``sleeps_through``); so does any tick.
4. Who wakes finds its timers as if it had been awake: a leader has heard its followers, and a follower its leader, when their
   nodes were last heard. Otherwise the one would step down, and the other campaign, at the first tick.
5. A node of a version that knows nothing of it never answers ``Asleep``: its groups just go on.
6. A node's members take turns at elections (``elections``); for who sleeps is not alone with what wakes it.
7. Whom its leader has asked to take over waits for its turn as well, awake, though that leader is alive; but no longer than the
   leader waits, and not into another term. PySyncObj would keep the wish for ever, and let it end a later leader's term.
"""

from __future__ import annotations

from typing import Any, Protocol

from raftlog.consensus.elections import Elections
from raftlog.consensus.member import EAGER_S, FOLLOWER, LEADER, Member
from raftlog.consensus.messages import Ack, Append, Asleep, Message, SnapshotOffer, TimeoutNow
from raftlog.core.configuration import node_of

CALLED_S = 1.0
"""How long it counts that a leader has asked this member to take over: as long as it waits for that (``group.HAND_OVER_S``)."""
_NEVER = -1e18


class Feed(Protocol):
    """What stands for a sleeping member's own messages; times on the monotonic clock, long ago where there is none."""

    def answered_s(self, node_id: int) -> float:
        """When a node has last answered this one's heartbeats."""
        ...

    def led_s(self, node_id: int) -> float:
        """When a node has last proved that it still leads what it said is asleep."""
        ...

    def lost_s(self, node_id: int) -> float:
        """When a link to a node was last lost."""
        ...


class Sleeper(Member):
    """See the module."""

    def __init__(self, *args: Any, feed: Feed, elections: Elections, **kwargs: Any) -> None:
        self._feed, self._elections = feed, elections
        self.asleep = False
        self.slept_s = _NEVER
        """When it fell asleep."""
        self._told: tuple[int, int] | None = None  # (leader, term) that told it to sleep at the end of its log
        self._answered: set[int] = set()  # members that sleep, as long as this leader tells them to
        self._call = (0, _NEVER)  # term in which this member was last asked to take over, and until when that counts
        super().__init__(*args, **kwargs)

    def __dir__(self) -> tuple[str, ...]:
        """Nothing: PySyncObj's constructor looks twice at every name for replicated methods, and there are none."""
        return ()

    def _SyncObj__generateRaftTimeout(self) -> float:  # noqa: N802
        least, most = self._times.election_min_s, self._times.election_max_s
        return least + (most - least) * self._ambience.rng.random()

    # ---- between ticks (see early and standstill)

    def send_entries(self) -> None:
        """As leader: send the followers what they lack. One that sleeps wakes first, with the next tick."""
        if not self.asleep:
            self._ambience.enter()
            self.sender.send(self.term(), self._now(), heartbeat=False)

    def doubts(self) -> bool:
        """As leader: whether a majority has been silent for so long that the next tick would end its leadership."""
        fallback_s, heard_s, others = self._times.fallback_s, self.heard_s(), self._electorate.others
        heard = sum(1 for other in others if heard_s[other] < fallback_s) + self._electorate.votes
        return self._guards.pre_vote and bool(others) and not self._electorate.majority(heard)

    def stop_leading(self) -> None:
        """Lead no more in its own eyes, as when it doubts: nothing that is durable changes."""
        self._ambience.enter()
        self._give_up()

    # ---- falling asleep

    def may_sleep(self) -> bool:
        """At the end of a tick: whether nothing of this member's is left to do, and its leader or followers know."""
        journal = self.journal
        if journal.durable_index < journal.last_index or journal.applied_index < journal.last_index:
            return False
        if self.state() == LEADER:
            return self.sender.tells_to_sleep and len(self._answered) == len(self._nodes) and self._at_rest()
        told, self._told = self._told, None
        return self.state() == FOLLOWER and told == (self.leader_member(), self.term()) and not self._called()

    def sleep(self) -> None:
        """Sleep; a follower says so."""
        self.asleep, self.slept_s = True, self._now()
        leader = self.leader_member()
        if self.state() == FOLLOWER and leader is not None:
            self.outbox.append((leader, Asleep(self.term(), self.journal.last_index)))

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802
        tells = False
        if self._send_now or self._now() >= self._SyncObj__newAppendEntriesTime:
            tells = self.sender.tells_to_sleep = self._at_rest()
            if not tells:
                self._answered.clear()
        super()._SyncObj__sendAppendEntries()
        if tells:  # who sleeps already is not to be told in every breath, only because another has not answered yet
            self._SyncObj__newAppendEntriesTime = self._now() + self._times.election_min_s / 2

    def _at_rest(self) -> bool:
        """Rule 2."""
        last, connected, match = self.journal.last_index, self._SyncObj__connectedNodes, self._SyncObj__raftMatchIndex
        if self._send_now or not self._electorate.votes or not self.serves() or not self.journal.configuration_committed:
            return False
        if not self.journal.durable_index == self.journal.commit_index == last:
            return False
        return all(node in connected and match[node] == last for node in self._nodes.values())

    # ---- asleep

    def due_s(self) -> float:
        """See ``Member``."""
        return float("inf") if self.asleep else super().due_s()

    def sleeps_through(self, message: Message) -> bool:
        """Rule 3: what a leader that told its followers twice may still hear when all of them sleep."""
        if self.state() != LEADER:
            return False
        match message:
            case Ack():
                return message.term == self.term() and message.success and message.next_index == self.journal.last_index + 1
            case Asleep():
                return message.term == self.term() and message.index == self.journal.last_index
        return False

    def heard_s(self) -> dict[int, float]:
        """See ``Member``."""
        heard = super().heard_s()
        if self.asleep:
            now = self._now()
            heard = {other: min(ago, now - self._feed.answered_s(node_of(other))) for other, ago in heard.items()}
        return heard

    def wake(self) -> None:
        """Go on."""
        self._ambience.enter()
        self.asleep = False
        self._answered.clear()
        self.sender.tells_to_sleep = False
        if self.state() == LEADER:
            heard = self._SyncObj__lastResponseTime
            for node in self._nodes.values():
                heard[node] = max(heard[node], self._feed.answered_s(node_of(node.id)))
        else:
            self._follow_again()
        self._follow_links()

    def _follow_again(self) -> None:
        leader = self.leader_member()
        if leader is not None:
            self._leader_seen_s = max(self._leader_seen_s, self._feed.led_s(node_of(leader)))
        wait_s = self._SyncObj__generateRaftTimeout()
        if not self._leader_alive():
            wait_s = self._times.heartbeat_s * self._ambience.rng.random()  # its silence has been waited for
        self._SyncObj__raftElectionDeadline = self._now() + wait_s

    def _follow_links(self) -> None:
        """Do what links that came and went during the sleep would have done."""
        others = list(self._nodes)
        leader = self.leader_member()
        if leader is not None and leader != self.id and leader not in self._nodes:
            others.append(leader)
        for other in others:
            if self._feed.lost_s(node_of(other)) >= self.slept_s:
                self.disconnected(other)
            node = self._nodes.get(other)
            if node is not None and node_of(other) in self._linked and node not in self._SyncObj__connectedNodes:
                self.connected(other)

    # ---- elections

    def _obey(self, leader: int, message: TimeoutNow | SnapshotOffer) -> None:
        super()._obey(leader, message)
        if isinstance(message, TimeoutNow):
            self._call = (self.term(), self._now() + CALLED_S)

    def _called(self) -> bool:
        """Rule 7: whether the leader waits for this member to take over."""
        term, until_s = self._call
        if term != self.term() or self._now() >= until_s:
            self._SyncObj__transferInProgress = False
        return bool(self._SyncObj__transferInProgress)

    def _seek_election(self) -> None:
        self._called()  # what counts no more must not make this election one that disturbs a leader
        if self._elections.admit(self.journal.group, self._now()):
            super()._seek_election()
        else:
            self._SyncObj__raftElectionDeadline = self._now() + self._times.election_max_s  # if its turn has not come before

    def seek_election(self) -> None:
        """Its turn has come."""
        if self.state() != LEADER and (self._called() or not self._leader_alive()):
            self._SyncObj__raftElectionDeadline = _NEVER
            if self._eager_until_s > _NEVER:
                self._eager_until_s = self._now() + EAGER_S

    def has_leader(self) -> bool:
        """Whether an election has ended here: this member serves, or follows a leader that does not want it to take over."""
        return self.serves() or (self.state() == FOLLOWER and self._leader_alive() and not self._called())

    # ---- messages in

    def receive(self, sender: int, message: Message) -> None:
        """See ``Member``."""
        if isinstance(message, Asleep):
            self._on_asleep(sender, message)
        else:
            super().receive(sender, message)

    def _on_asleep(self, sender: int, message: Asleep) -> None:
        here = message.term == self.term() and message.index == self.journal.last_index
        if self.state() == LEADER and here and self.sender.tells_to_sleep and sender in self._nodes:
            self._answered.add(sender)

    def _on_append(self, sender: int, message: Append) -> None:
        super()._on_append(sender, message)
        index, known = message.end_index, self.journal.commit_index
        told = bool(message.sleep_epoch) and message.term == self.term() and index == known == self.journal.last_index
        self._told = (sender, message.term) if told else None
