"""Bugs planted on purpose, to show that the simulator would catch them: each is one small change to the code that runs.

The code as it ships has no switch for them; they are patched in here, for the length of a simulation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Final
from unittest.mock import patch

from raftlog.broker import subscribe
from raftlog.broker.partition import Partition
from raftlog.broker.pending import Outstanding, Waiter
from raftlog.broker.port import Fetched
from raftlog.consensus import turns
from raftlog.consensus.electorate import Electorate
from raftlog.consensus.group import Group
from raftlog.consensus.guard import Guards
from raftlog.consensus.quiescence import Quiescence
from raftlog.core.bootstrap import Bootstrap
from raftlog.core.configuration import Configuration
from raftlog.core.entry import Entry, EntryHeader, EntryKind, encode
from raftlog.core.producers import NEW, ProducerTable
from raftlog.errors import RaftlogError, StaleDataDirectoryError
from raftlog.node.gate import IdentityGate
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.storage.memory_store import MemoryStore
from raftlog.storage.port import WriteBatch
from tests.simulation.disk import Disk, SimulatedStore
from tests.simulation.faults import Faults
from tests.simulation.world import World

Plant = Callable[[], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def skip_the_fsync() -> Iterator[None]:
    """Commits are said to be durable at once; what was written in the last while goes with the process."""
    unsynced: dict[int, list[MemoryStore]] = {}

    def commit(self: SimulatedStore, batch: WriteBatch, done: Callable[[], None]) -> None:
        kept = unsynced.setdefault(id(self._disk), [])
        kept.append(self._disk.contents.copy().store)
        del kept[:-8]
        self._on_commit(batch)
        self._apply(batch)
        self._disk.loop.call_soon(done)

    def die(self: SimulatedStore) -> None:
        kept = unsynced.pop(id(self._disk), [])
        if kept:
            self.take_from(kept[0], copied=False)
        MemoryStore.close(self)

    with patch.object(SimulatedStore, "commit", commit), patch.object(SimulatedStore, "die", die):
        yield


@contextlib.contextmanager
def acknowledge_before_a_majority() -> Iterator[None]:
    """acks=all is answered when the leader alone has the batch."""
    with patch.object(Outstanding, "wait_committed", Outstanding.wait_durable):
        yield


@contextlib.contextmanager
def answer_at_once() -> Iterator[None]:
    """acks=all is answered before the batch is anywhere but in memory."""

    def wait(self: Outstanding, waiter: Waiter) -> None:
        self._settle(waiter, waiter.published)

    with patch.object(Outstanding, "wait_committed", wait):
        yield


@contextlib.contextmanager
def drop_the_producer_table() -> Iterator[None]:
    """A restarted replica has forgotten its producers."""
    with (
        patch.object(ProducerTable, "load", lambda *_: None),
        patch.object(ProducerTable, "_check_unknown", lambda *_: NEW),
    ):
        yield


@contextlib.contextmanager
def take_any_sequence() -> Iterator[None]:
    """A producer's batches are not put in order."""
    with patch.object(ProducerTable, "check", lambda *_: NEW):
        yield


@contextlib.contextmanager
def vote_with_an_emptied_log() -> Iterator[None]:
    """A node whose log is lost, but not its identity, goes on as if nothing had happened."""

    def wipe(self: Disk) -> None:
        self.contents.store = SimulatedStore.bare()

    with patch.object(Disk, "wipe", wipe):
        yield


@contextlib.contextmanager
def let_old_disks_in() -> Iterator[None]:
    """Nobody minds an old boot number."""

    def admit_boot(self: IdentityGate, hello: pb.Hello, *, anew: bool) -> None:
        with contextlib.suppress(StaleDataDirectoryError):
            original(self, hello, anew=anew)

    original = IdentityGate._admit_boot
    with patch.object(IdentityGate, "_admit_boot", admit_boot):
        yield


@contextlib.contextmanager
def let_empty_disks_in() -> Iterator[None]:
    """Nobody looks whether a founder comes back empty: the cluster begins again with it."""

    def seed(self: Bootstrap, node_id: int, cluster_id: str, *args: Any) -> list[Any]:
        self.cluster_id = self.cluster_id or cluster_id
        return original(self, node_id, cluster_id, *args)

    original = Bootstrap.seed
    with (
        let_old_disks_in(),  # they are known by their boot numbers, too
        patch.object(Bootstrap, "comes_late", lambda *_: False),
        patch.object(Bootstrap, "check", lambda *_: None),
        patch.object(Bootstrap, "seed", seed),
    ):
        yield


@contextlib.contextmanager
def serve_beyond_the_commit_index() -> Iterator[None]:
    """Readers are given what is in the leader's log, committed or not."""

    def read(partition: Partition, offset: int, bytes_max: int) -> Fetched:
        index = subscribe.first_index(partition, lambda header: header.next_offset > offset)
        found = partition.log.read(index, partition.log.last_index + 1, bytes_max)
        entries = [entry for entry in found if entry.header.record_count and entry.header.next_offset > offset]
        next_offset = entries[-1].header.next_offset if entries else offset
        return Fetched(
            batches=[entry.payload for entry in entries], high_watermark=partition.high_watermark,
            log_start_offset=partition.log_start_offset, next_offset=next_offset,
        )  # fmt: skip

    with patch.object(subscribe, "read", read):
        yield


@contextlib.contextmanager
def no_read_barrier() -> Iterator[None]:
    """A leader answers for the latest offset without asking whether it still leads."""

    async def barrier(self: Group, timeout_s: float) -> int:
        return self.commit_index

    with patch.object(Group, "barrier", barrier):
        yield


