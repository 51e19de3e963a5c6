"""Publishes of one partition in the order in which they came, where some take several calls.

Theory of operation. Most publishes are one call, sent in the step in which they came, and need none of this. One that takes
several calls is under way between them; whoever comes behind it with a partition in common waits until the last of its calls is
sent, and so does who comes behind that one. Others pass: a partition that takes nothing holds up its own publishes only.

Rules:

1. The order of ``join`` is the order of turns in every partition: a place is taken in all its lines at once, so no two wait for
   each other.
2. Who leaves early, having no time left, leaves those behind it where they are.
3. What waits here counts as in flight at the door that it came through, which bounds it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from raftlog.model import TopicPartition


class Lines:
    """A line for each partition with a publish under way that others wait for."""

    def __init__(self) -> None:
        self._lines: dict[TopicPartition, deque[Place]] = {}

    def free(self, partitions: Iterable[TopicPartition]) -> bool:
        """Whether nobody is to be waited for."""
        return not self._lines or self._lines.keys().isdisjoint(partitions)

    def join(self, partitions: Iterable[TopicPartition]) -> Place:
        """Take the last place in the lines of these partitions."""
        place = Place(self, frozenset(partitions))
        for partition in place.partitions:
            line = self._lines.setdefault(partition, deque())
            place.behind += bool(line)
            line.append(place)
        return place

    def leave(self, place: Place) -> None:
        """Give a place up; whose turn has come by that is told."""
        for partition in place.partitions:
            line = self._lines[partition]
            first = line[0] is place
            line.remove(place)
            if not line:
                del self._lines[partition]
            elif first:
                line[0].comes_forward()


class Place:
    """One publish in the lines of its partitions."""

    __slots__ = ("_left", "_lines", "_turn", "behind", "partitions")

    def __init__(self, lines: Lines, partitions: frozenset[TopicPartition]) -> None:
        self.partitions = partitions
        self.behind = 0
        """Lines in which it is not the first."""
        self._lines, self._left = lines, False
        self._turn: asyncio.Future[None] | None = None

    async def turn(self, timeout_s: float) -> bool:
        """Wait until this is the first in all its lines; False when the time ran out."""
        if self.behind:
            self._turn = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._turn
            except TimeoutError:
                return False
        return True

    def comes_forward(self) -> None:
        """It has become the first in one more line."""
        self.behind -= 1
        if not self.behind and self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def leave(self) -> None:
        """All of it is sent, or is not to be sent any more. Idempotent."""
        if not self._left:
            self._left = True
            self._lines.leave(self)
