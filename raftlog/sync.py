"""The client without asyncio: the same calls, made on an event loop in a thread of its own.

::

    from raftlog import sync

    with sync.Client("127.0.0.1:7101") as client:
        with client.producer() as producer:
            print(producer.publish("events", b"hello").offset)
        with client.consumer("events", follow=False) as consumer:
            for record in consumer:
                print(record.value)

Options and errors are those of ``raftlog.Client``. Every object may be used from any thread; iterate over a consumer in one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from raftlog.client.admin import Admin as AsyncAdmin
from raftlog.client.client import Client as AsyncClient
from raftlog.client.consumer import Consumer as AsyncConsumer
from raftlog.client.group_admin import SeekTo
from raftlog.client.group_consumer import GroupConsumer as AsyncGroupConsumer
from raftlog.client.group_values import Group, GroupDescription, GroupOffset, SoughtOffset
from raftlog.client.producer import Producer as AsyncProducer
from raftlog.client.values import (
    AtTime,
    ConsumedBatch,
    ConsumedRecord,
    ListedOffset,
    NodeReplicas,
    RecordMetadata,
    Topic,
    TopicDescription,
)
from raftlog.errors import InvalidRequestError
from raftlog.model import Balanced, ClusterInfo, LevelReport, Move, TopicPartition

_T = TypeVar("_T")


class _Closable(Protocol):
    async def close(self) -> None: ...


_Inner = TypeVar("_Inner", bound=_Closable)


class _Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="raftlog client", daemon=True)
        self._stopping = False
        self._handing_over = threading.Lock()
        """Nothing is given to the loop once it is to stop."""
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    @property
    def stopped(self) -> bool:
        """Whether nothing more is done."""
        return self._stopping

    def run(self, coro: Coroutine[Any, Any, _T]) -> _T:
        """The result of ``coro``; an interrupt of the caller cancels it.

        Raises:
            InvalidRequestError: the client is closed, or is closed meanwhile by another thread.
        """
        with self._handing_over:
            if self._stopping or threading.current_thread() is self._thread:
                coro.close()
                raise InvalidRequestError(
                    "the client is closed, or was called from its own thread; use raftlog.Client in coroutines"
                )
            future = asyncio.run_coroutine_threadsafe(coro, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise InvalidRequestError("the client was closed meanwhile, by another thread") from None
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the thread, and whatever other threads wait for; a second call does nothing."""
        with self._handing_over:
            if self._stopping:
                return
            self._stopping = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(_end_others())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


async def _end_others() -> None:
    await asyncio.sleep(0)  # what was handed over last becomes a task
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class _Face(Generic[_Inner]):
    """A context manager around one object of the async client."""

    def __init__(self, loop: _Loop, inner: _Inner) -> None:
        self._loop = loop
        self._inner = inner

    def close(self) -> None:
        """See the async class. Does nothing where the client is closed: it has closed all that it made."""
        if not self._loop.stopped:
            self._loop.run(self._inner.close())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


class Client(_Face[AsyncClient]):
    """See ``raftlog.Client``, whose arguments it takes."""

    def __init__(self, brokers: str | Sequence[str] | None = None, **options: Any) -> None:
        loop = _Loop()

        async def make() -> AsyncClient:
            return AsyncClient(brokers, **options)

        try:
            super().__init__(loop, loop.run(make()))
        except BaseException:
            loop.stop()
            raise
        self.admin = Admin(loop, self._inner.admin)
        """Topics, offsets and the cluster's state."""

    def __enter__(self) -> Client:
        return self

    def close(self) -> None:
        """Close everything, and end the thread."""
        try:
            super().close()
        finally:
            self._loop.stop()

    def producer(self, **options: Any) -> Producer:
        """See ``raftlog.Client.producer``."""

        async def make() -> AsyncProducer:
            return self._inner.producer(**options)

        return Producer(self._loop, self._loop.run(make()))

    @overload
    def consumer(self, *topics: str | TopicPartition, group: None = None, **options: Any) -> Consumer: ...

    @overload
    def consumer(self, *topics: str | TopicPartition, group: str, **options: Any) -> GroupConsumer: ...

    def consumer(self, *topics: str | TopicPartition, group: str | None = None, **options: Any) -> Consumer | GroupConsumer:
        """See ``raftlog.Client.consumer``. Callbacks run in threads of their own, and may use the consumer."""
        if group is None:
            return Consumer(self._loop, self._loop.run(self._make(*topics, **options)))
        for name in ("on_assigned", "on_revoked", "on_lost"):
            if options.get(name) is not None:
                options[name] = _in_thread(options[name])
        return GroupConsumer(self._loop, self._loop.run(self._make_member(*topics, group=group, **options)))

    async def _make(self, *topics: str | TopicPartition, **options: Any) -> AsyncConsumer:
        consumer: AsyncConsumer = self._inner.consumer(*topics, **options)
        return consumer

    async def _make_member(self, *topics: str | TopicPartition, group: str, **options: Any) -> AsyncGroupConsumer:
        return self._inner.consumer(*topics, group=group, **options)


