"""The cluster's feature level in group 0's state: which commands need which, who may be a node at it, and how it is raised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from raftlog.core.features import FIRST_VERSION, Level, Supported, held_back, not_allowed
from raftlog.errors import FeatureLevelError, UnavailableError
from raftlog.model import NodeInfo
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb

LEVEL_NEEDED: Mapping[str, int] = {
    **dict.fromkeys(("add_node", "set_node_status", "place_partitions", "remove_replicas", "skip_ids"), Level.MEMBERSHIP),
    "renew_replicas": Level.RENEWAL,
}
"""Kinds of commands that came with a feature level above the first."""


def check_command(level: int, command: pb.MetadataCommand) -> FeatureLevelError | None:
    """Whether a cluster at ``level`` may hold such a command."""
    kind = command.WhichOneof("command") or ""
    return not_allowed(level, max(command.level, LEVEL_NEEDED.get(kind, 0)), f"the metadata command {kind}")


def check_node(level: int, register: pb.RegisterNode) -> FeatureLevelError | None:
    """Whether a node's version can be part of a cluster at ``level``. At the first nobody asks: its version said nothing."""
    supported = Supported(register.level_min or Level.FIRST, register.level_max or Level.FIRST)
    if level == Level.FIRST or supported.has(level):
        return None
    return FeatureLevelError(
        f"the cluster is at feature level {level}, and the version of node {register.node_id} supports {supported}; start a"
        f" version that supports level {level}"
    )


def check_join(level: int, known: NodeInfo | None, add: pb.AddNode) -> UnavailableError | None:
    """Whether a node that is not ``known``, or by another join, is still as the member that was asked to let it in saw it."""
    incarnation = 0 if known is None else known.incarnation
    if level < Level.RENEWAL or not add.HasField("known_incarnation") or incarnation == add.known_incarnation:
        return None
    return UnavailableError(f"node {add.node.node_id} has joined by another call meanwhile; ask again")


def check_raise(level: int, nodes: Iterable[NodeInfo], raising: pb.RaiseLevel) -> FeatureLevelError | None:
    """Whether a cluster at ``level`` with these nodes may be raised: all of them must have said that they support it."""
    if raising.level < level:
        return FeatureLevelError(f"the cluster is at feature level {level}; it is never lowered")
    said = {(one.node_id, one.incarnation): _supported(one) for one in raising.nodes}
    missing = [one.node_id for one in nodes if (one.node_id, one.incarnation) not in said and one.node_id not in raising.without]
    if missing:
        return FeatureLevelError(f"nodes {missing} became part of the cluster meanwhile; try again")
    holding = held_back(raising.level, {node_id: supported for (node_id, _), supported in said.items()})
    if holding:
        return FeatureLevelError(f"the cluster cannot be raised to feature level {raising.level}: {holding}")
    return None


def after_raise(nodes: Iterable[NodeInfo], raising: pb.RaiseLevel) -> list[NodeInfo]:
    """The nodes with what they have said: what states of the first level hold of it depends on which version wrote them.

    Of a node that does not count, nothing is known until it registers again."""
    said = {one.node_id: _supported(one) for one in raising.nodes}
    pairs = [(node, said.get(node.node_id, FIRST_VERSION)) for node in nodes]
    return [replace(node, level_min=supported.low, level_max=supported.high) for node, supported in pairs]


def _supported(levels: pb.NodeLevels) -> Supported:
    return Supported(levels.level_min or Level.FIRST, levels.level_max or Level.FIRST)
