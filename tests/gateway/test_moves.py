"""ClusterService: wishes about replicas and nodes, and what comes of them."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from raftlog.broker.move_port import Placing
from raftlog.errors import NodeInUseError, StalePlacementError
from raftlog.model import Balanced, Move, Replacement, TopicPartition
from raftlog.pb.raftlog.v1 import cluster_service_pb2 as pb
from tests.gateway.helpers import open_door, told_by_call

T1 = TopicPartition("t", 1)


async def test_replicas_are_wanted_elsewhere_or_a_move_is_taken_back() -> None:
    """All in one call, with a reason; without one it is by request."""
    async with open_door() as door:
        placements = [
            pb.PartitionPlacement(topic="t", partition=0, replicas=[3, 1]),
            pb.PartitionPlacement(topic="t", partition=1),
        ]
        await door.cluster.MovePartition(pb.MovePartitionRequest(placements=placements, reason="why"))
        await door.cluster.MovePartition(pb.MovePartitionRequest(placements=placements[1:]))
        assert door.fake_moves.calls == [
            ("place", ((Placing(tp=TopicPartition("t", 0), replicas=(3, 1)), Placing(tp=T1, replicas=None)), "why")),
            ("place", ((Placing(tp=T1, replicas=None),), "by request")),
        ]


async def test_senseless_and_refused_wishes_keep_their_codes() -> None:
    """Nothing to place, no topic, and what the broker says."""
    async with open_door() as door:
        for request, reason in (
            (pb.MovePartitionRequest(), "INVALID_REQUEST"),
            (pb.MovePartitionRequest(placements=[pb.PartitionPlacement()]), "INVALID_REQUEST"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await door.cluster.MovePartition(request)
            assert told_by_call(caught.value).reason == reason
        door.fake_moves.failure = StalePlacementError("t-1 was placed anew meanwhile; look at it again")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.cluster.MovePartition(
                pb.MovePartitionRequest(placements=[pb.PartitionPlacement(topic="t", partition=1, replicas=[1])])
            )
        assert (caught.value.code(), told_by_call(caught.value).reason) == (
            grpc.StatusCode.FAILED_PRECONDITION, "STALE_PLACEMENT",
        )  # fmt: skip


async def test_nodes_are_drained_and_removed() -> None:
    """A drain says how much has to leave; a node that holds something is not removed."""
    async with open_door() as door:
        assert (await door.cluster.DrainNode(pb.DrainNodeRequest(node_id=2))).partitions == 5
        await door.cluster.DrainNode(pb.DrainNodeRequest(node_id=2, cancel=True))
        await door.cluster.RemoveNode(pb.RemoveNodeRequest(node_id=2))
        door.fake_moves.failure = NodeInUseError("node 2 holds replicas of 5 partitions")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.cluster.RemoveNode(pb.RemoveNodeRequest(node_id=2))
        assert told_by_call(caught.value).reason == "NODE_IN_USE"
        assert door.fake_moves.calls == [("drain", (2, False)), ("drain", (2, True)), ("remove", 2), ("remove", 2)]


async def test_balancing_tells_what_it_changes_and_why() -> None:
    """And what found no place."""
    async with open_door() as door:
        one = Replacement(tp=T1, before=(1, 2), replicas=(3, 2), reason="node 1 held 9 replicas, node 3 0", size_bytes=7)
        door.fake_moves.balanced = Balanced(replacements=(one,), stuck=("t-2 has no room",))
        answer = await door.cluster.Balance(pb.BalanceRequest(dry_run=True))
        (told,) = answer.replacements
        assert (told.topic, told.partition, list(told.before), list(told.replicas), told.reason, told.size_bytes) == (
            "t", 1, [1, 2], [3, 2], "node 1 held 9 replicas, node 3 0", 7,
        )  # fmt: skip
        assert list(answer.stuck) == ["t-2 has no room"]
        assert door.fake_moves.calls == [("balance", True)]


async def test_a_move_is_listed_with_its_progress() -> None:
    """Seconds that are left only where they are known."""
    move = Move(
        tp=T1, group_id=9, replicas=(3, 2), adding=(3,), removing=(1,), reason="why", state="node 3 catches up",
        started_at_ms=5, bytes_total=100, bytes_done=40, rate=20.0, seconds_left=3.0,
    )  # fmt: skip
    async with open_door() as door:
        door.fake_moves.under_way = [move]
        (told,) = (await door.cluster.ListMoves(pb.ListMovesRequest())).moves
        assert (told.topic, told.partition, told.group_id, list(told.adding), list(told.removing)) == ("t", 1, 9, [3], [1])
        assert (told.bytes_total, told.bytes_done, told.bytes_per_second, told.seconds_left) == (100, 40, 20.0, 3.0)
        door.fake_moves.under_way = [replace(move, seconds_left=None, held_up=True)]
        (told,) = (await door.cluster.ListMoves(pb.ListMovesRequest())).moves
        assert (told.HasField("seconds_left"), told.held_up) == (False, True)
