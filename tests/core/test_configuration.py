"""Configurations: what one step may change, and that steps keep majorities in touch."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raftlog.core.configuration import (
    UNKNOWN,
    Configuration,
    check_step,
    decode,
    decode_row,
    encode,
    encode_row,
    member_id,
    node_of,
    replica_of,
)
from raftlog.errors import DataLossError, InvalidReplicaAssignmentError

_ids = st.integers(1, (1 << 31) - 1)
_members = st.builds(member_id, _ids, _ids)
_few = st.sets(st.integers(1, 6), min_size=1, max_size=5)


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    """Voters and learners among a few members."""
    members = sorted(draw(_few))
    voters = draw(st.sets(st.sampled_from(members), min_size=1))
    return Configuration.of(voters, set(members) - voters)


def allowed(old: Configuration, new: Configuration) -> bool:
    """What ``check_step`` says."""
    try:
        check_step(old, new)
    except InvalidReplicaAssignmentError:
        return False
    return True


def majorities(voters: tuple[int, ...]) -> list[set[int]]:
    """All smallest majorities."""
    return [set(some) for some in combinations(voters, len(voters) // 2 + 1)]


@given(configurations(), configurations())
def test_after_one_step_any_two_majorities_have_a_member_in_common(old: Configuration, new: Configuration) -> None:
    """So that no term has two leaders, and whoever is elected has what was committed before."""
    assume(allowed(old, new))
    assert all(one & other for one in majorities(old.voters) for other in majorities(new.voters))


@given(configurations(), st.integers(1, 8))
def test_the_usual_steps_are_allowed(old: Configuration, member: int) -> None:
    """Adding a learner, promoting one, removing a voter that is not the last, removing a learner."""
    if member not in old.members:
        assert allowed(old, old.with_learner(member))
        assert not allowed(old, old.with_voter(member))
    elif member in old.learners:
        assert allowed(old, old.with_voter(member))
        assert allowed(old, old.without(member))
    else:
        assert allowed(old, old.without(member)) == (len(old.voters) > 1)


@given(configurations(), configurations())
def test_any_configuration_is_reached_from_any_other_in_steps(old: Configuration, new: Configuration) -> None:
    """Learners first, then promotions, then removals: each of them is one step."""
    steps = [old]
    for member in new.members:
        if member not in old.members:
            steps.append(steps[-1].with_learner(member))
    for member in new.voters:
        if member in steps[-1].learners:
            steps.append(steps[-1].with_voter(member))
    for member in old.members:
        if member not in new.members or (member in new.learners and member in steps[-1].voters):
            steps.append(steps[-1].without(member))
            if member in new.learners:
                steps.append(steps[-1].with_learner(member))
    assert steps[-1] == new
    assert all(allowed(one, other) for one, other in pairwise(steps))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (Configuration((1, 2, 3)), Configuration((1,)), "one voter at a time"),
        (Configuration((1,), (2, 3)), Configuration((1, 2, 3)), "one voter at a time"),
        (Configuration((1, 2), (3,)), Configuration((1, 3)), "one voter at a time"),
        (Configuration((1,)), Configuration((1, 2)), "was no learner"),
        (Configuration((1,)), Configuration((), (1,)), "at least one voter"),
        (Configuration((1, 2)), Configuration((1, 2)), "already"),
        (Configuration((1, 2)), Configuration((1, 2), (2,)), "each member once"),
        (Configuration((1, 2)), Configuration((2, 1), (3,)), "in order"),
    ],
)
def test_what_is_no_step_is_refused(old: Configuration, new: Configuration, why: str) -> None:
    """The error says why."""
    with pytest.raises(InvalidReplicaAssignmentError, match=why):
        check_step(old, new)


@given(st.sets(_members, max_size=7), st.sets(_members, max_size=7))
def test_a_configuration_survives_its_entry_and_its_row(voters: set[int], learners: set[int]) -> None:
    """Encoded and decoded it is the same."""
    known = Configuration.of(voters, learners)
    assert decode(encode(known)) == known
    assert decode_row(encode_row(9, [(1, known), (1 << 60, UNKNOWN)])) == (9, [(1, known), (1 << 60, UNKNOWN)])


def test_bytes_that_are_no_configuration_are_lost_data() -> None:
    """Of an entry as of a row."""
    for read in (decode, decode_row):
        with pytest.raises(DataLossError):
            read(b"\x0a\xff\xff")


@given(_ids, _ids)
def test_a_member_is_a_node_and_a_replica(node: int, replica: int) -> None:
    """Both come back."""
    assert (node_of(member_id(node, replica)), replica_of(member_id(node, replica))) == (node, replica)
