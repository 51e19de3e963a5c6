"""One replica of a partition of the internal topic: applies group commands, writes their rows, tells who proposed them.

Rules:

1. A proposer waits for (index, term): only the entry that it appended itself can carry its outcome. When leadership goes, or
   the entry is truncated, the outcome is unknown, and the proposer hears that at once.
2. A leader is told that it leads (``on_led``) only when it may serve: the no-op of its own term is applied, and so is all that
   was committed before. What it appends from then on can only be truncated after it was told that it leads no longer. So
   nothing that it keeps in memory beyond the applied state survives a change of leadership, and no overlay need be cut.
3. Callbacks of proposals and ``on_led`` run within a turn: they must only take note.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from google.protobuf.message import DecodeError

from raftlog.consensus.port import ReplicatedLog, Rows
from raftlog.core.entry import Entry, EntryHeader, EntryKind, encode
from raftlog.core.groups.rows import TABLES
from raftlog.core.groups.state import Applied, GroupsState
from raftlog.errors import IndeterminateError, InvalidRequestError, RaftlogError, RequestTimedOutError
from raftlog.model import ReplicaStatus, Role, TopicPartition
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb
from raftlog.pb.raftlog.internal.v1 import metadata_pb2

_log = logging.getLogger(__name__)

Settled = Callable[[Applied], None]


class _Proposal(NamedTuple):
    term: int
    settled: Settled


class GroupMachine:
    """See ``StateMachine``; ``state`` is what has been applied here.

    Args:
        name: the partition of the internal topic.
        group: its Raft group.
        on_led: called with the term when this node begins to lead and may serve, with None when it leads no longer.
    """

    def __init__(self, name: TopicPartition, group: int, *, on_led: Callable[[int | None], None]) -> None:
        self.name = name
        self.group = group
        self.state = GroupsState()
        self.led_term: int | None = None
        """The term in which this node leads and serves, None where it does not."""
        self.closed = False
        self._on_led = on_led
        self._log: ReplicatedLog | None = None
        self._applied_index = 0
        self._proposals: dict[int, _Proposal] = {}
        """By index; as many as entries are appended and not applied, which consensus bounds."""
        self._applied_waiters: dict[asyncio.Future[None], int] = {}

    @property
    def log(self) -> ReplicatedLog:
        """The group's log; there once ``bind`` was called."""
        assert self._log is not None, "a coordinator is used only after it was opened"
        return self._log

    @property
    def serving(self) -> bool:
        """This node leads, may serve, and has been told so."""
        return self.led_term is not None and self.log.ready and self.log.term == self.led_term

    def bind(self, log: ReplicatedLog) -> None:
        """Take the log that ``Consensus.open`` returned."""
        self._log = log
        self.progressed()

    # What consensus says.

    def restore(self, rows: Rows) -> None:
        """See ``StateMachine``."""
        self._fail(lambda _at, _proposal: True)
        self.state.load((table, key, value) for table in TABLES for key, value in rows.scan(table))

    def apply(self, entry: EntryHeader, payload: Callable[[], memoryview], rows: Rows) -> None:
        """See ``StateMachine``."""
        outcome = self._apply_command(entry, payload) if entry.kind is EntryKind.COMMAND else Applied()
        for table, key, value in outcome.rows:
            rows.put(table, key, value)
        if entry.kind is EntryKind.TRIM and self._log is not None:
            self._log.trim(metadata_pb2.Trim.FromString(bytes(payload())).keep_from_index)
        self._applied_index = entry.index
        proposal = self._proposals.pop(entry.index, None)
        if proposal is not None:
            proposal.settled(outcome if proposal.term == entry.term else Applied(error=_unknown()))
        self._wake_applied()

    def appended(self, header: EntryHeader) -> None:
        """See ``StateMachine``. Nothing here looks beyond applied state; rule 2 says why that is enough."""

    def truncated(self, index: int) -> None:
        """See ``StateMachine``."""
        self._fail(lambda at, _: at >= index)

    def progressed(self) -> None:
        """See ``StateMachine``."""
        if self._log is None or self.closed:
            return
        led = self._log.term if self._log.role is Role.LEADER else None
        if self._proposals:
            self._fail(lambda _, proposal: proposal.term != led)
        serving = led if self._log.ready else None
        if serving != self.led_term:
            self.led_term = serving
            self._on_led(serving)
        self._applied_index = max(self._applied_index, self._log.applied_index)
        self._wake_applied()

    # What the coordinator asks.

    def propose(self, command: pb.GroupCommand, *, now_ms: int, settled: Settled) -> None:
        """Append a command as leader; ``settled`` is called once, with what it did or why that is unknown.

        Raises:
            NotLeaderError, LeaderNotAvailableError, OverloadedError: nothing was appended, and ``settled`` is not called.
        """
        payload = command.SerializeToString(deterministic=True)
        entry = self.log.append(lambda index, term, before: self._entry(index, term, before, payload, now_ms))
        self._proposals[entry.header.index] = _Proposal(entry.header.term, settled)

    async def run(self, command: pb.GroupCommand, *, now_ms: int, timeout_s: float) -> None:
        """Propose a command and wait until it is applied. Cancelling the wait does not take it back.

        Raises:
            NotLeaderError, LeaderNotAvailableError, OverloadedError: nothing was appended.
            IndeterminateError: leadership went, or the time ran out, before the outcome was known.
            RaftlogError: the command was refused when it was applied.
        """
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self.propose(command, now_ms=now_ms, settled=lambda outcome: None if future.done() else future.set_result(outcome))
        try:
            async with asyncio.timeout(timeout_s):
                outcome = await future
        except TimeoutError:
            raise RequestTimedOutError(
                f"{self.name}: no majority confirmed the command within {timeout_s:g} s; it may or may not take effect"
            ) from None
        if outcome.error is not None:
            raise outcome.error

    async def barrier(self, timeout_s: float) -> None:
        """Wait until the applied state shows everything that was acknowledged before the call.

        Raises:
            NotLeaderError, RequestTimedOutError: as ``ReplicatedLog.barrier``.
        """
        index = await self.log.barrier(timeout_s)
        if self._applied_index >= index:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._applied_waiters[future] = index
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            raise RequestTimedOutError(f"{self.name}: what is committed was not applied within {timeout_s:g} s") from None
        finally:
            self._applied_waiters.pop(future, None)

    def status(self, node_id: int) -> ReplicaStatus:
        """This replica; it holds no records, so its offsets are 0."""
        log = self.log
        return ReplicaStatus(
            topic=self.name.topic,
            partition=self.name.partition,
            group_id=self.group,
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
        """Nothing comes any more: whoever waits is told."""
        self.closed = True
        self._fail(lambda _at, _proposal: True)
        if self.led_term is not None:
            self.led_term = None
            self._on_led(None)

    def _apply_command(self, entry: EntryHeader, payload: Callable[[], memoryview]) -> Applied:
        try:
            command = pb.GroupCommand.FromString(bytes(payload()))
        except DecodeError as error:
            return Applied(error=InvalidRequestError(f"entry {entry.index} of {self.name} holds no command: {error}"))
        outcome = self.state.apply(entry.index, command)
        if outcome.error is not None:
            kind = command.WhichOneof("command")
            _log.info("group command %s at index %d of %s refused: %s", kind, entry.index, self.name, outcome.error)
        return outcome

    def _fail(self, which: Callable[[int, _Proposal], bool]) -> None:
        for at in [at for at, proposal in self._proposals.items() if which(at, proposal)]:
            self._proposals.pop(at).settled(Applied(error=_unknown()))

    def _wake_applied(self) -> None:
        for future, index in self._applied_waiters.items():
            if index <= self._applied_index and not future.done():
                future.set_result(None)

    def _entry(self, index: int, term: int, before: EntryHeader, payload: bytes, now_ms: int) -> Entry:
        header = EntryHeader(
            kind=EntryKind.COMMAND,
            group=self.group,
            index=index,
            term=term,
            base_offset=before.next_offset,
            running_max_timestamp=before.running_max_timestamp,
            append_time=now_ms,
        )
        return encode(header, payload)


def _unknown() -> RaftlogError:
    return IndeterminateError("the coordinator changed before the outcome was known; it may or may not have taken effect")