@contextlib.contextmanager
def trim_for_the_fastest() -> Iterator[None]:
    """Retention does not wait for the slowest replica."""
    with patch.object(Group, "min_match_index", lambda self: self.last_index):
        yield


@contextlib.contextmanager
def answer_before_the_commit() -> Iterator[None]:
    """Acknowledgements leave before what they acknowledge is durable."""
    with patch.object(turns, "AFTER_COMMIT", ()):
        yield


@contextlib.contextmanager
def followers_sleep_for_ever() -> Iterator[None]:
    """Followers of sleeping groups do not mind that their leader's node is gone or silent."""
    with patch.object(Quiescence, "_wake_followers", lambda *_: None):
        yield


@contextlib.contextmanager
def without(guard: str) -> Iterator[None]:
    """One guard of ``consensus.guard`` is off."""
    with patch.object(World, "guards", dataclasses.replace(Guards(), **{guard: False})):
        yield


@contextlib.contextmanager
def votes_arrive_again() -> Iterator[None]:
    """A fault that no TCP link has: each vote is delivered three times. Five nodes, for of three one vote is enough anyway."""

    def receive(self: turns.Turns, node_id: int, wire: pb.RaftMessage, payloads: list[bytes], count: int) -> None:
        for _ in range(3 if wire.HasField("vote") else 1):
            original(self, node_id, wire, payloads, count)

    original = turns.Turns._receive
    with patch.object(turns.Turns, "_receive", receive), patch.object(World, "sizes", (5,)):
        yield


@contextlib.contextmanager
def acknowledgements_overtake_the_disk() -> Iterator[None]:
    """A leader hears its followers while its own commit is under way: turns wait for it, so that they cannot overtake it."""

    def on_turn(self: turns.Turns, node_id: int, turn: pb.Turn, payloads: list[bytes]) -> None:
        if self._in_flight is None or any(not wire.HasField("append_ack") for wire in turn.raft):
            original(self, node_id, turn, payloads)
            return
        for wire in turn.raft:
            self._receive(node_id, wire, [], 0)
        self._tick()
        self._arm()

    original = turns.Turns.on_turn
    with patch.object(turns.Turns, "on_turn", on_turn):
        yield


@contextlib.contextmanager
def membership_entries() -> Iterator[None]:
    """An entry that no version writes: PySyncObj's removal of a member, in the log of a partition, again and again."""

    def once(self: Faults) -> None:
        original(self)
        number = self.rng.randint(1, 4)
        leader = self.world.leader_of(number)
        if leader is None or leader.run is None:
            return
        group = leader.groups[number]
        others = [other for other in group.configuration.members if other != group.member.id]
        leader.run.call(lambda: _remove(group, self.rng.choice(others)))

    original = Faults.once
    with patch.object(Faults, "once", once):
        yield


def _remove(group: Group, member: int) -> None:
    """Append the removal of a member, as PySyncObj would pickle it."""
    body = b"(lVrem\naI%d\na." % member

    def build(index: int, term: int, before: EntryHeader) -> Entry:
        header = EntryHeader(
            EntryKind.MEMBERSHIP, group.group, index, term, before.next_offset, running_max_timestamp=before.running_max_timestamp
        )
        return encode(header, body)

    with contextlib.suppress(RaftlogError):  # it leads no more
        group.append(build)


@contextlib.contextmanager
def count_learners() -> Iterator[None]:
    """Learners count in every quorum, as voters do."""

    def init(self: Electorate, me: int, configuration: Configuration) -> None:
        votes = me in configuration.voters
        original(self, me, Configuration.of(configuration.members))
        self.votes = votes

    original = Electorate.__init__
    with patch.object(Electorate, "__init__", init):
        yield


@contextlib.contextmanager
def let_changes_overlap() -> Iterator[None]:
    """A leader changes its group's members again before the last change is committed."""
    with patch.object(Group, "_check_settled", lambda _: None):
        yield


@contextlib.contextmanager
def both(*plants: Plant) -> Iterator[None]:
    """Several at once."""
    with contextlib.ExitStack() as stack:
        for plant in plants:
            stack.enter_context(plant())
        yield


PLANTS: Final[dict[str, Plant]] = {
    plant.__name__.replace("_", "-"): plant
    for plant in (
        skip_the_fsync, acknowledge_before_a_majority, answer_at_once, drop_the_producer_table, take_any_sequence,
        let_old_disks_in, serve_beyond_the_commit_index, no_read_barrier,
        trim_for_the_fastest, answer_before_the_commit, followers_sleep_for_ever, count_learners, let_changes_overlap,
    )
}  # fmt: skip
"""By name: what ``make planted`` must catch."""
PROVOKED: Final[dict[str, Plant]] = {
    "durable": acknowledgements_overtake_the_disk,
    "votes_once": votes_arrive_again,
    "membership": membership_entries,
}
"""Guard → the fault that shows that it is needed. Healthy links and nodes never have it, so it is planted too; with the guard on
it does no harm (the tests see to that)."""
PROVED: Final[dict[str, str]] = {
    "terms": "tests/consensus/test_faults_of_pysyncobj.py"
    "::test_without_the_guard_an_old_acknowledgement_commits_what_is_not_replicated",
}
"""Guard → the test that shows its fault, where no run of a cluster would: an acknowledgement of an older term does harm only
where its sender has truncated since what it acknowledged, and its leader is elected again, both in the time of one delivery."""
PLANTS.update(
    {
        f"no-guard-{field.name.replace('_', '-')}": functools.partial(
            both, functools.partial(without, field.name), *([PROVOKED[field.name]] if field.name in PROVOKED else [])
        )
        for field in dataclasses.fields(Guards)
        if field.name not in PROVED
    }
)
