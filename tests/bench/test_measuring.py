"""What the figures stand on: batches of the size that is claimed, a window that counts only its interval, honest verdicts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from raftlog.records.batch import check
from tests.bench import window
from tests.bench.bare import bare_cluster, bare_load
from tests.bench.batches import ready_made
from tests.bench.figures import Figure, Pair, Target, Verdict, compare, middle_round
from tests.bench.picture import draw, goodness


@pytest.mark.parametrize("size_bytes", [1_000, 16_384, 131_072, 1 << 20])
def test_a_ready_made_batch_is_valid_and_has_its_size_to_the_byte(size_bytes: int) -> None:
    """Both sides of a ratio replicate the same number of bytes, and the node takes the batch."""
    batch = ready_made(size_bytes)
    assert len(batch) == size_bytes
    assert check(batch, size_max=size_bytes).size_bytes == size_bytes


async def test_a_window_keeps_its_number_in_flight_and_counts_only_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the ramp nor the drain is in the rate."""
    monkeypatch.setattr(window, "RAMP_S", 0.05)
    loop, in_flight, most, sent = asyncio.get_running_loop(), 0, 0, 0

    def send(number: int) -> None:
        nonlocal in_flight, most, sent
        in_flight, sent = in_flight + 1, sent + 1
        most = max(most, in_flight)
        loop.call_later(0.001, answer, number)

    def answer(number: int) -> None:
        nonlocal in_flight
        in_flight -= 1
        load.answered(number)

    load = window.Window(send, 7)
    rate = await load.run(0.1)
    assert (most, in_flight) == (7, 0)
    assert 0 < rate.answers < sent
    assert rate.answers == len(rate.latencies_s)


async def test_a_window_ends_with_the_failure_of_a_request() -> None:
    """A figure is never made of requests that failed."""
    load = window.Window(lambda _: None, 1)
    asyncio.get_running_loop().call_soon(load.failed, ValueError("refused"))
    with pytest.raises(ValueError, match="refused"):
        await load.run(0.01)


async def test_the_bare_replication_acknowledges_what_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes come up, answer every batch, and are gone afterwards."""
    monkeypatch.setattr(window, "RAMP_S", 0.0)
    async with bare_cluster(tmp_path) as port:
        rate = await bare_load(port, ready_made(1_000), 4, 0.2)
    assert rate.answers > 0
    assert all((tmp_path / name / "data.mdb").stat().st_size > 0 for name in ("leader", "follower-1", "follower-2"))


def test_a_verdict_knows_whether_more_or_less_is_better() -> None:
    """At the target counts as reached, on either side."""
    assert Target(0.8).reached(0.8)
    assert not Target(0.8).reached(0.79)
    assert Target(2.0, at_most=True).reached(2.0)
    assert not Target(2.0, at_most=True).reached(2.1)
    assert goodness(1.0, Target(2.0, at_most=True)) == goodness(2.0, Target(1.0)) == 2.0


def test_a_ratio_is_the_median_over_rounds_of_raftlog_to_the_bare_mean() -> None:
    """One disturbed round does not move the figure."""
    figure = compare("a", "a", "MB/s", Target(0.5), [Pair(90, 50, 110), Pair(100, 60, 100), Pair(100, 1, 100)])
    assert figure.value == 0.5
    assert figure.verdict is Verdict.REACHED


def test_of_few_rounds_the_middle_one_is_told_with_both_its_sides() -> None:
    """Not the median of each side: those may never have met."""
    figure = middle_round("a", "a", "MB/s", None, [(10.0, 1.0), (6.0, 3.0), (5.0, 5.0)])
    assert (figure.value, figure.detail) == (2.0, "6 of 3 MB/s")


def test_the_picture_is_drawn_of_any_figures(tmp_path: Path) -> None:
    """Also of one alone, far beyond its target, and of none that has one."""
    aimed = Figure(name="a", text="a", value=100.0, unit="×", target=Target(1.0), samples=(1.0, 100.0))
    free = Figure(name="b", text="b", value=1_000.0, unit="/s")
    for number, figures in enumerate(([aimed], [free], [aimed, free])):
        draw(figures, tmp_path / f"{number}.png", subtitle="here")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
