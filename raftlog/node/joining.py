"""Asking members of a running cluster to let this node in, until one does: the part of joining that talks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from ssl import SSLContext

import structlog
from google.protobuf.message import DecodeError

from raftlog.broker.joining import JOIN_METHOD, PROBE_METHOD
from raftlog.core.clock import Clock
from raftlog.core.joining import Patience
from raftlog.core.metadata import JOIN_ID_BYTES
from raftlog.core.metadata_rows import register_command
from raftlog.errors import NodeRemovedError, RaftlogError, UnavailableError
from raftlog.model import NodeInfo
from raftlog.node.gate import IdentityGate
from raftlog.pb.raftlog.internal.v1 import join_pb2 as pb
from raftlog.peers.backoff import Backoff
from raftlog.peers.guest import visit

JOIN_TIMEOUT_S = 12.0
"""For one member's answer: a metadata command may wait for an election, and then for its commit (``broker.config``)."""
PROBE_AFTER_S = 3.0
"""A founder that has waited so long for the others asks whether they have begun without it: they may not know its address."""
PROBE_EVERY_S = 2.0
LOG_EVERY_S = 10.0
"""Between two log lines about the same trouble."""

log = structlog.get_logger()


class Joiner:
    """One attempt of a process to join, over as many visits as it takes.

    Args:
        gate: this node's Hello as a guest.
        addresses: ``host:port`` of members, or of nodes that were.
        as_founder: it was to found a cluster: it may only come back as the member that it was, at the same address.
    """

    def __init__(
        self, gate: IdentityGate, addresses: Sequence[str], *, as_founder: bool, clock: Clock, rng: Random,
        client_ssl: SSLContext | None,
    ) -> None:  # fmt: skip
        self._gate = gate
        self._addresses = list(addresses)
        self._as_founder = as_founder
        self._clock = clock
        self._rng = rng
        self._client_ssl = client_ssl
        self._join_id = rng.randbytes(JOIN_ID_BYTES)
        self.trouble = "it has asked nobody yet"
        """Why it has not joined yet."""

    async def join(self, info: NodeInfo) -> pb.JoinAnswer:
        """Ask until the cluster takes this node; its answer is not persisted yet.

        Raises:
            RaftlogError: the cluster does not take it, as it was started.
        """
        body, backoff, patience, logged_s = self._call(info), Backoff(self._rng), Patience(), -LOG_EVERY_S
        while True:
            for address in self._addresses:
                try:
                    return await self._ask(address, JOIN_METHOD, body)
                except RaftlogError as error:
                    now_s = self._clock.monotonic_s()
                    if patience.gives_up(error, now_s):
                        raise
                    self.trouble = str(error)
                    if now_s - logged_s >= LOG_EVERY_S:
                        log.warning("not joined yet", asked=address, error=self.trouble)
                        logged_s = now_s
            await asyncio.sleep(backoff.next_s())

    async def probe(self) -> None:
        """Return when one of the addresses is a member's."""
        await asyncio.sleep(PROBE_AFTER_S)
        while True:
            for address in self._addresses:
                try:
                    await self._ask(address, PROBE_METHOD, b"")
                except NodeRemovedError:
                    return
                except RaftlogError as error:
                    self.trouble = str(error)
                else:
                    return
            await asyncio.sleep(PROBE_EVERY_S * (0.5 + self._rng.random()))

    async def is_removed(self, info: NodeInfo) -> NodeRemovedError | None:
        """What the first address says that knows this node as one that was removed; None where none does."""
        body = self._call(info)
        for address in self._addresses:
            try:
                await self._ask(address, PROBE_METHOD, body)
            except NodeRemovedError as error:
                return error
            except RaftlogError:
                continue
        return None

    def _call(self, info: NodeInfo) -> bytes:
        return pb.JoinCall(
            node=register_command(info), join_id=self._join_id, cluster_id=self._gate.cluster_id, as_founder=self._as_founder
        ).SerializeToString()

    async def _ask(self, address: str, method: str, body: bytes) -> pb.JoinAnswer:
        hello = self._gate.guest_hello()
        said = await visit(address, hello, method, body, timeout_s=JOIN_TIMEOUT_S, client_ssl=self._client_ssl)
        try:
            answer = pb.JoinAnswer.FromString(said)
        except DecodeError as error:
            raise UnavailableError(f"the answer of {address} cannot be read: {error}") from error
        if not answer.cluster_id or (method == JOIN_METHOD and not answer.incarnation):
            raise UnavailableError(f"{address} does not say to which cluster it belongs, or as what this node is taken")
        return answer
