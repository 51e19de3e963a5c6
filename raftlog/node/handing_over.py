"""What a node that stops does with what it leads: it hands over group after group, as fast as the others take them.

A group refuses appends from the moment in which it is to be handed over until another node leads it. So no more are under way
than one taker lets seek election at a time (``consensus.elections``): the others go on serving until it is their turn.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

from raftlog.consensus.elections import ELECTIONS_MAX
from raftlog.consensus.group import Group
from raftlog.core.clock import Clock
from raftlog.model import Role

TRANSFER_WAIT_S = 3.0
"""How long a stopping node waits for others to take over one more of the groups that it leads."""
TRANSFER_WAIT_MAX_S = 20.0
"""And for all of them: whoever sends SIGTERM often kills after 30 s, and what is under way is to be answered before."""
TRANSFER_LOOK_S = 0.02
TRANSFERS_MAX = ELECTIONS_MAX
"""Groups that are handed over at a time: what one taker lets seek, for all may go to one."""


async def hand_over(groups: Callable[[], Mapping[int, Group]], clock: Clock) -> bool:
    """Let others lead what this node leads, so that its end costs nobody an election. Whether they do: it ends when none is taken
    over for ``TRANSFER_WAIT_S``, and after ``TRANSFER_WAIT_MAX_S`` in any case.

    Args:
        groups: answers the node's open groups.
        clock: the node's.
    """
    begun_s, asked = clock.monotonic_s(), Counter[int]()
    least, until_s = len(groups()) + 1, begun_s
    while True:
        led = [group for group in groups().values() if group.role is Role.LEADER and group.has_successor]
        if len(led) < least:
            least, until_s = len(led), min(clock.monotonic_s() + TRANSFER_WAIT_S, begun_s + TRANSFER_WAIT_MAX_S)
        if not led or clock.monotonic_s() >= until_s:
            return not led
        idle = sorted((group for group in led if not group.handing_over), key=lambda group: asked[group.group])
        for group in idle[: max(0, TRANSFERS_MAX - (len(led) - len(idle)))]:
            asked[group.group] += 1  # one that nobody takes makes room for the others
            group.transfer()
        await asyncio.sleep(TRANSFER_LOOK_S)
