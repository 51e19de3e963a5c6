"""A leader whose own disk stands still: no turn runs while a commit does not end, and yet it must not say for ever that it leads.

Theory of operation. Rule 2 of ``turns``: nothing is ticked or heard while a commit is under way. With a full disk, or a stalled
one, that may be for hours. Its followers miss it within a second and elect another, but here nobody would hear of it: clients
that ask this node would be sent to a leader that is none. There are two signs.

- *Another has been elected.* Its announcement is heard at once: a term that is higher than a leader's own ends its leading for
  certain, and names who is to be asked. It is said once, to all, so that listening costs nothing; heartbeats would be heard in
  every breath, and vote requests say only that somebody tries.
- *A majority is silent*, as where this node is cut off besides. That is the leader's own doubt (``member._lead``), looked at from
  outside of turns, and as patient as the turn would be when the commit ends at last (``patience``): where all disks are slow
  together nobody was elected, and the leader may go on. A leader whose followers answer what leaves ``early`` goes on as well:
  they commit without its disk.

Rules:

1. Only believing to lead ends here, as at any doubt: no term, vote or log changes, nothing is written, nothing leaves. Entries
   stay, also those of the commit under way; the next leader commits or truncates them, by messages that turns hear.
2. Whoever waits is told in the same call (``Group.stop_leading``), and the next turn ticks the group, so that its timers run.
3. Commits come hundreds a second: a timer that finds another commit than the one it was set in is set anew, and not before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from raftlog.consensus.group import Group
from raftlog.consensus.leaderships import Leaderships
from raftlog.consensus.patience import Patience
from raftlog.consensus.quiescence import Quiescence
from raftlog.core.clock import Clock
from raftlog.model import Role
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb

LOOK_S = 0.5
"""Between two looks at a commit that does not end."""


class Standstill:
    """See the module.

    Args:
        groups: the open groups by id.
        fail: this node cannot go on.
    """

    def __init__(
        self, groups: Mapping[int, Group], clock: Clock, patience: Patience, leaderships: Leaderships, quiescence: Quiescence, *,
        fail: Callable[[Exception], None],
    ) -> None:  # fmt: skip
        self._groups, self._clock, self._patience = groups, clock, patience
        self._leaderships, self._quiescence, self._fail = leaderships, quiescence, fail
        self._begun_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def commit_begins(self) -> None:
        """A commit is under way from now on."""
        self._begun_s = self._clock.monotonic_s()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def commit_ends(self) -> None:
        """It is durable."""
        self._begun_s = None

    def hear(self, turn: pb.Turn) -> None:
        """A peer's turn has come meanwhile, and waits: who leads need not."""
        try:
            self._leaderships.hear(turn)
            for one in turn.leaderships:
                group = self._groups.get(one.group)
                if group is not None and one.term > group.term:
                    self._stop_leading(group)
        except Exception as error:
            self._fail(error)

    def _look(self) -> None:
        self._timer = None
        if self._begun_s is None:
            return
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        now_s = self._clock.monotonic_s()
        under_way_s = now_s - self._begun_s
        self._patience.turned(under_way_s, now_s)
        if under_way_s < self._patience.fallback_s:
            return
        try:
            for group in list(self._groups.values()):
                if group.role is Role.LEADER and group.member.doubts():
                    self._stop_leading(group)
        except Exception as error:
            self._fail(error)

    def _stop_leading(self, group: Group) -> None:
        if group.role is Role.LEADER and not group.suspended:
            self._quiescence.rouse(group)
            self._quiescence.withdraw(group.group)
            group.stop_leading()

    def stop(self) -> None:
        """Look no more."""
        self._begun_s = None
        if self._timer is not None:
            self._timer.cancel()
