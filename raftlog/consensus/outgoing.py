"""What a turn sends: each peer's messages gathered into bounded frames, and the bytes under way to each peer counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from raftlog.consensus.messages import Append, Message, to_wire
from raftlog.consensus.pace import Pace
from raftlog.core.configuration import node_of
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.port import Peers

FRAME_PAYLOAD_BYTES_MAX = 8 << 20
"""Payload of one frame to a peer, unless a single message is larger."""
FRAME_PAYLOADS_MAX = 32_768
"""Entries in one frame to a peer; links take twice as many."""
FRAME_ITEMS_MAX = 8_192
"""Messages, leaderships and wakings in one frame to a peer. The largest, an Append of eight large numbers, takes 120 bytes: all
of them, and the sizes of the payloads, a sixth of what an envelope may. More would keep the peer from hearing others."""


class PeerWindows:
    """Unacknowledged bytes to each node (``sender.Windows``)."""

    def __init__(self, writable: Callable[[int], bool], pace: Pace, bytes_max: int) -> None:
        self._bytes: dict[int, int] = {}
        self._writable, self._bytes_max = writable, bytes_max
        self.pace = pace

    def room(self, node_id: int) -> bool:
        """See ``sender.Windows``."""
        return self._bytes.get(node_id, 0) < self._bytes_max and self._writable(node_id)

    def sent(self, node_id: int, size_bytes: int) -> None:
        """See ``sender.Windows``."""
        self._bytes[node_id] = self._bytes.get(node_id, 0) + size_bytes


class Mail:
    """Messages for the peers, in order for each, until they are flushed."""

    def __init__(self) -> None:
        self._frames: dict[int, list[_Frame]] = {}

    def post(self, group: int, sender: int, recipient: int, message: Message) -> None:
        """Add a message of one member to another."""
        payloads = [entry.data for entry in message.entries] if isinstance(message, Append) else []
        size = sum(map(len, payloads))
        self._frame(node_of(recipient), len(payloads), size).add(to_wire(group, sender, recipient, message), payloads, size)

    def announce(self, node_id: int, leaderships: Iterable[pb.Leadership]) -> None:
        """Tell a peer who leads."""
        for one in leaderships:
            self._frame(node_id).turn.leaderships.append(one)

    def woken(self, node_id: int, groups: Iterable[int]) -> None:
        """Tell a peer which groups do not sleep any more, behind all messages that were posted so far."""
        for group in groups:
            self._frame(node_id).turn.woken.append(group)

    def _frame(self, node_id: int, payloads: int = 0, size_bytes: int = 0) -> _Frame:
        """The last frame for a peer, with one more item on it; another one where it has no room for that."""
        frames = self._frames.setdefault(node_id, [_Frame()])
        if not frames[-1].has_room(payloads, size_bytes):
            frames.append(_Frame())
        frames[-1].items += 1
        return frames[-1]

    def __bool__(self) -> bool:
        return bool(self._frames)

    def __contains__(self, node_id: int) -> bool:
        return node_id in self._frames

    def turn(self, node_id: int) -> pb.Turn:
        """What goes to a peer behind all messages that were posted so far."""
        return self._frames.setdefault(node_id, [_Frame()])[-1].turn

    def flush(self, peers: Peers) -> bool:
        """Send everything; whether the links took it all. What one does not take is lost, as on a broken one."""
        taken = True
        for node_id, frames in self._frames.items():
            for frame in frames:
                taken = peers.send_turn(node_id, frame.turn, frame.payloads) and taken
        self._frames.clear()
        return taken


class _Frame:
    __slots__ = ("items", "payload_bytes", "payloads", "turn")

    def __init__(self) -> None:
        self.turn = pb.Turn()
        self.payloads: list[bytes] = []
        self.payload_bytes = self.items = 0

    def has_room(self, count: int, size_bytes: int) -> bool:
        return self.items < FRAME_ITEMS_MAX and (
            not self.payloads
            or (len(self.payloads) + count <= FRAME_PAYLOADS_MAX and self.payload_bytes + size_bytes <= FRAME_PAYLOAD_BYTES_MAX)
        )

    def add(self, wire: pb.RaftMessage, payloads: list[bytes], size_bytes: int) -> None:
        self.turn.raft.append(wire)
        self.payloads += payloads
        self.payload_bytes += size_bytes
