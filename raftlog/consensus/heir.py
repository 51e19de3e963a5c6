"""To whom a leader hands over, where any voter may take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raftlog.core.configuration import node_of

SETTLED_S = 10.0
"""A node to which there has been a link for so long is back for good: clients that lost it have found it again."""


def heir(ready: Sequence[int], linked: Mapping[int, float], now_s: float, group: int) -> int | None:
    """The voter that takes over a group, None where nobody can.

    Of those on settled nodes another one for each group, so that a node that stops does not leave all it led to one. Where
    none is settled, as in a rolling restart that goes fast, the one whose node came back first: most clients know it again.

    Args:
        ready: the voters that hold the whole log, and can be asked.
        linked: node id → since when there is a link to it, on the monotonic clock.
        now_s: that clock's time.
        group: the group's id.
    """
    if not ready:
        return None
    settled = sorted(member for member in ready if now_s - linked.get(node_of(member), now_s) >= SETTLED_S)
    if settled:
        return settled[group % len(settled)]
    return min(ready, key=lambda member: (linked.get(node_of(member), now_s), member))
