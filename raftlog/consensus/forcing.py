"""A group that lost the majority of its voters for good goes on with one of its other replicas: the Raft of it.

Theory of operation. What a majority has acknowledged is on a majority's disks; with those disks gone, nobody can be elected, and
rightly so: what is left may lack acknowledged entries. When a person decides to go on without them, one surviving replica is made
the only voter, by a configuration at the end of its own log. Raft has no such step: it gives up what a majority has promised.
It is done on a stopped node's disk, in one transaction, and noted in a row that stays until a person removes it.

Rules:

1. All that the replica holds stays, in its place. What was not known to be committed becomes so when it leads: a record that
   was not acknowledged may then be there, one that this replica holds is never lost.
2. The entry's term leaps: no lost replica that comes back has a log that this one, or who follows it, would vote for.
3. Survivors stay as learners: they get the log, and count again when they are promoted as any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from raftlog.consensus.damage import DAMAGED_ROW
from raftlog.consensus.group import configuration_entry
from raftlog.consensus.journal import GIVEN_UP_ROW, PROGRESS_ROW, RAFT_TABLE, GroupJournal
from raftlog.consensus.port import Build
from raftlog.consensus.unclean import UNCLEAN_ROW, Unclean, encode
from raftlog.core.configuration import Configuration
from raftlog.storage.port import WriteBatch

TERM_LEAP = 1_000
"""More elections than lost replicas can have held unseen: pre-vote keeps those without a majority from counting terms up."""


def force(
    journal: GroupJournal,
    batch: WriteBatch,
    *,
    member: int,
    learners: Iterable[int],
    lost: Iterable[int],
    now_ms: int,
    given_up: bool = False,
    behind: Iterable[Build] = (),
) -> None:
    """Make ``member`` the only voter of a group.

    Args:
        journal: of this replica, over its disk, gathering into ``batch``. Its log is not empty.
        learners: the other members that stay.
        lost: the voters that are gone.
        now_ms: by the clock of whoever decided it.
        given_up: the metadata says that this replica was given up for a new one; it is not opened unless its data says so too.
        behind: entries to append behind the configuration.
    """
    assert journal.last_index > 0
    group, term, index = journal.group, journal.getCurrentTerm() + TERM_LEAP, journal.last_index + 1
    configuration = Configuration.of((member,), learners)
    journal.setCurrentTerm(term, member)
    first: Build = partial(configuration_entry, group, configuration)
    for build in (first, *behind):
        journal.add(build(journal.last_index + 1, term, journal.last), journal.last_index + 1, term)
    batch.rows[group, RAFT_TABLE, UNCLEAN_ROW] = encode(Unclean(now_ms, index, tuple(sorted(lost))))
    batch.rows[group, RAFT_TABLE, PROGRESS_ROW] = journal.progress_row()
    if given_up:
        batch.rows[group, RAFT_TABLE, GIVEN_UP_ROW] = b"1"
    batch.rows[group, RAFT_TABLE, DAMAGED_ROW] = None  # what can be read of it is better than nothing, from now on
