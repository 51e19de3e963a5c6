"""Rules that no random history is sure to meet: each by itself."""

from __future__ import annotations

import pytest

from raftlog.consensus.group import GroupRows
from raftlog.consensus.member import FOLLOWER
from raftlog.consensus.messages import StaleTerm
from raftlog.core.configuration import member_id
from raftlog.core.features import Features
from raftlog.storage.memory_store import MemoryStore
from raftlog.storage.port import WriteBatch
from tests.consensus.bench import GROUP, Bench


def test_an_entry_of_an_earlier_term_is_not_committed_by_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A majority holds it, and it is still not committed before an entry of the leader's own term is (section 5.4.2)."""
    monkeypatch.setattr("raftlog.consensus.sender.APPEND_BYTES_MAX", 1)
    bench = Bench(3)
    bench.elect(1, 2, 3)
    bench.publish(1)
    earlier = bench.journal(1).last_index
    bench.win(1, 2)
    seen = []
    while bench.deliver(1, 2, 1) + bench.deliver(2, 1, 1):
        seen.append((bench.member(1).matches()[member_id(2, 1)], bench.journal(1).commit_index))
    assert any(match == earlier for match, _ in seen), "the follower should have held it alone for a moment"
    assert earlier not in {commit for _, commit in seen}
    assert bench.journal(1).commit_index == earlier + 1


def test_a_deposed_leader_gives_its_windows_back() -> None:
    """What it sent is no longer waited for, and does not narrow the windows of other groups."""
    bench = Bench(3)
    bench.elect(1, 2, 3)
    bench.publish(1, 5)
    assert bench.seats[1].windows.size_bytes > 0
    bench.act(1, lambda member: member.receive(member_id(2, 1), StaleTerm(9)))
    assert bench.member(1).state() == FOLLOWER
    assert bench.seats[1].windows.size_bytes == 0


class Held:
    """The part of a turn loop that rows need."""

    def __init__(self) -> None:
        self.features = Features()
        self.batch = WriteBatch()
        self.lazy_rows: dict[tuple[int, int, bytes], bytes | None] = {}

    def touch(self, group: object) -> None: ...

    def waiting_bytes(self) -> int:
        return 0

    def damage(self, group: object, error: object) -> None: ...

    def snapshot_progress(self, group: int, member: int) -> tuple[int, int]:
        return 0, 0


def test_a_row_written_during_a_commit_is_read_as_written() -> None:
    """The commit that ends has the older value; the newer is held until its own is durable."""
    store = MemoryStore(schedule=lambda finish: finish())
    rows = GroupRows(GROUP, store, Held())
    rows.put(1, b"key", b"one")
    batch = WriteBatch(rows={(GROUP, 1, b"key"): b"one"})
    rows.put(1, b"key", b"two")
    store.commit(batch, lambda: rows.durable(batch.rows))
    assert rows.get(1, b"key") == b"two"
    newer = WriteBatch(rows={(GROUP, 1, b"key"): b"two"})
    rows.put(1, b"gone", None)
    store.commit(newer, lambda: rows.durable(newer.rows))
    assert rows.get(1, b"key") == b"two"
    assert rows.get(1, b"gone") is None
