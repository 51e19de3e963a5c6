"""Nodes that must not start, each with its own clear error, while the others go on."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from raftlog import Client
from raftlog.testing import LocalClusterError, LocalNode, SyncLocalCluster
from raftlog.testing.ports import free_ports
from tests.integration.support import loaded, run_node, until

TOPIC, PARTITIONS = "refused", 1


@pytest.fixture(scope="module")
def topic(cluster: SyncLocalCluster) -> str:
    """A topic for the load beside each of these tests."""

    async def create() -> None:
        async with Client(cluster.brokers) as client:
            await client.admin.create_topic(TOPIC, partitions=PARTITIONS, replication_factor=3)

    asyncio.run(create())
    return TOPIC


@pytest.fixture
def node(cluster: SyncLocalCluster, topic: str) -> Iterator[LocalNode]:
    """Node 3, stopped; it is started over its own data after the test."""
    own = cluster.nodes[3]
    cluster.stop(3)
    kept = own.data_dir.with_name("kept")
    shutil.copytree(own.data_dir, kept)
    yield own
    cluster.stop(3)
    shutil.rmtree(own.data_dir, ignore_errors=True)
    kept.rename(own.data_dir)
    cluster.start(3)


@asynccontextmanager
async def others_go_on(client: Client) -> AsyncIterator[None]:
    """Publishing goes on beside the block, and nothing acknowledged is lost."""
    async with loaded(client, TOPIC, PARTITIONS) as load:
        yield
        await load.progress(20)


async def refusal(cluster: SyncLocalCluster, node: LocalNode) -> str:
    """Start the node over what lies in its directory; it ends by itself with exit code 1, having said why in a last line.

    It may be ready before: a directory of another cluster is known as such only when the peers have answered.
    """
    before = node.log_path.stat().st_size
    with suppress(LocalClusterError):
        await asyncio.to_thread(cluster.start, node.node_id)
    await until(lambda: not node.alive, "it ends")
    assert node.exit_code == 1
    lines = node.log_path.read_bytes()[before:].decode().splitlines()
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert "Traceback" not in "\n".join(lines)
    return error


async def test_an_empty_founder_at_another_address_takes_nobodys_place(
    cluster: SyncLocalCluster, client: Client, node: LocalNode, tmp_path: Path
) -> None:
    """Its voters may be those of another cluster by mistake. The error says how to do it on purpose."""
    (port,) = free_ports(1)
    here = f"127.0.0.1:{port}"
    told = [flag for flag in node.flags if not flag.startswith(("--data-dir", "--peer-listen", "--voters"))]
    (voters,) = [flag.replace(node.peer, here) for flag in node.flags if flag.startswith("--voters")]
    async with others_go_on(client):
        code, said = await run_node(*told, f"--data-dir={tmp_path}", f"--peer-listen={here}", voters, environ=node.environ)
    assert code == 1
    assert f"is at {node.peer}, and an empty node at {here} says that it is that node" in said
    assert "start it with --join and without --voters" in said


async def test_a_directory_of_another_node_is_refused(cluster: SyncLocalCluster, client: Client, node: LocalNode) -> None:
    """The error names both."""
    await asyncio.to_thread(cluster.stop, 2)
    try:
        shutil.rmtree(node.data_dir)
        shutil.copytree(cluster.nodes[2].data_dir, node.data_dir)
    finally:
        await asyncio.to_thread(cluster.start, 2)
    async with others_go_on(client):
        assert "belongs to node 2, not to node 3" in await refusal(cluster, node)


async def test_a_directory_of_another_cluster_is_refused(
    cluster: SyncLocalCluster, client: Client, node: LocalNode, tmp_path: Path
) -> None:
    """It was a cluster of one before."""
    shutil.rmtree(node.data_dir)
    with SyncLocalCluster(nodes=1, data_dir=tmp_path, settings={"node-id": 3}):
        pass
    shutil.copytree(tmp_path / "node-1", node.data_dir)
    async with others_go_on(client):
        said = await refusal(cluster, node)
    assert "this data directory belongs to cluster" in said


async def test_a_directory_in_use_is_refused(cluster: SyncLocalCluster, client: Client) -> None:
    """The error names the process that has it, which does not notice."""
    running = cluster.nodes[1]
    code, said = await run_node(*running.flags, environ=running.environ)
    assert code == 1
    assert said == f"error: data directory {running.data_dir} is in use by process {running.pid}; stop that one first\n"
    assert running.alive


@pytest.mark.parametrize("door", ["peer", "grpc", "admin"])
async def test_a_port_in_use_is_refused(tmp_path: Path, door: str) -> None:
    """Each of the three ports, by its name, and the way out."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        listen = dict.fromkeys(("peer", "grpc", "admin"), "127.0.0.1:0")
        listen[door] = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = [f"--{name}-listen={address}" for name, address in listen.items()]
        code, said = await run_node(f"--data-dir={tmp_path}", *flags, environ=os.environ)
    error = said.splitlines()[-1]
    assert code == 1
    assert listen[door] in error
    assert "in use" in error
    assert door in error.lower()
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("flags", "file", "said"),
    [
        (["--grpc-lisen=127.0.0.1:1"], "", "did you mean --grpc-listen"),
        ([], "grpc-lisen = '127.0.0.1:1'", "did you mean grpc-listen"),
        ([], "grpc-listen = [", "node.toml"),
        (["--node-id=zero"], "", "--node-id (command line) = 'zero'"),
        (["--voters=1=h"], "", "--voters"),
        ([], "storage-bytes-max = 'much'", "storage-bytes-max"),
        (["--peer-tls-cert=/nowhere.pem"], "", "peer-tls-key"),
        (["--voters=2=127.0.0.1:1"], "", "node-id = 1 is not among the voters (2)"),
    ],
)
async def test_a_bad_setting_ends_with_2(tmp_path: Path, flags: list[str], file: str, said: str) -> None:
    """It is named with its place, before anything is touched."""
    config = tmp_path / "node.toml"
    config.write_text(file)
    code, error = await run_node(f"--config={config}", f"--data-dir={tmp_path / 'data'}", *flags, environ=os.environ)
    assert code == 2
    assert error.startswith("error: ")
    assert said in error
    assert not (tmp_path / "data").exists()


async def test_garbage_on_the_peer_port_disturbs_nobody(
    cluster: SyncLocalCluster, client: Client, topic: str, tmp_path: Path
) -> None:
    """A pickle, TLS, HTTP, random bytes, and silence: each connection is closed, and publishing goes on."""
    host, _, port = cluster.nodes[1].peer.rpartition(":")
    pickled = b"cposix\nsystem\n(S'touch %s'\ntR." % bytes(tmp_path / "was-here")
    garbage = [pickled, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(100_000), b"\xff" * 64, b"\0" * 64]
    async with others_go_on(client):
        for sent in garbage:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent)
            async with asyncio.timeout(20):
                try:
                    while await reader.read(1 << 16):
                        pass
                except ConnectionError:
                    pass
            writer.close()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(host, int(port), ssl=context)
    assert cluster.nodes[1].alive
    assert not (tmp_path / "was-here").exists()
