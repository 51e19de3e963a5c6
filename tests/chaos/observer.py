"""Looks at all nodes once a second: who leads what, and each replica's watermarks, which must never fall while it runs."""

from __future__ import annotations

import asyncio

import grpc

from raftlog.client.wire_errors import from_rpc_error
from raftlog.errors import RaftlogError
from raftlog.pb.raftlog.v1.cluster_service_pb2 import ROLE_LEADER, DescribeReplicasRequest, DescribeReplicasResponse
from raftlog.pb.raftlog.v1.cluster_service_pb2_grpc import ClusterServiceStub
from tests.chaos.cluster import ChaosCluster
from tests.chaos.recorder import Recorder
from tests.history.events import Observe

LOOK_S = 1.0
LOOK_TIMEOUT_S = 0.8


class Observer:
    """Watches the partitions of ``topic``."""

    def __init__(self, cluster: ChaosCluster, recorder: Recorder, topic: str) -> None:
        self._cluster, self._recorder, self._topic = cluster, recorder, topic
        self.leaders: dict[int, int] = {}
        """Partition → node, as far as known; the one with the highest term where several say so."""

    async def run(self) -> None:
        """Until cancelled."""
        channels = {node.node_id: grpc.aio.insecure_channel(node.grpc) for node in self._cluster.nodes.values()}
        try:
            while True:
                await self.look(channels)
                await asyncio.sleep(LOOK_S)
        finally:
            for channel in channels.values():
                await channel.close()

    async def look(self, channels: dict[int, grpc.aio.Channel]) -> None:
        """Ask every node once."""
        boots = {node_id: node.boots for node_id, node in self._cluster.nodes.items()}
        found = await asyncio.gather(*(replicas_of(channel) for channel in channels.values()))
        leaders: dict[int, tuple[int, int]] = {}
        for node_id, answer in zip(channels, found, strict=True):
            # One that was started anew meanwhile may have answered from either life.
            if isinstance(answer, RaftlogError) or self._cluster.nodes[node_id].boots != boots[node_id]:
                continue
            for replica in answer.replicas:
                if replica.topic != self._topic:
                    continue
                look = Observe(
                    topic=self._topic, partition=replica.partition, replica=node_id, boot=boots[node_id],
                    high_watermark=replica.high_watermark, log_start_offset=replica.log_start_offset,
                )  # fmt: skip
                self._recorder.end(self._recorder.begin("observer", look), "ok")
                if replica.role == ROLE_LEADER:
                    leaders[replica.partition] = max(leaders.get(replica.partition, (0, 0)), (replica.term, node_id))
        now = {partition: node_id for partition, (_, node_id) in leaders.items()}
        if now != self.leaders:
            self._recorder.note("leaders", leaders=now)
        self.leaders = now


async def replicas_of(channel: grpc.aio.Channel, timeout_s: float = LOOK_TIMEOUT_S) -> DescribeReplicasResponse | RaftlogError:
    """What a node says of its replicas, or why it does not."""
    try:
        said: DescribeReplicasResponse = await ClusterServiceStub(channel).DescribeReplicas(
            DescribeReplicasRequest(), timeout=timeout_s
        )
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error, "a node")
    return said
