"""The cluster as its administrator sees it, and moving replicas between its nodes, from any node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from raftlog.client.connections import Node
from raftlog.client.routing import Routing
from raftlog.client.values import NodeReplicas, StorageInfo
from raftlog.errors import IndeterminateError, InvalidRequestError
from raftlog.model import Balanced, ClusterInfo, Move, NodeInfo, NodeStatus, Replacement, ReplicaStatus, Role, TopicPartition
from raftlog.pb.raftlog.v1 import cluster_service_pb2 as pb

PLACE_TIMEOUT_S: Final = 15.0
"""How long one node may take over a wish: it answers when that is durable on a majority, an election included."""

_ROLES: Final = {
    pb.ROLE_UNSPECIFIED: Role.FOLLOWER,
    pb.ROLE_FOLLOWER: Role.FOLLOWER,
    pb.ROLE_CANDIDATE: Role.CANDIDATE,
    pb.ROLE_LEADER: Role.LEADER,
}
_STATUSES: Final = {
    pb.NODE_STATUS_UNSPECIFIED: NodeStatus.ACTIVE,
    pb.NODE_STATUS_ACTIVE: NodeStatus.ACTIVE,
    pb.NODE_STATUS_DRAINING: NodeStatus.DRAINING,
}
_T = TypeVar("_T")


class ClusterAdmin:
    """The part of ``Admin`` that is about nodes and where replicas are.

    A wish (move, drain, balance) is durable when its call returns, and is carried out from then on, whatever fails;
    ``list_moves`` tells how far it is.
    """

    _routing: Routing

    async def describe_cluster(self) -> ClusterInfo:
        """Nodes, cluster id and controller, as the answering node sees them."""

        async def call(node: Node, timeout_s: float) -> pb.DescribeClusterResponse:
            return await node.cluster.DescribeCluster(pb.DescribeClusterRequest(), timeout=timeout_s)

        answer = await self._routing.any_node(call)
        return ClusterInfo(
            cluster_id=answer.cluster_id,
            controller=answer.controller or None,
            nodes=tuple(
                NodeInfo(
                    node_id=n.node_id,
                    peer_address=n.peer_address,
                    grpc_address=n.grpc_address,
                    kafka_address=n.kafka_address,
                    admin_address=n.admin_address,
                    rack=n.rack,
                    alive=n.alive,
                    status=_STATUSES.get(n.status, NodeStatus.DRAINING),
                    incarnation=n.incarnation or 1,
                    level_min=n.level_min or 1,
                    level_max=n.level_max or 1,
                )
                for n in answer.nodes
            ),
            level=answer.level or 1,
        )

    async def describe_replicas(self, node: int | str) -> NodeReplicas:
        """The replicas and storage of one node, by id or gRPC address, as it sees them itself.

        Raises:
            InvalidRequestError: there is no such node.
            RaftlogError: it does not answer.
        """
        address = node if isinstance(node, str) else await self._address_of(node)

        async def call(one: Node, timeout_s: float) -> pb.DescribeReplicasResponse:
            return await one.cluster.DescribeReplicas(pb.DescribeReplicasRequest(), timeout=timeout_s)

        answer = await self._routing.one_node(address, call)
        storage = answer.storage
        return NodeReplicas(
            node_id=answer.node_id,
            replicas=tuple(_replica(answer.node_id, replica) for replica in answer.replicas),
            storage=StorageInfo(
                used_bytes=storage.used_bytes,
                file_bytes=storage.file_bytes,
                limit_bytes=storage.limit_bytes,
                disk_free_bytes=storage.disk_free_bytes,
                full=storage.full,
                room_bytes=storage.room_bytes,
                low=storage.low,
                shortage=storage.shortage,
            ),
        )

    async def _address_of(self, node_id: int) -> str:
        nodes = (await self.describe_cluster()).nodes
        for node in nodes:
            if node.node_id == node_id:
                return node.grpc_address
        ids = ", ".join(str(node.node_id) for node in nodes)
        raise InvalidRequestError(f"there is no node {node_id}; there are {ids}")

    async def move_partitions(self, wanted: Mapping[TopicPartition, Sequence[int] | None], *, reason: str = "") -> None:
        """Want other replicas for partitions, all or none of them.

        Args:
            wanted: node ids of all replicas of each, the preferred leader first; None takes the move under way back.
            reason: why, for whoever asks.

        Raises:
            UnknownTopicOrPartitionError, InvalidReplicaAssignmentError, NoMoveInProgressError: why it is refused.
            StalePlacementError: they were placed anew just now; look again.
        """
        placements = [
            pb.PartitionPlacement(topic=tp.topic, partition=tp.partition, replicas=nodes or ()) for tp, nodes in wanted.items()
        ]
        request = pb.MovePartitionRequest(placements=placements, reason=reason)

        async def call(node: Node, timeout_s: float) -> pb.MovePartitionResponse:
            return await node.cluster.MovePartition(request, timeout=timeout_s)

        await self._wish(call)

    async def drain_node(self, node_id: int, *, cancel: bool = False) -> int:
        """Let all replicas leave a node, and none come; ``cancel`` lets them come again. How many partitions have to leave.

        Raises:
            UnknownNodeError: there is no such node.
            NodeInUseError: the others have no room for what it holds.
        """
        request = pb.DrainNodeRequest(node_id=node_id, cancel=cancel)

        async def call(node: Node, timeout_s: float) -> pb.DrainNodeResponse:
            return await node.cluster.DrainNode(request, timeout=timeout_s)

        try:
            return (await self._wish(call)).partitions
        except IndeterminateError:
            return (await self._wish(call)).partitions  # a second time is harmless

    async def remove_node(self, node_id: int) -> None:
        """Take a drained node out of the cluster. It may be stopped then; it comes back only with an empty directory.

        Raises:
            UnknownNodeError: there is no such node.
            NodeInUseError: it holds replicas yet; drain it, and wait until nothing moves.
        """
        request = pb.RemoveNodeRequest(node_id=node_id)

        async def call(node: Node, timeout_s: float) -> pb.RemoveNodeResponse:
            return await node.cluster.RemoveNode(request, timeout=timeout_s)

        try:
            await self._wish(call)
        except IndeterminateError:
            await self._wish(call)

    async def balance(self, *, dry_run: bool = False) -> Balanced:
        """Spread replicas and leaders evenly over racks and nodes; with ``dry_run`` only say how.

        What is placed anew begins to move at once. A large imbalance takes several calls, each once the one before is done.
        """
        request = pb.BalanceRequest(dry_run=dry_run)

        async def call(node: Node, timeout_s: float) -> pb.BalanceResponse:
            return await node.cluster.Balance(request, timeout=timeout_s)

        answer = await self._wish(call)
        return Balanced(
            replacements=tuple(
                Replacement(
                    tp=TopicPartition(one.topic, one.partition), before=tuple(one.before), replicas=tuple(one.replicas),
                    reason=one.reason, size_bytes=one.size_bytes,
                )
                for one in answer.replacements
            ),
            stuck=tuple(answer.stuck),
        )  # fmt: skip

    async def list_moves(self) -> list[Move]:
        """All partitions whose replicas are not yet where they are wanted, by topic and number."""

        async def call(node: Node, timeout_s: float) -> pb.ListMovesResponse:
            return await node.cluster.ListMoves(pb.ListMovesRequest(), timeout=timeout_s)

        return [_move(one) for one in (await self._routing.any_node(call, forward=True)).moves]

    async def _wish(self, call: Callable[[Node, float], Awaitable[_T]]) -> _T:
        """A call that must not be repeated in the dark."""
        return await self._routing.any_node(call, attempt_timeout_s=PLACE_TIMEOUT_S, safe=False)


def _move(one: pb.Move) -> Move:
    return Move(
        tp=TopicPartition(one.topic, one.partition),
        group_id=one.group_id,
        replicas=tuple(one.replicas),
        adding=tuple(one.adding),
        removing=tuple(one.removing),
        reason=one.reason,
        state=one.state,
        held_up=one.held_up,
        started_at_ms=one.started_at_ms,
        bytes_total=one.bytes_total,
        bytes_done=one.bytes_done,
        rate=one.bytes_per_second,
        seconds_left=one.seconds_left if one.HasField("seconds_left") else None,
    )


def _replica(node_id: int, r: pb.Replica) -> ReplicaStatus:
    return ReplicaStatus(
        topic=r.topic,
        partition=r.partition,
        group_id=r.group_id,
        node_id=node_id,
        role=_ROLES[r.role],
        term=r.term,
        leader=r.leader or None,
        first_index=r.first_index,
        last_index=r.last_index,
        commit_index=r.commit_index,
        applied_index=r.applied_index,
        log_start_offset=r.log_start_offset,
        high_watermark=r.high_watermark,
        log_end_offset=r.log_end_offset,
        size_bytes=r.size_bytes,
        damaged=r.damaged,
        waits_for=r.waits_for,
        unclean_at_ms=r.unclean_at_ms,
    )
