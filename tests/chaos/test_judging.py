from __future__ import annotations

from tests.chaos.liveness import Window, stalls
from tests.chaos.replicas import differences, disagreements

RUN = Window(0, 100)


def test_a_partition_that_goes_on_has_no_stall() -> None:
    """Gaps up to the bound are promised, not zero."""
    assert stalls({0: [float(at) for at in range(0, 100, 9)]}, RUN, []) == []


def test_a_stall_under_a_healthy_majority_is_found() -> None:
    """In the middle, before the first acknowledgement, and behind the last."""
    steady = [float(at) for at in range(100)]
    for gone in (range(30, 45), range(15), range(85, 100)):
        (found,) = stalls({0: [at for at in steady if at not in gone], 1: steady}, RUN, [])
        assert found.startswith("partition 0 acknowledged nothing for 1")


def test_nothing_is_promised_while_a_majority_is_hurt() -> None:
    """Nor for as long again as the cluster may take; overlapping faults do not count twice."""
    times = [float(at) for at in range(100) if not 30 < at < 60]
    assert stalls({0: times}, RUN, [Window(31, 40), Window(33, 41)]) == []
    assert len(stalls({0: times}, RUN, [Window(31, 35), Window(32, 36)])) == 1


def test_a_run_that_slept_saw_no_stall() -> None:
    """It sent nothing either."""
    times = [float(at) for at in range(100) if not 30 < at < 60]
    assert stalls({0: times}, RUN, [], [Window(31, 58)]) == []
    assert len(stalls({0: times}, RUN, [], [Window(31, 45)])) == 1


def test_equal_replicas_have_no_difference() -> None:
    """Trimmed fronts and uncommitted ends may differ."""
    stored = {1: {5: {3: 30, 4: 40, 5: 50}}, 2: {5: {1: 10, 2: 20, 3: 30, 4: 40, 5: 99}}, 3: {5: {3: 30, 4: 40}}}
    assert differences(stored, {5: 4}) == []


def test_a_committed_entry_that_differs_or_is_missing_is_found() -> None:
    """Each group is told once, with its first difference."""
    assert differences({1: {5: {1: 10, 2: 20, 3: 30}}, 2: {5: {1: 10, 2: 21, 3: 31}}}, {5: 3}) == [
        "group 5, index 2 differs: node 1: 20, node 2: 21"
    ]
    assert "nothing" in differences({1: {5: {1: 10, 2: 20}}, 2: {5: {1: 10}}}, {5: 2})[0]
    assert "empty replica" in differences({1: {5: {1: 10}}, 2: {5: {}}}, {5: 1})[0]


def test_full_reads_must_agree() -> None:
    """The first records that only one of them has are told."""
    assert disagreements({1: {0: [(0, "a")]}, 2: {0: [(0, "a")]}, 3: {0: [(0, "a")]}}) == []
    (found,) = disagreements({1: {0: [(0, "a"), (1, "b")]}, 2: {0: [(0, "a"), (1, "c")]}})
    assert found == "partition 0 read through nodes 1 and 2 differs, first at [(1, 'b'), (1, 'c')]"
