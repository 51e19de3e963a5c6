"""Keeps group 0's configuration in step with the cluster's nodes, where this node leads it (``core.metadata_members``)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from random import Random

from raftlog.broker.asking import ask
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.consensus.port import SILENT_S
from raftlog.core.configuration import Configuration, node_of
from raftlog.core.features import Level
from raftlog.core.metadata_members import is_newest, next_configuration
from raftlog.errors import RaftlogError

LOOK_S = 0.5
"""How often the leader looks whether there is something to do."""
STEP_S = 0.05
"""How often it looks while there is."""
LAG_ENTRIES_MAX = 64
"""A learner that lacks no more entries holds the log: metadata changes seldom, and it has the rest in a moment."""

_log = logging.getLogger(__name__)


class MetadataMembers:
    """See the module.

    Args:
        own: this node's member of group 0.
        machine: group 0.
        alive: whether a node is up as far as this one knows.
        rng: spreads the looks.
        dead: the nodes that have been down for so long that they are replaced.
    """

    def __init__(
        self, own: int, machine: MetadataMachine, alive: Callable[[int], bool], rng: Random,
        dead: Callable[[], Collection[int]] = tuple,
    ) -> None:  # fmt: skip
        self._dead = dead
        self._own = own
        self._machine = machine
        self._alive = alive
        self._rng = rng
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """The nodes have changed: look at once."""
        self._woken.set()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self._woken.clear()
            pause_s = STEP_S if await self.step() else LOOK_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s * (0.5 + self._rng.random())):
                    await self._woken.wait()

    async def step(self) -> bool:
        """Take the next step, if this node leads group 0 and there is one; whether another may follow soon."""
        log = self._machine.log
        if not log.ready or self._machine.state.level < Level.MEMBERSHIP:
            return False
        if not log.configuration_committed:
            return True
        wanted = self._wanted()
        try:
            if wanted is None or (wanted.voters != log.configuration.voters and not await self._answer(wanted)):
                return False
            if self._own not in wanted.voters and log.transfer():
                return False  # another leader takes the step that this one is not to see the end of
            log.reconfigure(wanted)
        except RaftlogError as error:
            _log.debug("group 0 does not change to %s: %s", wanted, error)
            return False
        _log.info("group 0 changes to %s", wanted)
        return True

    def _wanted(self, answering: Collection[int] | None = None) -> Configuration | None:
        """The next configuration, where only those that are ``answering`` are up, besides this node; or all that seem so."""
        log, state = self._machine.log, self._machine.state
        nodes, progress = state.nodes | state.removed, log.followers()
        # A node may be up, and its replica of group 0 not: it is damaged, or its disk stands still.
        heard = [
            member for member, seen in progress.items() if seen.heard_s <= SILENT_S and (answering is None or member in answering)
        ]
        up = {self._own, *(member for member in heard if self._alive(node_of(member)) and is_newest(member, nodes))}
        ready = {member for member in up if member not in progress or _holds(progress[member].match_index, log.commit_index)}
        return next_configuration(log.configuration, nodes, up=up, ready=ready, dead=self._dead())

    async def _answer(self, wanted: Configuration) -> bool:
        """Whether a change of the voters would be the next step also by the answers of this very moment."""
        before = self._machine.log.configuration
        there = await ask(self._machine.log, lambda answering: self._wanted(answering) == wanted)
        return there and self._machine.log.configuration == before and self._machine.log.configuration_committed


def _holds(match_index: int, commit_index: int) -> bool:
    """Whether a member holds the log, or all but its newest entries; one that has nothing does not, however short that is."""
    return match_index > 0 and match_index + LAG_ENTRIES_MAX >= commit_index
