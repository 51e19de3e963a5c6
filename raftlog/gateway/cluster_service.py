"""``raftlog.v1.ClusterService``: the cluster, the answering node's own replicas, and moving replicas between nodes."""

from __future__ import annotations

from typing import Final

from raftlog.broker.move_port import MoveBroker, Placing
from raftlog.broker.port import Broker
from raftlog.gateway.requests import partitions_count, topic_partition
from raftlog.gateway.rpc import Handler, Handlers
from raftlog.model import Move, NodeInfo, NodeStatus, Replacement, ReplicaStatus, Role
from raftlog.pb.raftlog.v1 import cluster_service_pb2 as pb

REASON_DEFAULT: Final = "by request"

_STATUSES: Final = {NodeStatus.ACTIVE: pb.NODE_STATUS_ACTIVE, NodeStatus.DRAINING: pb.NODE_STATUS_DRAINING}
_ROLES: Final = {Role.FOLLOWER: pb.ROLE_FOLLOWER, Role.CANDIDATE: pb.ROLE_CANDIDATE, Role.LEADER: pb.ROLE_LEADER}


class ClusterService:
    """The calls, over a broker and what moves replicas there."""

    def __init__(self, broker: Broker, moves: MoveBroker) -> None:
        self._broker = broker
        self._moves = moves

    def handlers(self, make: Handlers) -> dict[str, Handler]:
        """A handler for each call of the service."""
        return {
            "DescribeCluster": make.unary(self.describe_cluster, pb.DescribeClusterRequest, pb.DescribeClusterResponse),
            "DescribeReplicas": make.unary(self.describe_replicas, pb.DescribeReplicasRequest, pb.DescribeReplicasResponse),
            "MovePartition": make.unary(self.move_partition, pb.MovePartitionRequest, pb.MovePartitionResponse),
            "DrainNode": make.unary(self.drain_node, pb.DrainNodeRequest, pb.DrainNodeResponse),
            "RemoveNode": make.unary(self.remove_node, pb.RemoveNodeRequest, pb.RemoveNodeResponse),
            "Balance": make.unary(self.balance, pb.BalanceRequest, pb.BalanceResponse),
            "ListMoves": make.unary(self.list_moves, pb.ListMovesRequest, pb.ListMovesResponse),
            "RaiseLevel": make.unary(self.raise_level, pb.RaiseLevelRequest, pb.RaiseLevelResponse),
        }

    async def describe_cluster(self, _request: pb.DescribeClusterRequest) -> pb.DescribeClusterResponse:
        """The cluster as this node sees it."""
        cluster = self._broker.cluster()
        return pb.DescribeClusterResponse(
            cluster_id=cluster.cluster_id,
            controller=cluster.controller or 0,
            nodes=[_node(node) for node in cluster.nodes],
            node_id=self._broker.node_id,
            level=cluster.level,
        )

    async def raise_level(self, request: pb.RaiseLevelRequest) -> pb.RaiseLevelResponse:
        """The cluster at a higher feature level, or what would come of raising it."""
        report = await self._broker.raise_level(request.level, dry_run=request.dry_run, without=request.without)
        return pb.RaiseLevelResponse(
            level=report.level,
            target=report.target,
            raised=report.raised,
            nodes=[
                pb.NodeSupport(
                    node_id=node.node_id,
                    level_min=node.level_min,
                    level_max=node.level_max,
                    version=node.version,
                    problem=node.problem,
                )
                for node in report.nodes
            ],
        )

    async def describe_replicas(self, _request: pb.DescribeReplicasRequest) -> pb.DescribeReplicasResponse:
        """This node's replicas and storage."""
        usage = self._broker.storage_usage()
        return pb.DescribeReplicasResponse(
            node_id=self._broker.node_id,
            replicas=[_replica(replica) for replica in self._broker.replicas()],
            storage=pb.Storage(
                used_bytes=usage.used_bytes,
                file_bytes=usage.file_bytes,
                limit_bytes=usage.limit_bytes,
                disk_free_bytes=usage.disk_free_bytes,
                full=usage.full,
                room_bytes=usage.room_bytes,
                low=usage.low,
                shortage=usage.shortage,
            ),
        )

    async def move_partition(self, request: pb.MovePartitionRequest) -> pb.MovePartitionResponse:
        """Want other replicas for partitions."""
        partitions_count(len(request.placements))
        wishes = [
            Placing(tp=topic_partition(one.topic, one.partition, "placements"), replicas=tuple(one.replicas) or None)
            for one in request.placements
        ]
        await self._moves.place(wishes, reason=request.reason or REASON_DEFAULT)
        return pb.MovePartitionResponse()

    async def drain_node(self, request: pb.DrainNodeRequest) -> pb.DrainNodeResponse:
        """Let all replicas leave a node, or let them come again."""
        partitions = await self._moves.drain_node(request.node_id, cancel=request.cancel)
        return pb.DrainNodeResponse(partitions=partitions)

    async def remove_node(self, request: pb.RemoveNodeRequest) -> pb.RemoveNodeResponse:
        """Take a drained node out of the cluster."""
        await self._moves.remove_node(request.node_id)
        return pb.RemoveNodeResponse()

    async def balance(self, request: pb.BalanceRequest) -> pb.BalanceResponse:
        """Spread replicas and leaders evenly, or say how."""
        balanced = await self._moves.balance(dry_run=request.dry_run)
        return pb.BalanceResponse(replacements=map(_replacement, balanced.replacements), stuck=balanced.stuck)

    async def list_moves(self, _request: pb.ListMovesRequest) -> pb.ListMovesResponse:
        """What is on the move."""
        return pb.ListMovesResponse(moves=map(_move, await self._moves.moves()))


