"""Raising the cluster's feature level: all nodes are asked, then all mark their directories, then it is raised; or nothing is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from raftlog.broker.feature_levels import NoMark
from raftlog.core.features import FIRST_VERSION, NEWEST, Supported
from raftlog.errors import DataDirectoryError, FeatureLevelError, InvalidRequestError, NotLeaderError, UnavailableError
from tests.broker.cluster import Cluster, until


class HandMark(NoMark):
    """A mark in memory, of a node of some version."""

    def __init__(self, supported: Supported, level: int = 1) -> None:
        super().__init__(level)
        self.supported = supported
        self.full = False
        """Its disk is."""

    def raise_to(self, level: int) -> None:
        """See ``Mark``."""
        if self.full:
            raise DataDirectoryError("node.identity cannot be written")
        super().raise_to(level)


THIS = Supported(1, NEWEST)


@asynccontextmanager
async def cluster(*versions: Supported, level: int = 1) -> AsyncIterator[tuple[Cluster, list[HandMark]]]:
    """Brokers of nodes of these versions, of a cluster that began at a level."""
    marks = [HandMark(version, level) for version in versions]
    made = Cluster(len(versions), marks=dict(enumerate(marks, start=1)))
    for broker in made.brokers.values():
        await broker.start()
    await until(lambda: all(len(broker.cluster().nodes) == len(versions) for broker in made.brokers.values()))
    yield made, marks
    for broker in made.brokers.values():
        await broker.stop()


def levels(made: Cluster) -> list[int]:
    """The cluster's level as each broker has applied it."""
    return [broker.cluster().level for broker in made.brokers.values()]


def marked(marks: Sequence[HandMark]) -> list[int]:
    """What the directories are marked with."""
    return [mark.level for mark in marks]


async def test_a_new_cluster_begins_at_the_level_of_its_directories() -> None:
    """By its first command, before any node registers; what nodes support stands beside them."""
    async with cluster(THIS, THIS, THIS, level=NEWEST) as (made, _):
        assert levels(made) == [NEWEST] * 3
        assert {node.level_max for node in made.brokers[2].cluster().nodes} == {NEWEST}


async def test_the_level_is_raised_on_all_nodes_from_any_of_them() -> None:
    """By a node that does not lead group 0; every directory is marked first. Once more, nothing is left to do."""
    async with cluster(THIS, THIS, THIS) as (made, marks):
        assert levels(made) == [1, 1, 1]
        plan = await made.brokers[2].raise_level(0, dry_run=True)
        assert (plan.level, plan.target, plan.raised, plan.held_back) == (1, NEWEST, False, "")
        assert [node.version for node in plan.nodes] == ["v1", "v2", "v3"]
        assert marked(marks) == [1, 1, 1]
        report = await made.brokers[2].raise_level(0, dry_run=False)
        assert (report.level, report.target, report.raised) == (1, NEWEST, True)
        assert marked(marks) == [NEWEST] * 3
        await until(lambda: levels(made) == [NEWEST] * 3)
        again = await made.brokers[3].raise_level(NEWEST, dry_run=False)
        assert (again.level, again.raised) == (NEWEST, False)


async def test_a_node_that_is_too_old_holds_the_cluster_back_and_is_named() -> None:
    """Nothing is marked; the newest level that all support is the one there is. The first version knows no such calls."""
    async with cluster(THIS, FIRST_VERSION, THIS) as (made, marks):
        assert (await made.brokers[1].raise_level(0, dry_run=False)).target == 1
        plan = await made.brokers[1].raise_level(NEWEST, dry_run=True)
        assert plan.held_back == "node 2: its version supports level 1"
        made.network.handlers[2] = _first_version
        for broker in (made.brokers[1], made.brokers[3]):
            said = f"stays at feature level 1, not {NEWEST}: node 2: its version supports level 1"
            with pytest.raises(FeatureLevelError, match=said):
                await broker.raise_level(NEWEST, dry_run=False)
        assert marked(marks) == [1, 1, 1]
        assert levels(made) == [1, 1, 1]


async def test_a_controller_of_the_first_version_is_named() -> None:
    """It cannot raise what it does not know; the node that was asked says which one to start anew."""
    async with cluster(THIS, THIS) as (made, _):
        made.network.handlers[1] = _first_version
        with pytest.raises(FeatureLevelError, match="node 1, the controller, is of the first version"):
            await made.brokers[2].raise_level(0, dry_run=True)


async def _first_version(_node_id: int, method: str, _body: bytes, _payloads: list[bytes]) -> tuple[bytes, list[bytes]]:
    raise InvalidRequestError(f"this node knows no call {method!r}")


async def test_a_node_that_is_down_holds_the_cluster_back_unless_the_operator_says_otherwise() -> None:
    """Its version may be any; whoever knows that it is gone, or comes back newer, may say so."""
    async with cluster(THIS, THIS, THIS) as (made, marks):
        made.network.down.add(3)
        with pytest.raises(FeatureLevelError, match="node 3: it is down"):
            await made.brokers[1].raise_level(0, dry_run=False)
        with pytest.raises(InvalidRequestError, match=r"nodes \[7\] are not part"):
            await made.brokers[1].raise_level(0, dry_run=False, without=(7,))
        assert marked(marks) == [1, 1, 1]
        report = await made.brokers[2].raise_level(0, dry_run=False, without=(3,))
        assert report.raised
        assert marked(marks)[:2] == [NEWEST, NEWEST]
        assert [node.level_max for node in made.brokers[1].cluster().nodes] == [NEWEST, NEWEST, 1]


async def test_a_disk_that_cannot_be_marked_holds_the_cluster_back() -> None:
    """The others are marked, and nothing else has changed: it may be done again."""
    async with cluster(THIS, THIS) as (made, marks):
        marks[1].full = True
        with pytest.raises(FeatureLevelError, match=r"for the moment: node 2: node.identity cannot be written; do it again"):
            await made.brokers[1].raise_level(0, dry_run=False)
        assert levels(made) == [1, 1]
        marks[1].full = False
        assert (await made.brokers[1].raise_level(0, dry_run=False)).raised


async def test_levels_that_are_none_and_nodes_that_do_not_lead_are_refused() -> None:
    """By name, with nothing asked of anybody."""
    async with cluster(THIS, THIS) as (made, _):
        with pytest.raises(InvalidRequestError, match=f"no feature level {NEWEST + 1}"):
            await made.brokers[1].raise_level(NEWEST + 1, dry_run=True)
        with pytest.raises(NotLeaderError):
            await made.brokers[2]._levels.raise_here(0, dry_run=True)
        with pytest.raises(InvalidRequestError, match="body of a raise_level call cannot be read"):
            await made.brokers[1].on_call(2, "raise_level", b"\xff", [])


async def test_nobody_raises_the_level_where_nobody_leads() -> None:
    """And nothing was done."""
    mark = HandMark(THIS)
    made = Cluster(1, marks={1: mark})
    made.network.preferred = False
    await made.brokers[1].start()
    with pytest.raises(UnavailableError, match="no leader just now"):
        await made.brokers[1].raise_level(0, dry_run=False)
    assert mark.level == 1
    await made.brokers[1].stop()
