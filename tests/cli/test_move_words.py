"""What is on the move, in plain words; and what a person may type."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftlog.cli.errors import UsageError
from raftlog.cli.move_words import (
    balanced_in_words,
    drain_in_words,
    move_in_words,
    moves_in_words,
    nodes_in_words,
    seconds_in_words,
)
from raftlog.cli.moving import parse_nodes, parse_partition
from raftlog.model import Move, TopicPartition

MOVE = Move(
    tp=TopicPartition("t", 0), group_id=1, replicas=(4, 2), adding=(4,), removing=(1,), reason="why", state="node 4 catches up",
    started_at_ms=0, bytes_total=100 << 20, bytes_done=25 << 20, rate=float(5 << 20), seconds_left=15.0,
)  # fmt: skip


def test_a_move_says_who_comes_and_goes_how_far_it_is_and_what_it_does() -> None:
    """Without a rate there is no guess; without data only the leader changes."""
    assert move_in_words(MOVE) == (
        "t-0: node 4 comes, node 1 goes; 25% of 100.0 MiB is copied at 5.0 MiB/s, 15 s left; node 4 catches up"
    )
    unknown = replace(MOVE, rate=0.0, seconds_left=None)
    assert move_in_words(unknown) == "t-0: node 4 comes, node 1 goes; 25% of 100.0 MiB is copied; node 4 catches up"
    assert move_in_words(replace(MOVE, adding=(), removing=(1, 3), state="s")) == "t-0: nodes 1 and 3 go; s"
    assert move_in_words(replace(MOVE, adding=(), removing=(), state="s")) == "t-0: its leader changes; s"


def test_all_moves_say_how_much_is_left_and_when_it_will_be_over() -> None:
    """What waits for a node that is down is said, for it will not be over by itself."""
    assert moves_in_words([MOVE]) == "1 partition is on the move, 75.0 MiB are to be copied, which takes about 15 s"
    held_up = replace(MOVE, bytes_done=0, rate=0.0, held_up=True)
    assert moves_in_words([MOVE, held_up]) == (
        "2 partitions are on the move, 175.0 MiB are to be copied, which takes about 35 s; "
        "1 of them waits for a node that is down"
    )
    assert moves_in_words([replace(MOVE, bytes_total=0, bytes_done=0)]) == "1 partition is on the move"


def test_one_partition_is_not_several() -> None:
    """The verb goes with it."""
    assert [drain_in_words(4, count) for count in (1, 2)] == [
        "node 4 is being drained: 1 partition leaves it",
        "node 4 is being drained: 2 partitions leave it",
    ]
    assert balanced_in_words(1, 0, dry_run=False) == "1 partition gets other replicas, 0 only another leader"
    assert balanced_in_words(2, 1, dry_run=False) == "2 partitions get other replicas, 1 only another leader"
    assert balanced_in_words(1, 2, dry_run=True) == "1 partition would get other replicas, 2 only another leader"


def test_times_and_nodes_are_told_as_people_do() -> None:
    """Rounded to what matters."""
    told = [seconds_in_words(seconds) for seconds in (0.0, 40.0, 180.0, 7_200.0)]
    assert told == ["a few seconds", "40 s", "3 min", "2 h"]
    assert [nodes_in_words(nodes) for nodes in ((), (1,), (1, 2, 4))] == ["no node", "node 1", "nodes 1, 2 and 4"]


def test_partitions_and_nodes_are_read_or_refused() -> None:
    """A topic's name may have dashes itself."""
    assert parse_partition("my-topic-12") == TopicPartition("my-topic", 12)
    assert parse_nodes("1, 2,4") == (1, 2, 4)
    for text in ("events", "-1", "events-", "events-x"):
        with pytest.raises(UsageError):
            parse_partition(text)
    for text in ("", "1,,2", "a"):
        with pytest.raises(UsageError):
            parse_nodes(text)
