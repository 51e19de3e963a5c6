"""The Kafka door before a real broker of one node, on virtual time: what strangers' bytes are fed to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from raftlog.broker.config import BrokerConfig
from raftlog.core.groups.limits import GroupLimits
from raftlog.core.tasks import TaskScope
from raftlog.kafka.budget import AnswerBudget, ReceiveBudget
from raftlog.kafka.connection import Connection
from raftlog.kafka.dispatch import Dispatcher
from raftlog.kafka.handlers.call import Door
from raftlog.kafka.handlers.refused import RefusedBatches
from raftlog.kafka.handlers.topic_cache import TopicCache
from raftlog.kafka.port import KafkaOptions
from raftlog.kafka.wire import errors
from tests.broker.cluster import cluster
from tests.kafka.door import Figures
from tests.simulation.loop import VirtualClock, VirtualLoop, run

TOPIC: Final = "t"
CONFIG: Final = BrokerConfig(
    leader_wait_s=0.2, topic_leaders_wait_s=0.2, metadata_timeout_s=2.0, stop_wait_s=0.05, call_timeout_s=1.0,
    groups=GroupLimits(initial_rebalance_delay_ms=50),
)  # fmt: skip


class Strict(Figures):
    """Counts, and fails at an error that is not a stranger's doing but a fault of the node."""

    def error(self, code: int) -> None:
        assert code != errors.UNKNOWN_SERVER_ERROR, "a handler met an error that is none of ours; the log has it"
        super().error(code)


@asynccontextmanager
async def open_door(loop: VirtualLoop) -> AsyncIterator[Dispatcher]:
    """Answers requests out of a broker with topic ``t`` of two partitions."""
    async with cluster(1, CONFIG, VirtualClock(loop)) as made:
        broker = made.brokers[1]
        await broker.create_topic(TOPIC, partitions=2, replication_factor=1, configs={})
        options = KafkaOptions(listen={"default": ("127.0.0.1", 0)}, data_dir="/d")
        yield Dispatcher(
            Door(
                broker=broker,
                groups=broker.groups,
                moves=broker.moves,
                options=options,
                metrics=Strict(),
                topics=TopicCache(),
                answers=AnswerBudget(1 << 30),
                refused=RefusedBatches(loop.time),
            )
        )


def at_the_door(visit: Callable[[Dispatcher, VirtualLoop], Awaitable[None]]) -> None:
    """Run ``visit`` to its end; what it waits for takes no time."""

    async def main() -> None:
        async with open_door(loop) as door:
            await visit(door, loop)

    loop = VirtualLoop()
    run(main(), loop)


class Wire(asyncio.Transport):
    """The transport of a connection whose other end takes everything: what was said is in ``said``."""

    def __init__(self, protocol: Connection) -> None:
        super().__init__({"peername": ("192.0.2.1", 9)})
        self.said = bytearray()
        self._protocol = protocol
        self._closing = False

    def write(self, data: Any) -> None:
        self.said += data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Nothing comes while the connection is fed by hand."""

    def resume_reading(self) -> None:
        """The same."""


async def connected(door: Dispatcher, pieces: list[bytes], loop: VirtualLoop) -> tuple[bytes, bool]:
    """What a connection says to a client that sends these pieces and waits; and whether it was closed for what it sent."""
    failures: list[BaseException] = []
    scope = TaskScope(failures.append)
    connection = Connection(
        "default", dispatch=door, scope=scope, budget=ReceiveBudget(1 << 30), answers=AnswerBudget(1 << 30), metrics=Strict(),
        clock=VirtualClock(loop), accept=lambda _: True, gone=lambda _: None,
    )  # fmt: skip
    wire = Wire(connection)
    connection.connection_made(wire)
    for piece in pieces:
        if wire.is_closing():
            break
        connection.data_received(piece)
        await asyncio.sleep(0)
    while len(scope) and not wire.is_closing():
        await asyncio.sleep(0.05)
    refused = wire.is_closing()
    connection.abort()
    await scope.close()
    assert not failures, failures
    return bytes(wire.said), refused
