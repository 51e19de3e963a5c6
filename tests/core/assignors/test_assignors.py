"""The assignors, by the properties that their users rely on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.core.assignors import catalogue, roundrobin, sticky
from raftlog.core.assignors import range as range_assignor
from raftlog.core.assignors.member import Assignments, Member
from raftlog.model import TopicPartition

Assign = Callable[[Sequence[Member], Mapping[str, int]], Assignments]
EAGER: dict[str, Assign] = {"range": range_assignor.assign, "roundrobin": roundrobin.assign, "sticky": sticky.assign}
every_eager = pytest.mark.parametrize("assign", EAGER.values(), ids=EAGER.keys())

TOPICS = ("a", "b", "c")
counts_of = st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 7), min_size=1)
ids = st.lists(st.sampled_from([f"m{n}" for n in range(8)]), min_size=1, unique=True)


def tp(text: str) -> TopicPartition:
    """``a0`` is partition 0 of topic a."""
    return TopicPartition(text[0], int(text[1:]))


def member(name: str, topics: str, owned: str = "", *, generation: int = 1, instance: str | None = None) -> Member:
    """A member by letters: ``member("m1", "ab", "a0 b1")``."""
    return Member(
        member_id=name, instance_id=instance, topics=frozenset(topics), owned=tuple(map(tp, owned.split())), generation=generation
    )


def shown(found: Assignments) -> dict[str, str]:
    """An assignment in the same letters."""
    return {name: " ".join(f"{one.topic}{one.partition}" for one in tps) for name, tps in found.items()}


def partitions(counts: Mapping[str, int]) -> set[TopicPartition]:
    return {TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)}


@st.composite
def groups(draw: st.DrawFn, *, alike: bool = False) -> tuple[list[Member], dict[str, int]]:
    """Members that claim anything: what is gone, what they do not want, what others claim as well."""
    counts = draw(counts_of)
    subscriptions = st.just(frozenset(TOPICS)) if alike else st.frozensets(st.sampled_from(TOPICS))
    claims = st.lists(st.builds(TopicPartition, st.sampled_from(TOPICS), st.integers(0, 8)), max_size=12, unique=True)
    members = [
        Member(
            member_id=name,
            instance_id=draw(st.none() | st.just(f"i-{name}")),
            topics=draw(subscriptions),
            owned=tuple(draw(claims)),
            generation=draw(st.integers(-1, 3)),
        )
        for name in draw(ids)
    ]
    return members, counts


@every_eager
@given(group=groups())
def test_every_wanted_partition_has_exactly_one_taker_who_wants_it(
    assign: Assign, group: tuple[list[Member], dict[str, int]]
) -> None:
    """Nothing is left out, given twice, or given to whoever did not ask; every member is named."""
    members, counts = group
    found = assign(members, counts)
    wants = {one.member_id: one.topics for one in members}
    assert found.keys() == wants.keys()
    given_out = Counter(chain.from_iterable(found.values()))
    wanted = {one for one in partitions(counts) if any(one.topic in topics for topics in wants.values())}
    assert given_out == Counter(wanted)
    assert all(one.topic in wants[name] for name, tps in found.items() for one in tps)


@every_eager
@given(group=groups())
def test_the_order_in_which_members_come_does_not_matter(assign: Assign, group: tuple[list[Member], dict[str, int]]) -> None:
    """A coordinator may list them in any order."""
    members, counts = group
    assert assign(members, counts) == assign(members[::-1], counts)


@pytest.mark.parametrize("assign", [roundrobin.assign, sticky.assign], ids=["roundrobin", "sticky"])
@given(group=groups(alike=True))
def test_equal_subscriptions_are_shared_evenly(assign: Assign, group: tuple[list[Member], dict[str, int]]) -> None:
    """No two members differ by more than one."""
    members, counts = group
    sizes = [len(tps) for tps in assign(members, counts).values()]
    assert max(sizes) - min(sizes) <= 1


@given(group=groups())
def test_range_shares_each_topic_evenly_and_in_one_piece(group: tuple[list[Member], dict[str, int]]) -> None:
    """Of each topic, subscribers have as many as each other, within one, and their numbers are contiguous."""
    members, counts = group
    found = range_assignor.assign(members, counts)
    for topic in counts:
        shares = [[one.partition for one in found[m.member_id] if one.topic == topic] for m in members if topic in m.topics]
        for numbers in shares:
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
        assert not shares or max(map(len, shares)) - min(map(len, shares)) <= 1


def test_range_gives_the_first_members_one_more_and_static_members_come_first() -> None:
    """Kafka's order: by instance id where there is one, then by member id."""
    members = [member("m1", "ab"), member("m2", "ab"), member("m9", "ab", instance="x")]
    assert shown(range_assignor.assign(members, {"a": 4, "b": 2})) == {"m9": "a0 a1 b0", "m1": "a2 b1", "m2": "a3"}


def test_roundrobin_passes_over_whoever_does_not_want_a_topic() -> None:
    """The example of Kafka's documentation."""
    members = [member("m0", "a"), member("m1", "ab"), member("m2", "abc")]
    found = roundrobin.assign(members, {"a": 1, "b": 2, "c": 3})
    assert shown(found) == {"m0": "a0", "m1": "b0", "m2": "b1 c0 c1 c2"}


def own(members: Sequence[Member], found: Assignments, generation: int = 2) -> list[Member]:
    """The members once they have what was assigned."""
    return [replace(one, owned=tuple(found[one.member_id]), generation=generation) for one in members]


