"""Groups whose members come and go: each is a process that is killed, leaves, or stands still until its session is over."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, Final

from tests.chaos.child import Child, Place
from tests.chaos.group_member import SESSION_S
from tests.chaos.recorder import Recorder

PAUSE_S = (2.0, 6.0)
"""Between mishaps of one group."""
AWAY_S = (0.3, 3.0)
STALL_S = SESSION_S + 2.0
"""Longer than a session: the others go on without it, and it goes on as if nothing had happened."""
SETTLED_S = 4.0
"""Before the first mishap: for a group to get together."""
MISHAPS: Final = {"kill": 3, "leave": 2, "stall": 3}
"""Kind → weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """A group: the doors of its members, and how partitions are shared out."""

    name: str
    doors: tuple[str, ...]
    assignor: str = "range"


GROUPS: Final = (
    GroupPlan(name="own", doors=("grpc", "grpc"), assignor="cooperative"),
    GroupPlan(name="kafka", doors=("kafka", "kafka"), assignor="cooperative"),
    GroupPlan(name="mixed", doors=("grpc", "kafka")),
)
"""One of each door, and one that both share."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a member said of itself."""

    member_id: str
    generation: int
    partitions: tuple[int, ...]


class Crowd:
    """The members of one group.

    Args:
        plan: who they are.
        place: what all processes are told.
        brokers: door → addresses.
        recorder: of events and findings.
        rng: for their mishaps.
        numbers: of processes.
    """

    def __init__(
        self, plan: GroupPlan, place: Place, brokers: Mapping[str, str], recorder: Recorder, rng: Random, numbers: count[int]
    ) -> None:
        self.plan = plan
        self._place, self._brokers, self._recorder, self._rng, self._numbers = place, brokers, recorder, rng, numbers
        self._members: dict[int, tuple[Child, asyncio.Task[int]]] = {}
        self._boots = [0] * len(plan.doors)
        self.mishaps: dict[str, int] = {}
        """Kind → how often."""
        self.past: list[Membership] = []
        """What members were, the newest last; some of them still are."""

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``: then all of them are there."""
        for at in range(len(self.plan.doors)):
            await self._start(at)
        if await _stopped(stop, SETTLED_S):
            return
        while not await _stopped(stop, self._rng.uniform(*PAUSE_S)):
            await self._look()
            at = self._rng.randrange(len(self.plan.doors))
            kind = self._rng.choices(list(MISHAPS), list(MISHAPS.values()))[0]
            self.mishaps[kind] = self.mishaps.get(kind, 0) + 1
            child, ended = self._members[at]
            self._recorder.note("member", group=self.plan.name, member=child.name, mishap=kind)
            if kind == "stall":
                child.signal(signal.SIGSTOP)
                await _stopped(stop, STALL_S)
                child.signal(signal.SIGCONT)
                continue
            del self._members[at]
            if kind == "kill":
                ended.cancel()
                await asyncio.wait((ended,))
            else:
                await child.stop(ended)
            await _stopped(stop, self._rng.uniform(*AWAY_S))
            await self._start(at)
        await self._look()

    async def close(self) -> None:
        """All leave."""
        await self._look()
        members, self._members = self._members, {}
        await asyncio.gather(*(child.stop(ended) for child, ended in members.values()))

    def kill(self) -> None:
        """All end at once."""
        for _, ended in self._members.values():
            ended.cancel()

    async def _start(self, at: int) -> None:
        door, name = self.plan.doors[at], f"member-{self.plan.name}-{at}.{self._boots[at]}"
        self._boots[at] += 1
        words: Sequence[str] = (door, self.plan.name, self.plan.assignor, self._brokers[door])
        child = Child("group_member", name, next(self._numbers), self._place, words, self._told)
        await child.start()
        self._members[at] = child, asyncio.get_running_loop().create_task(child.ended())

    def _told(self, said: Any) -> None:
        partitions = tuple(said["partitions"])
        self.past.append(Membership(said["member_id"], said["generation"], partitions))
        self._recorder.note("assigned", group=self.plan.name, generation=said["generation"], partitions=len(partitions))

    async def _look(self) -> None:
        """A member that ended by itself is a finding, and comes back."""
        for at, (child, ended) in list(self._members.items()):
            if ended.done():
                self._recorder.found(f"member {child.name} ended by itself with {ended.result()}: {child.last_words()}")
                await self._start(at)


async def _stopped(stop: asyncio.Event, within_s: float) -> bool:
    """Wait so long; whether it is time to stop."""
    try:
        async with asyncio.timeout(within_s):
            await stop.wait()
    except TimeoutError:
        return False
    return True
