"""Members that leave, are removed, or fall silent; and the commits of those that are none any more."""

from __future__ import annotations

from dataclasses import replace

from raftlog.core.groups.member import NEW_MEMBER_JOIN_TIMEOUT_MS
from raftlog.core.groups.values import NO_GENERATION, GroupMember, GroupState, Leaver
from raftlog.errors import (
    FencedInstanceError,
    IllegalGenerationError,
    RaftlogError,
    RebalanceInProgressError,
    UnknownMemberError,
)
from tests.core.groups.scene import REBALANCE_MS, SESSION_MS, G, Scene, member_of


def _heartbeat(scene: Scene, member: GroupMember) -> type[RaftlogError] | None:
    try:
        scene.live.heartbeat(member, scene.now_ms)
    except RaftlogError as error:
        return type(error)
    return None


def test_a_silent_member_is_expelled_and_the_others_rebalance() -> None:
    """Its session timeout after its last sign of life; the others hear of it at their heartbeats."""
    scene = Scene()
    first, second = scene.stable(2)
    scene.pass_ms(SESSION_MS - 1)
    assert _heartbeat(scene, first) is None
    scene.pass_ms(1)
    assert _heartbeat(scene, first) is RebalanceInProgressError
    assert _heartbeat(scene, second) is UnknownMemberError
    again = scene.join(member_id=first.member_id)
    assert again.joined.generation == 2
    assert len(again.joined.members) == 1


def test_the_last_member_leaves_an_empty_group_of_a_higher_generation() -> None:
    """It is empty at once; the generation without members is replicated behind it."""
    scene = Scene(auto=False)
    (member,) = scene.stable(1)
    assert scene.leave(Leaver(member_id=member.member_id)) == [None]
    assert scene.is_in(GroupState.EMPTY)
    assert not scene.live.idle
    scene.durable()
    assert scene.live.idle
    record = scene.state.groups[G]
    assert (record.generation, len(record.members)) == (2, 0)
    assert scene.commit(member) is not None


def test_who_joins_behind_the_last_member_gets_the_generation_after_the_empty_one() -> None:
    """Also while that is still on its way."""
    scene = Scene(auto=False)
    (member,) = scene.stable(1)
    scene.leave(Leaver(member_id=member.member_id))
    call = scene.join()
    assert scene.is_in(GroupState.PREPARING_REBALANCE)
    scene.durable()
    assert call.joined.generation == 3


def test_leaving_answers_for_each() -> None:
    """Members, ids that were handed out, strangers, static members by instance."""
    scene = Scene()
    (member,) = scene.stable(1)
    pending = scene.handed_out()
    static = scene.join(instance_id="i")
    scene.join(member_id=member.member_id)
    outcomes = scene.leave(
        Leaver(member_id=pending), Leaver(member_id="x"), Leaver(member_id=member.member_id, instance_id="i"),
        Leaver(instance_id="j"), Leaver(instance_id="i"), Leaver(member_id=member.member_id),
    )  # fmt: skip
    assert outcomes == [None, UnknownMemberError, FencedInstanceError, UnknownMemberError, None, None]
    assert static.error is UnknownMemberError
    assert scene.is_in(GroupState.EMPTY)


def test_a_leader_that_never_assigns_is_expelled() -> None:
    """However lively: at the rebalance timeout after its generation; the waiting follower rebalances."""
    scene = Scene()
    leader, follower = map(member_of, scene.together(2))
    waiting = scene.sync(follower)
    while scene.now_ms < REBALANCE_MS - SESSION_MS:
        scene.pass_ms(SESSION_MS // 2)
        assert _heartbeat(scene, leader) is None
    assert waiting.outcome is None
    scene.pass_ms(SESSION_MS // 2)
    _heartbeat(scene, leader)
    scene.pass_ms(SESSION_MS - 1)
    assert waiting.error is RebalanceInProgressError
    assert _heartbeat(scene, leader) is UnknownMemberError
    again = scene.join(member_id=follower.member_id)
    assert (again.joined.generation, again.joined.leader) == (2, follower.member_id)


def test_a_member_that_waits_is_not_silent() -> None:
    """In a join or a sync it cannot speak; a new one, which may have come again under another id, may only wait so long."""
    scene = Scene()
    first, second = scene.stable(2, rebalance_timeout_ms=NEW_MEMBER_JOIN_TIMEOUT_MS * 2)
    again = scene.join(member_id=first.member_id)
    new = scene.join()
    for _ in range(2 * NEW_MEMBER_JOIN_TIMEOUT_MS // SESSION_MS - 4):
        scene.pass_ms(SESSION_MS - 1)
        assert _heartbeat(scene, second) is RebalanceInProgressError
    assert again.outcome is None
    assert new.error is UnknownMemberError


def test_only_the_newest_generation_commits() -> None:
    """Not strangers, not members of old generations, nobody before the assignment; and from outside only into an empty group."""
    scene = Scene()
    outsider = GroupMember(group_id=G)
    assert scene.commit(outsider, 1) is None
    (member,) = scene.stable(1)
    assert scene.commit(member, 2) is None
    assert isinstance(scene.commit(outsider), UnknownMemberError)
    assert isinstance(scene.commit(replace(member, member_id="x")), UnknownMemberError)
    assert isinstance(scene.commit(replace(member, generation=2)), IllegalGenerationError)
    new = scene.join()
    assert scene.commit(member, 3) is None  # what it has done may still count: nobody else has its partitions yet
    again = member_of(scene.join(member_id=member.member_id))
    assert isinstance(scene.commit(member), IllegalGenerationError)
    assert isinstance(scene.commit(again), RebalanceInProgressError)
    scene.sync(again)
    assert scene.commit(again, 4) is None
    assert scene.commit(member_of(new), 5) is None
    assert next(iter(scene.state.offsets[G].values())).offset == 5
    scene.leave(Leaver(member_id=again.member_id), Leaver(member_id=new.joined.member_id))
    assert isinstance(scene.commit(again), UnknownMemberError)
    assert scene.commit(replace(outsider, generation=NO_GENERATION), 6) is None


def test_nobody_commits_behind_a_generation_that_is_on_its_way() -> None:
    """Its entry comes first in the log; what came before it counts, what comes behind it does not."""
    scene = Scene(auto=False)
    first, second = scene.stable(2)
    scene.join(member_id=first.member_id)
    assert scene.commit(second, 1) is None
    scene.leave(Leaver(member_id=second.member_id))
    assert [command.WhichOneof("command") for command in scene.log] == ["commit_offsets", "new_generation"]
    assert isinstance(scene.commit(first), RebalanceInProgressError)
    scene.durable()
    assert [error for _, error, _ in scene.settled] == [None]


def test_a_deleted_group_is_dead() -> None:
    """Whoever has begun to join it hears so."""
    scene = Scene(auto=False)
    (member,) = scene.stable(1)
    scene.leave(Leaver(member_id=member.member_id))
    call = scene.join()
    scene.live.deleted(UnknownMemberError("deleted"))
    scene._take()
    assert scene.is_in(GroupState.DEAD)
    assert call.error is UnknownMemberError
