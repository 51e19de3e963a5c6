"""The handshake of one connection as a pure state machine: envelopes in, effects out.

Rules:

1. Each side sends its Hello first, unasked, and then one Welcome in answer to the other's Hello.
2. A side is done when it has sent an accepting Welcome and received one. Only then may it send anything else; so whatever
   comes before is a fault of the peer, for its own Welcome precedes its first turn on the stream.
3. What any version must agree on is checked here, before the ``Gate``: protocol version, and who may be at the other end.
   The higher node id dials the lower one, so an accepted connection comes from a higher id.
4. A refusal is sent by name (reason and message of an error), and then the connection is closed.
5. A Hello with ``join`` is a guest's. Which of the two has the higher id does not matter then, nor does the guest know whom
   it dials; and nobody is a guest where he was dialled.

::

    Hello arrives   → checked → Admit(hello) → decided(None)  → Send(Welcome)            ┐ both → Done
                                             → decided(error) → Send(refusal), Close     │
    Welcome arrives → accepted                                                           ┘
                    → refused: Refused, Close
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from raftlog.errors import InvalidRequestError, RaftlogError, UnsupportedVersionError, WrongNodeError
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.frame import PeerProtocolError

PROTOCOL_VERSION: Final = 1
"""Raised when frames change in a way that an older node would misread."""
_TEXT_MAX: Final = 500
"""Characters of a refusal that are sent or logged; with both texts a Welcome stays far below a handshake's frame bound."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send this envelope."""

    envelope: pb.Envelope


@dataclass(frozen=True, slots=True)
class Admit:
    """Ask the gate about this peer, then call ``decided``."""

    hello: pb.Hello


@dataclass(frozen=True, slots=True)
class Done:
    """Both sides have accepted."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The peer has refused this node; tell the gate."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection once everything was sent; ``why`` is for the log."""

    why: str


Effect = Send | Admit | Done | Refused | Close


class Handshake:
    """One side of one connection.

    Args:
        own: this node's Hello; its protocol version is filled in.
        dialled: the node id expected at the dialled address, or None on the side that was dialled.
    """

    __slots__ = ("_accepted", "_admitted", "_closed", "_dialled", "_own", "peer")

    def __init__(self, own: pb.Hello, *, dialled: int | None) -> None:
        self._own = pb.Hello()
        self._own.CopyFrom(own)
        self._own.protocol_version = PROTOCOL_VERSION
        self._dialled = dialled
        self._accepted = False
        self._admitted = False
        self._closed = False
        self.peer: pb.Hello | None = None
        """The other side's Hello, once it has come."""

    @property
    def guest(self) -> bool:
        """One of the two sides is a guest."""
        return self._own.join or (self.peer is not None and self.peer.join)

    def begin(self) -> list[Effect]:
        """The connection is made."""
        return [Send(pb.Envelope(hello=self._own))]

    def received(self, envelope: pb.Envelope) -> list[Effect]:
        """An envelope came before the handshake was done.

        Raises:
            PeerProtocolError: it is not what comes next.
        """
        body = envelope.WhichOneof("body")
        if self._closed:
            return []
        if body == "hello" and self.peer is None and not envelope.payload_sizes:
            return self._hello(envelope.hello)
        if body == "welcome" and self.peer is not None and not self._accepted and not envelope.payload_sizes:
            return self._welcome(envelope.welcome)
        raise PeerProtocolError(f"{body or 'an empty envelope'} came where a handshake was under way")

    def decided(self, refusal: RaftlogError | None) -> list[Effect]:
        """The gate's answer to ``Admit``: None admits."""
        if self._closed:
            return []
        if refusal is not None:
            return self._refuse(refusal)
        self._admitted = True
        return [Send(pb.Envelope(welcome=pb.Welcome())), *self._done()]

    def _hello(self, hello: pb.Hello) -> list[Effect]:
        self.peer = hello
        refusal = self._objection(hello)
        return [Admit(hello)] if refusal is None else self._refuse(refusal)

    def _welcome(self, welcome: pb.Welcome) -> list[Effect]:
        if welcome.refused_reason:
            self._closed = True
            assert self.peer is not None
            reason, message = welcome.refused_reason[:_TEXT_MAX], welcome.refused_message[:_TEXT_MAX]
            return [Refused(reason, message), Close(f"node {self.peer.node_id} refused this node: {reason}: {message}")]
        self._accepted = True
        return self._done()

    def _done(self) -> list[Effect]:
        return [Done()] if self._accepted and self._admitted else []

    def _refuse(self, error: RaftlogError) -> list[Effect]:
        self._closed = True
        assert self.peer is not None
        welcome = pb.Welcome(refused_reason=error.reason, refused_message=str(error)[:_TEXT_MAX])
        return [Send(pb.Envelope(welcome=welcome)), Close(f"refused node {self.peer.node_id}: {error}")]

    def _objection(self, hello: pb.Hello) -> RaftlogError | None:  # noqa: PLR0911 - one for each rule
        """Why no gate need be asked about this peer, or None."""
        own, peer = self._own.node_id, hello.node_id
        if hello.protocol_version != PROTOCOL_VERSION:
            return UnsupportedVersionError(
                f"node {peer} speaks peer protocol version {hello.protocol_version}, node {own} version {PROTOCOL_VERSION};"
                " run versions of raftlog that share one"
            )
        if peer == own and not self._own.join:  # a guest hears it from the host
            return WrongNodeError(f"both ends are node {own}; give each node its own --node-id and its own peer address")
        if hello.join and (self._own.join or self._dialled is not None):
            return InvalidRequestError(f"node {peer} asks to join at a node that cannot let it in; it asks another one")
        if self.guest:
            return None
        if self._dialled is not None and peer != self._dialled:
            return WrongNodeError(
                f"node {own} dialled node {self._dialled} and found node {peer}; correct the peer addresses in --voters"
            )
        if self._dialled is None and peer < own:
            return InvalidRequestError(f"node {peer} dialled node {own}, but the higher node id dials the lower one")
        return None