def _replacement(one: Replacement) -> pb.Replacement:
    return pb.Replacement(
        topic=one.tp.topic,
        partition=one.tp.partition,
        before=one.before,
        replicas=one.replicas,
        reason=one.reason,
        size_bytes=one.size_bytes,
    )


def _move(move: Move) -> pb.Move:
    return pb.Move(
        topic=move.tp.topic,
        partition=move.tp.partition,
        group_id=move.group_id,
        replicas=move.replicas,
        adding=move.adding,
        removing=move.removing,
        reason=move.reason,
        state=move.state,
        held_up=move.held_up,
        started_at_ms=move.started_at_ms,
        bytes_total=move.bytes_total,
        bytes_done=move.bytes_done,
        bytes_per_second=move.rate,
        seconds_left=move.seconds_left,
    )


def _node(node: NodeInfo) -> pb.Node:
    return pb.Node(
        node_id=node.node_id,
        peer_address=node.peer_address,
        grpc_address=node.grpc_address,
        kafka_address=node.kafka_address,
        admin_address=node.admin_address,
        rack=node.rack,
        alive=node.alive,
        status=_STATUSES.get(node.status, pb.NODE_STATUS_UNSPECIFIED),
        incarnation=node.incarnation,
        level_min=node.level_min,
        level_max=node.level_max,
    )


def _replica(replica: ReplicaStatus) -> pb.Replica:
    return pb.Replica(
        topic=replica.topic,
        partition=max(replica.partition, 0),
        group_id=replica.group_id,
        role=_ROLES[replica.role],
        term=replica.term,
        leader=replica.leader or 0,
        first_index=replica.first_index,
        last_index=replica.last_index,
        commit_index=replica.commit_index,
        applied_index=replica.applied_index,
        log_start_offset=replica.log_start_offset,
        high_watermark=replica.high_watermark,
        log_end_offset=replica.log_end_offset,
        size_bytes=replica.size_bytes,
        damaged=replica.damaged,
        waits_for=replica.waits_for,
        unclean_at_ms=replica.unclean_at_ms,
    )
