"""Bugs planted in moving replicas on purpose; the scenario of moves must catch them.

What a step may do to a group is Raft's to check again: a learner that is promoted too early, or a voter removed too early, costs
waiting, and no record. What nobody checks again is the deletion of data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final
from unittest.mock import patch

from raftlog.broker.group_changes import GroupChanges
from raftlog.core.metadata_values import PartitionMeta
from raftlog.core.reconcile import Next, StepKind, _Group

Plant = Callable[[], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def forget_members() -> Iterator[None]:
    """A replica that is to leave is said to have left."""

    def next_(self: _Group) -> Next:
        return self._step(StepKind.FORGET, self.going[0]) if self.going else original(self)

    async def confirm(*_: object) -> None:
        return None

    original = _Group.next
    with patch.object(_Group, "next", next_), patch.object(GroupChanges, "_confirm_gone", confirm):
        yield


@contextlib.contextmanager
def delete_what_is_not_wanted() -> Iterator[None]:
    """A node deletes its replica as soon as it is wanted elsewhere, though the group may need it yet."""

    def replica_on(self: PartitionMeta, node_id: int) -> int | None:
        return dict(self.replicas).get(node_id)

    with patch.object(PartitionMeta, "replica_on", replica_on):
        yield


MOVE_PLANTS: Final[dict[str, Plant]] = {
    f"moves-{plant.__name__.replace('_', '-')}": plant for plant in (forget_members, delete_what_is_not_wanted)
}
"""By name: what ``--planted`` must catch in the mode of moves."""
