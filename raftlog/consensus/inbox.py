"""What the links have brought and no turn has heard yet: in order, and bounded.

Theory of operation. While a commit is under way nothing here is worked off, and a full disk or a stalled one can take hours, for
which leaders go on with their heartbeats. So of each peer only so much waits. What comes beyond that is *thinned*: its members'
messages count as lost, which Raft allows at any time, and of the rest only what still matters is kept, each thing once, in one
place behind what waits already. What the loss costs:

- Appends: the next heartbeat of their leader does not match, is answered by a reset, and what was lost is sent again; as where a
  full disk takes no copies. Their bytes stay in the leader's window until then, so no more of them come.
- Acknowledgements: the next one says more. Votes, questions for them, offers of snapshots, the word to take over: by timers.
- The word to sleep, and the answer to it: said again until all have answered. Of what was told and not heard the link's digest
  tells, and it is told anew; at worst the link's sleepers wake once.

Rules:

1. What one peer sent is heard in its order. Of what was thinned, nothing is kept of a link that is gone but that it is.
2. What nobody would say again is never lost: links, who leads, who woke, and the sleepers' heartbeats and answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb

PEER_MESSAGES_MAX = 16_384
"""Of one peer that wait: two of the largest frames, and a second of work. A node that is further behind has no use for more."""
PEER_BYTES_MAX = 32 << 20
"""Payload of one peer that waits: two windows of a leader, for it sends anew over each new link."""
TURN_BYTES_MAX = 8 << 20
"""A turn stops hearing when its batch is this large; the rest is the next turn's."""
TURN_MESSAGES_MAX = 4_096
"""So many are heard in one turn, and the rest in the next ones: a fifth of a second, for the loop has more to do."""

Item = pb.RaftMessage | pb.Turn | bool


class _Peer:
    """What waits of one peer."""

    __slots__ = ("count", "size_bytes", "thinned")

    def __init__(self) -> None:
        self.count = self.size_bytes = 0
        self.thinned: _Thinned | None = None
        """Where all that comes now is merged; it is behind all else of this peer."""


class _Thinned:
    """Rule 2, of one peer. Whatever it keeps is copied: a part of a message would keep all of it in memory."""

    __slots__ = ("_down", "_heard", "_leaderships", "_sleepers", "_up", "_woken")

    def __init__(self) -> None:
        self._down = self._up = False
        self._clear()

    def _clear(self) -> None:
        self._leaderships: dict[int, tuple[int, int]] = {}
        self._woken: dict[int, None] = {}
        self._sleepers: tuple[int, int, int] | None = None
        self._heard: tuple[int, bool] | None = None

    def link(self, *, up: bool) -> None:
        """A link has come up, or went down: then all that was said over it is void, here and at whoever hears of it."""
        if not up:
            self._clear()
            self._down = True
        self._up = up

    def add(self, turn: pb.Turn) -> None:
        """Keep what still matters of a turn. Of sleepers it is the newest: counts and digests are of all that was said before."""
        for one in turn.leaderships:
            if one.term >= self._leaderships.get(one.group, (0, 0))[0]:
                self._leaderships[one.group] = one.term, one.leader_node_id
        self._woken.update(dict.fromkeys(turn.woken))
        if turn.HasField("sleepers"):
            beat = turn.sleepers
            self._sleepers = beat.epoch, beat.count, beat.digest
        if turn.HasField("sleepers_heard"):
            heard = turn.sleepers_heard
            refused = heard.refused or self._heard == (heard.epoch, True)
            self._heard = heard.epoch, refused

    def items(self) -> Iterator[pb.Turn | bool]:
        """What is left of it, in order."""
        if self._down:
            yield False
        if self._up:
            yield True
        turn = pb.Turn(woken=self._woken)
        for group, (term, leader) in self._leaderships.items():
            turn.leaderships.add(group=group, term=term, leader_node_id=leader)
        if self._sleepers is not None:
            turn.sleepers.epoch, turn.sleepers.count, turn.sleepers.digest = self._sleepers
        if self._heard is not None:
            turn.sleepers_heard.epoch, turn.sleepers_heard.refused = self._heard
        yield turn


class Inbox:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, pb.Turn | bool | _Thinned, list[bytes]]] = deque()
        self._at = self._payload_at = 0  # how far the first one's messages have been taken
        self._peers: dict[int, _Peer] = {}
        self.lost = 0
        """Messages of members that were not taken, since the start."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def link(self, node_id: int, *, up: bool) -> None:
        """A link has come up, or went down."""
        peer = self._peers.setdefault(node_id, _Peer())
        thinned = self._thinned(node_id, peer, 1, 0)
        if thinned is not None:
            thinned.link(up=up)
        else:
            self._waiting.append((node_id, up, []))

    def turn(self, node_id: int, turn: pb.Turn, payloads: list[bytes]) -> None:
        """A peer's turn has come."""
        peer = self._peers.setdefault(node_id, _Peer())
        thinned = self._thinned(node_id, peer, _count(turn), sum(map(len, payloads)))
        if thinned is not None:
            self.lost += len(turn.raft)
            thinned.add(turn)
        else:
            self._waiting.append((node_id, turn, payloads))

    def _thinned(self, node_id: int, peer: _Peer, count: int, size_bytes: int) -> _Thinned | None:
        """Where this is to be merged; None where it may wait as it came, and is counted. One frame always is."""
        if peer.thinned is None:
            if not peer.count or (peer.count + count <= PEER_MESSAGES_MAX and peer.size_bytes + size_bytes <= PEER_BYTES_MAX):
                peer.count += count
                peer.size_bytes += size_bytes
                return None
            peer.thinned = _Thinned()
            self._waiting.append((node_id, peer.thinned, []))
        return peer.thinned

    def take(self, batch_bytes: Callable[[], int]) -> Iterator[tuple[int, Item, list[bytes]]]:
        """What a turn is to hear, as long as its batch has room: whether a link is up; a member's message with its payloads; and
        behind the messages of a peer's turn that turn, for what else it says."""
        left = TURN_MESSAGES_MAX
        while self._waiting and left > 0 and batch_bytes() < TURN_BYTES_MAX:
            node_id, first, payloads = self._waiting[0]
            left -= 1
            if isinstance(first, pb.Turn) and self._at < len(first.raft):
                yield node_id, *self._message(first, payloads)
                continue
            self._waiting.popleft()
            peer, self._at, self._payload_at = self._peers[node_id], 0, 0
            if isinstance(first, _Thinned):
                peer.thinned = None
                for item in first.items():
                    yield node_id, item, []
                continue
            peer.count -= 1 if isinstance(first, bool) else _count(first)
            peer.size_bytes -= sum(map(len, payloads))
            yield node_id, first, []

    def _message(self, turn: pb.Turn, payloads: list[bytes]) -> tuple[pb.RaftMessage, list[bytes]]:
        wire, start = turn.raft[self._at], self._payload_at
        self._at += 1
        self._payload_at = start + wire.append_entries.entry_count
        return wire, payloads[start : self._payload_at]


def _count(turn: pb.Turn) -> int:
    return 1 + len(turn.raft) + len(turn.leaderships) + len(turn.woken)
