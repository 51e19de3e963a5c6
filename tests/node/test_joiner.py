"""The part of joining that talks: whom it asks, how long, and what it makes of answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from raftlog.broker.joining import JOIN_METHOD, PROBE_METHOD
from raftlog.core.clock import SystemClock
from raftlog.errors import JoinRefusedError, LeaderNotAvailableError, NodeRemovedError
from raftlog.model import NodeInfo
from raftlog.node import joining
from raftlog.node.gate import IdentityGate
from raftlog.node.joining import Joiner
from raftlog.pb.raftlog.internal.v1 import join_pb2 as pb
from raftlog.storage.data_directory import DataDirectory
from tests.peers.mesh_support import Node, node

INFO = NodeInfo(node_id=4, peer_address="n4:1", grpc_address="n4:2", rack="r")
ANSWER = pb.JoinAnswer(cluster_id="c", incarnation=2, peers=[pb.JoinedPeer(node_id=1, peer_address="n1:1")])


@pytest.fixture
async def host() -> AsyncIterator[Node]:
    """A member."""
    member = await node(1)
    yield member
    await member.mesh.close()


def joiner(path: Path, *addresses: str) -> Joiner:
    directory = DataDirectory.open(path, node_id=4, boot_nonce="n", may_join=True)
    gate = IdentityGate(
        directory, {}, rng=Random(4), send=lambda *_: None, fail=lambda error: pytest.fail(str(error)), told_to_join=True
    )
    return Joiner(gate, addresses, as_founder=False, clock=SystemClock(), rng=Random(4), client_ssl=None)


async def nobody_there() -> str:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"127.0.0.1:{port}"


async def test_it_asks_the_next_address_and_again_until_the_cluster_answers(host: Node, tmp_path: Path) -> None:
    """By one join id throughout: the same process may have been let in already."""
    calls: list[pb.JoinCall] = []

    async def serve(node_id: int, method: str, body: bytes) -> bytes:
        assert (node_id, method) == (4, JOIN_METHOD)
        calls.append(pb.JoinCall.FromString(body))
        if len(calls) < 3:
            raise LeaderNotAvailableError("nobody leads group 0")
        return ANSWER.SerializeToString()

    host.recorder.serve_guest = serve
    asking = joiner(tmp_path, await nobody_there(), host.mesh.address)
    assert await asking.join(INFO) == ANSWER
    assert len({call.join_id for call in calls}) == 1
    assert (calls[0].node.rack, calls[0].node.peer_address) == ("r", "n4:1")
    assert "nobody leads group 0" in asking.trouble or "cannot reach" in asking.trouble


async def test_it_ends_when_the_cluster_says_no(host: Node, tmp_path: Path) -> None:
    """By the words of the cluster."""

    async def refuse(*_: object) -> bytes:
        raise JoinRefusedError("not like this")

    host.recorder.serve_guest = refuse
    with pytest.raises(JoinRefusedError, match="not like this"):
        await joiner(tmp_path, host.mesh.address).join(INFO)


async def test_an_answer_without_sense_is_none(host: Node, tmp_path: Path) -> None:
    """Somebody else may know better."""
    answers = [b"\xff", b"", pb.JoinAnswer(cluster_id="c").SerializeToString(), ANSWER.SerializeToString()]

    async def serve(*_: object) -> bytes:
        return answers.pop(0)

    host.recorder.serve_guest = serve
    assert await joiner(tmp_path, host.mesh.address).join(INFO) == ANSWER
    assert not answers


async def test_a_lonely_member_learns_that_it_was_removed(host: Node, tmp_path: Path) -> None:
    """From whoever knows; others say nothing of the kind."""
    removed = False

    async def serve(*_: object) -> bytes:
        if removed:
            raise NodeRemovedError("node 4 was removed")
        return pb.JoinAnswer(cluster_id="c").SerializeToString()

    host.recorder.serve_guest = serve
    asking = joiner(tmp_path, await nobody_there(), host.mesh.address)
    assert await asking.is_removed(INFO) is None
    removed = True
    assert "node 4 was removed" in str(await asking.is_removed(INFO))


async def test_a_probe_finds_a_cluster_that_has_begun(host: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is no member of one yet refuses, and is asked again."""
    monkeypatch.setattr(joining, "PROBE_AFTER_S", 0.0)
    monkeypatch.setattr(joining, "PROBE_EVERY_S", 0.01)
    begun = asyncio.Event()
    methods = []

    async def serve(_: int, method: str, __: bytes) -> bytes:
        methods.append(method)
        return pb.JoinAnswer(cluster_id="c" if begun.is_set() else "").SerializeToString()

    host.recorder.serve_guest = serve
    async with asyncio.TaskGroup() as group:
        probe = group.create_task(joiner(tmp_path, host.mesh.address).probe())
        while not methods:
            await asyncio.sleep(0)
        assert not probe.done()
        begun.set()
    assert set(methods) == {PROBE_METHOD}
