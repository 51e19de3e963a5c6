"""What a snapshot is: the log's base, who was in the group, and the state after an entry further on.

Theory of operation. A follower that lacks entries which its leader has deleted cannot go on by appends. It pulls the rows of the
leader's state as of one moment, stages them, and lets them take the place of all that it has, in one transaction. Behind that
its log is the leader's first entry alone, and appends bring the rest, the records among it; until its commit index has passed
the entry that the state belongs to, it is being *filled* (``journal`` rule 1).

Rules:

1. Rows are staged under a group id of their own from ``STAGED`` on, which no group has. What is staged when a node starts is
   left over, and deleted.
2. Whatever a snapshot says was committed: so it may come of any leader, also of one that leads no more. It replaces a log only
   where that lacks the base, and never one that is committed as far.
3. Term and vote stay what they are: they are promises to the group, not state.
"""

from __future__ import annotations

from dataclasses import dataclass

from raftlog.consensus.journal import CONFIG_ROW, GIVEN_UP_ROW, HARD_ROW, PROGRESS_ROW, RAFT_TABLE, GroupJournal, progress
from raftlog.core import configuration as codec
from raftlog.core.configuration import Configuration
from raftlog.core.entry import Entry
from raftlog.storage.port import WriteBatch

STAGED = 1 << 63
"""Group ids from here on are those of staged rows."""
_ATTEMPT_BITS, _GROUP_BITS = 15, 48


def staging_id(group: int, attempt: int) -> int:
    """The group id under which an attempt stages its rows: another one each time, for what is given up is deleted in steps."""
    return STAGED | (attempt % (1 << _ATTEMPT_BITS)) << _GROUP_BITS | group


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A snapshot of which the rows are staged.

    Attributes:
        base: the leader's first entry.
        applied_index: the rows are the state after this entry.
        configurations: by index, none beyond ``applied_index``; it may be that none is known.
        staging: where the rows are.
        staged_bytes: how many they are.
    """

    base: Entry
    applied_index: int
    configurations: list[tuple[int, Configuration]]
    staging: int
    staged_bytes: int

    def helps(self, journal: GroupJournal) -> bool:
        """Rule 2: whether a log lacks the base."""
        header = self.base.header
        return journal.commit_index < header.index and journal.term_at(header.index) != header.term

    def put(self, batch: WriteBatch, journal: GroupJournal) -> None:
        """Put the change into a transaction; ``journal`` is the log whose place it takes."""
        group, header = journal.group, self.base.header
        batch.install[group] = self.staging
        batch.truncate[group] = batch.trim[group] = header.index
        batch.entries[group, header.index] = self.base.data
        size = len(self.base.data)
        batch.size_bytes += size + self.staged_bytes
        batch.rows[group, RAFT_TABLE, HARD_ROW] = journal.hard_row()
        batch.rows[group, RAFT_TABLE, CONFIG_ROW] = codec.encode_row(journal.replica, self.configurations)
        batch.rows[group, RAFT_TABLE, PROGRESS_ROW] = progress(header.index, self.applied_index, size)
        if journal.given_up:
            batch.rows[group, RAFT_TABLE, GIVEN_UP_ROW] = b"1"
