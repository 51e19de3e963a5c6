"""An acknowledgement that outruns every disk is found, and no other."""

from __future__ import annotations

from tests.chaos.early import early, slow_syncs
from tests.chaos.liveness import Window
from tests.history.events import Event, Outcome, Publish, Published


def publish(begun_ms: int, ended_ms: int, outcome: Outcome = "ok", acks: int = -1) -> list[Event]:
    """One publish from its begin to its end."""
    value = Publish(topic="t", partition=0, values=("a",), acks=acks)
    return [
        Event(time_us=begun_ms * 1_000, client="p", operation=1, outcome="invoke", value=value, error=""),
        Event(time_us=ended_ms * 1_000, client="p", operation=1, outcome=outcome, value=Published(base_offset=0), error=""),
    ]


SLOW = [(Window(1.0, 5.0), 0.4)]


def test_an_acknowledgement_before_any_sync_can_have_ended_is_found() -> None:
    """Of a record that was sent and acknowledged while every sync took 400 ms; with acks leader, too."""
    for acks in (-1, 1):
        (found,) = early(publish(1_100, 1_120, acks=acks), SLOW)
        assert found == "early-ack in t-0: operation 1 was acknowledged after 20 ms, each sync took 400 ms"


def test_what_may_have_been_synced_is_not_found() -> None:
    """It took its time, began before or ended behind the slowness, asked for no acknowledgement, or failed."""
    innocent = [
        publish(1_100, 1_500),
        publish(900, 1_050),
        publish(4_900, 5_010),
        publish(1_100, 1_120, acks=0),
        publish(1_100, 1_120, "fail"),
    ]
    assert [early(events, SLOW) for events in innocent] == [[]] * len(innocent)
    assert early(publish(1_100, 1_120), [(Window(1.0, 5.0), 0.02)]) == []


def test_only_disks_that_are_all_slow_count() -> None:
    """One quick node could be the leader and its follower's majority; and a run that was cut short says nothing."""
    events = [
        {"what": "slow disk", "t": 1_000_000, "nodes": [1, 2, 3], "sync_ms": 100},
        {"what": "good disk", "t": 2_000_000, "nodes": [1, 2, 3]},
        {"what": "slow disk", "t": 3_000_000, "nodes": [2], "sync_ms": 100},
        {"what": "good disk", "t": 4_000_000, "nodes": [2]},
        {"what": "slow disk", "t": 5_000_000, "nodes": [1, 2, 3], "sync_ms": 100},
    ]
    assert slow_syncs(events, 3) == [(Window(1.0, 2.0), 0.1)]
