from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import Any

from tests.chaos.group_member import generation_of
from tests.chaos.picture import draw
from tests.chaos.recorder import EVENTS_FILE, HISTORIES, History, Recorder, merge, read_history
from tests.chaos.summary import summarize
from tests.chaos.timeline import Band, Reign, bands, quantiles_ms, reigns, timeline
from tests.history.events import Event, Fetch, Fetched, Publish, Published, operations
from tests.history.group_events import CommitOffset, CommittedOffset, JoinedGroup, JoinGroup

US = 1_000_000


class StillClock:
    """Stands until it is moved."""

    now_s = 100.0

    def monotonic_s(self) -> float:
        """See ``Clock``."""
        return self.now_s

    def wall_ms(self) -> int:
        """See ``Clock``."""
        return 5_000


def publish(value: str, partition: int = 0) -> Publish:
    """A record of the topic that is drawn."""
    return Publish(topic="t", partition=partition, values=(value,))


def event(t_s: float, what: str, **facts: Any) -> dict[str, Any]:
    """A line of the events."""
    return {"t": round(t_s * US), "what": what, **facts}


def begin(t_s: float, number: int, kind: str = "kill", **facts: Any) -> dict[str, Any]:
    """An episode begins."""
    return event(
        t_s, "begin", number=number, kind=kind, **{"node": 2, "spares_majority": True, "companion": "", "other": 0} | facts
    )


def test_what_is_recorded_can_be_judged(tmp_path: Path) -> None:
    """The recorder's file is a history: operations with their outcomes, at monotonic times."""
    clock = StillClock()
    with Recorder(tmp_path, clock) as recorder:
        first = recorder.begin("p0", publish("a"))
        second = recorder.begin("p0", publish("b", 1))
        clock.now_s += 0.25
        recorder.end(first, "ok", Published(base_offset=7))
        recorder.end(second, "unknown", error="RequestTimedOutError")
        recorder.found("something")
        assert recorder.acknowledged_us == {("t", 0): 250_000}
    merge(tmp_path)
    ops = operations(read_history(tmp_path))
    assert [(op.outcome, op.begun_us, op.result) for op in ops] == [("ok", 0, Published(base_offset=7)), ("unknown", 0, None)]
    assert ops[0].ended_us == 250_000
    assert '"text": "something"' in (tmp_path / EVENTS_FILE).read_text()


def test_operations_are_counted_in_the_second_of_their_end() -> None:
    """An unknown one has no end worth the name, and counts where it began."""
    history = [
        Event(time_us=round(0.5 * US), client="p", operation=1, outcome="invoke", value=publish("a")),
        Event(time_us=round(0.6 * US), client="p", operation=2, outcome="invoke", value=publish("b")),
        Event(time_us=round(0.7 * US), client="p", operation=3, outcome="invoke", value=publish("c", 1)),
        Event(time_us=round(1.5 * US), client="p", operation=1, outcome="ok", value=Published(base_offset=0)),
        Event(time_us=round(2.5 * US), client="p", operation=2, outcome="unknown"),
        Event(time_us=round(2.6 * US), client="p", operation=3, outcome="fail"),
    ]
    made = timeline("t", history, [event(3.2, "end", number=0)])
    assert made.seconds == 4
    assert made.published == {"ok": [0, 1, 0, 0], "unknown": [1, 0, 0, 0], "fail": [0, 0, 1, 0]}
    assert made.latencies_ms == [(0.5, 1_000.0)]
    assert made.acknowledged_s == {0: [1.5]}


def test_final_reads_are_no_traffic() -> None:
    """They come after the run, and would dwarf it."""
    fetched = Fetched(records=((0, "a", 0), (1, "b", 0)), next_offset=2, high_watermark=2, log_start_offset=0)
    history = []
    for number, final in ((1, False), (2, True)):
        fetch = Fetch(topic="t", partition=0, offset=0, final=final)
        history.append(Event(time_us=number, client="f", operation=number, outcome="invoke", value=fetch))
        history.append(Event(time_us=number, client="f", operation=number, outcome="ok", value=fetched))
    assert timeline("t", history, []).read == [2]


def test_a_fault_is_a_band_from_begin_to_end() -> None:
    """One that was cut short ends where the events do."""
    events = [
        begin(1, 0),
        event(4, "healed", number=0),
        event(5, "end", number=0),
        begin(7, 1, "pause"),
        event(9, "leaders", leaders={}),
    ]
    assert bands(events) == [Band("kill", 2, 1.0, 4.0, 5.0, True), Band("pause", 2, 7.0, 9.0, 9.0, True)]


def test_reigns_follow_each_other() -> None:
    """A partition that nobody leads has node 0; reigns last until the next news."""
    events = [
        event(1, "leaders", leaders={"0": 1, "1": 2}),
        event(3, "leaders", leaders={"1": 2}),
        event(4, "leaders", leaders={"0": 3, "1": 2}),
    ]
    assert reigns(events, 6.0) == [Reign(0, 1, 1, 3), Reign(1, 2, 1, 6), Reign(0, 0, 3, 4), Reign(0, 3, 4, 6)]


