"""Getting snapshots: a follower that is offered one pulls it from its leader, page by page, and has it installed.

Rules:

1. A page is durable here before the next is asked for: so what is in memory, and what the disk is behind, is one page.
2. Few are pulled at a time (``PULLS_MAX``), and each at a pace (``BYTES_PER_S``), so that what else the node does goes on.
3. What is given up leaves nothing behind: its staged rows are dropped. The leader offers again with its heartbeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

import structlog
from google.protobuf.message import DecodeError, Message

from raftlog.consensus.group import Group
from raftlog.consensus.snapshot import STAGED, Image, staging_id
from raftlog.consensus.snapshot_source import FIRST_ROW, PAGE_BYTES_MAX, SnapshotSource
from raftlog.core import configuration as codec
from raftlog.core.clock import Clock
from raftlog.core.configuration import node_of
from raftlog.core.entry import decode
from raftlog.core.features import check_form
from raftlog.core.tasks import TaskScope
from raftlog.errors import DataLossError, InvalidRequestError, RaftlogError, StorageFullError
from raftlog.pb.raftlog.internal.v1 import snapshot_pb2 as pb
from raftlog.peers.port import Payloads, Peers
from raftlog.storage.port import Store, WriteBatch

log = structlog.get_logger()
Answer = TypeVar("Answer", bound=Message)

PREFIX = "snapshot-"
"""Of the methods of calls that belong here."""
OPEN, READ = PREFIX + "open", PREFIX + "read"
PULLS_MAX = 2
"""Snapshots that a node pulls at a time."""
BYTES_PER_S = 32 << 20
"""Of rows, for each of them: a third of a gigabit link."""
CALL_TIMEOUT_S = 5.0
RETRY_S = 0.5
"""After one that failed, a group begins no other for so long."""


class Host(Protocol):
    """What pulling needs of the turn loop."""

    batch: WriteBatch

    def synced(self) -> asyncio.Future[None]:
        """Done when what is gathered now is durable."""
        ...

    def install(self, group: Group, image: Image) -> bool:
        """Let a snapshot take the place of a group's log and state; False where it brings nothing."""
        ...

    def drop(self, group: int) -> None:
        """Delete a group's data."""
        ...


