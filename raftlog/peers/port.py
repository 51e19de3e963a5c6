"""What the layers above ask of the links between nodes.

Rules:

1. Frames to one peer arrive in the order sent, at most once, and only within one connection: a broken link loses what was
   in flight and says so by ``on_disconnected`` before any ``on_connected``.
2. No frame of a peer is handed up before both sides' Hello was accepted by the ``Gate``.
3. Nothing here blocks: ``send`` queues or refuses. The queue of a link is bounded by ``LINK_BUFFER_BYTES_MAX``.
4. A guest (a Hello with ``join``) is no peer: of what it sends only calls are looked at, and they go to ``on_guest_call``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb

Payloads = Sequence[bytes | memoryview]


class PeerHandler(Protocol):
    """Who receives what the links bring. Called on the event loop; must not block."""

    def on_connected(self, node_id: int) -> None:
        """The link to ``node_id`` is up; both sides accepted each other."""

    def on_disconnected(self, node_id: int) -> None:
        """The link is down; everything in flight is lost."""

    def on_turn(self, node_id: int, turn: pb.Turn, payloads: list[bytes]) -> None:
        """One turn's messages of a peer, with the payloads behind them."""

    async def on_call(self, node_id: int, method: str, body: bytes, payloads: list[bytes]) -> tuple[bytes, Payloads]:
        """Answer a call: a response body and payloads. A raised ``RaftlogError`` travels to the caller as such."""
        ...

    async def on_guest_call(self, node_id: int, method: str, body: bytes) -> bytes:
        """Answer a call of a guest that says it is ``node_id``: a response body. Errors as ``on_call``."""
        ...


class Gate(Protocol):
    """Who decides which peers may talk to this node: identity, boot numbers, bootstrap."""

    def hello(self) -> pb.Hello:
        """This node's Hello as of now."""
        ...

    async def admit(self, hello: pb.Hello) -> None:
        """Accept a peer's or a guest's Hello, having persisted what must be (the highest boot number seen), or refuse it.

        Raises:
            RaftlogError: the peer is refused; reason and message are sent to it.
        """

    def refused(self, node_id: int, reason: str, message: str) -> None:
        """A peer has refused this node; the connection is closed, and dialled again later."""


class Peers(Protocol):
    """The links of one node to all others."""

    def send_turn(self, node_id: int, turn: pb.Turn, payloads: Payloads) -> bool:
        """Queue a turn's messages to a peer; False where there is no link or its buffer is full."""
        ...

    def connected(self, node_id: int) -> bool:
        """Whether the link is up."""
        ...

    def writable(self, node_id: int) -> bool:
        """Whether the link is up and its buffer below half of its bound: entries may be sent."""
        ...

    async def call(
        self, node_id: int, method: str, body: bytes, payloads: Payloads = (), *, timeout_s: float
    ) -> tuple[bytes, list[bytes]]:
        """Call a method of a peer's broker and wait for its answer.

        Raises:
            UnavailableError: no link, or too many calls under way (``CALLS_IN_FLIGHT_MAX``): nothing was done.
            IndeterminateError: the link broke or the time ran out before an answer.
            RaftlogError: what the peer's handler raised.
        """
        ...

    def set_peers(self, addresses: dict[int, str]) -> None:
        """The peers to keep links with: node id → ``host:port``."""