def test_latencies_are_summed_up_by_second() -> None:
    """A second without any has none, rather than zero."""
    found = quantiles_ms([(0.1, 5.0), (0.2, 1.0), (0.9, 3.0), (2.5, 8.0)], 3)
    assert found["median"][0] == 3.0
    assert found["slowest"][0] == 5.0
    assert isnan(found["median"][1])
    assert found["slowest"][2] == 8.0


def test_a_picture_is_drawn_of_whatever_there_is(tmp_path: Path) -> None:
    """Also of a run in which nothing happened."""
    draw(timeline("t", [], []), tmp_path / "empty.png", nodes=3, title="nothing")
    events = [event(0.5, "leaders", leaders={"0": 1}), begin(1, 0, companion="pause", other=3), event(2, "finding", text="bad")]
    draw(timeline("t", group_history(), events), tmp_path / "some.png", nodes=3, title="something")
    for name in ("empty.png", "some.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def group_history() -> list[Event]:
    """A member of each door joins; both are given a record, and one commits; a former one is refused."""
    made = []
    fetched = Fetched(records=((0, "a", 0),), next_offset=1, high_watermark=1, log_start_offset=0)
    commit = CommitOffset(group="g", generation=1, member_id="m", topic="t", partition=0, offset=1)
    told: dict[str, tuple[Any, Any]] = {
        "a": (JoinGroup(group="g", member_id=""), JoinedGroup(generation=1, member_id="m", leader="")),
        "b": (JoinGroup(group="g", member_id=""), JoinedGroup(generation=2, member_id="n", leader="")),
        "b-reads": (Fetch(topic="t", partition=0, offset=0), fetched),
        "a-commits": (commit, CommittedOffset()),
        "kafka-reader": (Fetch(topic="t", partition=0, offset=0), fetched),
        "kafka-producer": (publish("a"), Published(base_offset=0)),
    }
    for number, (who, (value, result)) in enumerate(told.items(), 1):
        client = who.partition("-")[0] if who[:2] in ("a-", "b-") else who
        made.append(Event(time_us=number * US, client=client, operation=number, outcome="invoke", value=value))
        made.append(Event(time_us=number * US + 1, client=client, operation=number, outcome="ok", value=result))
    made.append(Event(time_us=9 * US, client="ghost", operation=9, outcome="invoke", value=commit))
    made.append(Event(time_us=9 * US, client="ghost", operation=9, outcome="fail"))
    return made


def test_groups_have_lines_of_their_own() -> None:
    """What members are given is no traffic of readers; each generation counts when it is first told."""
    made = timeline("t", group_history(), [event(5, "member", group="g", member="b", mishap="kill")])
    line = made.groups["g"]
    assert (sum(line.commits), sum(line.refused), sum(line.given)) == (1, 1, 1)
    assert [round(at_s) for at_s in line.rebalances_s] == [1, 2]
    assert line.mishaps == [(5.0, "kill")]
    assert (sum(made.read), sum(made.kafka_read), sum(made.kafka_published)) == (1, 1, 1)


def test_a_summary_tells_doors_and_groups_apart() -> None:
    """In lines for a person."""
    made = summarize(group_history())
    assert made.lines() == [
        "7 operations: 6 ok, 0 unknown, 1 fail",
        "through Kafka: 1 ok, 0 unknown, 0 fail of publishing, 1 records read",
        "group g: 2 generations, 2 processes as members, 1 records given, 1 ok, 0 unknown, 1 fail of committing",
    ]


def test_histories_of_several_processes_become_one_in_the_order_of_time(tmp_path: Path) -> None:
    """Each has numbers of its own, and one that was killed while it wrote ends before its last line."""
    clock = StillClock()
    with Recorder(tmp_path, clock) as recorder, History(tmp_path, "other", clock, recorder.begun_s, 1) as other:
        first = recorder.begin("p0", publish("a"))
        clock.now_s += 1
        second = other.begin("k0", publish("b"))
        clock.now_s += 1
        recorder.end(first, "ok", Published(base_offset=0))
        other.end(second, "ok", Published(base_offset=1))
    path = tmp_path / HISTORIES / "other.jsonl"
    path.write_text(path.read_text()[:-5])
    merge(tmp_path)
    assert [(one.client, one.outcome) for one in read_history(tmp_path)] == [("p0", "invoke"), ("k0", "invoke"), ("p0", "ok")]


def test_the_generation_is_read_of_what_librdkafka_keeps() -> None:
    """The format has a name, and its version."""
    assert generation_of(b"CGMDv2:\x03\x00\x00\x00g\x00member\x00\x01") == 3
    assert generation_of(b"CGMDv2:\xff\xff\xff\xffg\x00\x00\x01") == -1
