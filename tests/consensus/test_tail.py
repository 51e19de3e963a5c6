"""The tail cache against a model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftlog.consensus.tail import TailCache
from raftlog.core.entry import Entry, EntryHeader, EntryKind

BUDGET_BYTES = 100


def entry_at(group: int, index: int, size: int) -> Entry:
    """An entry of ``size`` bytes."""
    return Entry(EntryHeader(EntryKind.RECORDS, group, index, 1, 0), bytes(size))


puts = st.tuples(st.just("put"), st.integers(1, 2), st.integers(1, 12), st.integers(0, 140))
forgets = st.tuples(st.just("forget"), st.integers(1, 2), st.integers(1, 12), st.integers(1, 40))


@given(st.lists(st.one_of(puts, puts, forgets), max_size=40))
def test_the_cache_holds_the_newest_entries_within_its_budget(acts: list[tuple[str, int, int, int]]) -> None:
    """After any puts and forgets: what is held, in order of writing, and the count of its bytes, are the model's."""
    cache, model = TailCache(BUDGET_BYTES), dict[tuple[int, int], Entry]()
    for act, group, index, number in acts:
        if act == "put":
            entry = entry_at(group, index, number)
            cache.put(entry)
            model.pop((group, index), None)
            model[group, index] = entry
            while sum(len(held.data) for held in model.values()) > BUDGET_BYTES:
                del model[next(iter(model))]
        else:
            cache.forget(group, index, index + number)
            model = {key: held for key, held in model.items() if key[0] != group or not index <= key[1] < index + number}
        assert cache.size_bytes == sum(len(held.data) for held in model.values()) <= BUDGET_BYTES
        for key in [(group, index) for group in (1, 2) for index in range(1, 13)]:
            assert cache.get(*key) is model.get(key)


def test_an_entry_larger_than_the_budget_is_not_kept() -> None:
    """Nor does it leave anything of what was there before it."""
    cache = TailCache(BUDGET_BYTES)
    cache.put(entry_at(1, 1, 60))
    cache.put(entry_at(1, 2, BUDGET_BYTES + 1))
    assert cache.get(1, 2) is None
    assert cache.size_bytes == 0
