"""One fetch over many partitions: what both doors' Fetch calls come down to.

Theory of operation. A pass takes what is there, part after part in the caller's order, until the answer is full. While it is
below ``bytes_min`` and there is time, one future watches all local partitions at once, so waiting on a hundred partitions
costs a dict entry each and no task; only what another node leads costs a task, which waits there. What has come is kept, and
the next pass goes on behind it.

Rules:

1. A part that has something else to tell than batches ends the wait: an error, or a replica nearer to the reader.
2. The first batch of a part is given whole, so an answer exceeds ``bytes_max`` by less than one batch.
3. A part that has batches keeps them when an error comes later; the reader meets that error with its next fetch.
4. A follower serves its own committed records, and only while it knows a leader: one that is cut off would look idle for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from raftlog.broker import subscribe
from raftlog.broker.partition import Partition
from raftlog.broker.port import Fetched, FetchPart, Share
from raftlog.broker.routing import Router
from raftlog.errors import RaftlogError
from raftlog.model import TopicPartition

FetchThere = Callable[[int, TopicPartition, int, int, float], Awaitable[Fetched]]
"""(node id, partition, offset, most bytes, seconds to wait) → what that node has."""


@dataclass(slots=True)
class _Part:
    """What has been read of one part; ``offset`` is the next to be read."""

    wanted: FetchPart
    offset: int
    bytes_left: int
    place: Partition | int = 0
    batches: list[bytes | memoryview] = field(default_factory=list)
    last: Fetched | None = None
    error: RaftlogError | None = None

    @property
    def is_open(self) -> bool:
        """Whether more may come."""
        return self.error is None and self.bytes_left > 0

    def add(self, fetched: Fetched) -> int:
        """Take over what was fetched; its bytes."""
        size_bytes = fetched.size_bytes
        self.batches.extend(fetched.batches)
        self.bytes_left -= size_bytes
        self.offset = max(self.offset, fetched.next_offset)
        self.last = fetched
        return size_bytes

    def outcome(self) -> Fetched | RaftlogError:
        """The part's answer."""
        if self.error is not None and not self.batches:
            return self.error
        if self.last is None:  # the answer was full before this part's turn
            if isinstance(self.place, Partition):
                return subscribe.nothing(self.place, self.offset)
            return Fetched(batches=(), high_watermark=-1, log_start_offset=-1, next_offset=self.offset)
        return replace(self.last, batches=self.batches, next_offset=self.offset)


