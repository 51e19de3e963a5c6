"""Groups that were dropped: when they can be opened again, and what they hold until their drop is durable, which is nothing.

Theory of operation. Dropping a group is a small transaction, after which storage deletes what there was in steps. What is put
into the group before that is done makes storage delete all of it in one transaction, and no group of the node has a turn
meanwhile. So who wants to open it again waits, first for the drop to be durable, then for storage.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

import structlog

from raftlog.consensus.damage import DAMAGED_ROW
from raftlog.consensus.journal import GIVEN_UP_ROW, RAFT_TABLE, stored_replica
from raftlog.core.entry import EntryHeader
from raftlog.core.features import FeatureLevel
from raftlog.storage.port import Store, StoreReader

log = structlog.get_logger()


class Drops:
    """A node's drops that are not durable yet, and who waits for them.

    Args:
        store: the node's.
        drop: drops a group; it calls ``add``.
        features: the cluster's feature level.
    """

    def __init__(self, store: Store, drop: Callable[[int], None], features: FeatureLevel) -> None:
        self._store = store
        self._drop = drop
        self._features = features
        self._groups: set[int] = set()
        self._waiting: dict[int, Callable[[], None]] = {}

    def add(self, group: int) -> None:
        """A group's drop is in the next batch."""
        self._groups.add(group)

    def durable(self, groups: set[int]) -> None:
        """These drops are durable, and none of the groups was dropped again since."""
        self._groups -= groups
        for ended in [self._waiting.pop(group) for group in sorted(groups & self._waiting.keys())]:
            ended()

    def vacant(self, group: int, replica: int, ended: Callable[[], None]) -> bool:
        """See ``port.Consensus``."""
        self._drop_other(group, replica)
        if group in self._groups:
            self._waiting[group] = ended
            return False
        return not self._store.deleting(group, ended)

    def held(self, group: int) -> tuple[int, bool] | None:
        """See ``port.Consensus``."""
        seen = self._seen(group)
        replica = stored_replica(seen, group, self._features.level)
        marked = any(seen.row(group, RAFT_TABLE, row) is not None for row in (GIVEN_UP_ROW, DAMAGED_ROW))
        return None if replica is None else (replica, marked)

    def reader(self, group: int, replica: int) -> StoreReader:
        """The store as a replica sees it that is opened now, without waiting.

        Raises:
            DataLossError: it cannot be read whose data there is.
        """
        self._drop_other(group, replica)
        return self._seen(group)

    def _drop_other(self, group: int, replica: int) -> None:
        """Drop the data of another replica of the group."""
        if stored_replica(self._seen(group), group, self._features.level) not in (None, replica):
            log.info("data of a replica that is no more goes", group=group, replica=replica)
            self._drop(group)

    def _seen(self, group: int) -> StoreReader:
        return DroppedReader(self._store, self._groups) if group in self._groups else self._store


class DroppedReader:
    """``StoreReader`` in which the groups of ``dropping`` hold nothing. What they have written since is with their journals."""

    def __init__(self, store: StoreReader, dropping: Container[int]) -> None:
        self._store, self._dropping = store, dropping

    def bounds(self, group: int) -> tuple[int, int] | None:
        """See the port."""
        return None if group in self._dropping else self._store.bounds(group)

    def header(self, group: int, index: int) -> EntryHeader | None:
        """See the port."""
        return None if group in self._dropping else self._store.header(group, index)

    def entries(self, group: int, start: int, stop: int, bytes_max: int) -> list[bytes]:
        """See the port."""
        return [] if group in self._dropping else self._store.entries(group, start, stop, bytes_max)

    def row(self, group: int, table: int, key: bytes) -> bytes | None:
        """See the port."""
        return None if group in self._dropping else self._store.row(group, table, key)

    def rows(self, group: int, table: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """See the port."""
        return iter(()) if group in self._dropping else self._store.rows(group, table, prefix)
