"""Group 0's state machine: applies metadata commands, writes their rows, and tells who proposed them what came of it.

Rules:

1. A proposer waits for (index, term): only the entry that it appended itself can carry its outcome.
2. When leadership goes, or the entry is truncated, the outcome is unknown, and the proposer hears that at once: every
   metadata command may be proposed again without harm, or can be told from its first try by its ids.
3. ``on_effects`` is called after the state has changed, within the turn: it must only take note.
4. ``on_level`` is called before anything can follow from the state's feature level, with each level that it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from google.protobuf.message import DecodeError

from raftlog.consensus.port import ReplicatedLog, Rows
from raftlog.core.entry import Entry, EntryHeader, EntryKind, encode
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_rows import TABLES
from raftlog.core.metadata_values import Effects
from raftlog.errors import IndeterminateError, InvalidRequestError, RaftlogError
from raftlog.model import METADATA_GROUP, ReplicaStatus, Role
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb

_log = logging.getLogger(__name__)


class _Proposal:
    __slots__ = ("future", "term")

    def __init__(self, term: int, future: asyncio.Future[Effects]) -> None:
        self.term = term
        self.future = future


class MetadataMachine:
    """See ``StateMachine``; ``state`` is what has been applied here."""

    def __init__(self, on_effects: Callable[[Effects], None], on_level: Callable[[int], None] = lambda _: None) -> None:
        self.state = MetadataState()
        self.applied_index = 0
        """Index of the last entry applied since the start."""
        self._on_effects = on_effects
        self._on_level = on_level
        self._log: ReplicatedLog | None = None
        self._proposals: dict[int, _Proposal] = {}
        self._applied_waiters: dict[asyncio.Future[None], int] = {}

    @property
    def log(self) -> ReplicatedLog:
        """The group's log; there once ``bind`` was called."""
        assert self._log is not None, "group 0 is used only after it was opened"
        return self._log

    def bind(self, log: ReplicatedLog) -> None:
        """Take the log that ``Consensus.open`` returned."""
        self._log = log
        self.progressed()

    # What consensus says.

    def restore(self, rows: Rows) -> None:
        """See ``StateMachine``."""
        self._fail(lambda _at, _proposal: True)
        self.state.load((table, key, value) for table in TABLES for key, value in rows.scan(table))
        self._on_level(self.state.level)
        if self._log is not None:
            self._on_effects(Effects(restored=True))

    def apply(self, entry: EntryHeader, payload: Callable[[], memoryview], rows: Rows) -> None:
        """See ``StateMachine``."""
        effects = self._effects(entry, payload) if entry.kind is EntryKind.COMMAND else Effects()
        if effects.level:
            self._on_level(effects.level)
        for table, key, value in effects.rows:
            rows.put(table, key, value)
        if entry.kind is EntryKind.TRIM and self._log is not None:
            self._log.trim(pb.Trim.FromString(bytes(payload())).keep_from_index)
        self.applied_index = entry.index
        proposal = self._proposals.pop(entry.index, None)
        if proposal is not None and not proposal.future.done():
            if proposal.term == entry.term:
                proposal.future.set_result(effects)
            else:
                proposal.future.set_exception(_unknown())
        if effects.rows:
            self._on_effects(effects)
        self._wake_applied()

    def appended(self, header: EntryHeader) -> None:
        """See ``StateMachine``. Nothing here looks beyond applied state."""

    def truncated(self, index: int) -> None:
        """See ``StateMachine``."""
        self._fail(lambda at, _: at >= index)

    def progressed(self) -> None:
        """See ``StateMachine``."""
        if self._log is None:
            return
        if self._proposals:
            led = self._log.term if self._log.role is Role.LEADER else -1
            self._fail(lambda _, proposal: proposal.term != led)
        self.applied_index = max(self.applied_index, self._log.applied_index)
        self._wake_applied()

    # What the broker asks.

    async def propose(self, command: pb.MetadataCommand, *, now_ms: int, timeout_s: float) -> tuple[int, Effects]:
        """Append a command as leader, and wait until it is applied: its index and what it did.

        Raises:
            NotLeaderError: not the leader; nothing was appended.
            IndeterminateError: leadership went, or the time ran out, before the outcome was known.
            RaftlogError: the command was refused when it was applied.
        """
        payload = command.SerializeToString(deterministic=True)
        entry = self.log.append(lambda index, term, before: command_entry(index, term, before, payload, now_ms))
        header = entry.header
        future: asyncio.Future[Effects] = asyncio.get_running_loop().create_future()
        self._proposals[header.index] = _Proposal(header.term, future)
        try:
            async with asyncio.timeout(timeout_s):
                effects = await future
        except TimeoutError:
            raise _unknown() from None
        finally:
            self._proposals.pop(header.index, None)
        if effects.error is not None:
            raise effects.error
        return header.index, effects

    async def wait_applied(self, index: int, timeout_s: float) -> None:
        """Wait until the entry at ``index`` is applied here.

        Raises:
            IndeterminateError: the time ran out; the command is committed, but this node has not caught up.
        """
        if self.applied_index >= index:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._applied_waiters[future] = index
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            raise IndeterminateError("the change is made, but this node has not caught up with it yet; look again soon") from None
        finally:
            self._applied_waiters.pop(future, None)

    def status(self, node_id: int) -> ReplicaStatus:
        """This replica; it has no topic, and its offsets are those of its records: none."""
        log = self.log
        return ReplicaStatus(
            topic="",
            partition=0,
            group_id=METADATA_GROUP,
            node_id=node_id,
            role=log.role,
            term=log.term,
            leader=log.leader,
            first_index=log.first_index,
            last_index=log.last_index,
            commit_index=log.commit_index,
            applied_index=log.applied_index,
            log_start_offset=0,
            high_watermark=0,
            log_end_offset=0,
            size_bytes=log.size_bytes,
            damaged=log.damaged is not None,
            unclean_at_ms=log.unclean_at_ms,
        )

    def close(self) -> None:
        """Tell whoever waits that nothing more comes."""
        self._fail(lambda _at, _proposal: True)

    def _effects(self, entry: EntryHeader, payload: Callable[[], memoryview]) -> Effects:
        try:
            command = pb.MetadataCommand.FromString(bytes(payload()))
        except DecodeError as error:
            return Effects(error=InvalidRequestError(f"metadata entry {entry.index} holds no command: {error}"))
        effects = self.state.apply(entry.index, command)
        if effects.error is not None:
            _log.info("metadata command %s at index %d refused: %s", command.WhichOneof("command"), entry.index, effects.error)
        return effects

    def _fail(self, which: Callable[[int, _Proposal], bool]) -> None:
        for at in [at for at, proposal in self._proposals.items() if which(at, proposal)]:
            future = self._proposals.pop(at).future
            if not future.done():
                future.set_exception(_unknown())

    def _wake_applied(self) -> None:
        for future, index in self._applied_waiters.items():
            if index <= self.applied_index and not future.done():
                future.set_result(None)


def _unknown() -> RaftlogError:
    return IndeterminateError("the metadata command may or may not have been committed; look at the result, or send it again")


def command_entry(index: int, term: int, before: EntryHeader, payload: bytes, now_ms: int) -> Entry:
    """The entry of a metadata command, behind the entry ``before``."""
    header = EntryHeader(
        kind=EntryKind.COMMAND,
        group=METADATA_GROUP,
        index=index,
        term=term,
        base_offset=before.next_offset,
        running_max_timestamp=before.running_max_timestamp,
        append_time=now_ms,
    )
    return encode(header, payload)
