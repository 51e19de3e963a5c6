"""The links of one node to all others: listens, dials, keeps one link a pair, and hands frames to the right one.

Rules:

1. The higher node id dials the lower one, again and again with backoff; so a pair never has two connections that both sides
   made. The side that is dialled takes a newer accepted connection for the better one: the older is reported down first,
   for the other end is known to have given it up.
2. Whom to accept is the gate's to say, not the peers' list's: a node may hear of a new peer later than that peer of it.
3. Connections that have not finished their handshake are bounded; the oldest goes first, so that idle ones keep nobody out.
4. A guest's connection is not a link: nothing is sent to it but answers, no link is given up for it, and it ends soon.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping
from random import Random
from ssl import SSLContext
from types import MappingProxyType
from typing import Any, Final

from raftlog.core.clock import Clock
from raftlog.core.tasks import TaskScope
from raftlog.errors import AddressInUseError, ConfigError, UnavailableError
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.address import format_address, parse_address
from raftlog.peers.backoff import Backoff
from raftlog.peers.dial import dial
from raftlog.peers.link import CLOSE_FLUSH_S, HANDSHAKE_TIMEOUT_S, Link
from raftlog.peers.port import Gate, Payloads, PeerHandler

HANDSHAKES_MAX: Final = 128
"""Inbound connections in their handshake at once: every peer of a large cluster coming back at the same moment."""
GUESTS_MAX: Final = 16
"""Guests at once; each makes one call of milliseconds. The oldest goes first."""
GUEST_LIFE_S: Final = 15.0
"""A guest's connection ends after so long: a call to a cluster that has a leader takes far less."""
STEADY_S: Final = 1.0
"""A link that held so long was a success: the next attempt begins with the shortest wait again."""
LOG_EVERY_S: Final = 10.0
"""Between two log lines about the same trouble: a dead peer is dialled every second."""

_STRANGER = 0
"""Key of the log for connections that belong to no known peer."""

_log = logging.getLogger(__name__)