@given(group=groups())
def test_sticky_moves_nothing_when_nothing_has_changed(group: tuple[list[Member], dict[str, int]]) -> None:
    """An assignment that was made once is made again."""
    members, counts = group
    found = sticky.assign(members, counts)
    assert sticky.assign(own(members, found), counts) == found


@given(group=groups(alike=True), data=st.data())
def test_sticky_moves_as_little_as_balance_asks_for(group: tuple[list[Member], dict[str, int]], data: st.DataObject) -> None:
    """When members leave and join, what is kept is as much as any balanced assignment could keep."""
    members, counts = group
    before = own(members, sticky.assign(members, counts))
    stay = data.draw(st.lists(st.sampled_from(before), unique_by=lambda one: one.member_id))
    joined = [Member(member_id=f"new{n}", topics=frozenset(TOPICS)) for n in range(data.draw(st.integers(1, 3)))]
    after = sticky.assign([*stay, *joined], counts)
    total, count = sum(counts.values()), len(stay) + len(joined)
    share, extra = divmod(total, count)
    kept = sum(len(set(one.owned) & set(after[one.member_id])) for one in stay)
    sizes = sorted((len(one.owned) for one in stay), reverse=True)
    could_be_kept = sum(min(size, share + (place < extra)) for place, size in enumerate(sizes))
    assert kept == could_be_kept


def test_sticky_levels_along_a_chain_of_subscriptions() -> None:
    """Nobody wants both what the fullest has and what the emptiest may have; the one between passes on."""
    members = [member("m1", "a", "a0 a1 a2"), member("m2", "ab", "b0 b1"), member("m3", "b", "b2")]
    sizes = {name: len(tps) for name, tps in sticky.assign(members, {"a": 3, "b": 3}).items()}
    assert sizes == {"m1": 2, "m2": 2, "m3": 2}


@given(group=groups())
def test_sticky_leaves_no_member_two_behind_another_that_could_give(group: tuple[list[Member], dict[str, int]]) -> None:
    """No single move would make it more even."""
    members, counts = group
    found = sticky.assign(members, counts)
    wants = {one.member_id: one.topics for one in members}
    for rich, tps in found.items():
        for poor, wanted in wants.items():
            if any(one.topic in wanted for one in tps):
                assert len(found[rich]) - len(found[poor]) <= 1, (rich, poor)


def test_the_newer_claim_wins_and_equal_claims_are_both_void() -> None:
    """Who came back from a pause does not take a partition from its present owner."""
    members = [member("m1", "a", "a0", generation=1), member("m2", "a", "a0", generation=2)]
    assert shown(sticky.assign(members, {"a": 2})) == {"m1": "a1", "m2": "a0"}
    split = [member("m1", "a", "a0 a1"), member("m2", "a", "a0")]
    assert shown(sticky.assign_cooperatively(split, {"a": 2})) == {"m1": "a1", "m2": ""}


@given(group=groups())
def test_cooperative_never_gives_away_what_another_still_reads(group: tuple[list[Member], dict[str, int]]) -> None:
    """Whoever is given a partition is the only one that claims it in the highest generation, or nobody does."""
    members, counts = group
    for name, tps in sticky.assign_cooperatively(members, counts).items():
        for one in tps:
            claimants = [other for other in members if one in other.owned]
            newest = max((other.generation for other in claimants), default=None)
            assert {other.member_id for other in claimants if other.generation == newest} <= {name}


@given(group=groups(), data=st.data())
def test_cooperative_arrives_where_sticky_does_within_two_rounds(
    group: tuple[list[Member], dict[str, int]], data: st.DataObject
) -> None:
    """The first round takes away, the second gives; at no time does a partition have two owners, and then nothing moves."""
    members, counts = group
    settled = own(members, sticky.assign(members, counts))
    changed = [replace(one, topics=data.draw(st.frozensets(st.sampled_from(TOPICS)))) for one in settled]
    changed.append(Member(member_id="new", topics=frozenset(TOPICS)))
    first = sticky.assign_cooperatively(changed, counts)
    second = sticky.assign_cooperatively(own(changed, first, 3), counts)
    third = sticky.assign_cooperatively(own(changed, second, 4), counts)
    for before, after in ((own(changed, first), second), (own(changed, second), third)):
        owners = {one: m.member_id for m in before for one in m.owned}
        assert all(owners.get(one, name) == name for name, tps in after.items() for one in tps)
    assert Counter(chain.from_iterable(third.values())) == Counter(
        one for one in partitions(counts) if any(one.topic in m.topics for m in changed)
    )
    assert second == third


def test_many_members_and_partitions_are_assigned_quickly_enough_to_be_assigned_at_all() -> None:
    """A hundred members join two hundred that had everything."""
    counts = {f"t{n}": 100 for n in range(30)}
    topics = frozenset(counts)
    old = [Member(member_id=f"old{n:03}", topics=topics) for n in range(200)]
    have = own(old, sticky.assign(old, counts))
    after = sticky.assign([*have, *(Member(member_id=f"new{n:03}", topics=topics) for n in range(100))], counts)
    assert {len(tps) for tps in after.values()} == {10}


def test_topics_of_a_whole_group_are_bounded() -> None:
    """The node of the member that leads looks at each of them again and again; of more, the first by name count."""
    names = [f"t{number:05d}" for number in range(catalogue.TOPICS_MAX)]
    halves = (names[: len(names) // 2], [*names[len(names) // 2 :], "u"])
    members = [
        catalogue.JoinedAs(
            member_id=f"m{at}",
            instance_id=None,
            metadata=catalogue.metadata_for("range", topics, owned=(), last=(), generation=1),
        )
        for at, topics in enumerate(halves)
    ]
    assert catalogue.topics_of(members) == frozenset(names)
