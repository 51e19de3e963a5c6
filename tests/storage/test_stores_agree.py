"""Both stores against one model: whatever is written, reopened, cut and dropped, they show the same."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from raftlog.core import entry
from raftlog.storage import identity, transaction
from raftlog.storage.check import check
from raftlog.storage.compact import compact
from raftlog.storage.data_directory import IDENTITY_FILE
from raftlog.storage.identity import Identity
from raftlog.storage.lmdb_store import LmdbStore
from raftlog.storage.memory_store import MemoryStore
from raftlog.storage.port import GroupView, Store, WriteBatch
from tests.storage.helpers import OPTIONS, commit, deleted, make_entry, never

GROUPS = st.sampled_from([0, 1, 2, (1 << 64) - 1])
PAYLOADS = st.sampled_from([b"", b"x" * 100, b"y" * 5_000])
KEYS = st.sampled_from([b"", b"a", b"ab", b"b", b"\xff" * 400])
TABLES = st.sampled_from([0, 1, 255])
SETTINGS = settings(max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))


class Model:
    """What a store must show."""

    def __init__(self) -> None:
        self.logs: dict[int, dict[int, bytes]] = {}
        self.rows: dict[tuple[int, int, bytes], bytes] = {}

    def bounds(self, group: int) -> tuple[int, int] | None:
        log = self.logs.get(group)
        return (min(log), max(log)) if log else None

    def apply(self, batch: WriteBatch) -> None:
        for group in batch.drop:
            self.logs.pop(group, None)
            self.rows = {key: value for key, value in self.rows.items() if key[0] != group}
        for group, source in batch.install.items():
            kept = {key: value for key, value in self.rows.items() if key[0] not in (group, source)}
            moved = {(group, *key[1:]): value for key, value in self.rows.items() if key[0] == source}
            self.rows = kept | moved
        for group, cut in batch.truncate.items():
            self.logs[group] = {index: data for index, data in self.logs.get(group, {}).items() if index < cut}
        for group, cut in batch.trim.items():
            self.logs[group] = {index: data for index, data in self.logs.get(group, {}).items() if index >= cut}
        for (group, index), data in batch.entries.items():
            self.logs.setdefault(group, {})[index] = data
        for key, value in batch.rows.items():
            self.rows.pop(key, None)
            if value is not None:
                self.rows[key] = value

    def groups(self) -> list[int]:
        return sorted({group for group, log in self.logs.items() if log} | {key[0] for key in self.rows})


class StoreMachine(RuleBasedStateMachine):
    """Builds batches rule by rule, commits them, reopens, and compares all that can be read."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.batch = WriteBatch()
        self.loop = asyncio.new_event_loop()
        self.view: tuple[GroupView, int, Model] | None = None

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)

    def reopen(self) -> None:
        raise NotImplementedError

    def next_index(self, group: int) -> int:
        """Where the batch as gathered so far would let the group's log go on."""
        staged = Model()
        staged.logs = {number: dict(log) for number, log in self.model.logs.items()}
        staged.apply(self.batch)
        bounds = staged.bounds(group)
        return bounds[1] + 1 if bounds else 0

    @rule(group=GROUPS, count=st.integers(1, 12), payload=PAYLOADS, start=st.integers(0, 30))
    def put(self, group: int, count: int, payload: bytes, start: int) -> None:
        start = self.next_index(group) or start
        for index in range(start, start + count):
            self.batch.entries[group, index] = make_entry(group, index, payload)

    @rule(group=GROUPS, back=st.integers(0, 15))
    def truncate(self, group: int, back: int) -> None:
        bounds = self.model.bounds(group)
        if bounds and not any(key[0] == group for key in self.batch.entries):
            self.batch.truncate[group] = max(0, bounds[1] + 1 - back)

    @rule(group=GROUPS, ahead=st.integers(0, 20))
    def trim(self, group: int, ahead: int) -> None:
        bounds = self.model.bounds(group)
        if bounds and not any(key[0] == group for key in self.batch.entries):
            self.batch.trim[group] = bounds[0] + ahead

    @rule(group=GROUPS)
    def drop(self, group: int) -> None:
        if not any(key[0] == group for key in self.batch.entries):
            self.batch.drop.add(group)

    @rule(group=GROUPS, table=TABLES, key=KEYS, value=st.none() | st.binary(max_size=50))
    def row(self, group: int, table: int, key: bytes, value: bytes | None) -> None:
        self.batch.rows[group, table, key] = value

    @rule(pair=st.permutations([0, 1, 2, (1 << 64) - 1]))
    def install(self, pair: list[int]) -> None:
        self.batch.install = {pair[0]: pair[1]}

    @rule(group=GROUPS)
    def look_from(self, group: int) -> None:
        """A view shows the group of this moment, whatever is committed while it is open."""
        if self.view is not None:
            self.view[0].close()
        self.view = self.store.view(group), group, Model()
        self.view[2].logs = {group: dict(self.model.logs.get(group, {}))}
        self.view[2].rows = {key: value for key, value in self.model.rows.items() if key[0] == group}

    @invariant()
    def views_stay(self) -> None:
        if self.view is None:
            return
        view, group, model = self.view
        log, bounds = model.logs.get(group, {}), model.bounds(group)
        assert view.bounds(group) == bounds
        first, last = bounds or (0, 0)
        assert view.entries(group, first, last + 1, 1 << 30) == [log[index] for index in sorted(log)]
        rows = sorted((table, key, value) for (_, table, key), value in model.rows.items())
        assert view.page((0, b""), 1 << 30) == rows
        paged: list[tuple[int, bytes, bytes]] = []
        while page := view.page((paged[-1][0], paged[-1][1] + b"\0") if paged else (1, b""), 1):
            paged += page
        assert paged == [row for row in rows if row[0] >= 1]

    @rule()
    def commit(self) -> None:
        self.commit_batch()

    @rule()
    def commit_as_often_as_staging(self) -> None:
        self.commit_batch()

    def forget_view(self) -> None:
        if self.view is not None:
            self.view[0].close()
        self.view = None

    def commit_batch(self) -> None:
        batch, self.batch = self.batch, WriteBatch()
        self.run(commit(self.store, batch))
        self.model.apply(batch)

    @rule(group=GROUPS)
    def wait_until_it_is_deleted(self, group: int) -> None:
        """Who asks about a group is told once, and nothing that is shown changes by it."""
        self.run(self.wait_for(group))

    async def wait_for(self, group: int) -> None:
        await deleted(self.store, group)

    @rule()
    def reopen_it(self) -> None:
        self.forget_view()
        self.reopen()

    @invariant()
    def what_is_shown_is_not_being_deleted(self) -> None:
        """Neither a group that was filled again, nor one of which only the head is trimmed."""
        assert not any(self.store.deleting(group, lambda: None) for group in self.model.groups())

    @invariant()
    def shows_the_model(self) -> None:
        assert self.store.groups() == self.model.groups()
        for group in (0, 1, 2, (1 << 64) - 1):
            log = self.model.logs.get(group, {})
            bounds = self.model.bounds(group)
            assert self.store.bounds(group) == bounds
            first, last = bounds or (3, 3)
            assert self.store.entries(group, first, last + 9, 1 << 30) == [log[index] for index in sorted(log)]
            if first:
                assert self.store.header(group, first - 1) is None
                assert self.store.entries(group, first - 1, last + 1, 1 << 30) == []
            if bounds:
                assert self.store.header(group, last) == entry.decode(log[last]).header
                assert self.store.entries(group, first, last + 1, 1) == [log[first]]
            for table in (0, 1, 255):
                rows = {key: value for (g, t, key), value in self.model.rows.items() if (g, t) == (group, table)}
                assert list(self.store.rows(group, table)) == sorted(rows.items())
                assert list(self.store.rows(group, table, b"a")) == sorted(row for row in rows.items() if row[0][:1] == b"a")
                assert self.store.row(group, table, b"ab") == rows.get(b"ab")

    def teardown(self) -> None:
        self.forget_view()
        self.store.close()
        self.loop.close()


