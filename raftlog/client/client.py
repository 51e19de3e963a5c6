"""The client: connections to a cluster, and the producers, consumers and admin that share them."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final, Literal, Unpack, overload

import grpc

from raftlog.client.admin import Admin
from raftlog.client.connections import Connections, tls_credentials
from raftlog.client.consumer import Consumer, ConsumerOptions, From
from raftlog.client.group_consumer import GroupConsumer
from raftlog.client.group_options import GroupOptions
from raftlog.client.group_values import GroupSettings
from raftlog.client.producer import MIB, Partitioner, Producer, ProducerOptions
from raftlog.client.publish_stream import PublishStream
from raftlog.client.routing import METADATA_MAX_AGE_S, Routing
from raftlog.client.subscription import Reset
from raftlog.core.clock import Clock, SystemClock
from raftlog.core.tasks import TaskScope
from raftlog.errors import InvalidConfigError, InvalidRequestError, LeaderNotAvailableError
from raftlog.model import Acks, TopicPartition
from raftlog.records.compression import Codec
from raftlog.records.partitioner import partition_of

_log = logging.getLogger(__name__)

BROKERS_VARIABLE: Final = "RAFTLOG_BROKERS"
DEFAULT_BROKERS: Final = "127.0.0.1:7101"

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
_ACKS: Final[dict[object, Acks]] = {
    "all": Acks.ALL, "-1": Acks.ALL, -1: Acks.ALL,
    "1": Acks.LEADER, 1: Acks.LEADER,
    "0": Acks.NONE, 0: Acks.NONE,
}  # fmt: skip


class Client:
    """A cluster as seen by its user; an async context manager, within which everything happens.

    Args:
        brokers: gRPC addresses of some nodes, ``"host:port[,…]"`` or a list; the rest is learned from them. From the
            environment's RAFTLOG_BROKERS where it is missing.
        client_id: a name for logs, sent as gRPC's user agent.
        request_timeout_s: how long an answer may take before the connection counts as dead (Kafka's ``request.timeout.ms``).
        tls: speak TLS; implied by the files.
        tls_ca_file, tls_cert_file, tls_key_file: PEM files: the nodes' authority; our own certificate and key for mutual TLS.
        clock, rng: where time stamps and the spread of retries come from.

    Raises:
        InvalidConfigError: an address is not ``host:port``, or a time is not positive.
        InvalidRequestError: a TLS file cannot be read.
    """

    def __init__(
        self,
        brokers: str | Iterable[str] | None = None,
        *,
        client_id: str = "raftlog",
        request_timeout_s: float = 30.0,
        tls: bool = False,
        tls_ca_file: str | None = None,
        tls_cert_file: str | None = None,
        tls_key_file: str | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if request_timeout_s <= 0:
            raise InvalidConfigError(f"request_timeout_s must be positive, not {request_timeout_s}")
        self._seeds = addresses_of(brokers)
        self._request_timeout_s = request_timeout_s
        credentials: grpc.ChannelCredentials | None = None
        if tls or tls_ca_file or tls_cert_file or tls_key_file:
            credentials = tls_credentials(ca_file=tls_ca_file, cert_file=tls_cert_file, key_file=tls_key_file)
        self._client_id = client_id
        self._connections = Connections(credentials, client_id=client_id)
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._tasks = TaskScope(lambda _: None)
        self._routing = Routing(
            self._connections, self._seeds, tasks=self._tasks, rng=self._rng, request_timeout_s=request_timeout_s
        )
        self._users: list[Producer | Consumer] = []
        self._closed = False
        self.admin = Admin(self._routing, request_timeout_s=request_timeout_s)
        """Topics, offsets, groups and the cluster's state."""

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close producers (they flush), consumers and connections: all of them, whatever one of them raises. Cancelled, it waits
        for nothing more."""
        self._closed = True
        first: BaseException | None = None
        for user in list(self._users):
            try:
                async with asyncio.timeout(0 if isinstance(first, asyncio.CancelledError) else None):
                    await user.close()
            except BaseException as error:
                first = first or error
        await self._tasks.close()
        await self._connections.close()
        if first is not None:
            raise first

    def producer(
        self,
        *,
        acks: str | int | Acks = "all",
        linger_ms: float = 5,
        batch_size: int = 128 * 1024,
        compression: Compression | Codec = "lz4",
        idempotence: bool | None = None,
        max_in_flight: int = 5,
        delivery_timeout_s: float = 120.0,
        max_block_s: float = 60.0,
        buffer_memory: int = 32 * MIB,
        max_request_size: int = MIB,
        metadata_max_age_s: float = METADATA_MAX_AGE_S,
        partitioner: Partitioner = partition_of,
    ) -> Producer:
        """A producer; use it in an ``async with``. Options have Kafka's names, units and meanings, but for:

        Args:
            acks: ``"all"`` (durable on a majority), ``1`` (on the leader), ``0`` (not waited for).
            linger_ms: how long a record waits for company while its node has messages to answer. A lone record never waits.
            batch_size: bytes of a batch before compression.
            compression: of batches: ``none``, ``gzip``, ``snappy``, ``lz4``, ``zstd``.
            idempotence: store every record once, in order, whatever is sent again. On unless ``acks`` is less than all.
            max_in_flight: messages to a node without an answer.
            delivery_timeout_s: when an unacknowledged record fails.
            max_block_s: how long ``send`` waits for buffer space.
            buffer_memory: bytes of unacknowledged records, each counted with 200 bytes of overhead.
            max_request_size: bytes of one record.
            metadata_max_age_s: how old what is known of a topic may be: how long new partitions get no keys, at most.
            partitioner: the partition of a key; Kafka's murmur2 by default.

        Raises:
            InvalidConfigError: an option is out of range, or unknown.
        """
        self._check_open()
        wanted = acks if isinstance(acks, Acks) else _ACKS.get(acks)
        if wanted is None:
            raise InvalidConfigError(f"acks is {acks!r}; it must be 'all', 1 or 0")
        options = ProducerOptions(
            acks=wanted,
            linger_ms=linger_ms,
            batch_size=batch_size,
            compression=_codec(compression),
            idempotence=wanted is Acks.ALL if idempotence is None else idempotence,
            max_in_flight=max_in_flight,
            delivery_timeout_s=delivery_timeout_s,
            request_timeout_s=self._request_timeout_s,
            max_block_s=max_block_s,
            buffer_memory=buffer_memory,
            max_request_size=max_request_size,
            metadata_max_age_s=metadata_max_age_s,
            partitioner=partitioner,
        )
        producer = Producer(
            options,
            routing=self._routing,
            tasks=self._tasks,
            clock=self._clock,
            rng=self._rng,
            open_stream=lambda address: self._stream_to(address, wanted, direct=True),
            on_close=self._users.remove,
        )
        self._users.append(producer)
        return producer

    @overload
    def consumer(
        self,
        *topics: str | TopicPartition,
        group: None = None,
        from_: From | Mapping[TopicPartition, From] | None = None,
        follow: bool = True,
        auto_offset_reset: Reset | None = None,
        max_bytes: int = MIB,
        prefetch_bytes: int = 16 * MIB,
        metadata_max_age_s: float = 5.0,
        unavailable_timeout_s: float = 120.0,
    ) -> Consumer: ...

    @overload
    def consumer(
        self,
        *topics: str | TopicPartition,
        group: str,
        from_: None = None,
        follow: bool = True,
        auto_offset_reset: Reset | None = None,
        max_bytes: int = MIB,
        prefetch_bytes: int = 16 * MIB,
        metadata_max_age_s: float = 5.0,
        unavailable_timeout_s: float = 120.0,
        **settings: Unpack[GroupSettings],
    ) -> GroupConsumer: ...

    def consumer(
        self,
        *topics: str | TopicPartition,
        group: str | None = None,
        from_: From | Mapping[TopicPartition, From] | None = None,
        follow: bool = True,
        auto_offset_reset: Reset | None = None,
        max_bytes: int = MIB,
        prefetch_bytes: int = 16 * MIB,
        metadata_max_age_s: float = 5.0,
        unavailable_timeout_s: float = 120.0,
        **settings: Unpack[GroupSettings],
    ) -> Consumer | GroupConsumer:
        """A consumer of whole topics or single partitions; use it in an ``async with`` and iterate over it.

        Args:
            topics: names, or ``TopicPartition``; names include partitions that are added later.
            group: share the topics with all consumers that name the same group, and go on where the group has committed. See
                ``GroupSettings`` for the options that come with it.
            from_: where to begin: ``"beginning"`` (where it is missing), ``"end"``, an offset, a ``datetime`` or
                ``AtTime(timestamp_ms)``; or a mapping that says it for each partition (those left out begin at the beginning).
                Not with a ``group``: there, ``auto_offset_reset`` says where to begin what was never committed.
            follow: go on at the end, waiting for more. Otherwise the consumer ends where the log ended when it began.
            auto_offset_reset: what to do where an offset is out of range, because retention removed it: raise (``"error"``), or
                go on at the ``"earliest"`` or ``"latest"`` one. With a ``group`` earliest, otherwise error where it is missing.
            max_bytes: of one response.
            prefetch_bytes: how much may be read ahead of the user.
            metadata_max_age_s: how often to look for new partitions, and for leaders that moved without a word.
            unavailable_timeout_s: how long a partition may fail before its error is raised; iterating again tries again.

        Raises:
            InvalidConfigError: nothing to consume, or an option out of range.
        """
        self._check_open()
        if not topics and not (group is not None and settings.get("topic_pattern")):
            raise InvalidConfigError("nothing to consume: give topics or partitions")
        options = ConsumerOptions(
            from_="beginning" if from_ is None else from_,
            follow=follow,
            auto_offset_reset=auto_offset_reset or ("error" if group is None else "earliest"),
            max_bytes=max_bytes,
            prefetch_bytes=prefetch_bytes,
            metadata_max_age_s=metadata_max_age_s,
            unavailable_timeout_s=unavailable_timeout_s,
        )
        if group is not None:
            if from_ is not None:
                raise InvalidConfigError("a group goes on where it has committed: give auto_offset_reset instead of from_")
            return self._group_consumer(topics, options, GroupOptions.of(group, settings))
        if settings:
            raise InvalidConfigError(f"{', '.join(settings)}: only with a group; give group as well")
        consumer = Consumer(
            topics,
            options,
            routing=self._routing,
            connections=self._connections,
            tasks=self._tasks,
            rng=self._rng,
            on_close=self._users.remove,
        )
        self._users.append(consumer)
        return consumer

    def _group_consumer(
        self, topics: Sequence[str | TopicPartition], options: ConsumerOptions, group: GroupOptions
    ) -> GroupConsumer:
        consumer = GroupConsumer(
            topics,
            options,
            group,
            routing=self._routing,
            connections=self._connections,
            tasks=self._tasks,
            rng=self._rng,
            client_id=self._client_id,
            request_timeout_s=self._request_timeout_s,
            on_close=self._users.remove,
        )
        self._users.append(consumer)
        return consumer

    async def publish_stream(self, tp: TopicPartition, *, acks: str | int | Acks = "all", direct: bool = True) -> PublishStream:
        """An open stream to the leader of ``tp``, without batching and retries: what the producer is built on, for those who do
        both themselves. It ends with its connection; what was sent on it then has an unknown outcome.

        Raises:
            UnknownTopicOrPartitionError, LeaderNotAvailableError
        """
        self._check_open()
        wanted = acks if isinstance(acks, Acks) else _ACKS.get(acks)
        if wanted is None:
            raise InvalidConfigError(f"acks is {acks!r}; it must be 'all', 1 or 0")
        await self._routing.load(tp.topic)
        address = await self._routing.find_leader(tp)
        if not address:
            raise LeaderNotAvailableError(f"{tp} has no leader yet; try again in a moment")
        return self._stream_to(address, wanted, direct=direct)

    def _stream_to(self, address: str, acks: Acks, *, direct: bool) -> PublishStream:
        return PublishStream(
            self._connections.node(address),
            tasks=self._tasks,
            acks=acks,
            timeout_ms=int(self._request_timeout_s * 1_000),
            direct=direct,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidRequestError("the client is closed; use it inside its 'async with'")
        asyncio.get_running_loop()


def addresses_of(brokers: str | Iterable[str] | None) -> list[str]:
    """The addresses of ``brokers``, or of the environment, or a local node's.

    Raises:
        InvalidConfigError: none, or one that is not ``host:port``.
    """
    if brokers is None:
        brokers = os.environ.get(BROKERS_VARIABLE, DEFAULT_BROKERS)
    items = brokers.split(",") if isinstance(brokers, str) else list(brokers)
    addresses = [item.strip() for item in items if item.strip()]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise InvalidConfigError(f"broker {address!r} is not host:port, like 127.0.0.1:7101")
    if not addresses:
        raise InvalidConfigError(f"no brokers: give host:port[,…], or set {BROKERS_VARIABLE}")
    return addresses


def _codec(compression: str | Codec) -> Codec:
    if isinstance(compression, Codec):
        return compression
    try:
        return Codec[compression.upper()]
    except KeyError as error:
        names = ", ".join(codec.name.lower() for codec in Codec)
        raise InvalidConfigError(f"compression {compression!r} is unknown; there are {names}") from error
