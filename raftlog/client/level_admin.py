"""Raising the cluster's feature level, from any node: the last step of an upgrade."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftlog.client.connections import Node
from raftlog.client.routing import Routing
from raftlog.errors import UnsupportedVersionError
from raftlog.model import LevelReport, NodeSupport
from raftlog.pb.raftlog.v1 import cluster_service_pb2 as pb

RAISE_TIMEOUT_S: Final = 60.0
"""How long raising the feature level may take: every node is asked, and marks its disk, before the change is made."""


class LevelAdmin:
    """The part of ``Admin`` that is about feature levels."""

    _routing: Routing

    async def raise_level(self, level: int = 0, *, dry_run: bool = False, without: Sequence[int] = ()) -> LevelReport:
        """Raise the cluster's feature level, once all nodes run versions that understand it. There is no way back.

        Args:
            level: 0: the newest that all nodes support.
            dry_run: only say what would come of it, and who holds the cluster back.
            without: nodes that do not count though they are part of the cluster: they are down, and come back with a version
                that supports the level, or never.

        Raises:
            FeatureLevelError: some node is too old or down; says which.
            UnsupportedVersionError: no node knows of levels yet.
        """
        answer = await self._ask_new_node(pb.RaiseLevelRequest(level=level, dry_run=dry_run, without=without))
        return LevelReport(
            level=answer.level,
            target=answer.target,
            raised=answer.raised,
            nodes=tuple(
                NodeSupport(node_id=n.node_id, level_min=n.level_min, level_max=n.level_max, version=n.version, problem=n.problem)
                for n in answer.nodes
            ),
        )

    async def _ask_new_node(self, request: pb.RaiseLevelRequest) -> pb.RaiseLevelResponse:
        """A call that may be made twice, and that nodes of the first version do not know: those are passed over."""

        async def call(node: Node, timeout_s: float) -> pb.RaiseLevelResponse:
            return await node.cluster.RaiseLevel(request, timeout=timeout_s)

        for _ in self._routing.addresses[1:]:
            try:
                return await self._routing.any_node(call, timeout_s=RAISE_TIMEOUT_S, attempt_timeout_s=RAISE_TIMEOUT_S)
            except UnsupportedVersionError:
                self._routing.avoid(self._routing.any_address())
        return await self._routing.any_node(call, timeout_s=RAISE_TIMEOUT_S, attempt_timeout_s=RAISE_TIMEOUT_S)
