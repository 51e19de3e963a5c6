"""Static members (KIP-345, KIP-814): they come back under the same instance id, and the group does not notice."""

from __future__ import annotations

from dataclasses import replace

from raftlog.core.groups.values import GroupMember, GroupState, Leaver
from raftlog.errors import FencedInstanceError, RebalanceInProgressError, UnknownMemberError
from tests.core.groups.scene import REBALANCE_MS, SESSION_MS, G, Scene, member_of


def _static(scene: Scene, count: int) -> list[GroupMember]:
    """A stable group of static members."""
    calls = [scene.join(instance_id=f"i{number}") for number in range(count)]
    members = []
    for number in range(count):
        call = scene.join(instance_id=f"i{number}", member_id=scene_id(scene, number))
        calls[number] = call
    members = [member_of(call, f"i{number}") for number, call in enumerate(calls)]
    for member in members:
        scene.sync(member, {m.member_id: m.member_id.encode() for m in members})
    assert scene.is_in(GroupState.STABLE)
    return members


def scene_id(scene: Scene, number: int) -> str:
    """The member id of an instance."""
    member = scene.live.members.instance(f"i{number}")
    assert member is not None
    return member.member_id


def test_a_static_member_comes_back_without_a_rebalance() -> None:
    """With its assignment, in the same generation, once its new id is durable; the old id is fenced."""
    scene = Scene()
    leader, follower = _static(scene, 2)
    scene.auto = False
    back = scene.join(instance_id="i1")
    assert back.outcome is None
    assert scene.state.groups[G].members.keys() == {leader.member_id, follower.member_id}
    scene.durable()
    member = member_of(back, "i1")
    assert (member.generation, back.joined.skip_assignment) == (leader.generation, False)
    assert member.member_id != follower.member_id
    assert scene.sync(member).assignment == follower.member_id.encode()
    assert isinstance(scene.commit(follower), FencedInstanceError)
    assert isinstance(scene.commit(replace(follower, instance_id=None)), UnknownMemberError)
    assert scene.commit(member) is None
    assert scene.join(instance_id="i1", member_id=follower.member_id).error is FencedInstanceError
    assert scene.is_in(GroupState.STABLE)


def test_a_leader_that_comes_back_skips_the_assignment() -> None:
    """It stays the leader, is told the members, and has nothing to assign."""
    scene = Scene()
    leader, follower = _static(scene, 2)
    back = scene.join(instance_id="i0").joined
    assert (back.leader, back.skip_assignment) == (back.member_id, True)
    assert [member.member_id for member in back.members] == [back.member_id, follower.member_id]
    assert scene.state.groups[G].leader == back.member_id != leader.member_id


def test_a_static_member_that_would_change_the_assignor_makes_a_rebalance() -> None:
    """The others must agree to it first."""
    scene = Scene()
    (only,) = _static(scene, 1)
    back = scene.join(instance_id="i0", protocols=(("sticky", b""),))
    assert (back.joined.generation, back.joined.protocol) == (only.generation + 1, "sticky")
    assert not back.joined.skip_assignment


def test_a_static_member_stays_while_its_session_lasts() -> None:
    """A rebalance goes on without it, and keeps its place; its session timeout ends it, and so does an administrator."""
    scene = Scene()
    first, away = _static(scene, 2)
    call = scene.join(member_id=first.member_id, instance_id="i0", session_timeout_ms=SESSION_MS)
    for _ in range(REBALANCE_MS // (SESSION_MS - 1) + 1):
        scene.live.members.find(away.member_id, "i1").heard(scene.now_ms)
        scene.pass_ms(SESSION_MS - 1)
    assert [member.instance_id for member in call.joined.members] == ["i0", "i1"]
    scene.sync(member_of(call, "i0"))
    for _ in range(REBALANCE_MS // (SESSION_MS - 1) + 1):
        for member_id, instance_id in ((away.member_id, "i1"), (first.member_id, "i0")):
            scene.live.members.find(member_id, instance_id).heard(scene.now_ms)
        scene.pass_ms(SESSION_MS - 1)
    assert scene.is_in(GroupState.STABLE)  # it need not sync a generation that it does not know of
    assert scene.leave(Leaver(instance_id="i1")) == [None]
    assert scene.is_in(GroupState.PREPARING_REBALANCE)
    assert [member.instance_id for member in scene.join(member_id=first.member_id, instance_id="i0").joined.members] == ["i0"]


def test_a_rebalance_with_static_members_only_and_all_away_waits_for_one() -> None:
    """A generation without anybody to hear of it is not made; when the sessions end the group is empty."""
    scene = Scene()
    first, second = _static(scene, 2)
    scene.leave(Leaver(member_id=first.member_id, instance_id="i0"))
    generation = scene.live.generation
    while scene.now_ms < REBALANCE_MS * 3:
        scene.live.members.find(second.member_id, "i1").heard(scene.now_ms)
        scene.pass_ms(SESSION_MS // 2)
    assert scene.live.generation == generation
    scene.pass_ms(SESSION_MS)
    assert scene.is_in(GroupState.EMPTY)
    assert scene.live.idle


def test_a_static_member_that_comes_back_during_a_rebalance_takes_part_in_it() -> None:
    """In any phase of it; whoever waits under the old id is fenced."""
    scene = Scene()
    _static(scene, 1)
    waiting = scene.join(instance_id="i1")
    again = scene.join(instance_id="i1")
    assert waiting.error is FencedInstanceError
    call = scene.join(instance_id="i0")
    assert [member.member_id for member in call.joined.members] == [call.joined.member_id, again.joined.member_id]
    sync = scene.sync(member_of(again, "i1"))
    back = scene.join(instance_id="i1")
    assert sync.error is FencedInstanceError
    assert back.outcome is None
    assert scene.sync(member_of(call, "i0")).error is RebalanceInProgressError


def test_a_return_that_a_rebalance_overtakes_is_part_of_it() -> None:
    """The entry of its return and the new generation follow each other; it is answered once, by the generation."""
    scene = Scene()
    leader, _ = _static(scene, 2)
    scene.auto = False
    back = scene.join(instance_id="i1")
    changed = scene.join(member_id=leader.member_id, instance_id="i0")
    scene.durable()
    assert back.joined.generation == changed.joined.generation == leader.generation + 1
    assert back.joined.member_id in scene.state.groups[G].members
