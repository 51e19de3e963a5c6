"""Joining, the generation that comes of it, and its assignment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftlog.core.groups.limits import GroupLimits
from raftlog.core.groups.live import PENDING_MS_MAX
from raftlog.core.groups.outcomes import REBALANCE_TIMEOUT_MS_MIN
from raftlog.core.groups.values import GroupState, Leaver
from raftlog.errors import (
    GroupFullError,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    InvalidSessionTimeoutError,
    MemberIdRequiredError,
    MessageTooLargeError,
    RebalanceInProgressError,
    UnknownMemberError,
)
from tests.core.groups.scene import REBALANCE_MS, SESSION_MS, Scene, member_of


def test_nobody_hears_of_a_generation_before_it_is_durable() -> None:
    """The join is answered by the entry, not before; so is the sync."""
    scene = Scene(auto=False)
    call = scene.join()
    assert call.outcome is None
    assert len(scene.log) == 1
    scene.durable()
    joined = call.joined
    assert (joined.generation, joined.leader, joined.protocol) == (1, joined.member_id, "range")
    assert [member.metadata for member in joined.members] == [b"r"]
    sync = scene.sync(member_of(call), {joined.member_id: b"a", "stranger": b"b"})
    assert sync.outcome is None
    scene.durable()
    assert sync.assignment == b"a"
    assert scene.state.groups["g"].members.keys() == {joined.member_id}


def test_a_generation_waits_for_all_members_and_followers_are_told_no_members() -> None:
    """The leader learns who takes part; the others only that they do."""
    scene = Scene()
    (first,) = scene.stable(1)
    second = scene.join()
    assert scene.is_in(GroupState.PREPARING_REBALANCE)
    again = scene.join(member_id=first.member_id)
    assert again.joined.generation == second.joined.generation == 2
    assert again.joined.leader == second.joined.leader == first.member_id
    assert [member.member_id for member in again.joined.members] == [first.member_id, second.joined.member_id]
    assert second.joined.members == ()


def test_members_that_do_not_come_back_in_time_are_left_out() -> None:
    """The rebalance timeout of the slowest member bounds the wait, however lively the missing one is."""
    scene = Scene()
    first, second = scene.stable(2)
    call = scene.join(rebalance_timeout_ms=REBALANCE_MS * 2)
    scene.join(member_id=first.member_id)
    while scene.now_ms < REBALANCE_MS * 2 - SESSION_MS:
        with pytest.raises(RebalanceInProgressError):
            scene.live.heartbeat(second, scene.now_ms)
        scene.pass_ms(SESSION_MS // 2)
    assert call.outcome is None
    scene.pass_ms(SESSION_MS)
    assert call.joined.generation == 2
    assert second.member_id not in scene.state.groups["g"].members


def test_a_member_id_is_handed_out_first_where_that_is_asked_for() -> None:
    """KIP-394: the first join makes no member; the id is good for one session timeout."""
    scene = Scene()
    call = scene.join(member_id_required=True)
    assert call.error is MemberIdRequiredError
    assert len(scene.live.members) == 0
    (leader,) = scene.stable(1)
    first, second = scene.handed_out(), scene.handed_out()
    assert scene.is_in(GroupState.STABLE)
    scene.join(member_id=first)
    call = scene.join(member_id=leader.member_id)
    assert call.outcome is None  # the second may still come
    scene.pass_ms(SESSION_MS)
    assert [member.member_id for member in call.joined.members] == [leader.member_id, first]
    assert scene.join(member_id=second).error is UnknownMemberError
    assert scene.join(member_id="never handed out").error is UnknownMemberError


def test_ids_handed_out_are_bounded_like_members() -> None:
    """Nobody fills the memory, or a group, by asking for ids: the oldest gives way, and none lives long."""
    scene = Scene(limits=GroupLimits(members_max=2, initial_rebalance_delay_ms=0))
    ids = [scene.handed_out() for _ in range(5)]
    assert list(scene.live.pending) == ids[-2:]
    assert scene.join(member_id=ids[0]).error is UnknownMemberError
    assert scene.join().joined.generation == 1
    assert list(scene.live.pending) == ids[-1:]
    scene.pass_ms(min(SESSION_MS, PENDING_MS_MAX))
    assert not scene.live.pending


def test_an_id_is_kept_for_a_minute_whatever_its_session() -> None:
    """Half an hour is what a caller may name."""
    scene = Scene()
    scene.join(member_id_required=True, session_timeout_ms=1_800_000)
    scene.pass_ms(PENDING_MS_MAX)
    assert scene.live.idle


def test_a_fleet_that_is_killed_and_started_again_finds_room() -> None:
    """Its dead members are counted until they expire, but for a rebalance, which has room for those who come."""
    scene = Scene(limits=GroupLimits(members_max=10, initial_rebalance_delay_ms=0))
    old = scene.stable(6)
    calls = [scene.join(member_id=scene.handed_out()) for _ in range(6)]
    assert [call.outcome for call in calls] == [None] * 6
    scene.pass_ms(SESSION_MS)
    assert {call.joined.generation for call in calls} == {2}
    assert all(member.member_id not in scene.live.members for member in old)


def test_who_comes_after_its_place_is_taken_is_refused() -> None:
    """A member that was slow to join again, where others have filled the group: no generation has more members than allowed."""
    scene = Scene(limits=GroupLimits(members_max=2, initial_rebalance_delay_ms=0))
    slow, quick = scene.stable(2)
    assert scene.join(member_id=quick.member_id, protocols=(("range", b"new"),)).outcome is None
    assert scene.join().outcome is None
    assert scene.join(member_id=slow.member_id).error is GroupFullError
    assert scene.join().error is GroupFullError


def test_a_new_member_that_asks_again_waits_on() -> None:
    """Its connection broke, or its patience is short: while it waits it cannot say that it lives."""
    scene = Scene()
    (busy,) = scene.stable(1)
    member_id = scene.handed_out()
    first = scene.join(member_id=member_id)
    scene.pass_ms(1_000)
    again = scene.join(member_id=member_id)
    assert first.error is RebalanceInProgressError
    for _ in range(3):
        scene.live.members.find(busy.member_id, None).heard(scene.now_ms)
        scene.pass_ms(SESSION_MS - 1)
    assert again.outcome is None
    scene.join(member_id=busy.member_id)
    assert again.joined.generation == 2
    scene.pass_ms(SESSION_MS)
    assert member_id not in scene.live.members


def test_a_rebalance_timeout_of_nothing_is_not_taken_at_its_word() -> None:
    """A group of absent static members would be looked at without a pause."""
    scene = Scene()
    joined = scene.join(instance_id="i", rebalance_timeout_ms=0, session_timeout_ms=1_800_000)
    member = member_of(joined, "i")
    scene.sync(member, {member.member_id: b"x"})
    other = scene.handed_out()
    scene.join(member_id=other, rebalance_timeout_ms=0)
    scene.leave(Leaver(member_id=other))
    assert scene.live.deadline_ms >= scene.now_ms + REBALANCE_TIMEOUT_MS_MIN


def test_an_empty_group_waits_for_more_members_after_each() -> None:
    """Members that start together make one generation; each new one extends the wait, up to the rebalance timeout."""
    scene = Scene(limits=GroupLimits(initial_rebalance_delay_ms=200))
    calls = []
    for _ in range(5):
        calls.append(scene.join())
        scene.pass_ms(150)
    assert [call.outcome for call in calls] == [None] * 5
    scene.pass_ms(50)
    assert {call.joined.generation for call in calls} == {1}
    assert len(calls[0].joined.members) == 5
    slow = Scene(limits=GroupLimits(initial_rebalance_delay_ms=200))
    first = slow.join(rebalance_timeout_ms=1_000)
    for _ in range(7):
        slow.pass_ms(150)
        slow.join(rebalance_timeout_ms=1_000)
    assert first.joined.generation == 1


def test_the_members_vote_for_the_assignor() -> None:
    """Of those that all name, the one that most prefer; where no one is named by all, the last to come is refused."""
    scene = Scene(limits=GroupLimits(initial_rebalance_delay_ms=10))
    scene.join(protocols=(("range", b""), ("sticky", b""), ("mine", b"")))
    scene.join(protocols=(("mine2", b""), ("sticky", b""), ("range", b"")))
    third = scene.join(protocols=(("sticky", b""), ("range", b"")))
    scene.pass_ms(10)
    assert third.joined.protocol == "sticky"
    assert scene.join(protocols=(("mine", b""),)).error is InconsistentGroupProtocolError
    assert scene.join(protocol_type="connect").error is InconsistentGroupProtocolError
    assert scene.join(protocols=()).error is InconsistentGroupProtocolError
    assert scene.join(protocol_type="").error is InconsistentGroupProtocolError


def test_session_timeouts_are_bounded() -> None:
    """Kafka's 6 s to 30 min."""
    scene = Scene()
    assert scene.join(session_timeout_ms=5_999).error is InvalidSessionTimeoutError
    assert scene.join(session_timeout_ms=1_800_001).error is InvalidSessionTimeoutError
    assert scene.live.idle


