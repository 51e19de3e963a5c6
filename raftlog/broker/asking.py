"""Asks a group's members whether they are there, before who votes in it is changed.

A node that lost its disk a second ago, or its power, looks well to a leader for as long as a silent one is borne. Were its
replica counted in the majority that a change leaves, nobody might commit anything any more, nor take the change back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from raftlog.consensus.port import ReplicatedLog

ASKED_S = 2.0
"""How long a majority may take to answer: what takes longer is nothing to count on, and others wait for the caller's round."""
ANSWERS_LOOK_S = 0.02
ANSWERS_LOOKS_MAX = 50
"""How often is looked whether those that count have answered, once a majority has: the others are about to, if they are there."""


async def ask(log: ReplicatedLog, enough: Callable[[set[int]], bool]) -> bool:
    """Whether enough members answer a round of heartbeats that was begun after the call.

    Args:
        log: of a group that this node leads.
        enough: whether these other members are.

    Raises:
        NotLeaderError: this node does not lead, or no longer.
        RequestTimedOutError: no majority has answered within ``ASKED_S``.
    """
    before, term = log.heartbeat_round, log.term
    await log.barrier(ASKED_S)
    for _ in range(ANSWERS_LOOKS_MAX):
        if log.term != term:
            return False
        if enough({one for one, seen in log.followers().items() if seen.round > before}):
            return True
        await asyncio.sleep(ANSWERS_LOOK_S)
    return False
