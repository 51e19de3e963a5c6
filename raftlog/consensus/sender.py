"""What a leader sends to its followers: bounded messages, within a window for each node, and numbered rounds.

Theory of operation. PySyncObj keeps nextIndex and matchIndex of each follower; what is here beside it is which messages are
under way, so that nothing is sent twice and no node is flooded. Guards 3 and 4 (see ``guard``) live here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Protocol

import structlog

from raftlog.consensus.door import Node
from raftlog.consensus.journal import GroupJournal
from raftlog.consensus.messages import Append, Message
from raftlog.consensus.pace import Pace
from raftlog.consensus.terms import term_by_neighbours
from raftlog.core.configuration import node_of
from raftlog.core.entry import Entry
from raftlog.errors import DataLossError

log = structlog.get_logger()

APPEND_BYTES_MAX = 1 << 20
"""Payload of one Append, unless a single entry is larger."""
UNANSWERED_S = 5.0
"""A member that has answered nothing for so long while its node has a link may be no more: what is under way to it is given up,
for others on its node share the window, and it gets bare heartbeats until it answers. A slow disk takes less."""


STALLED_S = 1.0
"""A member that has answered for so long and taken nothing of what it lacks is sent one message at a time, not a window each time
that it answers: its disk may be full for days."""
NEVER_S = float("inf")


class Windows(Protocol):
    """Unacknowledged bytes for each node, shared by all groups of this one."""

    def room(self, node_id: int) -> bool:
        """Whether more entries may be sent to a node."""
        ...

    def sent(self, node_id: int, size_bytes: int) -> None:
        """Count bytes as under way; negative when they are acknowledged or given up."""
        ...

    @property
    def pace(self) -> Pace:
        """Of what learners are sent, over all groups."""
        ...


class Follower:
    """What a leader knows of a follower beside PySyncObj's nextIndex and matchIndex."""

    __slots__ = (
        *("agreed", "damaged", "held", "in_flight", "learner", "mute", "node", "offered"),
        *("probe", "probed_at", "round", "sent_s", "stuck_since_s", "tries_beyond", "unreadable"),
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self.learner = False
        """It counts nowhere, and is held to a pace."""
        self.in_flight: deque[tuple[int, int]] = deque()
        """(last index, bytes) of each Append not yet acknowledged."""
        self.sent_s = 0.0
        """When the first of them was sent."""
        self.mute = False
        """It gets bare heartbeats until it answers one as it should: see ``UNANSWERED_S``, and ``probed``."""
        self.probe = 0
        self.probed_at = 0
        """Where the last reset pointed; the same again means that what the follower needs was trimmed."""
        self.round = 0
        """The highest heartbeat round it has answered."""
        self.held = 0
        """Its match index at its last answer."""
        self.stuck_since_s = NEVER_S
        """Since when it has answered without taking any of what it lacks, as with a full disk; ``NEVER_S`` while it does."""
        self.offered = False
        """It was offered a snapshot, and has not come on since."""
        self.unreadable = False
        """It lacks an entry that is damaged here."""
        self.tries_beyond = False
        """The last heartbeat asked whether it holds that entry all the same."""
        self.damaged = False
        """Something of what it holds fails its check, it says."""
        self.agreed = (0, 0)
        """Index and term of an entry that it knows to be committed; 0 for the term where it could not say."""


class Sender:
    """One member's sending, in use while it leads.

    Args:
        next_index, match_index, heard_s: PySyncObj's, by node.
        connected: PySyncObj's set of nodes with a link.
        post: takes a message for another member.
    """

    def __init__(
        self, journal: GroupJournal, windows: Windows, *, next_index: dict[Node, int], match_index: dict[Node, int],
        heard_s: dict[Node, float], connected: set[Node], post: Callable[[int, Message], None],
    ) -> None:  # fmt: skip
        self._journal, self._windows, self._post = journal, windows, post
        self._next, self._match, self._heard_s, self._connected = next_index, match_index, heard_s, connected
        self.followers: dict[int, Follower] = {}
        """All other members, in order of their ids."""
        self.round = 0
        """Number of the newest heartbeat round that this leader began."""
        self.tells_to_sleep = False
        """Whether what is sent next tells the followers to sleep."""
        self.met: DataLossError | None = None
        """What could not be read for a follower, until the group takes note."""

    def follow(self, nodes: dict[int, Node], learners: Container[int]) -> None:
        """From now on these are the other members; what is known of those that stay is kept."""
        for other in self.followers.keys() - nodes.keys():
            self._forget_in_flight(other)
        self.followers = {other: self.followers.get(other) or Follower(node) for other, node in nodes.items()}
        for other, follower in self.followers.items():
            follower.learner = other in learners

    def begin_term(self) -> None:
        """This member leads from now on: where its followers stand is not known."""
        for other, follower in self.followers.items():
            self._forget_in_flight(other)
            follower.probe = follower.probed_at = follower.round = follower.held = 0
            follower.agreed = 0, 0
            follower.mute, follower.stuck_since_s, follower.offered, follower.unreadable = False, NEVER_S, False, False
        self.round = 0

    def send(self, term: int, now_s: float, *, heartbeat: bool) -> None:
        """To every connected member what it lacks; an empty message where it lacks nothing and a heartbeat is due."""
        for other, follower in self.followers.items():
            if follower.node not in self._connected:
                continue
            if heartbeat and follower.in_flight:
                self._doubt(other, follower, now_s)
            sent = not follower.mute and self._send_readable(other, follower, term, now_s)
            if heartbeat and not sent:
                self._post(other, self._bare(follower, term))

    def _send_readable(self, other: int, follower: Follower, term: int, now_s: float) -> bool:
        """A follower that lacks what cannot be read waits until another leads, who can; the others go on meanwhile."""
        try:
            sent = self._send_entries(other, follower, term, now_s)
        except DataLossError as error:
            if not follower.unreadable:
                follower.unreadable = True
                log.error("a follower needs what cannot be read here", member=other, error=str(error))
            self.met = error
            return False
        follower.unreadable = follower.unreadable and not sent
        return sent

    def lacking(self) -> set[int]:
        """The members that lack what cannot be read here."""
        return {other for other, follower in self.followers.items() if follower.unreadable}

    def _bare(self, follower: Follower, term: int) -> Append:
        """A heartbeat. It says where the follower's log is to match: at the end, where this one cannot be read at that place.
        What a follower lacks by its word, and cannot be given, it may hold without knowing it to be committed: every other
        heartbeat tries that. Then it is given what comes behind."""
        first, index, end = self._journal.first_index, self._next[follower.node], self._journal.last_index + 1
        may_hold_it = index < end and (index > first + 1 or self.reaches(follower))
        follower.tries_beyond = follower.unreadable and not follower.tries_beyond and may_hold_it
        for place in (index + 1, index) if follower.tries_beyond else (index,):
            with suppress(DataLossError):
                return self._message(follower, place, [], term)
        return self._message(follower, end, [], term)

    def reaches(self, follower: Follower) -> bool:
        """Whether a follower is known to hold where the log begins here, so that nothing that was trimmed is missing to it."""
        return self._match[follower.node] >= self._journal.first_index

    def _doubt(self, other: int, follower: Follower, now_s: float) -> None:
        if now_s - max(follower.sent_s, self._heard_s[follower.node]) > UNANSWERED_S:
            self.rewind(other, leads=True)
            follower.mute = True

    def lags(self) -> bool:
        """Whether a connected member has not been sent all of the log."""
        last = self._journal.last_index
        return any(
            self._next[follower.node] <= last and follower.node in self._connected and not follower.mute
            for follower in self.followers.values()
        )

    def _send_entries(self, other: int, follower: Follower, term: int, now_s: float) -> bool:
        journal, node = self._journal, follower.node
        index = max(self._next[node], journal.first_index + 1)
        self._next[node] = index
        sent = False
        while index <= journal.last_index and self._may_send(other, follower, now_s):
            entries = journal.read(index, journal.last_index + 1, APPEND_BYTES_MAX)
            self._post(other, self._message(follower, index, entries, term))
            size = sum(len(entry.data) for entry in entries)
            if not follower.in_flight:
                follower.sent_s = now_s
            follower.in_flight.append((entries[-1].header.index, size))
            self._windows.sent(node_of(other), size)
            if follower.learner:
                self._windows.pace.sent(size)
            index += len(entries)
            self._next[node] = index
            sent = True
        return sent

    def _may_send(self, other: int, follower: Follower, now_s: float) -> bool:
        """One message at a time where it may be for nothing: a follower that has not answered in this term yet, or lacks what was
        trimmed, or takes nothing."""
        match = self._match[follower.node]
        doubtful = not match or match < self._journal.first_index or now_s - follower.stuck_since_s > STALLED_S
        probing = doubtful and follower.in_flight
        too_fast = follower.learner and not self._windows.pace.allows(now_s)
        return not probing and not too_fast and self._windows.room(node_of(other))

    def _message(self, follower: Follower, index: int, entries: list[Entry], term: int) -> Append:
        prev = max(index - 1, self._journal.first_index)
        prev_term = self._term_at(prev, follower)
        assert prev_term is not None
        commit = self._journal.commit_index
        return Append(term, prev, prev_term, commit, entries, follower.probe, self.round, int(self.tells_to_sleep))

    def _term_at(self, index: int, follower: Follower) -> int | None:
        """Of an entry that is damaged here the follower may have told the term: what it knows to be committed is in every
        leader's log, and the same there. Or its neighbours do. Then it can be given what comes behind, though nobody can who
        lacks that entry."""
        try:
            return self._journal.term_at(index)
        except DataLossError as error:
            agreed_index, agreed_term = follower.agreed
            term = agreed_term if agreed_index == index else 0
            term = term or term_by_neighbours(self._journal, index) or 0
            if not term:
                raise
            self.met = error
            return term

    def probed(self, other: int, next_index: int, agreed_term: int) -> bool:
        """A follower has answered a probe by a reset to ``next_index``, ``agreed_term`` being the term of the entry before;
        whether it is worth sending at once. What is under way to it it refuses as well. One that was there before wants
        heartbeats, which tell when it has come on."""
        follower = self.followers[other]
        follower.agreed = next_index - 1, agreed_term
        follower.probe += 1
        self._forget_in_flight(other)
        follower.mute = next_index == follower.probed_at
        follower.probed_at = next_index
        return not follower.mute

    def come_on(self, since_s: float, fed: AbstractSet[int]) -> list[int]:
        """Match indices of the followers that come on. Who has been silent since then does not; nor who has answered all the time
        and taken nothing, as one with a full disk does, unless it is ``fed`` a snapshot."""
        return [
            self._match[follower.node]
            for other, follower in self.followers.items()
            if self._heard_s[follower.node] >= since_s and (other in fed or follower.stuck_since_s > since_s)
        ]

    def offers(self, other: int, now_s: float) -> None:
        """A follower is offered a snapshot: it has time anew to come on."""
        follower = self.followers[other]
        if not follower.offered:
            follower.offered, follower.stuck_since_s = True, now_s

    def acknowledged(self, other: int, match_index: int, now_s: float) -> None:
        """A follower has answered, and holds the log up to ``match_index``."""
        follower = self.followers[other]
        if match_index > follower.held or match_index >= self._journal.last_index:
            follower.stuck_since_s, follower.offered = NEVER_S, False
        else:
            follower.stuck_since_s = min(follower.stuck_since_s, now_s)
        follower.unreadable = follower.unreadable and match_index < self._journal.last_index
        follower.held = match_index
        in_flight = follower.in_flight
        while in_flight and in_flight[0][0] <= match_index:
            self._windows.sent(node_of(other), -in_flight.popleft()[1])

    def rewind(self, other: int, *, leads: bool) -> None:
        """What was under way to a member is lost: go on behind what it has acknowledged."""
        follower = self.followers[other]
        self._forget_in_flight(other)
        follower.probed_at, follower.mute = 0, False
        match = self._match.get(follower.node, 0)
        if leads and match:
            self._next[follower.node] = match + 1

    def forget(self) -> None:
        """Give back what the windows hold."""
        for other in self.followers:
            self._forget_in_flight(other)

    def _forget_in_flight(self, other: int) -> None:
        in_flight = self.followers[other].in_flight
        while in_flight:
            self._windows.sent(node_of(other), -in_flight.popleft()[1])