class ManyFetch:
    """Runs one such fetch.

    Args:
        router: where partitions are.
        there: fetches from another node.
        parts: what is wanted.
        bytes_max: most bytes of all parts together.
        bytes_min: what is worth an answer.
        direct: a partition that another node leads is an error.
        follower: see ``Broker.fetch_many``.
        rack, share: the same.
    """

    def __init__(
        self, router: Router, there: FetchThere, parts: Sequence[FetchPart],
        *, bytes_max: int, bytes_min: int, direct: bool, follower: bool, rack: str, share: Share | None,
    ) -> None:  # fmt: skip
        self._router = router
        self._there = there
        self._parts = [_Part(part, part.offset, part.bytes_max) for part in parts]
        self._bytes_left = bytes_max
        self._bytes_wanted = min(max(bytes_min, 1), bytes_max)
        self._size_bytes = 0
        self._settled = False
        """Rule 1."""
        self._direct = direct
        self._follower = follower
        self._rack = rack
        self._share = share

    async def run(self, wait_s: float) -> list[Fetched | RaftlogError]:
        """Read, and wait up to ``wait_s`` seconds if need be."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_s
        for part in self._parts:
            self._find(part)
        await self._pass(self._parts)
        while not self._settled and self._size_bytes < self._bytes_wanted:
            left_s = deadline_s - loop.time()
            parts = [part for part in self._parts if part.is_open]
            if left_s <= 0 or not parts:
                break
            await self._wait(parts, left_s)
            await self._pass([part for part in parts if part.is_open and isinstance(part.place, Partition)])
        return [part.outcome() for part in self._parts]

    def _find(self, part: _Part) -> None:
        try:
            part.place = self._place(part.wanted)
        except RaftlogError as error:
            self._fail(part, error)

    def _place(self, wanted: FetchPart) -> Partition | int:
        if self._follower:
            place: Partition | int = self._router.replica(wanted.tp)
        else:
            place = self._router.route(wanted.tp)
        if not isinstance(place, Partition):
            if self._direct:
                raise self._router.elsewhere(wanted.tp, self._router.find(wanted.tp).group_id)
            return place
        subscribe.check_epoch(place, wanted.leader_epoch)
        return place

    async def _pass(self, parts: Sequence[_Part]) -> None:
        if self._share is not None:
            self._bytes_left = min(self._bytes_left, self._share(self._bytes_left))
        for part in parts:
            if self._bytes_left <= 0:
                return
            if isinstance(part.place, Partition) and part.place.closed:
                self._find(part)  # dropped since: another node has it, or nobody
            if not part.is_open:
                continue
            if isinstance(part.place, Partition):
                self._read(part, part.place)
            else:
                await self._ask(part, part.place, min(part.bytes_left, self._bytes_left), 0.0)

    def _read(self, part: _Part, partition: Partition) -> None:
        """Take what a local partition has."""
        leads = partition.log.ready
        try:
            if not leads and not self._follower:
                self._router.check_leader(partition)
            if leads and self._rack:
                subscribe.check_range(partition, part.offset, is_leader=True)  # which no other replica could say better
                nearer = self._router.replica_in_rack(partition, self._rack)
                if nearer is not None:
                    self._settled = True
                    part.last = replace(subscribe.nothing(partition, part.offset), preferred_replica=nearer)
                    part.bytes_left = 0
                    return
            fetched = subscribe.read_here(
                partition, part.offset, bytes_max=min(part.bytes_left, self._bytes_left),
                check_leader=self._router.check_leader if leads else None,
            )  # fmt: skip
        except RaftlogError as error:
            self._fail(part, error)
            return
        self._take(part, fetched)

    async def _ask(self, part: _Part, node_id: int, bytes_max: int, wait_s: float) -> None:
        try:
            fetched = await self._there(node_id, part.wanted.tp, part.offset, bytes_max, wait_s)
        except RaftlogError as error:
            self._fail(part, error)
            return
        self._take(part, fetched)

    def _take(self, part: _Part, fetched: Fetched) -> None:
        size_bytes = part.add(fetched)
        self._bytes_left -= size_bytes
        self._size_bytes += size_bytes

    def _fail(self, part: _Part, error: RaftlogError) -> None:
        error.__traceback__ = None  # its frames hold this call and its batches: a cycle
        part.error = error
        self._settled = True

    async def _wait(self, parts: Sequence[_Part], wait_s: float) -> None:
        """Wait until any part may have more. Parts of other nodes are asked to wait there, and take over what they bring."""
        here = [(part.place, part.offset) for part in parts if isinstance(part.place, Partition)]
        there = [part for part in parts if not isinstance(part.place, Partition)]
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for partition, offset in here:
            partition.watch(woken, offset)
        try:
            if there:
                await self._wait_there(there, woken, wait_s)
                return
            timer = asyncio.get_running_loop().call_later(wait_s, _wake, woken)
            try:
                await woken
            finally:
                timer.cancel()
        finally:
            for partition, _ in here:
                partition.unwatch(woken)

    async def _wait_there(self, parts: Sequence[_Part], woken: asyncio.Future[None], wait_s: float) -> None:
        share_bytes = max(1, self._bytes_left // len(parts))  # so that all of them together stay within the answer
        async with asyncio.TaskGroup() as group:
            waits = {
                group.create_task(self._ask(part, part.place, min(part.bytes_left, share_bytes), wait_s))
                for part in parts
                if not isinstance(part.place, Partition)
            }
            await asyncio.wait({*waits, woken}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for task in waits:
                task.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