class Snapshots:
    """A node's snapshots, those that it gets and those that it gives (``source``)."""

    def __init__(
        self, host: Host, source: SnapshotSource, *, peers: Peers, store: Store, clock: Clock,
        fail: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        self.source = source
        self._host, self._peers, self._store, self._clock = host, peers, store, clock
        self._scope = TaskScope(fail)
        self._pulls: set[int] = set()
        self._not_before_s: dict[int, float] = {}
        self._attempts = 0
        self._closed = False
        self.installed = 0
        """How many have been installed since the start."""

    def begin(self) -> None:
        """Delete what a start before this one has staged and not installed.

        Raises:
            DataLossError: the store is damaged where its groups are listed.
        """
        for leftover in self._store.groups():
            if leftover >= STAGED:
                self._host.drop(leftover)

    def offered(self, group: Group, leader: int) -> None:
        """The leader has offered a snapshot: pull it, unless it is being pulled, or there are others enough."""
        number = group.group
        busy = self._closed or number in self._pulls or len(self._pulls) >= PULLS_MAX
        if busy or self._clock.monotonic_s() < self._not_before_s.get(number, 0.0):
            return
        self._pulls.add(number)
        self._scope.start(self._pull(group, leader, group.term), name=f"snapshot-{number}")

    async def on_call(self, node_id: int, method: str, body: bytes) -> tuple[bytes, Payloads]:
        """Answer a follower on ``node_id``; see ``PeerHandler.on_call``.

        Raises:
            InvalidRequestError: no such method, or its body cannot be read.
            RaftlogError: as ``SnapshotSource``.
        """
        try:
            if method == OPEN:
                opened, base = self.source.open(node_id, pb.SnapshotOpen.FromString(body))
                return opened.SerializeToString(), (base,)
            if method == READ:
                return self.source.read(node_id, pb.SnapshotRead.FromString(body)).SerializeToString(), ()
        except DecodeError as error:
            raise InvalidRequestError(f"the body of a {method} call cannot be read: {error}") from error
        raise InvalidRequestError(f"this node knows no call {method!r}; its version may be older than the caller's")

    async def close(self) -> None:
        """Give up what is under way."""
        self._closed = True
        await self._scope.close()
        self.source.close()

    async def _pull(self, group: Group, leader: int, term: int) -> None:
        number = group.group
        self._attempts += 1
        staging = staging_id(number, self._attempts)
        installed = False
        try:
            image = await self._stage(group, leader, term, staging)
            await self._read_again(staging)
            installed = self._host.install(group, image)
            if installed:
                self.installed += 1
                log.info("snapshot installed", group=number, base=image.base.header.index, applied=image.applied_index)
        except RaftlogError as error:
            log.info("snapshot given up", group=number, leader=node_of(leader), error=str(error))
        finally:
            self._pulls.discard(number)
            self._not_before_s[number] = self._clock.monotonic_s() + RETRY_S
            if not installed:
                self._host.drop(staging)

    async def _stage(self, group: Group, leader: int, term: int, staging: int) -> Image:
        """Pull it all and stage the rows, durably.

        Raises:
            RaftlogError: it cannot be had.
        """
        ask = pb.SnapshotOpen(group=group.group, member=group.member.id, term=term)
        opened, payloads = await self._call(leader, OPEN, ask, pb.SnapshotOpened.FromString)
        check_form(opened.level, f"the snapshot of group {group.group}")
        base = decode(b"".join(payloads))
        configurations = codec.decode_row(opened.configurations)[1]
        if base.header.group != group.group or opened.applied_index < base.header.index:
            raise DataLossError(f"a snapshot of group {group.group} begins with {base!r}, applied to {opened.applied_index}")
        staged_bytes, (table, key) = 0, FIRST_ROW
        while True:
            if self._store.usage().full:
                raise StorageFullError("there is no space for a snapshot; free some")
            read = pb.SnapshotRead(snapshot_id=opened.snapshot_id, table=table, key=key)
            page, _ = await self._call(leader, READ, read, pb.SnapshotPage.FromString)
            size = 0
            for row in page.rows:
                self._host.batch.rows[staging, row.table, row.key] = row.value
                size += len(row.key) + len(row.value)
            self._host.batch.size_bytes += size
            staged_bytes += size
            if page.rows:
                await self._host.synced()
                table, key = page.rows[-1].table, page.rows[-1].key + b"\0"
            if page.last:
                return Image(
                    base=base, applied_index=opened.applied_index, configurations=configurations,
                    staging=staging, staged_bytes=staged_bytes,
                )  # fmt: skip
            await asyncio.sleep(size / BYTES_PER_S)

    async def _read_again(self, staging: int) -> None:
        """Read what is staged as installing it will: damage that is met there gives up this pull, and not the node's storage.

        Raises:
            DataLossError: a row is damaged.
        """
        view = self._store.view(staging)
        try:
            at = FIRST_ROW
            while rows := view.page(at, PAGE_BYTES_MAX):
                table, key, _ = rows[-1]
                at = table, key + b"\0"
                await asyncio.sleep(0)
        finally:
            view.close()

    async def _call(self, leader: int, method: str, ask: Message, parse: Callable[[bytes], Answer]) -> tuple[Answer, list[bytes]]:
        body, payloads = await self._peers.call(node_of(leader), method, ask.SerializeToString(), timeout_s=CALL_TIMEOUT_S)
        try:
            return parse(body), payloads
        except DecodeError as error:
            raise DataLossError(f"the answer to {method} cannot be read: {error}") from error