def test_what_members_say_is_bounded() -> None:
    """A generation is one entry, and so is its assignment."""
    scene = Scene(limits=GroupLimits(member_bytes_max=1_000, initial_rebalance_delay_ms=0))
    assert scene.join(protocols=(("range", b"x" * 1_000),)).error is GroupFullError
    (member,) = scene.stable(1)
    assert scene.join(protocols=(("range", b"x" * 900),)).error is GroupFullError
    assert scene.join(member_id=member.member_id, protocols=(("range", b"x" * 1_000),)).error is GroupFullError
    assert scene.is_in(GroupState.STABLE)
    again = scene.join(member_id=member.member_id, protocols=(("range", b"x" * 800),))
    assert again.joined.generation == 2
    assert scene.sync(member_of(again), {member.member_id: b"x" * 1_001}).error is MessageTooLargeError


def test_what_a_member_names_is_bounded_and_timeouts_fit_the_protocol() -> None:
    """Many assignors would be compared with those of all others; a timeout beyond 31 bits is the longest there is."""
    scene = Scene()
    many = tuple((f"p{number}", b"") for number in range(101))
    assert scene.join(protocols=many).error is InconsistentGroupProtocolError
    assert scene.join(protocols=many[1:], rebalance_timeout_ms=1 << 40).joined.generation == 1
    (member,) = scene.state.groups["g"].members.values()
    assert member.rebalance_timeout_ms == (1 << 31) - 1


