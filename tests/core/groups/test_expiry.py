"""Which offsets and groups have served their time (KIP-211)."""

from __future__ import annotations

from raftlog.core.groups.expiry import expired_offsets, unused_groups
from raftlog.core.groups.records import GroupRecord, MemberRecord, StoredOffset
from raftlog.core.groups.state import GroupsState
from raftlog.core.groups.subscription import subscribed_topics
from raftlog.core.groups.values import GroupState
from raftlog.model import TopicPartition

DAY_MS = 86_400_000
NOW_MS = 100 * DAY_MS


def _member(metadata: bytes) -> MemberRecord:
    return MemberRecord(member_id="m", session_timeout_ms=1, rebalance_timeout_ms=1, protocols=(("range", metadata),))


def _record(*, metadata: bytes | None = None, protocol_type: str = "consumer", empty_since_ms: int = 0) -> GroupRecord:
    members = {} if metadata is None else {"m": _member(metadata)}
    return GroupRecord(
        group_id="g", generation=1, protocol_type=protocol_type, protocol="range", members=members, assigned=True,
        empty_since_ms=empty_since_ms,
    )  # fmt: skip


SUBSCRIBED = b"\0\3\0\0\0\2\0\1t\0\1u\0\0\0\0and more"


def _expired(record: GroupRecord, state_of: GroupState, age_ms: int, *, topic: str = "t", gone: bool = False) -> bool:
    state = GroupsState(
        groups={"g": record},
        offsets={"g": {TopicPartition(topic, 0): StoredOffset(1, -1, "", NOW_MS - age_ms, 7, 3)}},
    )
    refs = expired_offsets(
        state, "g", now_ms=NOW_MS, retention_ms=7 * DAY_MS, state_of=lambda _: state_of, gone=lambda _tp, _group: gone
    )
    assert [(ref.topic, ref.commit_index) for ref in refs] in ([], [(topic, 3)])
    return bool(refs)


def test_offsets_of_an_empty_group_expire_after_it_was_left() -> None:
    """Counted from when the last member went, or from the commit where that was later, or there never was a member."""
    assert not _expired(_record(empty_since_ms=NOW_MS - 6 * DAY_MS), GroupState.EMPTY, 30 * DAY_MS)
    assert _expired(_record(empty_since_ms=NOW_MS - 8 * DAY_MS), GroupState.EMPTY, 30 * DAY_MS)
    assert not _expired(_record(empty_since_ms=NOW_MS - 8 * DAY_MS), GroupState.EMPTY, 6 * DAY_MS)
    assert _expired(GroupRecord(group_id="g"), GroupState.EMPTY, 7 * DAY_MS)
    assert not _expired(GroupRecord(group_id="g"), GroupState.EMPTY, 7 * DAY_MS - 1)


def test_offsets_of_a_group_that_is_being_left_do_not_expire_yet() -> None:
    """Its last member has gone, and the record does not say so yet: it was alive a moment ago, however old its commits are."""
    assert not _expired(_record(metadata=SUBSCRIBED), GroupState.EMPTY, 30 * DAY_MS)


def test_offsets_of_a_stable_group_expire_where_nobody_subscribes_to_the_topic() -> None:
    """Only of consumers, whose subscriptions can be read, and not while they rebalance."""
    record = _record(metadata=SUBSCRIBED)
    assert not _expired(record, GroupState.STABLE, 30 * DAY_MS, topic="t")
    assert _expired(record, GroupState.STABLE, 30 * DAY_MS, topic="other")
    assert not _expired(record, GroupState.STABLE, 6 * DAY_MS, topic="other")
    assert not _expired(record, GroupState.PREPARING_REBALANCE, 30 * DAY_MS, topic="other")
    assert not _expired(_record(metadata=SUBSCRIBED, protocol_type="connect"), GroupState.STABLE, 30 * DAY_MS, topic="other")
    assert not _expired(_record(metadata=b"??"), GroupState.STABLE, 30 * DAY_MS, topic="other")


def test_offsets_of_deleted_topics_go_at_once() -> None:
    """Whatever the group does."""
    assert _expired(_record(metadata=SUBSCRIBED), GroupState.STABLE, 0, gone=True)


def test_groups_without_members_and_offsets_go() -> None:
    """Once they have been so for a while, and nobody is about to join."""

    def unused(state_of: GroupState = GroupState.EMPTY, before_ms: int = 5) -> list[str]:
        return [record.group_id for record in unused_groups(state, before_ms=before_ms, state_of=lambda _: state_of)]

    state = GroupsState(groups={"g": _record(empty_since_ms=5), "m": _record(metadata=SUBSCRIBED)})
    assert unused() == ["g"]
    assert unused_groups(state, before_ms=5, state_of=lambda _: GroupState.EMPTY, but={"g"}) == []
    assert unused(before_ms=4) == []
    assert unused(GroupState.PREPARING_REBALANCE) == []
    state.offsets["g"] = {TopicPartition("t", 0): StoredOffset(1, -1, "", 0, 7, 3)}
    assert unused() == []


def test_hostile_subscriptions_say_nothing() -> None:
    """Every cut, and lengths that are none."""
    assert subscribed_topics(_record(metadata=SUBSCRIBED)) == frozenset({"t", "u"})
    for size in range(12):
        assert subscribed_topics(_record(metadata=SUBSCRIBED[:size])) is None
    wrong_lengths = (b"\0\0\xff\xff\xff\xff", b"\0\0\0\0\0\1\xff\xff", b"\0\0\x7f\xff\xff\xff")
    for bad in (*wrong_lengths, b"\xff\xff\0\0\0\0", b"\0\0\0\0\0\1\0\1\xff"):
        assert subscribed_topics(_record(metadata=bad)) is None
    assert subscribed_topics(_record(metadata=b"\0\0\0\0\0\0")) == frozenset()
