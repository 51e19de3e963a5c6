"""Replicas of this node that were given up for new ones, and are not out of their groups yet.

Rules:

1. Such a replica (``lost`` to the metadata, but it is here: it is damaged) is kept until the metadata has forgotten it, which is
   when a committed configuration of its group does not hold it. Until then it counts for what it has acknowledged, and
   acknowledges; were it dropped before, an entry that it was needed for would be on too few disks.
2. That it was given up is written beside its data (``Consensus.give_up``), and that it is damaged was before. At a start, data of
   a lost replica without either may be an old copy, which somebody has put there: it is left alone, neither opened nor deleted,
   until the metadata has forgotten it.
3. Where it cannot be read whose data there is, it counts as that of the replica which is wanted here: that cannot be opened, and
   another one takes its place.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from raftlog.consensus.port import Consensus
from raftlog.core.metadata_values import PartitionMeta
from raftlog.errors import DataLossError

_log = logging.getLogger(__name__)

WAITS_FOR = "its group has to go on without this one first"
"""What the successor of such a replica waits for, in words."""


class Due(NamedTuple):
    """The id of the replica of a group that a node is to have, None where it is to have none; and whether it may be opened."""

    replica: int | None
    opens: bool = True


class GivenUp:
    """See the module. ``groups`` are those of which this node has such a replica, as far as it was asked.

    Args:
        node_id: this node.
        consensus: knows what is on the disk.
    """

    def __init__(self, node_id: int, consensus: Consensus) -> None:
        self._node_id = node_id
        self._consensus = consensus
        self.groups: set[int] = set()

    def due(self, meta: PartitionMeta, here: int | None, *, opened: bool) -> Due:
        """What this node is to have of a partition; ``here``: the id of the replica that is open, or is to be, or where not
        ``opened`` could not be."""
        group, lost = meta.group_id, [replica for node, replica in meta.lost if node == self._node_id]
        wanted = meta.replica_on(self._node_id)
        held = (here, True) if here is not None and opened else None
        if lost and held is None:
            try:
                held = self._consensus.held(group)
            except DataLossError as error:
                _log.error("group %d: it cannot be read whose data is here: %s", group, error)
                if here not in lost and wanted is not None:
                    self.groups.discard(group)
                    return Due(wanted, opens=False)
                held = (here if here is not None and here in lost else max(lost), False)
        if held is not None and held[0] in lost:
            self.groups.add(group)
            return Due(*held)
        self.groups.discard(group)
        return Due(wanted)
