"""One member of one group: PySyncObj with its faults mended.

PySyncObj keeps what is its own: terms, votes, the append handler, the state of followers. Overridden whole, where wrapping
would be uglier: the tick (pre-vote, the commit rule over durable entries, stepping down), the count of votes, the sender
(``sender``), the applier (headers, not commands), membership. ``guard`` explains each; tests/consensus pins by a contract test
what is relied on of PySyncObj's private names.

Rules:

1. Everything that enters goes through ``receive``, ``tick`` or ``append``, and sets the ambience first.
2. Nothing is sent from here: messages are left in ``outbox`` for the turn loop, which knows what is durable.
3. The configuration in force is the last one of the log, committed or not (Raft dissertation section 4.1). Voters alone count:
   in elections, for commits, in heartbeat rounds, when a leader doubts itself. Who is no voter does not campaign; but one that
   is left out by a configuration that is not committed does, without counting itself (section 4.2.2): nobody else may have a log
   that is new enough. Who is being filled by a snapshot does not campaign, but votes, by its log as ever: without that a leader
   might never come back to fill it.
4. Appends and vote requests are answered whoever sends them: who may ask is for the sender's configuration to say, which may
   be newer. Answers count only of members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from raftlog.consensus import guard
from raftlog.consensus.door import Ambience, Node, SyncObj, Times, configuration
from raftlog.consensus.electorate import Electorate
from raftlog.consensus.guard import Guards
from raftlog.consensus.heir import heir
from raftlog.consensus.journal import GroupJournal
from raftlog.consensus.messages import (
    Ack,
    Append,
    Message,
    PreVote,
    RequestPreVote,
    RequestVote,
    SnapshotOffer,
    StaleTerm,
    TimeoutNow,
    Vote,
    from_pysyncobj,
    to_pysyncobj,
)
from raftlog.consensus.outlet import Outlet
from raftlog.consensus.sender import Sender, Windows
from raftlog.core.configuration import Configuration, node_of
from raftlog.core.entry import Entry

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
"""PySyncObj's ``_RAFT_STATE``."""
EAGER_S = 2.0
"""How long the preferred leader of a new group asks again and again: the others may not have opened it yet."""
EAGER_RETRY_S = 0.03
_NEVER = -1e18


