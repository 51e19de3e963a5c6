"""Group 0's members follow the nodes, one allowed step at a time, and it is never left without a majority."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from raftlog.core.configuration import Configuration, check_step, member_id, node_of, replica_of
from raftlog.core.metadata_members import is_newest, next_configuration
from raftlog.model import NodeInfo, NodeStatus

STEPS_MAX = 60


def node(node_id: int, incarnation: int = 1, rack: str = "r", status: NodeStatus = NodeStatus.ACTIVE) -> NodeInfo:
    return NodeInfo(
        node_id=node_id, peer_address="", grpc_address="", rack=rack, status=status, incarnation=incarnation
    )  # fmt: skip


def by_id(*nodes: NodeInfo) -> dict[int, NodeInfo]:
    return {one.node_id: one for one in nodes}


def config(voters: Collection[tuple[int, int]], learners: Collection[tuple[int, int]] = ()) -> Configuration:
    return Configuration.of((member_id(*one) for one in voters), (member_id(*one) for one in learners))


def settle(now: Configuration, nodes: Mapping[int, NodeInfo], down: Collection[int] = ()) -> list[Configuration]:
    """All configurations from ``now`` on while the nodes stay as they are and all members that run are up to date."""
    seen = [now]
    while True:
        up = [member for member in seen[-1].members if node_of(member) not in down and is_newest(member, nodes)]
        step = next_configuration(seen[-1], nodes, up=up, ready=up)
        if step is None:
            return seen
        check_step(seen[-1], step)
        assert sum(member in up for member in step.voters) * 2 > len(step.voters)
        seen.append(step)
        assert len(seen) < STEPS_MAX, seen


def ends(now: Configuration, nodes: Mapping[int, NodeInfo], down: Collection[int] = ()) -> Configuration:
    return settle(now, nodes, down)[-1]


def test_a_cluster_of_one_grows_to_three_voters_by_two_joins() -> None:
    """Two nodes are one voter and one learner: two voters would be no safer, and would stop when either does."""
    alone = config([(1, 1)])
    two = ends(alone, by_id(node(1), node(2, 2)))
    assert two == config([(1, 1)], [(2, 2)])
    three = settle(two, by_id(node(1), node(2, 2), node(3, 2)))
    assert [len(one.voters) for one in three] == [1, 1, 2, 3]
    assert three[-1] == config([(1, 1), (2, 2), (3, 2)])


def test_a_fourth_and_fifth_node_are_learners_until_there_are_five_racks() -> None:
    """Then all five vote."""
    three = config([(1, 1), (2, 1), (3, 1)])
    five = [node(1), node(2), node(3), node(4, 2), node(5, 2)]
    assert ends(three, by_id(*five)) == config([(1, 1), (2, 1), (3, 1)], [(4, 2), (5, 2)])
    racks = by_id(*(replace(one, rack=f"rack-{one.node_id}") for one in five))
    assert ends(three, racks) == config([(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)])
    assert ends(three, by_id(*(replace(one, rack="") for one in five))).learners == ()


def test_a_founder_that_has_not_registered_stays() -> None:
    """The cluster begins just now."""
    founders = config([(1, 1), (2, 1), (3, 1)])
    assert settle(founders, {}) == [founders]
    assert settle(founders, by_id(node(2))) == [founders]


def test_a_node_that_came_back_without_its_disk_is_another_member() -> None:
    """Its next disk is added, its disk before goes, and when the next one has the log it votes."""
    nodes = by_id(node(1), node(2), node(3, 2))
    steps = settle(config([(1, 1), (2, 1), (3, 1)]), nodes)
    assert steps[1:] == [
        config([(1, 1), (2, 1), (3, 1)], [(3, 2)]),
        config([(1, 1), (2, 1)], [(3, 2)]),
        config([(1, 1), (2, 1), (3, 2)]),
    ]


def test_a_join_that_was_cut_short_leaves_nothing_behind() -> None:
    """An incarnation that nobody uses is removed when the next one has come."""
    nodes = by_id(node(1), node(2), node(3), node(4, 3))
    assert ends(config([(1, 1), (2, 1), (3, 1)], [(4, 2)]), nodes) == config([(1, 1), (2, 1), (3, 1)], [(4, 3)])


def test_nothing_is_changed_by_which_the_majority_would_be_lost() -> None:
    """Two of three are down, one of them for good: the last one keeps what it has."""
    nodes = by_id(node(1), node(2), node(3, 2))
    here = config([(1, 1), (2, 1), (3, 1)])
    assert settle(here, nodes, down=[2, 3]) == [here]


def test_a_learner_that_lags_does_not_vote() -> None:
    """It would hold up every command."""
    now, nodes = config([(1, 1), (2, 1)], [(3, 2)]), by_id(node(1), node(2), node(3, 2))
    assert next_configuration(now, nodes, up=now.members, ready=now.voters) is None


def test_a_drained_nodes_vote_goes_to_another_first() -> None:
    """It stays a learner; where there is no other, it votes on."""
    nodes = by_id(node(1, status=NodeStatus.DRAINING), node(2), node(3), node(4, 2))
    steps = settle(config([(1, 1), (2, 1), (3, 1)], [(4, 2)]), nodes)
    assert [len(one.voters) for one in steps] == [3, 4, 3]
    assert steps[-1] == config([(2, 1), (3, 1), (4, 2)], [(1, 1)])
    del nodes[4]
    three = config([(1, 1), (2, 1), (3, 1)])
    assert settle(three, nodes) == [three]


def test_a_removed_node_leaves_and_another_votes_in_its_place() -> None:
    """First the other one, as long as it is there to vote."""
    nodes = by_id(node(1), node(2), node(3, status=NodeStatus.REMOVED), node(4, 2))
    steps = settle(config([(1, 1), (2, 1), (3, 1)], [(4, 2)]), nodes)
    assert steps[-1] == config([(1, 1), (2, 1), (4, 2)])
    assert len(steps[1].voters) == 4
    del nodes[4]
    assert ends(config([(1, 1), (2, 1), (3, 1)]), nodes) == config([(1, 1), (2, 1)])
    assert ends(config([(1, 1)], [(3, 1)]), nodes).members == config([(1, 1), (2, 1)]).members


def test_the_next_voter_is_in_a_rack_without_one() -> None:
    """So that no rack takes the majority with it."""
    nodes = by_id(node(1, rack="a"), node(2, rack="a"), node(3, 2, rack="a"), node(4, 2, rack="b"))
    assert ends(config([(1, 1), (2, 1)], [(3, 2), (4, 2)]), nodes).voters == config([(1, 1), (2, 1), (4, 2)]).voters


NODES = st.lists(
    st.builds(
        node,
        st.integers(1, 7),
        st.integers(1, 3),
        st.sampled_from(["", "a", "b", "c", "d", "e"]),
        st.sampled_from([NodeStatus.ACTIVE, NodeStatus.ACTIVE, NodeStatus.DRAINING, NodeStatus.REMOVED]),
    ),
    max_size=7,
)
MEMBERS = st.tuples(st.integers(1, 7), st.integers(1, 3))


@given(
    NODES,
    st.lists(MEMBERS, min_size=1, max_size=5, unique=True),
    st.lists(MEMBERS, max_size=5, unique=True),
    st.sets(st.integers(1, 7), max_size=3),
)
def test_it_comes_to_rest_and_each_step_is_allowed(
    known: list[NodeInfo], voters: list[tuple[int, int]], learners: list[tuple[int, int]], down: set[int]
) -> None:
    """Whatever it begins with; at rest, with everybody up, all and only the nodes there are are members by their newest disk."""
    nodes = by_id(*known)
    now = config(voters, [one for one in learners if one not in voters])
    settle(now, nodes, down)
    up = [member for member in now.voters if is_newest(member, nodes)]
    if len(up) * 2 <= len(now.voters):
        return
    last = ends(now, nodes)
    for member in last.members:
        one = nodes.get(node_of(member))
        sole = last.voters == (member,)
        assert one is None or sole or (one.status is not NodeStatus.REMOVED and one.incarnation <= replica_of(member))
    there = {node_of(member) for member in last.members}
    assert there >= {one.node_id for one in known if nodes[one.node_id].status is not NodeStatus.REMOVED}
    if len(there) >= 3 and all(node_id in nodes and nodes[node_id].status is NodeStatus.ACTIVE for node_id in there):
        assert len(last.voters) >= 3


def test_a_dead_voter_is_replaced_by_a_learner_that_is_ready() -> None:
    """Else the next death, though most nodes are well, would leave the metadata without a majority."""
    racks = by_id(node(1, rack="a"), node(2, rack="b"), node(3, rack="c"), node(4, 2, rack="a"), node(5, 2, rack="b"))
    now = config([(1, 1), (2, 1), (3, 1)], [(4, 2), (5, 2)])
    up = [member for member in now.members if node_of(member) != 1]
    assert next_configuration(now, racks, up=up, ready=up) is None
    seen = [now]
    while (step := next_configuration(seen[-1], racks, up=up, ready=up, dead={1})) is not None:
        check_step(seen[-1], step)
        seen.append(step)
    assert seen[-1] == config([(2, 1), (3, 1), (4, 2)], [(1, 1), (5, 2)])
    assert ends(seen[-1], racks) == seen[-1]  # back again, it is a learner like any other


def test_of_two_voters_that_are_being_drained_one_goes_at_once() -> None:
    """A learner stands by; and what is left is odd. So the processes may end before the nodes are removed."""
    nodes = by_id(
        node(1, status=NodeStatus.DRAINING), node(2, status=NodeStatus.DRAINING), node(3), node(4, 2)
    )  # fmt: skip
    now = config([(1, 1), (2, 1), (3, 1)], [(4, 2)])
    assert len(ends(now, nodes).voters) == 3
    assert {node_of(member) for member in ends(now, nodes).voters} == {2, 3, 4}
    two = by_id(node(1, status=NodeStatus.DRAINING), node(2))
    assert ends(config([(1, 1), (2, 1)]), two) == config([(2, 1)], [(1, 1)])


def test_four_voters_become_three() -> None:
    """One of five is removed: the fourth vote makes nothing safer. It is taken from the rack that has most."""
    left = by_id(node(1, rack="a"), node(2, rack="b"), node(3, rack="c"), node(4, rack="c"))
    assert ends(config([(1, 1), (2, 1), (3, 1), (4, 1)]), left) == config([(1, 1), (2, 1), (3, 1)], [(4, 1)])
