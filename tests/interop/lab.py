"""What a feature works with: one client's bridge, the cluster, names of its own, records to send, and waiting for conditions."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from raftlog.testing import LocalCluster
from tests.interop.bridges.face import Refused, Wire
from tests.interop.talking import Bridge

T = TypeVar("T")
WAIT_TIMEOUT_S = 30.0
"""What a condition may take; a healthy cluster needs a second or two, also for a rebalance."""
POLL_S = 0.05
MESSAGE_TOO_LARGE = 10
UNKNOWN_TOPIC_OR_PARTITION = 3
TOPIC_ALREADY_EXISTS = 36
AGE_MS = 3_600_000
"""Clients date their records an hour back: not now, so that it is seen, and younger than any retention."""


class Skipped(Exception):
    """This cell cannot be run here; the text says why."""


@dataclass(slots=True)
class Lab:
    """One cell at work."""

    bridge: Bridge
    steward: Bridge
    """A client that can do everything, for what this one cannot and is not asked about."""
    prefix: str
    """Of all names of this cell, so that cells do not meet."""
    cluster: LocalCluster | None
    """None where a cluster of someone else is the target."""
    replicas: int
    client: str
    """Of the client, as names have it."""
    rng: random.Random
    base_ms: int
    """Timestamp of the first record; each has its own, a second apart."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What cells leave for later ones: see ``features.crossing``."""

    async def call(self, op: str, **args: Any) -> Any:
        """Ask the client."""
        return await self.bridge.call(op, **args)

    def own_cluster(self) -> LocalCluster:
        """The cluster as what can be hurt.

        Raises:
            Skipped: it is someone else's.
        """
        if self.cluster is None:
            raise Skipped("not on a cluster of someone else")
        return self.cluster

    async def topic(self, name: str = "t", *, partitions: int = 1, configs: dict[str, str] | None = None) -> str:
        """A new topic, made by the steward."""
        topic = f"{self.prefix}-{name}"
        wanted = {"topic": topic, "partitions": partitions, "replicas": self.replicas, "configs": configs or {}}
        await self.steward.call("topic_create", **wanted)
        return topic

    async def describe(self, topic: str) -> list[Wire]:
        """The partitions of a topic, as soon as each has a leader."""
        return await until(
            lambda: self.steward.call("topic_describe", topic=topic),
            lambda rows: bool(rows) and all(one["leader"] >= 0 for one in rows),
            f"leaders of {topic}",
        )

    async def led(self, topic: str) -> None:
        """Wait until the leader of a new topic's only partition answers."""

        async def look() -> list[int]:
            try:
                offsets: list[int] = await self.steward.call("offsets", topic=topic, partition=0)
            except Refused:
                return []
            return offsets

        await until(look, lambda seen: seen == [0, 0], f"the leader of {topic}")

    async def fill(self, topic: str, partition: int, count: int, first: int = 0) -> None:
        """Put records into a partition, by the steward where this client cannot choose it."""
        if self.bridge.facts["partitions"]:
            await self.send(topic, self.records(count, partition=partition, first=first))
            return
        records = [{**record, "p": partition} for record in self.records(count, first=first)]
        name = f"steward-{self.rng.getrandbits(32):08x}"
        await self.steward.call("producer_open", name=name)
        await self.steward.call("producer_send", name=name, topic=topic, records=records)
        await self.steward.call("producer_close", name=name)

    @staticmethod
    def text(words: str) -> str:
        """Words as a key or value of the wire."""
        return base64.b64encode(words.encode()).decode()

    def records(self, count: int, *, partition: int | None = 0, size_bytes: int = 40, first: int = 0) -> list[Wire]:
        """Records with all that the client can express: keys, headers, timestamps, nulls, any bytes."""
        facts = self.bridge.facts
        return [self._record(first + number, partition, size_bytes, facts) for number in range(count)]

    def _record(self, number: int, partition: int | None, size_bytes: int, facts: dict[str, Any]) -> Wire:
        key: bytes | None = f"key-{number}".encode()
        value: bytes | None = f"{number}:".encode() + self._filler(size_bytes, facts["binary"])
        if facts["null_keys"] and number % 5 == 3:
            key = None
        if facts["null_values"] and key is not None and number % 7 == 6:  # clients refuse a record of nothing
            value = None
        headers: list[list[str | None]] = []
        if facts["headers"]:
            headers = [["number", _b64(str(number).encode())], ["kind", _b64(b"interop")]]
        return {
            "k": _b64(key),
            "v": _b64(value),
            "h": headers,
            "t": self.base_ms + 1_000 * number if facts["timestamps"] else None,
            "p": partition if facts["partitions"] else None,
        }

    def _filler(self, size_bytes: int, binary: bool) -> bytes:
        if binary:
            return self.rng.randbytes(size_bytes)
        return "".join(self.rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=size_bytes)).encode()

    @asynccontextmanager
    async def producer(self, **options: Any) -> AsyncIterator[Callable[[str, list[Wire]], Awaitable[list[list[int]]]]]:
        """An open producer, as a function that sends records to a topic and gives their places."""
        name = f"producer-{self.rng.getrandbits(32):08x}"
        await self.call("producer_open", name=name, **options)

        async def send(topic: str, records: list[Wire]) -> list[list[int]]:
            placed: list[list[int]] = await self.call("producer_send", name=name, topic=topic, records=records)
            return placed

        try:
            yield send
        finally:
            await self.call("producer_close", name=name)

    async def send(self, topic: str, records: list[Wire], **options: Any) -> list[list[int]]:
        """Send by a producer of its own."""
        async with self.producer(**options) as send:
            return await send(topic, records)

    @asynccontextmanager
    async def consumer(self, **options: Any) -> AsyncIterator[Reader]:
        """An open consumer."""
        reader = Reader(self, f"consumer-{self.rng.getrandbits(32):08x}")
        await self.call("consumer_open", name=reader.name, **options)
        try:
            yield reader
        finally:
            await reader.close()

    async def read(
        self, topic: str, count: int, *, partitions: Sequence[int] = (0,), start: Sequence[Any] = ("earliest",)
    ) -> list[Wire]:
        """Read ``count`` records of these partitions."""
        async with self.consumer(assign=[[topic, number] for number in partitions], start=list(start)) as reader:
            return await reader.until(count)