class Member(SyncObj):  # type: ignore[misc]  # PySyncObj is untyped
    """See the module.

    Args:
        me: this member's id.
        linked: the nodes to which there is a link now, and since when.
        apply: called within a tick with the first and the last index of what is committed and not applied yet.
    """

    def __init__(
        self, me: int, journal: GroupJournal, *, linked: Mapping[int, float], ambience: Ambience, times: Times,
        windows: Windows, apply: Callable[[int, int], None], guards: Guards,
    ) -> None:  # fmt: skip
        ambience.enter()
        self.id, self.journal = me, journal
        self.outbox: list[tuple[int, Message]] = []
        self._ambience, self._times, self._apply, self._guards, self._linked = ambience, times, apply, guards, linked
        self._nodes: dict[int, Node] = {}
        self._pre_votes: set[int] | None = None
        self._votes: set[int] = set()
        self._leader_seen_s = self._eager_until_s = _NEVER
        self._ack_next_max: int | None = None
        self._answering, self._send_now, self.damaged = (0, 0), False, False
        self.offered_by: int | None = None
        """The leader that has offered a snapshot, until the turn loop takes note."""
        self._SyncObj__newAppendEntriesTime: float
        self._outlet = outlet = Outlet(self._from_pysyncobj)
        conf = configuration(journal, times)
        conf.dynamicMembershipChange = not guards.membership
        super().__init__(Node(me), (), conf, transport=outlet, nodeClass=Node)
        self._SyncObj__raftLastApplied = journal.applied_index
        self._SyncObj__raftCommitIndex = journal.commit_index
        self.sender = Sender(
            journal, windows, next_index=self._SyncObj__raftNextIndex, match_index=self._SyncObj__raftMatchIndex,
            heard_s=self._SyncObj__lastResponseTime, connected=self._SyncObj__connectedNodes, post=self._post,
        )  # fmt: skip
        self._adopt(journal.configuration)

    def _adopt(self, configuration: Configuration) -> None:
        """Rule 3: take over the configuration in force."""
        self.configuration = configuration
        self.node_ids = tuple(dict.fromkeys(node_of(member) for member in configuration.members))
        """Nodes of all members, this one's among them."""
        self._electorate = Electorate(self.id, configuration)
        before, nodes = self._nodes, {other: Node(other) for other in configuration.members if other != self.id}
        self._nodes = nodes = {other: before.get(other, node) for other, node in nodes.items()}
        for other in before.keys() - nodes.keys():
            self._drop_node(before[other])
        for other in nodes.keys() - before.keys():
            self._add_node(nodes[other])
        self.sender.follow(nodes, configuration.learners)
        self._voters = tuple(nodes[voter] for voter in self._electorate.others)
        self._look_for_voters()

    def _add_node(self, node: Node) -> None:
        self._SyncObj__otherNodes.add(node)
        self._SyncObj__raftNextIndex[node] = self.journal.last_index
        self._SyncObj__raftMatchIndex[node] = 0
        self._SyncObj__lastResponseTime[node] = self._now()
        if node_of(node.id) in self._linked:
            self._SyncObj__connectedNodes.add(node)

    def _drop_node(self, node: Node) -> None:
        self._SyncObj__otherNodes.discard(node)
        self._SyncObj__connectedNodes.discard(node)
        for known in (self._SyncObj__raftNextIndex, self._SyncObj__raftMatchIndex, self._SyncObj__lastResponseTime):
            known.pop(node, None)

    def _look_for_voters(self) -> None:
        self._reaches_voters = not self._voters or any(node in self._SyncObj__connectedNodes for node in self._voters)

    def _may_campaign(self) -> bool:
        """Whether an election makes sense: by a voter, which reaches others where there are others (rule 3)."""
        stands = self._electorate.votes or self.journal.was_voter(self.id)
        return stands and self._reaches_voters and not self.journal.filling

    # ---- what the group sees (methods, not properties: PySyncObj's constructor reads every attribute of its class)

    def state(self) -> int:
        """FOLLOWER, CANDIDATE or LEADER."""
        return int(self._SyncObj__raftState)

    def term(self) -> int:
        """The current term."""
        return int(self._SyncObj__raftCurrentTerm)

    def leader_member(self) -> int | None:
        """The leader of the current term, as far as known."""
        leader = self._SyncObj__raftLeader
        return None if leader is None else int(leader.id)

    def serves(self) -> bool:
        """Leads, and the no-op of its own term is applied (Raft section 8)."""
        return self.state() == LEADER and self.journal.applied_index >= (self._SyncObj__noopIDx or 0)

    def due_s(self) -> float:
        """When the next tick is needed, on the monotonic clock."""
        if self.state() == LEADER:
            return 0.0 if self._send_now else float(self._SyncObj__newAppendEntriesTime)
        if not self._may_campaign():
            return float("inf")  # no voter, or nobody to ask, or no match for anybody; what changes this ticks the group
        return float(self._SyncObj__raftElectionDeadline)

    def settled(self) -> bool:
        """Leads, and a tick would do nothing before it is due: nothing to commit, to apply or to send to whoever is connected."""
        if self.state() != LEADER or self._send_now or not self._electorate.votes or self.sender.lags():
            return False
        return self.journal.applied_index >= self.journal.commit_index >= self._commit_candidate()

    def matches(self) -> dict[int, int]:
        """Each other member's matchIndex (leader only)."""
        return {other: self._SyncObj__raftMatchIndex.get(node, 0) for other, node in self._nodes.items()}

    def heard_s(self) -> dict[int, float]:
        """How long ago each other member has answered; one that has not, how long this one leads or knows it (leader only)."""
        now = self._now()
        return {other: now - self._SyncObj__lastResponseTime.get(node, now) for other, node in self._nodes.items()}

    def slowest_match(self, silent_s: float, fed: AbstractSet[int]) -> int:
        """The highest index that all members hold that came on within ``silent_s`` (``Sender.come_on``), this one among them."""
        return min([self.journal.durable_index, *self.sender.come_on(self._now() - silent_s, fed)])

    def confirmed(self, round_: int) -> bool:
        """Whether a majority of the voters has answered this heartbeat round, or a later one."""
        followers, electorate = self.sender.followers, self._electorate
        return electorate.majority(sum(followers[other].round >= round_ for other in electorate.others) + electorate.votes)

    def on_node(self, node_id: int) -> list[int]:
        """The other members that live on a node, and the leader if it does."""
        leader = self.leader_member()
        strangers = () if leader is None or leader == self.id or leader in self._nodes else (leader,)
        return [other for other in (*self._nodes, *strangers) if node_of(other) == node_id]

    # ---- what the group does

    def campaign_soon(self) -> None:
        """Let the next tick start an election: for the preferred leader of a new group."""
        self._SyncObj__raftElectionDeadline = _NEVER
        self._eager_until_s = self._now() + EAGER_S

    def append(self, entry: Entry) -> None:
        """Append as leader; index and term were taken from the journal and ``term`` in the same call."""
        assert self.state() == LEADER
        self.journal.add(entry, entry.header.index, entry.header.term)
        if self.journal.configuration is not self.configuration:
            self._adopt(self.journal.configuration)

    def begin_round(self) -> int:
        """Start a heartbeat round and return its number: answers to it confirm leadership as of now."""
        self.sender.round += 1
        self._send_now = True
        return self.sender.round

    def tick(self) -> None:
        """Do what is due, and what became possible since the last tick."""
        self._ambience.enter()
        self._onTick()

    def commit_held(self) -> bool:
        """As leader, commit and apply what a majority holds, by guard 6; whether there was any of it."""
        candidate = self._commit_candidate()
        if candidate <= self.journal.commit_index or self.journal.term_at(candidate) != self.term():
            return False
        self._SyncObj__raftCommitIndex = candidate
        self.journal.setRaftCommitIndex(candidate)
        self._SyncObj__applyLogEntries()
        return True

    def connected(self, other: int) -> None:
        """A link to a member is up: what was under way on the last one is lost."""
        if other in self._nodes:
            self.sender.rewind(other, leads=self.state() == LEADER)
            self._outlet._onNodeConnected(self._nodes[other])
            self._look_for_voters()

    def disconnected(self, other: int) -> None:
        """The link to a member is gone. Where it was the leader's, its silence need not be waited for."""
        self._ambience.enter()
        if other in self._nodes:
            self.sender.rewind(other, leads=self.state() == LEADER)
            self._outlet._onNodeDisconnected(self._nodes[other])
            self._look_for_voters()
        if self._guards.pre_vote and self.leader_member() == other and self.state() == FOLLOWER:
            self._leader_seen_s = _NEVER
            soon = self._now() + self._times.heartbeat_s * self._ambience.rng.random()
            self._SyncObj__raftElectionDeadline = min(self._SyncObj__raftElectionDeadline, soon)

    def transfer(self, to: int | None = None) -> bool:
        """Ask a voter (any, or this one) that holds the whole log to campaign (dissertation section 3.10); whether one does."""
        if self.state() != LEADER:
            return False
        match, connected = self._SyncObj__raftMatchIndex, self._SyncObj__connectedNodes
        holds = [node.id for node in self._voters if node in connected and match[node] == self.journal.last_index]
        ready = [other for other in holds if to in (None, other)]
        if (taker := heir(ready, self._linked, self._now(), self.journal.group)) is not None:
            self._post(taker, TimeoutNow(self.term()))
        return taker is not None

    # ---- messages in

    def receive(self, sender: int, message: Message) -> None:
        """Handle one message of another member, behind the guards."""
        self._ambience.enter()
        match message:
            case Append():
                self._on_append(sender, message)
            case Ack():
                self._on_ack(sender, message)
            case RequestVote():
                if not self._guards.pre_vote or not guard.ignores_vote_request(
                    message, term=self.term(), leader_alive=self._leader_alive()
                ):
                    self._hand_in(sender, message)
            case Vote():
                self._on_vote(sender, message)
            case RequestPreVote():
                self._on_pre_vote_request(sender, message)
            case PreVote():
                self._on_pre_vote(sender, message)
            case StaleTerm():
                if sender in self._nodes:
                    self._step_down_to(sender, message.term)
            case TimeoutNow() | SnapshotOffer():
                if sender == self.leader_member() and message.term == self.term():
                    self._obey(sender, message)

    def _obey(self, leader: int, message: TimeoutNow | SnapshotOffer) -> None:
        """What only the leader may ask for."""
        if isinstance(message, SnapshotOffer):
            self.offered_by = leader
        elif self._electorate.votes:
            self._hand_in(leader, message)

    def _hand_in(self, sender: int, message: Message) -> None:
        self._outlet._onMessageReceived(self._nodes.get(sender) or Node(sender), to_pysyncobj(message))

    def _on_append(self, sender: int, message: Append) -> None:
        if message.term < self.term():
            if self._guards.pre_vote:
                self.outbox.append((sender, StaleTerm(self.term())))
            return
        self._leader_seen_s, self._pre_votes, self._eager_until_s = self._now(), None, _NEVER
        self.journal.told_commit = max(self.journal.told_commit, message.commit_index)
        self._answering = (message.probe, message.round)
        self._ack_next_max = None
        if self._guards.matching:
            reduced = guard.receivable(message, self.journal, self.journal.commit_index)
            message, self._ack_next_max = reduced.message, reduced.ack_next_max
        self._hand_in(sender, message)
        self._ack_next_max = None
        if self.journal.configuration is not self.configuration:
            self._adopt(self.journal.configuration)

    def _on_ack(self, sender: int, ack: Ack) -> None:
        follower = self.sender.followers.get(sender)
        if self.state() != LEADER or follower is None:
            return
        node = follower.node
        outcome = guard.incoming_ack(
            ack,
            term=self.term(),
            probe=follower.probe,
            match_index=self._SyncObj__raftMatchIndex.get(node),
            first_index=self.journal.first_index,
            last_index=self.journal.last_index,
            guards=self._guards,
        )
        if outcome is None:
            return
        before = self._SyncObj__raftNextIndex[node]
        self._hand_in(sender, outcome.ack)
        follower.round, follower.mute, follower.damaged = max(follower.round, ack.round), False, ack.damaged
        if outcome.probe_again:
            if self.sender.probed(sender, outcome.ack.next_index, outcome.ack.agreed_term):
                self._send_now = True
            elif 1 < self.journal.first_index == outcome.ack.next_index - 1 and not self.sender.reaches(follower):
                self.sender.offers(sender, self._now())
                self._post(sender, SnapshotOffer(self.term()))
        elif self._guards.probes:
            self._SyncObj__raftNextIndex[node] = max(before, self._SyncObj__raftNextIndex[node])
        self.sender.acknowledged(sender, self._SyncObj__raftMatchIndex[node], self._now())

    def _on_vote(self, sender: int, vote: Vote) -> None:
        """Guard 7: a voter counts once, and nobody else does."""
        if sender not in self._nodes:
            return
        if not self._guards.votes_once:
            self._hand_in(sender, vote)
        elif vote.term == self.term() and self.state() == CANDIDATE:
            self._votes.add(sender)
            if self._electorate.elected_by(self._votes):
                self._SyncObj__onBecomeLeader()

    def _on_pre_vote_request(self, sender: int, ask: RequestPreVote) -> None:
        last = self.journal.last
        if ask.term <= self.term():
            self.outbox.append((sender, StaleTerm(self.term())))
        elif guard.grants_pre_vote(
            ask, term=self.term(), last_index=last.index, last_term=last.term, leader_alive=self._leader_alive()
        ):
            self.outbox.append((sender, PreVote(ask.term)))

    def _on_pre_vote(self, sender: int, vote: PreVote) -> None:
        if self._pre_votes is None or vote.term != self.term() + 1 or self.state() == LEADER:
            return
        self._pre_votes.add(sender)
        if self._electorate.elected_by(self._pre_votes) and self._may_campaign():
            self._campaign(disruptive=True)

    def _step_down_to(self, sender: int, term: int) -> None:
        if term > self.term():
            # PySyncObj adopts a higher term from a vote request; one with an empty log is never granted.
            self._hand_in(sender, RequestVote(term, -1, -1))

    def _leader_alive(self) -> bool:
        return self.state() == LEADER or self._now() - self._leader_seen_s < self._times.election_min_s

    def _now(self) -> float:
        return self._ambience.clock.monotonic_s()

    # ---- messages out

    def _post(self, recipient: int, message: Message) -> None:
        self.outbox.append((recipient, message))

    def _from_pysyncobj(self, recipient: int, message: dict[str, Any]) -> None:
        translated = from_pysyncobj(message, self.term())
        if isinstance(translated, Ack) and (self._guards.matching or self._guards.probes):
            translated = guard.outgoing_ack(
                translated,
                self.journal,
                commit_index=self.journal.commit_index if self._guards.probes else self.journal.last_index,
                ack_next_max=self._ack_next_max,
                answering=self._answering,
                damaged=self.damaged,
            )
        self.outbox.append((recipient, translated))

    # ---- PySyncObj's own methods, replaced

    def _onTick(self, timeToWait: float = 0.0) -> None:  # noqa: ARG002, N802, N803
        if self.state() == LEADER:
            self._lead()
        elif self._SyncObj__raftElectionDeadline <= self._now() and self._may_campaign():
            self._seek_election()
        self._SyncObj__applyLogEntries()
        if self.state() == LEADER:
            self._SyncObj__sendAppendEntries()

    def _seek_election(self) -> None:
        """Guard 5: ask before campaigning, unless the leader itself asked for it, or there is nobody to ask."""
        if not self._guards.pre_vote or self._SyncObj__transferInProgress or not self._voters:
            self._campaign(disruptive=bool(self._SyncObj__transferInProgress))
            return
        eager = self._now() < self._eager_until_s
        pause_s = EAGER_RETRY_S if eager else self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftElectionDeadline = self._now() + pause_s
        self._pre_votes = set()
        last = self.journal.last
        for other in self._electorate.others:
            self.outbox.append((other, RequestPreVote(self.term() + 1, last.index, last.term)))

    def _campaign(self, *, disruptive: bool) -> None:
        """Raft section 5.2."""
        self._pre_votes, self._votes = None, set()
        self._SyncObj__raftElectionDeadline = self._now() + self._SyncObj__generateRaftTimeout()
        self._SyncObj__transferInProgress, self._SyncObj__raftLeader = False, None
        self._SyncObj__setState(CANDIDATE)
        self._SyncObj__setCurrentTerm(self.term() + 1, self.id)
        self._SyncObj__votesCount = 1
        last = self.journal.last
        for other in self._electorate.others:
            self.outbox.append((other, RequestVote(self.term(), last.index, last.term, disruptive)))
        if not self._voters:
            self._SyncObj__onBecomeLeader()

    def _SyncObj__onBecomeLeader(self) -> None:  # noqa: N802
        self.sender.begin_term()
        super()._SyncObj__onBecomeLeader()
        self._send_now = True

    def _SyncObj__setState(self, newState: int) -> None:  # noqa: N802, N803
        if self.state() == LEADER and newState != LEADER:
            self.sender.forget()
        super()._SyncObj__setState(newState)

    def _lead(self) -> None:
        """Commit what a majority holds; and the leader's own doubt: step down when a majority is silent."""
        self.commit_held()
        silent_since, heard_s = self._now() - self._times.fallback_s, self._SyncObj__lastResponseTime
        heard = sum(1 for node in self._voters if heard_s[node] > silent_since) + self._electorate.votes
        if self._guards.pre_vote and not self._electorate.majority(heard):
            self._give_up()
        elif not self._electorate.votes and self.journal.configuration_committed:
            # It has led itself out of the group (dissertation section 4.2.2). Whoever can take over at once is asked to, and
            # told of the commit before: nobody would tell it later.
            self.sender.send(self.term(), self._now(), heartbeat=True)
            self.transfer()
            self._give_up()

    def _give_up(self) -> None:
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        self._SyncObj__raftElectionDeadline = self._now() + self._SyncObj__generateRaftTimeout()

    def _commit_candidate(self) -> int:
        held = [self._SyncObj__raftMatchIndex.get(node, 0) for node in self._voters]
        if self._electorate.votes:
            held.append(self.journal.durable_index if self._guards.durable else self.journal.last_index)
        return guard.commit_candidate(held)

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        commit = int(self._SyncObj__raftCommitIndex)
        if commit > self.journal.applied_index:
            self._apply(self.journal.applied_index + 1, commit)
            self._SyncObj__raftLastApplied = self.journal.applied_index
        return False

    def _SyncObj__parseChangeClusterRequest(self, command: Entry | None) -> Any:  # noqa: N802
        """Guard 8: never unpickle what is in the log."""
        if self._guards.membership or command is None:
            return None
        return super()._SyncObj__parseChangeClusterRequest(bytes((command.header.kind,)) + command.payload)

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802
        """Guard 4: to every connected member what it lacks, in bounded messages; a heartbeat where one is due."""
        now = self._now()
        if not self._guards.sender:
            if self._send_now or now > self._SyncObj__newAppendEntriesTime:
                self._send_now = False
                super()._SyncObj__sendAppendEntries()
            return
        heartbeat = self._send_now or now >= self._SyncObj__newAppendEntriesTime
        if heartbeat:
            self._SyncObj__newAppendEntriesTime = now + self._times.heartbeat_s
            self._send_now = False
        self.sender.send(self.term(), now, heartbeat=heartbeat)

    def stop(self) -> None:
        """Give back what the windows hold."""
        self.sender.forget()
