"""raftlog: a distributed, replicated log. Topics are split in partitions; nothing acknowledged is lost.

::

    import asyncio
    import raftlog

    async def main() -> None:
        async with raftlog.Client("127.0.0.1:7101") as client:
            await client.admin.create_topic("events", partitions=4)
            async with client.producer() as producer:
                where = await producer.publish("events", b"hello", key=b"greetings")
                print(where.partition, where.offset)
            async with client.consumer("events", follow=False) as consumer:
                async for record in consumer:
                    print(record.offset, record.key, record.value)

    asyncio.run(main())

Without asyncio, ``raftlog.sync.Client`` has the same calls. Errors are those of ``raftlog.errors``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raftlog import errors, sync
    from raftlog.client.admin import Admin
    from raftlog.client.client import Client
    from raftlog.client.consumer import Consumer
    from raftlog.client.group_consumer import GroupConsumer
    from raftlog.client.producer import Producer
    from raftlog.client.values import AtTime, ConsumedBatch, ConsumedRecord, RecordMetadata
    from raftlog.model import Acks, TopicPartition

__version__ = "0.1.0"

__all__ = [
    "Acks",
    "Admin",
    "AtTime",
    "Client",
    "ConsumedBatch",
    "ConsumedRecord",
    "Consumer",
    "GroupConsumer",
    "Producer",
    "RecordMetadata",
    "TopicPartition",
    "__version__",
    "errors",
    "sync",
]

_HOMES = {
    "Acks": "raftlog.model",
    "Admin": "raftlog.client.admin",
    "AtTime": "raftlog.client.values",
    "Client": "raftlog.client.client",
    "ConsumedBatch": "raftlog.client.values",
    "ConsumedRecord": "raftlog.client.values",
    "Consumer": "raftlog.client.consumer",
    "GroupConsumer": "raftlog.client.group_consumer",
    "Producer": "raftlog.client.producer",
    "RecordMetadata": "raftlog.client.values",
    "TopicPartition": "raftlog.model",
}
"""Where each name lives; imported when it is first used, for a node needs no client and a client no node."""


def __getattr__(name: str) -> Any:
    if name in {"errors", "sync"}:
        return import_module(f"raftlog.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'raftlog' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value
