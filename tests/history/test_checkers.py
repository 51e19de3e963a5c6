"""Each checker catches what it is for, and lets pass what only looks like it."""

from __future__ import annotations

import pytest

from tests.history.build import TOPIC, Story
from tests.history.events import Event, Fetch, Fetched, Publish, Published


def sound() -> Story:
    """Two batches, read by a session, and the final log."""
    story = Story()
    story.publish("a", "b", at=0, producer=1, session="p/1")
    story.publish("c", at=2, producer=1, session="p/1")
    story.poll(0, "a", "b", session="s")
    story.poll(2, "c", session="s")
    story.poll(0, "a", "b", "c", final=True)
    return story


def test_a_sound_history_has_no_findings() -> None:
    """What a healthy cluster does is not complained of."""
    assert sound().findings() == []


def test_an_acknowledged_record_that_is_gone_is_a_lost_write() -> None:
    """The final log has a hole where an acknowledged record was."""
    story = Story()
    story.publish("a", at=0)
    story.publish("b", at=1)
    story.poll(0, "a", final=True)
    story.poll(2, "c", final=True)
    assert "lost-write" in story.findings()


def test_what_was_read_and_is_gone_is_a_lost_write() -> None:
    """A committed read is never withdrawn."""
    story = Story()
    story.publish("a", outcome="unknown")
    story.publish("b", at=1)
    story.poll(0, "a")
    story.poll(0, next_offset=1, final=True)
    story.poll(1, "b", final=True)
    assert "lost-write" in story.findings()


def test_what_retention_deleted_is_not_lost() -> None:
    """Below the log start nothing is missed."""
    story = Story()
    story.publish("a", at=0)
    story.publish("b", at=1)
    story.poll(1, "b", start=1, final=True)
    assert story.findings() == []


def test_a_write_that_only_its_leader_had_may_be_lost() -> None:
    """acks=1 promises no more."""
    story = Story()
    story.publish("a", at=0, acks=1)
    story.publish("b", at=0)
    story.poll(0, "b", final=True)
    assert story.findings() == []


def test_an_acknowledged_record_beyond_the_end_is_unseen() -> None:
    """The final log ends too early."""
    story = Story()
    story.publish("a", at=0)
    story.publish("b", at=1)
    story.poll(0, "a", final=True)
    assert story.findings() == ["unseen"]


def test_an_offset_with_two_values_is_inconsistent() -> None:
    """Two readers saw different records at one offset."""
    story = Story()
    story.publish("a", outcome="unknown")
    story.publish("b", outcome="unknown")
    story.poll(0, "a")
    story.poll(0, "b")
    assert "inconsistent-offsets" in story.findings()


def test_an_acknowledgement_at_anothers_offset_is_inconsistent() -> None:
    """The acknowledgement says one offset, readers find another record there."""
    story = Story()
    story.publish("a", at=0)
    story.publish("b", at=0)
    assert story.findings() == ["inconsistent-offsets"]


def test_an_idempotent_value_at_two_offsets_is_a_duplicate() -> None:
    """It was sent twice, and must be there once."""
    story = Story()
    story.publish("a", outcome="unknown", producer=1)
    story.publish("a", at=1, producer=1)
    story.poll(0, "a", "a")
    assert story.findings() == ["duplicate"]


def test_a_value_sent_twice_without_a_producer_id_may_be_there_twice() -> None:
    """Without idempotence a second try is a second record."""
    story = Story()
    story.publish("a", outcome="unknown")
    story.publish("a", at=1)
    story.poll(0, "a", "a")
    assert story.findings() == []


def test_a_duplicate_that_is_acknowledged_elsewhere_is_found() -> None:
    """The retry was given another offset than the record has."""
    story = Story()
    story.publish("a", at=5, producer=1)
    story.poll(0, "a")
    assert story.findings() == ["duplicate"]


@pytest.mark.parametrize("outcomes", [("fail",), ("fail", "fail")])
def test_a_failed_write_that_is_read_was_not_aborted(outcomes: tuple[str, ...]) -> None:
    """A definite failure promises that the record is nowhere."""
    story = Story()
    for outcome in outcomes:
        story.publish("a", outcome=outcome)  # type: ignore[arg-type]
    story.poll(0, "a")
    assert story.findings() == ["aborted-read"]


def test_a_write_of_unknown_outcome_may_be_read() -> None:
    """One attempt failed, of the other nobody knows."""
    story = Story()
    story.publish("a", outcome="unknown")
    story.publish("a", outcome="fail")
    story.poll(0, "a")
    assert story.findings() == []


def test_a_value_that_nobody_sent_is_found() -> None:
    """The log makes up a record."""
    story = Story()
    story.poll(0, "ghost")
    assert story.findings() == ["aborted-read"]


def test_a_fetch_with_a_gap_skips() -> None:
    """Offsets have no gaps; a reader must not be given one."""
    story = sound()
    number = story.begin(Fetch(topic=TOPIC, partition=0, offset=0))
    given = Fetched(records=((0, "a", -1), (2, "c", -1)), next_offset=3, high_watermark=3, log_start_offset=0)
    story.end(number, "ok", given)
    assert story.findings() == ["poll-skip"]