class PeerMesh:
    """See ``Peers``.

    Args:
        node_id: this node.
        listen: ``host:port`` to accept peers on; port 0 takes a free one.
        gate: who may talk to this node. ``admit`` may be cancelled when its connection goes.
        handler: who receives what the links bring.
        clock: for measuring how long a link held.
        random: for the jitter of backoff, seeded by the caller.
        server_ssl, client_ssl: contexts for accepted and dialled connections (``raftlog.peers.tls``), both or none.
        on_error: called with an exception that the gate or the handler let out; their connection is closed.
    """

    def __init__(
        self,
        *,
        node_id: int,
        listen: str,
        gate: Gate,
        handler: PeerHandler,
        clock: Clock,
        random: Random,
        server_ssl: SSLContext | None = None,
        client_ssl: SSLContext | None = None,
        on_error: Callable[[BaseException], None] | None = None,
    ) -> None:
        if (server_ssl is None) != (client_ssl is None):
            raise ConfigError("peer TLS needs a context for both directions, or for none")
        self.gate = gate
        self.handler = handler
        self._on_error = on_error or _only_logged
        self.scope = TaskScope(self._on_error)
        self._node_id = node_id
        self._host, self._port = parse_address(listen)
        self._clock = clock
        self._random = random
        self._server_ssl = server_ssl
        self._client_ssl = client_ssl
        self._server: asyncio.Server | None = None
        self._closing = False
        self._addresses: dict[int, str] = {}
        self._elsewhere: dict[int, str] = {}
        """Second addresses of some of those."""
        self._dialers: dict[int, asyncio.Task[None]] = {}
        self._links: dict[int, Link] = {}
        """The links that are up, by peer; at most one each."""
        self._handshaking: dict[Link, None] = {}
        """Accepted connections in their handshake, oldest first."""
        self._guests: dict[Link, asyncio.TimerHandle] = {}
        """Guests, oldest first, and when they have to go."""
        self._connections: dict[Link, None] = {}
        """Everything that has a transport, oldest first: an order that does not depend on addresses of objects."""
        self._logged: dict[int, tuple[float, int]] = {}
        """By peer: when trouble was last logged, and how many lines were held back since."""

    async def start(self) -> None:
        """Listen, and dial the peers that are set.

        Raises:
            AddressInUseError: another process listens there.
            ConfigError: this machine cannot listen there.
        """
        secure: dict[str, Any] = {}
        if self._server_ssl is not None:
            secure = {
                "ssl": self._server_ssl,
                "ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S,
                "ssl_shutdown_timeout": CLOSE_FLUSH_S,
            }
        at = format_address(self._host, self._port)
        try:
            self._server = await asyncio.get_running_loop().create_server(self._inbound, self._host, self._port, **secure)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUseError(
                    f"peer address {at} is in use; stop the process that listens there, or choose another --peer-listen"
                ) from error
            raise ConfigError(f"cannot listen for peers on {at}: {error}; correct --peer-listen") from error
        self._port = self._server.sockets[0].getsockname()[1]
        self._redial()

    @property
    def address(self) -> str:
        """``host:port`` that this node listens on, with the port that was bound once started."""
        return format_address(self._host, self._port)

    def set_peers(self, addresses: dict[int, str], elsewhere: Mapping[int, str] = MappingProxyType({})) -> None:
        """See ``Peers``. A link to a node that is no longer named is closed; a changed address is used from the next dial on.

        Args:
            addresses: see ``Peers``.
            elsewhere: where else some of them may be: every other dial goes there.

        Raises:
            ConfigError: an address is malformed; nothing was changed.
        """
        for address in (*addresses.values(), *elsewhere.values()):
            parse_address(address)
        self._addresses = {node_id: address for node_id, address in addresses.items() if node_id != self._node_id}
        self._elsewhere = dict(elsewhere)
        for node_id in [node_id for node_id in self._dialers if node_id not in self._addresses]:
            self._dialers.pop(node_id).cancel()
        for node_id in [node_id for node_id in self._links if node_id not in self._addresses]:
            self._links[node_id].close("it is no longer a peer", flush=True)
        self._logged = {node_id: at for node_id, at in self._logged.items() if node_id in self._addresses}
        if self._server is not None:
            self._redial()

    def cut(self, node_id: int, why: str) -> None:
        """Close the link to a node, if there is one; it is dialled again, and asked for its Hello again."""
        link = self._links.get(node_id)
        if link is not None:
            link.close(why, flush=True)

    def send_turn(self, node_id: int, turn: pb.Turn, payloads: Payloads) -> bool:
        """See ``Peers``.

        Raises:
            MessageTooLargeError: the turn does not fit a frame (``raftlog.peers.frame`` has the bounds).
        """
        link = self._links.get(node_id)
        return link is not None and link.send(pb.Envelope(turn=turn), payloads)

    def connected(self, node_id: int) -> bool:
        """See ``Peers``."""
        return node_id in self._links

    def writable(self, node_id: int) -> bool:
        """See ``Peers``."""
        link = self._links.get(node_id)
        return link is not None and link.writable()

    async def call(
        self, node_id: int, method: str, body: bytes, payloads: Payloads = (), *, timeout_s: float
    ) -> tuple[bytes, list[bytes]]:
        """See ``Peers``."""
        link = self._links.get(node_id)
        if link is None:
            raise UnavailableError(f"{method} was not sent to node {node_id}: there is no link to it now; try again")
        return await link.calls.call(method, body, payloads, timeout_s)

    async def close(self) -> None:
        """Stop listening and dialling, send what is queued (for ``CLOSE_FLUSH_S``), report every link down."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        for dialer in self._dialers.values():
            dialer.cancel()
        for link in list(self._connections):
            link.close(flush=True)
        while self._connections:
            await asyncio.wait({link.lost for link in self._connections})
        await self.scope.close()
        self._dialers.clear()

    # What the links tell (LinkOwner).

    def link_made(self, link: Link) -> None:
        """The handshake begins."""
        self._connections[link] = None
        link.lost.add_done_callback(lambda _: self._connections.pop(link, None))
        if link.dialled is None:
            self._handshaking[link] = None
            if len(self._handshaking) > HANDSHAKES_MAX:
                oldest = next(iter(self._handshaking))
                oldest.close(f"more than {HANDSHAKES_MAX} connections are in their handshake")

    def link_up(self, link: Link) -> None:
        """Both sides have accepted."""
        self._handshaking.pop(link, None)
        if link.guest:
            self._receive_guest(link)
            return
        older = self._links.get(link.node_id)
        if older is not None:
            older.close("the peer has connected again")
        self._links[link.node_id] = link
        self._logged.pop(link.node_id, None)
        _log.info("link to node %d at %s is up", link.node_id, link.remote)
        self.handler.on_connected(link.node_id)

    def link_down(self, link: Link) -> None:
        """A link that was up is down."""
        if self._links.get(link.node_id) is link:
            del self._links[link.node_id]
            self.handler.on_disconnected(link.node_id)

    def link_closed(self, link: Link, why: str) -> None:
        """The connection is over, up or not."""
        self._handshaking.pop(link, None)
        timer = self._guests.pop(link, None)
        if timer is not None:
            timer.cancel()
        if why and not self._closing:
            self._trouble(link.node_id, f"closed the connection to {link.remote} (node {link.node_id or 'unknown'}): {why}")

    def handler_failed(self, error: Exception) -> None:
        """The handler let an exception out."""
        self._on_error(error)

    # Inside.

    def _inbound(self) -> Link:
        link = Link(self, dialled=None)
        if self._closing:
            link.close()
        return link

    def _receive_guest(self, link: Link) -> None:
        late = f"a guest had {GUEST_LIFE_S:g} s"
        self._guests[link] = asyncio.get_running_loop().call_later(GUEST_LIFE_S, link.close, late)
        _log.info("node %d at %s asks to join", link.node_id, link.remote)
        if len(self._guests) > GUESTS_MAX:
            next(iter(self._guests)).close(f"more than {GUESTS_MAX} guests")

    def _redial(self) -> None:
        if self._closing:
            return
        for node_id in self._addresses:
            if node_id < self._node_id and node_id not in self._dialers:
                self._dialers[node_id] = self.scope.start(self._keep_dialled(node_id), name=f"peer-dial-{node_id}")

    async def _keep_dialled(self, node_id: int) -> None:
        backoff = Backoff(self._random)
        first, up = True, False
        while True:
            link = Link(self, dialled=node_id)
            address = self._addresses[node_id]
            if not first:
                address = self._elsewhere.get(node_id, address)
            try:
                up = False
                await dial(link, address, self._client_ssl)
                begun_s = self._clock.monotonic_s()
                up = await asyncio.shield(link.closed)
                if up and self._clock.monotonic_s() - begun_s >= STEADY_S:
                    backoff.reset()
            except (OSError, UnicodeError) as error:  # UnicodeError: a host name that no resolver takes
                why = str(error) or type(error).__name__
                self._trouble(node_id, f"cannot reach node {node_id} at {address}: {why}")
            finally:
                link.close(flush=True)
            first = first == up  # the same again where it worked, the other one where it did not
            await asyncio.sleep(backoff.next_s())

    def _trouble(self, node_id: int, text: str) -> None:
        key = node_id if node_id in self._addresses else _STRANGER
        now_s = self._clock.monotonic_s()
        last_s, held_back = self._logged.get(key, (-LOG_EVERY_S, 0))
        if now_s - last_s < LOG_EVERY_S:
            self._logged[key] = (last_s, held_back + 1)
            return
        self._logged[key] = (now_s, 0)
        _log.warning("%s%s", text, f" ({held_back} lines held back)" if held_back else "")


def _only_logged(_: BaseException) -> None:
    """What failed is in the log already."""
