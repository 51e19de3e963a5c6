"""Across clients: what one has written, every other one reads byte for byte, and so does raftlog's own client."""

from __future__ import annotations

import base64
from typing import Final

from raftlog.client.client import Client
from raftlog.model import TopicPartition
from raftlog.records.compression import Codec
from tests.interop.bridges.face import Wire
from tests.interop.features.catalogue import feature
from tests.interop.lab import Lab, Skipped, compare

CODECS: Final = ("none", "gzip", "snappy", "lz4", "zstd")
EACH = 20
OWN = "raftlog"


@feature("written", "read by raftlog's own client")
async def written(lab: Lab) -> None:
    """Records of all codecs in one partition, read through gRPC; the topic stays for the other clients."""
    topic, sent = await lab.topic(), list[Wire]()
    for number, codec in enumerate(lab.bridge.facts["codecs"]):
        records = lab.records(EACH, first=number * EACH)
        await lab.send(topic, records, codec=codec)
        sent += records
    lab.shared.setdefault("written", {})[lab.client] = (topic, sent, lab.bridge.facts)
    if lab.cluster is None:
        raise Skipped("no gRPC door there; other clients do read it")
    async with Client(lab.cluster.brokers) as client:
        read = await read_by_own(client, topic, len(sent))
    compare(sent, read, {})


@feature("crossing", "reads what all others wrote", timeout_s=240.0)
async def crossing(lab: Lab) -> None:
    """Every topic that the clients before have written, and one of raftlog's own client."""
    others = {name: one for name, one in lab.shared.get("written", {}).items() if name != lab.client}
    if not others:
        raise Skipped("nobody else has written")
    for name, (topic, sent, facts) in others.items():
        read = await lab.read(topic, len(sent))
        if facts["binary"] and not lab.bridge.facts["reads_binary"]:  # a program that prints: all of them, in order
            assert [one["o"] for one in read] == list(range(len(sent))), f"of {name}"
            continue
        try:
            compare(sent, read, lab.bridge.facts)
        except AssertionError as error:
            raise AssertionError(f"written by {name}: {error}") from error


async def write_by_own(client: Client, topic: str, replicas: int, records: list[Wire]) -> None:
    """Produce through gRPC what the others are to read, one codec after the other."""
    await client.admin.create_topic(topic, partitions=1, replication_factor=replicas)
    for number, name in enumerate(CODECS):
        async with client.producer(compression=Codec[name.upper()]) as producer:
            for record in records[number * EACH : (number + 1) * EACH]:
                await producer.send(
                    topic,
                    _bytes(record["v"]),
                    key=_bytes(record["k"]),
                    headers=[(name, _bytes(value)) for name, value in record["h"]],
                    timestamp_ms=record["t"],
                    partition=0,
                )
            await producer.flush()


async def read_by_own(client: Client, topic: str, count: int) -> list[Wire]:
    """Read through gRPC."""
    read: list[Wire] = []
    async with client.consumer(TopicPartition(topic, 0), follow=False) as consumer:
        async for record in consumer:
            read.append(
                {
                    "k": _text(record.key),
                    "v": _text(record.value),
                    "h": [[name, _text(value)] for name, value in record.headers],
                    "t": record.timestamp_ms,
                }
            )
            if len(read) == count:
                break
    return read


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
