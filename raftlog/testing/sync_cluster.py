"""``LocalCluster`` by plain calls, for tests and scripts without an event loop of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from raftlog.testing.local_cluster import LocalCluster
from raftlog.testing.process import LocalNode

_T = TypeVar("_T")


class SyncLocalCluster:
    """Takes the arguments of ``LocalCluster``; a context manager. The cluster's event loop runs in a thread of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._cluster = LocalCluster(*args, **kwargs)
        self._loop = asyncio.new_event_loop()
        # Nodes are started from this thread and end with it (see child.py); it lives from enter to exit.
        self._thread = threading.Thread(target=self._loop.run_forever, name="raftlog-local-cluster", daemon=True)

    @property
    def nodes(self) -> dict[int, LocalNode]:
        """See ``LocalCluster``."""
        return self._cluster.nodes

    @property
    def kafka(self) -> str:
        """See ``LocalCluster``."""
        return self._cluster.kafka

    @property
    def brokers(self) -> list[str]:
        """See ``LocalCluster``."""
        return self._cluster.brokers

    def __enter__(self) -> SyncLocalCluster:
        """See ``LocalCluster.__aenter__``."""
        self._thread.start()
        try:
            self._call(self._cluster.__aenter__())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._call(self._cluster.close())
        finally:
            self._end_loop()

    def kill(self, node_id: int) -> None:
        """See ``LocalCluster.kill``."""
        self._call(self._cluster.kill(node_id))

    def stop(self, node_id: int) -> int | None:
        """See ``LocalCluster.stop``."""
        return self._call(self._cluster.stop(node_id))

    def start(self, node_id: int) -> None:
        """See ``LocalCluster.start``."""
        self._call(self._cluster.start(node_id))

    def join(self, *, at: int = 1, wait_ready: bool = True, **settings: object) -> int:
        """See ``LocalCluster.join``."""
        return self._call(self._cluster.join(at=at, wait_ready=wait_ready, **settings))

    def restart(self, node_id: int) -> None:
        """See ``LocalCluster.restart``."""
        self._call(self._cluster.restart(node_id))

    def pause(self, node_id: int) -> None:
        """See ``LocalCluster.pause``."""
        self._cluster.pause(node_id)

    def resume(self, node_id: int) -> None:
        """See ``LocalCluster.resume``."""
        self._cluster.resume(node_id)

    def _call(self, coro: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coro, self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
