"""What only the double in memory does: held commits, crashes, and refusing what LMDB would take silently."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raftlog.storage.memory_store import MemoryStore
from raftlog.storage.port import WriteBatch
from tests.storage.helpers import batch_of, commit


class Later:
    """A scheduler that runs what it was given when told."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def __call__(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def test_nothing_is_seen_before_it_is_durable() -> None:
    """A commit takes effect with its ``done``, and one at a time."""
    later = Later()
    store = MemoryStore(schedule=later)
    seen: list[object] = []
    store.commit(batch_of(1, 0, 2), lambda: seen.append(store.bounds(1)))
    assert store.bounds(1) is None
    with pytest.raises(RuntimeError, match="under way"):
        store.commit(batch_of(1, 2, 3), lambda: None)
    later.run()
    assert seen == [(0, 1)]


@pytest.mark.parametrize(("kept", "bounds"), [(False, (0, 1)), (True, (0, 3))])
def test_a_crash_loses_what_was_in_flight_or_only_the_news_of_it(kept: bool, bounds: tuple[int, int]) -> None:
    """The ``done`` of a batch in flight is never called."""
    later = Later()
    store = MemoryStore(schedule=later)
    store.commit(batch_of(1, 0, 2), lambda: None)
    later.run()
    store.commit(batch_of(1, 2, 4), lambda: pytest.fail("called after the crash"))
    after = store.crash(keep_in_flight=kept)
    later.run()
    assert after.bounds(1) == bounds
    with pytest.raises(RuntimeError, match="closed"):
        store.commit(WriteBatch(), lambda: None)


def test_a_full_disk_holds_the_commit() -> None:
    """It becomes durable when there is space again."""
    later = Later()
    store = MemoryStore(schedule=later)
    done: list[bool] = []
    store.commit(batch_of(1, 0, 2), lambda: done.append(True))
    store.set_full(True)
    later.run()
    assert not done
    assert store.usage().full
    store.set_full(False)
    later.run()
    assert done
    assert not store.usage().full


async def test_its_soft_limit_counts_bytes() -> None:
    """Entries and rows count, and what is deleted does not."""
    store = MemoryStore(limit_bytes=1_000)
    batch = batch_of(1, 0, 1)
    size = batch.size_bytes
    batch.rows = {(1, 0, b"key"): b"x" * 2_000}
    await commit(store, batch)
    assert store.usage().used_bytes == size + 2_003
    assert store.usage().full
    await commit(store, WriteBatch(rows={(1, 0, b"key"): b""}))
    assert store.usage().used_bytes == size + 3
    await commit(store, WriteBatch(drop={1}))
    assert store.usage().used_bytes == 0
    assert not store.usage().full


@pytest.mark.parametrize("start", [1, 3])
def test_a_gap_or_an_entry_written_twice_is_a_mistake(start: int) -> None:
    """LMDB would take it; the double shows the bug."""
    later = Later()
    store = MemoryStore(schedule=later)
    store.commit(batch_of(1, 0, 2), lambda: None)
    later.run()
    store.commit(batch_of(1, start, start + 1), lambda: None)
    with pytest.raises(RuntimeError, match="does not follow"):
        later.run()
