"""Three nodes that trust only their own authority, between themselves and towards clients."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from raftlog import Client
from raftlog.errors import IndeterminateError, UnavailableError
from raftlog.testing import LocalCluster, LocalNode

CERTS = Path(__file__).parents[1] / "peers" / "certs"
OWN = {"cert": CERTS / "cluster-node.pem", "key": CERTS / "cluster-node.key", "ca": CERTS / "cluster-ca.pem"}
SETTINGS = {f"{door}-tls-{part}": path for door in ("peer", "grpc") for part, path in OWN.items()}


async def peer_port_answers(node: LocalNode, context: ssl.SSLContext | None) -> bool:
    """Whether a connection to the peer port gets a single byte."""
    host, _, port = node.peer.rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    except (ssl.SSLError, ConnectionError):
        return False
    try:
        writer.write(b"\0" * 64)
        async with asyncio.timeout(20):
            return bool(await reader.read(1))
    except (ssl.SSLError, ConnectionError):
        return False
    finally:
        writer.close()


def context_of(name: str | None) -> ssl.SSLContext:
    """A client that trusts everybody, and shows this certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if name is not None:
        context.load_cert_chain(CERTS / f"{name}.pem", CERTS / f"{name}.key")
    return context


async def test_a_cluster_with_tls_on_both_doors() -> None:
    """It works, through every node; who cannot show a certificate of the authority gets nothing from either door."""
    async with LocalCluster(nodes=3, settings=SETTINGS) as cluster:
        ca, cert, key = (str(OWN[part]) for part in ("ca", "cert", "key"))
        async with Client(cluster.brokers, tls_ca_file=ca, tls_cert_file=cert, tls_key_file=key) as client:
            await client.admin.create_topic("secret", partitions=3, replication_factor=3)
            assert all(node.alive for node in (await client.admin.describe_cluster()).nodes)
            async with client.producer() as producer:
                for number in range(30):
                    await producer.publish("secret", b"%d" % number, partition=number % 3)
            async with client.consumer("secret", follow=False) as consumer:
                assert sorted(int(record.value or b"") for record in [r async for r in consumer]) == list(range(30))
        for trusted in (None, ca, str(CERTS / "stranger-ca.pem")):
            async with Client(cluster.brokers, request_timeout_s=0.5, tls_ca_file=trusted) as stranger:
                with pytest.raises((UnavailableError, IndeterminateError)):
                    await stranger.admin.describe_cluster()
        assert not await peer_port_answers(cluster.nodes[1], None)
        assert not await peer_port_answers(cluster.nodes[1], context_of(None))
        assert not await peer_port_answers(cluster.nodes[1], context_of("stranger-node"))
        assert await peer_port_answers(cluster.nodes[1], context_of("cluster-node"))
        assert await cluster.stop(1) == 0