class Producer(_Face[AsyncProducer]):
    """See ``raftlog.Producer``. Made by ``Client.producer``."""

    def __enter__(self) -> Producer:
        return self

    def send(self, topic: str, value: bytes | None, **options: Any) -> Future[RecordMetadata]:
        """Take a record; waits only for buffer space. The future is the acknowledgement. See ``raftlog.Producer.send``."""
        acknowledged: Future[RecordMetadata] = Future()

        def done(future: asyncio.Future[RecordMetadata]) -> None:
            if not acknowledged.set_running_or_notify_cancel() or future.cancelled():
                return
            error = future.exception()
            if error is None:
                acknowledged.set_result(future.result())
            else:
                acknowledged.set_exception(error)

        async def send() -> None:
            (await self._inner.send(topic, value, **options)).add_done_callback(done)

        self._loop.run(send())
        return acknowledged

    def publish(self, topic: str, value: bytes | None, **options: Any) -> RecordMetadata:
        """Send a record and wait for its acknowledgement. See ``raftlog.Producer.publish``."""
        return self._loop.run(self._inner.publish(topic, value, **options))

    def publish_batch(self, tp: TopicPartition, batch: bytes) -> RecordMetadata:
        """Send a ready-made batch and wait for its acknowledgement. See ``raftlog.Producer.publish_batch``."""
        return self._loop.run(self._inner.publish_batch(tp, batch))

    def flush(self) -> None:
        """Wait until every record sent so far is acknowledged or has failed."""
        self._loop.run(self._inner.flush())


_Reader = TypeVar("_Reader", bound=AsyncConsumer)


class _ConsumerFace(_Face[_Reader]):
    """What consumers with and without a group have in common."""

    def __enter__(self) -> Self:
        self._loop.run(self._inner.start())
        return self

    def __iter__(self) -> Iterator[ConsumedRecord]:
        return self

    def __next__(self) -> ConsumedRecord:
        record = self._inner.take_ready()
        if record is not None:
            return record
        try:
            return self._loop.run(_next(self._inner))
        except StopAsyncIteration:
            raise StopIteration from None

    def batches(self) -> Iterator[ConsumedBatch]:
        """The same records in lists. See ``raftlog.Consumer.batches``."""
        batches = self._inner.batches()
        while True:
            try:
                yield self._loop.run(_next(batches))
            except StopAsyncIteration:
                return

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions that are read."""
        return self._inner.assignment()

    def position(self, tp: TopicPartition) -> int:
        """Offset of the next record of ``tp``."""
        return self._inner.position(tp)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Go on at ``offset`` in ``tp``."""

        async def seek() -> None:
            self._inner.seek(tp, offset)

        self._loop.run(seek())


class Consumer(_ConsumerFace[AsyncConsumer]):
    """See ``raftlog.Consumer``: an iterator. Made by ``Client.consumer``."""


class GroupConsumer(_ConsumerFace[AsyncGroupConsumer]):
    """See ``raftlog.GroupConsumer``: an iterator. Made by ``Client.consumer`` with a ``group``."""

    @property
    def member_id(self) -> str:
        """This member's id in the group, empty before it has one."""
        return self._inner.member_id

    @property
    def generation(self) -> int:
        """Of the last assignment, −1 before the first."""
        return self._inner.generation

    def commit(self, offsets: Mapping[TopicPartition, int] | None = None, *, metadata: str = "") -> None:
        """Commit what was handed out, or these offsets. See ``raftlog.GroupConsumer.commit``."""
        self._loop.run(self._inner.commit(offsets, metadata=metadata))

    def committed(self) -> dict[TopicPartition, int | None]:
        """The group's committed offsets in the partitions that are read."""
        return self._loop.run(self._inner.committed())

    def lag(self) -> dict[TopicPartition, int]:
        """Records between the position and the end of each partition that is read."""
        return self._loop.run(self._inner.lag())


def _in_thread(callback: Callable[[frozenset[TopicPartition]], None]) -> Callable[[frozenset[TopicPartition]], Awaitable[None]]:
    """The callback where it may call the synchronous client: not on its loop."""

    async def call(tps: frozenset[TopicPartition]) -> None:
        await asyncio.to_thread(callback, tps)

    return call


async def _next(items: AsyncIterator[_T]) -> _T:
    return await anext(items)


