"""Producer ids for this node's callers, from blocks that group 0 hands out. Ids left over at a restart are never used."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from raftlog.core.metadata import PRODUCER_IDS_BLOCK
from raftlog.errors import LeaderNotAvailableError, RaftlogError


class ProducerIds:
    """Hands out ids, and takes a block when there are none.

    Args:
        allocate: takes a block of so many ids from group 0; answers its first.
    """

    def __init__(self, allocate: Callable[[int], Awaitable[int]]) -> None:
        self._allocate = allocate
        self._next = 0
        self._end = 0
        self._lock = asyncio.Lock()
        self._failures = 0

    async def take(self) -> int:
        """A fresh id.

        Raises:
            RaftlogError: what ``allocate`` raises.
        """
        failures = self._failures
        async with self._lock:
            if self._next == self._end:
                if failures != self._failures:
                    # Whoever waited while another failed would wait as long again, one after the other.
                    raise LeaderNotAvailableError("the metadata group hands out no producer ids just now; try again")
                await self._take_block()
            self._next += 1
            return self._next - 1

    async def _take_block(self) -> None:
        try:
            first = await self._allocate(PRODUCER_IDS_BLOCK)
        except RaftlogError:
            self._failures += 1
            raise
        self._next, self._end = first, first + PRODUCER_IDS_BLOCK
