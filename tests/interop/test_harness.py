"""What the matrix stands on: bridges that tell refusal from absence, comparisons that see a difference, cells that count."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.bridges.consuming import ConsumingThread
from tests.interop.bridges.face import Absent, Client, Refused, Wire, as_wire, packed, unpacked
from tests.interop.bridges.serving import answer
from tests.interop.clients import CLIENTS, ROOT
from tests.interop.features import FEATURES
from tests.interop.lab import compare, refused
from tests.interop.matrix import Cell, Outcome, markdown, write
from tests.interop.suite.adapter import excuses
from tests.interop.talking import Bridge, BridgeLostError
from tests.testing.test_local_cluster import gone, until


class Some(Client):
    """A client that lists topics and refuses the rest in its ways."""

    def topic_list(self) -> list[str]:
        return ["a"]

    def topic_delete(self, topic: str) -> None:
        raise Refused(3, "no such topic")

    def topic_grow(self, topic: str, partitions: int) -> None:
        raise ValueError("broken")


def test_an_answer_tells_a_value_from_a_refusal_from_an_absence() -> None:
    """A client that lacks something is not a failure, and whatever a library raises is an answer."""
    client = Some()
    assert answer(client, {"op": "topic_list", "args": {}}) == {"value": ["a"]}
    assert answer(client, {"op": "topic_delete", "args": {"topic": "b"}}) == {"error": "no such topic", "code": 3}
    assert answer(client, {"op": "topic_grow", "args": {"topic": "b", "partitions": 2}})["error"] == "ValueError: broken"
    assert "absent" in answer(client, {"op": "group_list", "args": {}})


@pytest.mark.parametrize("data", [None, b"", b"\x00\xff"])
def test_null_empty_and_any_bytes_pass_the_wire(data: bytes | None) -> None:
    """And stay three different things."""
    assert unpacked(packed(data)) == data


def test_a_difference_in_any_field_is_seen() -> None:
    """A timestamp only where one was given, for then the client chose it."""
    sent = {"k": packed(b"k"), "v": packed(b"v"), "h": [["a", packed(b"1")]], "t": 5}
    read = as_wire(key=b"k", value=b"v", headers=[("a", b"1")], timestamp_ms=5, topic="t", partition=0, offset=0)
    compare([sent], [read], {})
    compare([{**sent, "t": None}], [{**read, "t": 9}], {})
    for name, value in (("k", None), ("v", packed(b"w")), ("h", []), ("t", 6)):
        with pytest.raises(AssertionError, match=f"record 0: {name} was"):
            compare([sent], [{**read, name: value}], {})
        compare([sent], [{**read, name: value}], {"blind": [name]})
    with pytest.raises(AssertionError, match="1 records were sent and 0 read"):
        compare([sent], [], {})


async def test_a_refusal_must_come_and_have_its_code() -> None:
    """Neither success nor another code passes for it; a client that tells no code is believed."""

    async def refuse(code: int | None) -> None:
        if code != 0:
            raise Refused(code, "no")

    assert (await refused(refuse(3), 3, 5)).code == 3
    await refused(refuse(None), 3)
    for code in (0, 7):
        with pytest.raises(AssertionError):
            await refused(refuse(code), 3)


def test_a_consuming_thread_keeps_what_is_read_until_it_is_taken_or_closed() -> None:
    """Also what is read in its last moment, and an error reaches whoever asks next."""
    closed: list[object] = []
    thread = ConsumingThread(lambda _: iter(range(1_000_000)), lambda source: [{"o": next(source)}], closed.append)
    read: list[Wire] = []
    while len(read) < 10:
        read += thread.take()
    assert thread.ask(next) >= 10
    read += thread.close()
    assert [one["o"] for one in read[:10]] == list(range(10))
    assert closed

    def broken(_: object) -> list[Wire]:
        raise ValueError("broken")

    bad = ConsumingThread(lambda _: None, broken, lambda _: None)
    with pytest.raises(ValueError, match="broken"):
        bad.close()


async def test_a_bridge_that_ends_is_told_from_an_answer(tmp_path: Path) -> None:
    """By the place of its log."""
    script = "import sys; print('{\"value\": {}}', flush=True); sys.stdin.readline(); sys.exit('gone')"
    async with Bridge((sys.executable, "-c", script), "nowhere", environ={}, log=tmp_path / "log") as bridge:
        with pytest.raises(BridgeLostError, match="log"):
            await bridge.call("topic_list")
    assert "gone" in (tmp_path / "log").read_text()


def test_the_matrix_is_written_as_json(tmp_path: Path) -> None:
    """Cell by cell, with the words of each failure."""
    cell = Cell(client="a 1", feature="f", outcome=Outcome.FAIL, words="why", log="here", seconds=1.234)
    write([cell], {"f": "text"}, tmp_path / "matrix.json")
    [row] = json.loads((tmp_path / "matrix.json").read_text())["cells"]
    assert "| text | **fail** |" in markdown([cell], {"f": "text", "not run": "not run"})
    assert row == {"client": "a 1", "feature": "f", "outcome": "fail", "words": "why", "log": "here", "seconds": 1.23}


def test_names_of_clients_and_features_are_told_apart() -> None:
    """Topics and logs are named by them."""
    assert len({client.slug for client in CLIENTS}) == len(CLIENTS)
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)


def test_every_exclusion_of_a_foreign_suite_has_its_reason() -> None:
    """And names one test of one file."""
    assert excuses()
    for name, why in excuses().items():
        assert "::test_" in name
        assert len(why) > 20


def test_what_a_client_does_not_have_is_said_in_words() -> None:
    """The default of every operation is absence."""
    with pytest.raises(Absent, match="no seek"):
        Client().consumer_seek("c", "t", 0, 0)


STUCK = """
import os, signal, sys
print(os.getpid(), file=sys.stderr, flush=True)
print("{}", flush=True)
signal.pause()
"""
OWNER = f"""
import asyncio, sys
from pathlib import Path
from tests.interop.bridges.children import Child
from tests.interop.talking import Bridge

async def main():
    log, stuck = Path(sys.argv[1]), [sys.executable, "-c", {STUCK!r}]
    Child(stuck, lambda stream: stream.readline() and None, lambda line: print(line, flush=True))
    async with Bridge(stuck, "nowhere", environ={{}}, log=log):
        print(log.read_text().strip(), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_no_client_outlives_a_run_that_is_cut_off(tmp_path: Path) -> None:
    """Neither a bridge nor a program that a bridge runs, also where they hear of nothing."""
    command = [sys.executable, "-c", OWNER, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as owner:
        assert owner.stdout is not None
        pids = [int(owner.stdout.readline()) for _ in range(2)]
        owner.kill()
    until(lambda: all(gone(pid) for pid in pids))


async def test_a_stuck_client_is_ended_when_its_time_is_up(tmp_path: Path) -> None:
    """Also where the scenario wants to close something on its way out: that must not wait for it again."""
    script = "import sys, signal; print('{\"value\": {}}', flush=True); signal.pause()"

    async def scenario() -> None:
        async with Bridge((sys.executable, "-c", script), "nowhere", environ={}, log=tmp_path / "log") as bridge:
            try:
                await bridge.call("producer_send")
            finally:
                with pytest.raises(BridgeLostError):
                    await bridge.call("producer_close")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(scenario(), 0.5)