class Admin:
    """See ``raftlog.Admin``. Is ``Client.admin``."""

    def __init__(self, loop: _Loop, inner: AsyncAdmin) -> None:
        self._loop = loop
        self._inner = inner

    def _run(self, call: Coroutine[Any, Any, _T]) -> _T:
        return self._loop.run(call)

    def create_topic(self, name: str, **options: Any) -> Topic:
        """See ``raftlog.Admin.create_topic``."""
        return self._run(self._inner.create_topic(name, **options))

    def raise_level(self, level: int = 0, **options: Any) -> LevelReport:
        """See ``raftlog.Admin.raise_level``."""
        return self._run(self._inner.raise_level(level, **options))

    def list_topics(self, *, internal: bool = False) -> list[Topic]:
        """See ``raftlog.Admin.list_topics``."""
        return self._run(self._inner.list_topics(internal=internal))

    def describe_topic(self, name: str, *, offsets: bool = False) -> TopicDescription:
        """See ``raftlog.Admin.describe_topic``."""
        return self._run(self._inner.describe_topic(name, offsets=offsets))

    def alter_topic(self, name: str, **options: Any) -> Topic:
        """See ``raftlog.Admin.alter_topic``."""
        return self._run(self._inner.alter_topic(name, **options))

    def delete_topic(self, name: str) -> None:
        """See ``raftlog.Admin.delete_topic``."""
        self._run(self._inner.delete_topic(name))

    def list_offsets(self, at: Mapping[TopicPartition, str | AtTime]) -> dict[TopicPartition, ListedOffset]:
        """See ``raftlog.Admin.list_offsets``."""
        return self._run(self._inner.list_offsets(at))

    def list_groups(self) -> list[Group]:
        """See ``raftlog.Admin.list_groups``."""
        return self._run(self._inner.list_groups())

    def describe_group(self, group_id: str, *, offsets: bool = True) -> GroupDescription:
        """See ``raftlog.Admin.describe_group``."""
        return self._run(self._inner.describe_group(group_id, offsets=offsets))

    def group_offsets(
        self, group_id: str, partitions: Iterable[TopicPartition] | None = None, *, lag: bool = False
    ) -> dict[TopicPartition, GroupOffset]:
        """See ``raftlog.Admin.group_offsets``."""
        return self._run(self._inner.group_offsets(group_id, partitions, lag=lag))

    def commit_group_offsets(self, group_id: str, offsets: Mapping[TopicPartition, int]) -> None:
        """See ``raftlog.Admin.commit_group_offsets``."""
        self._run(self._inner.commit_group_offsets(group_id, offsets))

    def delete_group(self, group_id: str) -> None:
        """See ``raftlog.Admin.delete_group``."""
        self._run(self._inner.delete_group(group_id))

    def delete_group_offsets(self, group_id: str, partitions: Iterable[TopicPartition]) -> None:
        """See ``raftlog.Admin.delete_group_offsets``."""
        self._run(self._inner.delete_group_offsets(group_id, partitions))

    def seek_group(
        self, group_id: str, to: Mapping[str | TopicPartition, SeekTo] | SeekTo, *, dry_run: bool = False
    ) -> dict[TopicPartition, SoughtOffset]:
        """See ``raftlog.Admin.seek_group``."""
        return self._run(self._inner.seek_group(group_id, to, dry_run=dry_run))

    def remove_group_members(self, group_id: str, **members: Any) -> None:
        """See ``raftlog.Admin.remove_group_members``."""
        self._run(self._inner.remove_group_members(group_id, **members))

    def describe_cluster(self) -> ClusterInfo:
        """See ``raftlog.Admin.describe_cluster``."""
        return self._run(self._inner.describe_cluster())

    def describe_replicas(self, node: int | str) -> NodeReplicas:
        """See ``raftlog.Admin.describe_replicas``."""
        return self._run(self._inner.describe_replicas(node))

    def move_partitions(self, wanted: Mapping[TopicPartition, Sequence[int] | None], *, reason: str = "") -> None:
        """See ``raftlog.Admin.move_partitions``."""
        self._run(self._inner.move_partitions(wanted, reason=reason))

    def drain_node(self, node_id: int, *, cancel: bool = False) -> int:
        """See ``raftlog.Admin.drain_node``."""
        return self._run(self._inner.drain_node(node_id, cancel=cancel))

    def remove_node(self, node_id: int) -> None:
        """See ``raftlog.Admin.remove_node``."""
        self._run(self._inner.remove_node(node_id))

    def balance(self, *, dry_run: bool = False) -> Balanced:
        """See ``raftlog.Admin.balance``."""
        return self._run(self._inner.balance(dry_run=dry_run))

    def list_moves(self) -> list[Move]:
        """See ``raftlog.Admin.list_moves``."""
        return self._run(self._inner.list_moves())