@dataclass(slots=True)
class Reader:
    """A consumer that is open, and all that it has read."""

    lab: Lab
    name: str
    records: list[Wire] = field(default_factory=list)
    closed: bool = False

    async def take(self) -> list[Wire]:
        """Fetch what it read since the last time; gives all."""
        self.records += await self.lab.call("consumer_take", name=self.name)
        return self.records

    async def until(self, count: int) -> list[Wire]:
        """Wait until it has read ``count`` records."""
        return await until(self.take, lambda records: len(records) >= count, f"{count} records")

    async def assigned(self) -> list[tuple[str, int]]:
        """What it has now."""
        return [(topic, number) for topic, number in await self.lab.call("consumer_assigned", name=self.name)]

    async def call(self, op: str, **args: Any) -> Any:
        """``consumer_`` + ``op``."""
        return await self.lab.call(f"consumer_{op}", name=self.name, **args)

    async def close(self) -> None:
        """Take what is left, leave, close. Idempotent."""
        if not self.closed:
            self.closed = True
            self.records += await self.lab.call("consumer_close", name=self.name)


async def until(look: Callable[[], Awaitable[T]], good: Callable[[T], bool], what: str, timeout_s: float = WAIT_TIMEOUT_S) -> T:
    """Look again and again until what is seen is good.

    Raises:
        AssertionError: it was not within ``timeout_s``.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        seen = await look()
        if good(seen):
            return seen
        if loop.time() > deadline:
            shown = f"{len(seen)} items" if isinstance(seen, list) and len(seen) > 12 else repr(seen)[:600]
            raise AssertionError(f"waited {timeout_s:g} s for {what}; last seen: {shown}")
        await asyncio.sleep(POLL_S)


async def refused(work: Awaitable[Any], *codes: int) -> Refused:
    """The refusal that ``work`` must end with; of one of ``codes`` where the client tells the code."""
    try:
        answer = await work
    except Refused as error:
        if error.code is not None and error.code not in codes:
            raise AssertionError(f"refused by code {error.code} instead of {codes}: {error}") from error
        return error
    raise AssertionError(f"was not refused (codes {codes} were due): {repr(answer)[:300]}")


def compare(sent: Sequence[Wire], read: Sequence[Wire], facts: dict[str, Any]) -> None:
    """Both sides record by record, in all that the client can express and see.

    Raises:
        AssertionError: one differs.
    """
    assert len(sent) == len(read), f"{len(sent)} records were sent and {len(read)} read"
    for number, (one, other) in enumerate(zip(sent, read, strict=True)):
        for name in ("k", "v", "h", "t"):
            if one.get(name) is None and name == "t":
                continue
            if name in facts.get("blind", ()):
                continue
            assert one.get(name) == other.get(name), (
                f"record {number}: {name} was {repr(one.get(name))[:200]} and is {repr(other.get(name))[:200]}"
            )


def _b64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