def test_a_follower_that_asks_again_is_told_what_it_knows_and_a_leader_makes_a_rebalance() -> None:
    """In a stable group; a member that says something new makes one too."""
    scene = Scene()
    leader, follower = scene.stable(2)
    again = scene.join(member_id=follower.member_id)
    assert (again.joined.generation, again.joined.members) == (1, ())
    assert scene.is_in(GroupState.STABLE)
    changed = scene.join(member_id=follower.member_id, protocols=(("range", b"new"),))
    assert scene.is_in(GroupState.PREPARING_REBALANCE)
    led = scene.join(member_id=leader.member_id)
    assert (led.joined.generation, changed.joined.generation) == (2, 2)
    assert [member.metadata for member in led.joined.members] == [b"r", b"new"]
    scene.sync(member_of(led))
    assert scene.is_in(GroupState.STABLE)
    assert scene.join(member_id=leader.member_id).outcome is None
    assert scene.is_in(GroupState.PREPARING_REBALANCE)


def test_a_retry_of_a_lost_answer_is_answered_again() -> None:
    """A join in the generation that it made, a sync after the assignment: the same answer, and no second member."""
    scene = Scene(auto=False)
    member_id = scene.handed_out()
    first = scene.join(member_id=member_id)
    second = scene.join(member_id=member_id)
    assert first.error is RebalanceInProgressError
    scene.durable()
    assert second.joined.generation == 1
    third = scene.join(member_id=member_id)
    assert third.joined == second.joined
    member = member_of(third)
    one = scene.sync(member, {member_id: b"one"})
    two = scene.sync(member, {member_id: b"two"})
    assert one.error is RebalanceInProgressError
    assert len(scene.log) == 1
    scene.durable()
    assert two.assignment == b"one"
    assert scene.sync(member, {member_id: b"three"}).assignment == b"one"
    assert len(scene.state.groups["g"].members) == 1


def test_who_joins_while_a_generation_is_on_its_way_makes_the_next_one() -> None:
    """The first is told its generation and hears of the rebalance at its sync."""
    scene = Scene(auto=False)
    first = scene.join()
    second = scene.join()
    assert len(scene.log) == 1
    scene.durable()
    assert first.joined.generation == 1
    assert second.outcome is None
    assert scene.sync(member_of(first)).error is RebalanceInProgressError
    scene.join(member_id=first.joined.member_id)
    scene.durable()
    assert second.joined.generation == 2


def test_who_leaves_while_a_generation_is_on_its_way_makes_the_next_one() -> None:
    """Its place is not given to anybody before that."""
    scene = Scene(auto=False, limits=GroupLimits(initial_rebalance_delay_ms=1))
    first, second = scene.handed_out(), scene.handed_out()
    scene.join(member_id=first)
    gone = scene.join(member_id=second)
    scene.pass_ms(1)
    assert len(scene.log) == 1
    assert scene.leave(Leaver(member_id=second)) == [None]
    assert gone.error is UnknownMemberError
    scene.durable()
    assert scene.is_in(GroupState.PREPARING_REBALANCE)
    again = scene.join(member_id=first)
    scene.durable()
    assert [member.member_id for member in again.joined.members] == [first]
    assert again.joined.generation == 2


def test_a_sync_names_the_generation_and_the_protocol() -> None:
    """Another one is refused by name."""
    scene = Scene()
    (member,) = scene.stable(1)
    assert scene.sync(replace(member, generation=0)).error is IllegalGenerationError
    assert scene.sync(member, protocol="other").error is InconsistentGroupProtocolError
    assert scene.sync(member, protocol_type="connect").error is InconsistentGroupProtocolError
    assert scene.sync(replace(member, member_id="x")).error is UnknownMemberError
    assert scene.sync(member, protocol="range", protocol_type="consumer").assignment == member.member_id.encode()


def test_a_rebalance_during_the_syncs_sends_everybody_back() -> None:
    """Also where the assignment is on its way: it counts for nobody."""
    scene = Scene(auto=False)
    leader, follower = map(member_of, scene.together(2))
    waiting = scene.sync(follower)
    brought = scene.sync(leader, {follower.member_id: b"f"})
    scene.join()
    assert waiting.error is RebalanceInProgressError
    assert brought.error is RebalanceInProgressError
    scene.durable()
    assert scene.is_in(GroupState.PREPARING_REBALANCE)
    assert scene.state.groups["g"].assigned
