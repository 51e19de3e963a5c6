"""A cluster that comes back elsewhere, over the data that it left."""

from __future__ import annotations

from pathlib import Path

from raftlog import Client
from raftlog.testing import LocalCluster
from tests.integration.support import until


async def test_a_cluster_may_move_as_a_whole(tmp_path: Path) -> None:
    """All nodes are started with other addresses at once, so that none finds another where it is registered; three times, for
    then nobody is where the cluster was founded either."""
    for number in range(3):
        async with LocalCluster(nodes=3, data_dir=tmp_path) as cluster, Client(cluster.brokers) as client:
            if number == 0:
                await client.admin.create_topic("moving", replication_factor=3)
            async with client.producer() as producer:
                await producer.publish("moving", b"%d" % number)
            async with client.consumer("moving", follow=False) as consumer:
                assert [record.value async for record in consumer] == [b"%d" % n for n in range(number + 1)]
            addresses: set[object] = {(n.node_id, n.peer, n.grpc, n.admin) for n in cluster.nodes.values()}

            async def registered(client: Client = client, addresses: set[object] = addresses) -> bool:
                nodes = (await client.admin.describe_cluster()).nodes
                return {(n.node_id, n.peer_address, n.grpc_address, n.admin_address) for n in nodes} == addresses

            await until(registered, "all nodes knew the new addresses")
