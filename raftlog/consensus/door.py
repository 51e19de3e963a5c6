"""The one door to PySyncObj: what it reaches for by itself (clock, randomness, journal file, poller) is handed in here.

PySyncObj reads its clock and its randomness from globals of its module. They are pointed, once, at an *ambience* that
every entry into a member sets first (``Ambience.enter``). A node has one ambience; a simulator has one for each node in
the same process, and since everything runs on one thread, the one that entered last is the one that counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import pysyncobj.syncobj as engine
from pysyncobj.config import SyncObjConf
from pysyncobj.journal import Journal
from pysyncobj.node import Node as EngineNode
from pysyncobj.syncobj import SyncObj
from pysyncobj.transport import Transport

from raftlog.core.clock import Clock

__all__ = ["Ambience", "Journal", "Node", "RaftTimes", "SyncObj", "Transport", "configuration"]

UNBOUNDED = 1 << 62
"""For PySyncObj's own size and time limits whose mechanism must never start (its snapshots, its chunked sending)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftTimes:
    """Raft's timing, in seconds. An election timeout is drawn anew each time from [min, max]."""

    heartbeat_s: float = 0.1
    election_min_s: float = 0.5
    election_max_s: float = 1.0

    @property
    def fallback_s(self) -> float:
        """A leader that a majority has not answered for this long steps down."""
        return self.election_max_s


class Times(Protocol):
    """What a member reads of ``RaftTimes``, as they are now."""

    @property
    def heartbeat_s(self) -> float:
        """Between two heartbeats."""
        ...

    @property
    def election_min_s(self) -> float:
        """The least election timeout."""
        ...

    @property
    def election_max_s(self) -> float:
        """The greatest."""
        ...

    @property
    def fallback_s(self) -> float:
        """The silence of a majority that makes a leader step down."""
        ...


class Node(int, EngineNode):  # type: ignore[misc]  # PySyncObj is untyped
    """A member as PySyncObj sees it: its id. All that it keeps is by node, and an int hashes and compares without Python."""

    def __new__(cls, id: int) -> Node:  # noqa: A002 - PySyncObj's name
        return super().__new__(cls, id)


class Ambience:
    """The clock and the randomness of one node, as PySyncObj sees them while that node has its turn."""

    __slots__ = ("clock", "rng")
    current: Ambience

    def __init__(self, clock: Clock, rng: Random) -> None:
        self.clock = clock
        self.rng = rng

    def enter(self) -> None:
        """Make this the ambience of the calls that follow."""
        Ambience.current = self


class _Randomness:
    """Stands where PySyncObj expects the ``random`` module; it only ever calls ``random()``."""

    @staticmethod
    def random() -> float:
        return Ambience.current.rng.random()


class _NoPoller:
    """PySyncObj polls sockets of its own; it is given none."""

    def subscribe(self, *_: Any) -> None: ...

    def unsubscribe(self, *_: Any) -> None: ...

    def poll(self, _: float) -> None: ...


def _now_s() -> float:
    return Ambience.current.clock.monotonic_s()


def _hand_in() -> None:
    engine.monotonicTime = _now_s
    engine.random = _Randomness
    engine.createJournal = lambda journal: journal
    engine.createPoller = lambda _: _NoPoller()
    engine.PIPE_NOTIFIER_ENABLED = False


_hand_in()


def configuration(journal: Journal, times: Times) -> SyncObjConf:
    """PySyncObj's configuration with everything off that raftlog does itself; the journal object takes its file's place."""
    return SyncObjConf(
        autoTick=False,
        journalFile=journal,
        commandsWaitLeader=False,
        dynamicMembershipChange=False,
        appendEntriesUseBatch=True,
        appendEntriesBatchSizeBytes=UNBOUNDED,
        logCompactionMinEntries=UNBOUNDED,
        logCompactionMinTime=UNBOUNDED,
        useFork=False,
        raftMinTimeout=times.election_min_s,
        raftMaxTimeout=times.election_max_s,
        appendEntriesPeriod=times.heartbeat_s,
        leaderFallbackTimeout=times.fallback_s,
        connectionTimeout=times.election_max_s * 4,
    )
