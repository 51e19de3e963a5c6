"""Whom the leader of group 0 counts on: not every node that has a link has a replica that answers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from raftlog.broker import asking
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.broker.metadata_members import MetadataMembers
from raftlog.consensus.port import SILENT_S, FollowerProgress
from raftlog.core.configuration import Configuration, member_id, node_of
from raftlog.core.features import NEWEST
from raftlog.core.metadata import MetadataState
from raftlog.model import NodeInfo, NodeStatus

OWN = member_id(1, 1)
Seen = tuple[int, float]
"""(match index, seconds since it was heard of)."""


class Group0:
    """A leader of group 0 that is asked to change its configuration."""

    def __init__(self, voters: Mapping[int, Seen], learners: Mapping[int, Seen], **statuses: NodeStatus) -> None:
        self.ready = self.configuration_committed = True
        self.term = self.heartbeat_round = 1
        self.mute: set[int] = set()
        """Nodes that answer nothing from now on."""
        self.commit_index = 500
        seen = {**voters, **learners}
        ids = {node: member_id(node, 1) for node in seen}
        self.configuration = Configuration.of((OWN, *(ids[node] for node in voters)), [ids[node] for node in learners])
        self._progress = {
            ids[node]: FollowerProgress(match_index=match, heard_s=heard_s) for node, (match, heard_s) in seen.items()
        }
        self.asked: Configuration | None = None
        self.log, self.state = self, MetadataState(level=NEWEST)
        for node in (1, *seen):
            status = statuses.get(f"node_{node}", NodeStatus.ACTIVE)
            info = NodeInfo(node_id=node, peer_address="", grpc_address="", status=status)
            (self.state.removed if status is NodeStatus.REMOVED else self.state.nodes)[node] = info

    def followers(self) -> Mapping[int, FollowerProgress]:
        """See ``ReplicatedLog``."""
        rounds = {one: 0 if node_of(one) in self.mute else self.heartbeat_round for one in self._progress}
        return {one: replace(seen, round=rounds[one]) for one, seen in self._progress.items()}

    async def barrier(self, _: float) -> int:
        """See ``ReplicatedLog``."""
        self.heartbeat_round += 1
        return self.commit_index

    def transfer(self, *_: Any) -> bool:
        """See ``ReplicatedLog``."""
        return False

    def reconfigure(self, new: Configuration) -> None:
        """See ``ReplicatedLog``."""
        self.asked = new

    async def step(self) -> list[int] | None:
        """The nodes that vote after the next step; None where there is none. All links are up."""
        await MetadataMembers(OWN, cast(MetadataMachine, self), lambda _: True, random.Random(1)).step()
        return None if self.asked is None else [node_of(member) for member in self.asked.voters]


WELL: Seen = (500, 0.1)
SILENT: Seen = (480, SILENT_S + 1)


async def test_no_voter_goes_where_the_rest_would_be_no_majority_that_answers() -> None:
    """The replica of a node that is up may be damaged: with it alone nothing would be committed any more."""
    assert await Group0({2: WELL, 3: SILENT}, {}, node_2=NodeStatus.REMOVED).step() is None
    assert await Group0({2: WELL, 3: WELL}, {}, node_2=NodeStatus.REMOVED).step() == [1, 3]


async def test_a_silent_learner_gets_no_vote() -> None:
    """Nor one that has nothing of the log, however short that is."""
    assert await Group0({2: WELL, 3: WELL}, {4: SILENT}, node_2=NodeStatus.DRAINING).step() is None
    assert await Group0({2: WELL, 3: WELL}, {4: WELL}, node_2=NodeStatus.DRAINING).step() == [1, 2, 3, 4]
    young = Group0({}, {2: (0, 0.1), 3: (0, 0.1)})
    young.commit_index = 40
    assert await young.step() is None


async def test_who_seemed_well_a_moment_ago_is_asked_before_who_votes_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have lost its power since, or its disk: then neither a voter less nor one more leaves a majority that answers."""
    monkeypatch.setattr(asking, "ANSWERS_LOOK_S", 0.0)
    for gone, voters, learners, status in (
        (3, {2: WELL, 3: WELL}, {}, {"node_2": NodeStatus.REMOVED}),
        (4, {2: WELL, 3: SILENT}, {4: WELL}, {"node_3": NodeStatus.REMOVED}),
    ):
        leader = Group0(voters, learners, **status)
        leader.mute = {gone}
        assert await leader.step() is None
        leader.mute = set()
        assert await leader.step() is not None
