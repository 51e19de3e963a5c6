"""Where each member of each group has its log: on one disk, for ever.

A member is a promise by one disk. A node that comes back without its data is other members; where one begins again on another
disk under a name that was there before, it could vote against what it acknowledged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raftlog.consensus.group import Group
from raftlog.consensus.turns import Turns
from raftlog.core.configuration import node_of, replica_of

if TYPE_CHECKING:
    from tests.simulation.disk import Contents, SimulatedStore
    from tests.simulation.node import Machine
    from tests.simulation.world import World


class Homes:
    """See the module."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._homes: dict[tuple[int, int], Contents] = {}
        """(group, member) → the disk on which it first began."""
        self._newest: dict[tuple[int, int], int] = {}
        """(group, machine) → the member that began there last: on the same disk, it has taken the place of those before."""

    def watch(self, machine: Machine, turns: Turns) -> None:
        """A process has come to its consensus: look at every replica that it opens."""
        open_group = turns.open

        def open_and_note(group: int, *args: Any, **kwargs: Any) -> Group:
            opened = open_group(group, *args, **kwargs)
            self._opened(machine, group, opened.member.id)
            return opened

        turns.__dict__["open"] = open_and_note

    def store(self, group: int, member: int) -> SimulatedStore | None:
        """What a member has on its disk, be that lost by now; None where it has not begun, or was given up for another one."""
        home = self._homes.get((group, member))
        newest = self._newest.get((group, node_of(member)), member)
        given_up = newest != member and self._homes[group, newest] is home
        return None if home is None or given_up else home.store

    def lives(self, group: int, member: int) -> bool:
        """Whether a member can come back: it has begun, and its disk is there, or it has yet to begin."""
        home = self._homes.get((group, member))
        machine = self.world.machines.get(node_of(member))
        return machine is not None and not machine.gone and home in (None, machine.disk.contents)

    def _opened(self, machine: Machine, group: int, member: int) -> None:
        home = self._homes.setdefault((group, member), machine.disk.contents)
        self._newest[group, machine.id] = member
        if home is not machine.disk.contents and not machine.disk.lost:
            name = f"{node_of(member)}/{replica_of(member)}"
            self.world.violated(f"member {name} of group {group} begins again on another disk than it had")