def test_a_next_offset_beyond_what_was_given_skips() -> None:
    """The reader would go on behind records that it never saw."""
    story = sound()
    story.poll(0, "a", next_offset=3)
    assert story.findings() == ["poll-skip"]


def test_a_session_that_jumps_ahead_skips() -> None:
    """A session begins where it ended; only a seek may jump, and that is another session."""
    story = sound()
    story.poll(5, session="s")
    assert story.findings() == ["poll-skip"]
    story = sound()
    story.poll(5, session="s2")
    assert story.findings() == []


def test_a_session_that_goes_back_is_not_monotonic() -> None:
    """It is given a record a second time."""
    story = sound()
    story.poll(1, "b", session="s")
    assert story.findings() == ["nonmonotonic-poll"]


def test_a_fetch_whose_offsets_fall_is_not_monotonic() -> None:
    """Records come in order."""
    story = sound()
    number = story.begin(Fetch(topic=TOPIC, partition=0, offset=0))
    given = Fetched(records=((0, "a", -1), (0, "a", -1)), next_offset=1, high_watermark=3, log_start_offset=0)
    story.end(number, "ok", given)
    assert story.findings() == ["nonmonotonic-poll"]


def test_an_idempotent_producers_order_is_kept() -> None:
    """Even where it was told nothing, what is in the log is in its order."""
    story = Story()
    story.publish("a", outcome="unknown", producer=1, session="p/1")
    story.publish("b", outcome="unknown", producer=1, session="p/1")
    story.poll(0, "b", "a")
    assert story.findings() == ["nonmonotonic-send"]


def test_without_idempotence_only_acknowledged_order_counts() -> None:
    """A lost batch may turn up late; one that was acknowledged stays before those sent after it."""
    story = Story()
    story.publish("a", outcome="unknown", session="p/1")
    story.publish("b", at=0, session="p/1")
    story.poll(0, "b", "a")
    assert story.findings() == []
    story = Story()
    story.publish("a", at=1, session="p/1")
    story.publish("b", at=0, session="p/1")
    assert story.findings() == ["nonmonotonic-send"]


def test_a_watermark_that_falls_is_found() -> None:
    """One client, one replica: what it was told once stays true."""
    story = sound()
    story.poll(3, high=3, replica=1)
    story.poll(3, high=2, replica=2)
    assert story.findings() == []
    story.poll(3, high=2, replica=1)
    assert story.findings() == ["falling-watermark"]


def test_a_replica_that_is_seen_to_fall_is_found() -> None:
    """Within one life of a process; a restarted one may have to learn the watermark again."""
    story = sound()
    story.look(1, 1, 3)
    story.look(1, 2, 2)
    assert story.findings() == []
    story.look(1, 2, 1)
    assert story.findings() == ["falling-watermark"]


def test_a_latest_offset_below_what_is_known_is_stale() -> None:
    """A deposed leader must not answer it."""
    story = sound()
    story.lookup(-1, 100)
    story.lookup(-1, 2)
    assert story.findings() == ["stale-latest"]


def test_a_latest_offset_need_not_know_what_is_under_way() -> None:
    """A publish that is not acknowledged when the question begins may be missed."""
    story = Story()
    number = story.begin(Publish(topic=TOPIC, partition=0, values=("a",)))
    story.lookup(-1, 0)
    story.end(number, "ok", Published(base_offset=0))
    assert story.findings() == []


def test_a_time_lookup_that_passes_over_a_record_is_wrong() -> None:
    """The first record at or after the time is the answer, wherever times fall along the log."""
    story = Story()
    story.publish("a", "b", "c", at=0)
    story.poll(0, "a", "b", "c", times=(10, 30, 20), high=3)
    story.lookup(15, 1, 30)
    assert story.findings() == []
    story.lookup(15, 2, 20)
    assert story.findings() == ["wrong-time"]


@pytest.mark.parametrize(("wanted", "offset", "found"), [(15, -1, -1), (25, 0, 10), (15, 1, 31)])
def test_a_time_lookup_with_a_wrong_answer_is_found(wanted: int, offset: int, found: int) -> None:
    """Nothing where there is something, a record before the time, another time than the record's own."""
    story = Story()
    story.publish("a", "b", at=0)
    story.poll(0, "a", "b", times=(10, 30), high=2)
    story.lookup(wanted, offset, found)
    assert story.findings() == ["wrong-time"]


def test_a_deleted_topic_may_lose_everything() -> None:
    """Whoever deletes a topic, or tries to, wants its records gone."""
    story = Story()
    story.publish("a", at=0)
    story.delete()
    story.poll(0, next_offset=5, final=True)
    assert story.findings() == []


def test_an_operation_ends_once() -> None:
    """Events that make no history are refused."""
    story = Story()
    story.publish("a", at=0)
    story.end(1, "ok")
    with pytest.raises(ValueError, match="ends"):
        story.findings()


def test_an_operation_without_an_end_is_unknown() -> None:
    """Its record may be there."""
    story = Story()
    story.begin(Publish(topic=TOPIC, partition=0, values=("a",)))
    story.poll(0, "a")
    assert story.findings() == []
    assert all(isinstance(event, Event) for event in story.events)
