"""How an empty node becomes a member of a cluster that has begun: what it decides, without I/O.

Theory of operation. The node visits members as a guest (``raftlog.peers.guest``) until one has its join committed by group 0.
That names the node's *incarnation*: which disk of the node this is, counted over all that it ever had. Members of groups are
(node, replica), and in group 0 the replica is the incarnation; in other groups the placements name new replicas for a node that
came back. So nothing that an earlier disk promised is ever kept, or broken, by a later one: it was another member.

Rules:

1. The incarnation is persisted, together with ``sealed``, before the node opens group 0: only then does it speak as a member.
2. A join is known by a random id that lives in the memory of the process that asks. The same process may ask again and gets the
   same incarnation; the next process asks for another. So an incarnation is used by one directory, however often it is copied
   before, and what a crash left unused is removed again from group 0. A join that was asked for before another one was
   committed is refused (``AddNode.known_incarnation``): its process may be dead, and it would make the other's disk an old one.
3. No join gives incarnation 1: founders have it, and vote before anybody has registered them.
4. An old disk is told by its incarnation where it is an earlier one, else by its boot numbers (``raftlog.node.gate``).
"""

from __future__ import annotations

from enum import Enum

from raftlog.errors import (
    BootstrapRefusedError,
    IndeterminateError,
    NodeIdTakenError,
    NotLeaderError,
    OverloadedError,
    RaftlogError,
    UnavailableError,
    WrongNodeError,
)

REFUSED_PATIENCE_S = 8.0
"""How long a node asks on that hears that its id is taken, or that it knocks at the wrong door: its own last process may not be
known to be dead (a link is silent for 3 s then), and an address may have changed hands."""

_PASSING = (UnavailableError, IndeterminateError, OverloadedError, NotLeaderError)
_MAY_PASS = (NodeIdTakenError, WrongNodeError, BootstrapRefusedError)


class Way(Enum):
    """How a node that starts becomes a member."""

    MEMBER = "member"
    """It is one."""
    FOUND = "found"
    """With the other founders; where these have begun without it, it joins them."""
    JOIN = "join"
    """It joins."""


def way_in(*, sealed: bool, cluster_id: str | None, emptied: bool, told_to_join: bool) -> Way:
    """How this node becomes a member.

    Args:
        sealed, cluster_id: what its directory says.
        emptied: the directory held data that was set aside. Whoever held data never begins a cluster: there is one.
        told_to_join: its settings say so. They are ignored by a member, and by a founder that has the cluster's id already.
    """
    if sealed:
        return Way.MEMBER
    if emptied or (told_to_join and cluster_id is None):
        return Way.JOIN
    return Way.FOUND


class Patience:
    """How long a node asks on that was not let in."""

    def __init__(self) -> None:
        self._refused_s: float | None = None
        """When it was first told something that may pass and need not."""

    def gives_up(self, error: RaftlogError, now_s: float) -> bool:
        """Whether the node is to end, having been told ``error`` at ``now_s``, rather than to ask again."""
        if isinstance(error, _PASSING):
            return False
        if not isinstance(error, _MAY_PASS):
            return True
        self._refused_s = now_s if self._refused_s is None else self._refused_s
        return now_s - self._refused_s >= REFUSED_PATIENCE_S