class LmdbMachine(StoreMachine):
    """Deletes at most two entries in a batch and three in a step, so that condemned ranges are the rule."""

    store: LmdbStore

    @initialize()
    def open(self) -> None:
        self.limits = transaction.INLINE_DELETES_MAX, transaction.STEP_DELETES_MAX
        transaction.INLINE_DELETES_MAX, transaction.STEP_DELETES_MAX = 2, 3
        self.directory = tempfile.TemporaryDirectory()
        identity.store(Path(self.directory.name) / IDENTITY_FILE, Identity(node_id=1))
        self.store = self.new_store()

    def new_store(self) -> LmdbStore:
        return LmdbStore(Path(self.directory.name), never, options=OPTIONS, loop=self.loop)

    def reopen(self) -> None:
        self.store.close()
        self.store = self.new_store()

    @rule()
    def check_and_compact_it(self) -> None:
        """A stopped node's data is sound, and after compacting it every entry and row reads the same."""
        self.forget_view()
        self.store.close()
        directory = Path(self.directory.name)
        self.check_it(directory)
        compact(directory, lambda what, done, total: None)
        self.check_it(directory)
        self.store = self.new_store()

    def check_it(self, directory: Path) -> None:
        found = check(directory, lambda done, total: None)
        assert found.findings == []
        assert found.entries == sum(map(len, self.model.logs.values()))
        assert found.rows == len(self.model.rows)

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()
        transaction.INLINE_DELETES_MAX, transaction.STEP_DELETES_MAX = self.limits


class MemoryMachine(StoreMachine):
    """Reopens by crashing, at times with a commit in flight that the disk had or had not."""

    @initialize()
    def open(self) -> None:
        self.store = self.memory = MemoryStore()

    def reopen(self) -> None:
        self.store = self.memory = self.memory.crash()

    @rule(kept=st.booleans())
    def crash_with_a_commit_in_flight(self, kept: bool) -> None:
        batch, self.batch = self.batch, WriteBatch()

        async def start() -> None:
            self.memory.commit(batch, lambda: None)
            self.store = self.memory = self.memory.crash(keep_in_flight=kept)

        self.run(start())
        if kept:
            self.model.apply(batch)


TestLmdbStore = LmdbMachine.TestCase
TestLmdbStore.settings = SETTINGS
TestMemoryStore = MemoryMachine.TestCase
TestMemoryStore.settings = SETTINGS
