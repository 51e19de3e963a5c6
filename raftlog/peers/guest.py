"""A guest's visit: one connection to a member that is known by its address alone, for one call."""

from __future__ import annotations

import asyncio
from ssl import SSLContext
from typing import Final

from raftlog.core.error_codec import from_parts
from raftlog.core.tasks import TaskScope
from raftlog.errors import InvalidRequestError, RaftlogError, UnavailableError
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.dial import dial
from raftlog.peers.link import HANDSHAKE_TIMEOUT_S, Link
from raftlog.peers.port import Gate, Payloads, PeerHandler

VISIT_MARGIN_S: Final = 0.5
"""What a visit gets beyond its handshake, so that the link's own time limit says what is wrong."""


async def visit(
    address: str, hello: pb.Hello, method: str, body: bytes, *, timeout_s: float, client_ssl: SSLContext | None = None
) -> bytes:
    """Dial ``host:port``, be admitted as a guest, make one call, and go.

    Args:
        hello: this node's, with ``join``.
        timeout_s: for the answer, once admitted.

    Raises:
        UnavailableError: nobody is reached there, or whoever it is ends the connection: nothing was done.
        IndeterminateError: the connection broke, or the time ran out, before an answer.
        RaftlogError: why the host refused the guest, or what the call raised there.
    """
    guest = _Visit(address, hello)
    link = Link(guest, dialled=None)
    try:
        try:
            await dial(link, address, client_ssl)
        except (OSError, UnicodeError) as error:
            raise UnavailableError(f"cannot reach {address}: {str(error) or type(error).__name__}") from error
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S + VISIT_MARGIN_S):
                await guest.admitted
        except TimeoutError:
            raise UnavailableError(f"{address} does not finish its handshake") from None
        answer, _ = await link.calls.call(method, body, (), timeout_s)
    finally:
        link.close(flush=True)
        await guest.scope.close()
    return answer


class _Visit:
    """Everything that a link needs, for one of them: owner, gate and handler."""

    def __init__(self, address: str, hello: pb.Hello) -> None:
        assert hello.join
        self.gate: Gate = self
        self.handler: PeerHandler = self
        self.scope = TaskScope(lambda _: None)
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._address = address
        self._hello = hello

    # ---- LinkOwner

    def link_made(self, link: Link) -> None:
        """See ``LinkOwner``."""

    def link_up(self, _: Link) -> None:
        """See ``LinkOwner``."""
        self.admitted.set_result(None)

    def link_down(self, link: Link) -> None:
        """See ``LinkOwner``."""

    def link_closed(self, _: Link, why: str) -> None:
        """See ``LinkOwner``."""
        self._failed(UnavailableError(f"{self._address} ends the connection: {why or 'it does not say why'}"))

    def handler_failed(self, error: Exception) -> None:
        """See ``LinkOwner``."""

    # ---- Gate

    def hello(self) -> pb.Hello:
        """See ``Gate``."""
        return self._hello

    async def admit(self, hello: pb.Hello) -> None:
        """See ``Gate``: whether the host is a member is for the host to say."""

    def refused(self, node_id: int, reason: str, message: str) -> None:
        """See ``Gate``."""
        self._failed(from_parts(reason, f"{message} (node {node_id} at {self._address} says so)", {}))

    # ---- PeerHandler

    def on_connected(self, node_id: int) -> None:
        """See ``PeerHandler``; a visit is no link."""

    def on_disconnected(self, node_id: int) -> None:
        """See ``PeerHandler``."""

    def on_turn(self, node_id: int, turn: pb.Turn, payloads: list[bytes]) -> None:
        """See ``PeerHandler``; turns of a host are not handed up."""

    async def on_call(self, node_id: int, method: str, body: bytes, payloads: list[bytes]) -> tuple[bytes, Payloads]:  # noqa: ARG002
        """See ``PeerHandler``."""
        raise InvalidRequestError(f"a guest answers no calls, and {method} is one")

    async def on_guest_call(self, node_id: int, method: str, body: bytes) -> bytes:  # noqa: ARG002
        """See ``PeerHandler``."""
        raise InvalidRequestError(f"a guest answers no calls, and {method} is one")

    def _failed(self, error: RaftlogError) -> None:
        if not self.admitted.done():
            self.admitted.set_exception(error)
            self.admitted.exception()  # looked at: who dials may have given up
