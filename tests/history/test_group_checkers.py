"""Each judge of groups finds what it is for, and nothing in a sound history."""

from __future__ import annotations

import pytest

from tests.history.build import Story
from tests.history.codec import decode, encode
from tests.history.events import EARLIEST, Fetch, Fetched, ListedOffset, ListOffset, Outcome
from tests.history.group_checkers import judge_groups
from tests.history.group_events import (
    CommitOffset,
    CommittedOffset,
    FetchCommitted,
    FetchedCommitted,
    JoinedGroup,
    JoinGroup,
    SyncedGroup,
    SyncGroup,
)

T = ("t", 0)


class GroupStory(Story):
    """Operations of the members of one group, one behind another."""

    def join(self, client: str, generation: int, *members: str, instance: str = "", leader: str = "a", as_id: str = "") -> None:
        """A join and its answer; the leader's has the members."""
        number = self.begin(JoinGroup(group="g", member_id="", instance=instance), client=client)
        told = JoinedGroup(generation=generation, member_id=as_id or client, leader=leader, members=members)
        self.end(number, "ok", told, client=client)

    def sync(self, client: str, generation: int, *partitions: tuple[str, int]) -> None:
        """A sync and its answer."""
        number = self.begin(SyncGroup(group="g", generation=generation, member_id=client), client=client)
        self.end(number, "ok", SyncedGroup(partitions=partitions), client=client)

    def commit(self, client: str, generation: int, offset: int, outcome: Outcome = "ok", *, while_owned: bool = False) -> None:
        """A commit."""
        self.end_commit(self.begin_commit(client, generation, offset, while_owned=while_owned), client, outcome)

    def begin_commit(self, client: str, generation: int, offset: int, *, while_owned: bool = False) -> int:
        """A commit that is under way."""
        commit = CommitOffset(
            group="g", generation=generation, member_id=client, topic="t", partition=0, offset=offset, while_owned=while_owned
        )
        return self.begin(commit, client=client)

    def end_commit(self, number: int, client: str, outcome: Outcome = "ok") -> None:
        """Its answer."""
        self.end(number, outcome, CommittedOffset() if outcome == "ok" else None, client=client)

    def where(self, offset: int, *, client: str = "auditor") -> None:
        """A question and its answer."""
        number = self.begin(FetchCommitted(group="g", topic="t", partition=0), client=client)
        self.end(number, "ok", FetchedCommitted(offset=offset), client=client)

    def read(self, client: str, begin: int, end: int, *, start: int = 0) -> None:
        """A member is given the records from ``begin`` below ``end``."""
        number = self.begin(Fetch(topic="t", partition=0, offset=begin), client=client)
        records = tuple((offset, f"v{offset}", -1) for offset in range(begin, end))
        fetched = Fetched(records=records, next_offset=end, high_watermark=end, log_start_offset=start)
        self.end(number, "ok", fetched, client=client)

    def earliest(self, client: str, offset: int) -> None:
        """A member asks where the log begins."""
        number = self.begin(ListOffset(topic="t", partition=0, timestamp_ms=EARLIEST), client=client)
        self.end(number, "ok", ListedOffset(offset=offset), client=client)

    def found(self) -> list[str]:
        """The names of the checks that find something, each once."""
        return sorted({finding.check for finding in judge_groups(self.events)})


def sound() -> GroupStory:
    """Two members share, one goes, the other takes over where it was."""
    story = GroupStory()
    story.join("a", 1, "a", "b")
    story.join("b", 1)
    story.sync("a", 1, ("t", 1))
    story.sync("b", 1, T)
    story.where(-1, client="b")
    story.read("b", 0, 5)
    story.commit("b", 1, 5)
    story.read("b", 5, 7)
    story.commit("b", 1, 7, "unknown")
    story.join("a", 2, "a")
    story.commit("b", 1, 7, "fail")
    story.sync("a", 2, T, ("t", 1))
    story.where(5, client="a")
    story.read("a", 5, 9)
    story.commit("a", 2, 9)
    story.where(9)
    return story


def test_a_sound_history_has_no_findings_and_its_lines_are_read_again() -> None:
    """Also where a commit has an unknown outcome, and records are given twice."""
    story = sound()
    assert story.found() == []
    assert [decode(encode(event)) for event in story.events] == story.events


def _late(story: GroupStory) -> None:
    story.where(7)


def _older(story: GroupStory) -> None:
    story.where(5)


def _unheard(story: GroupStory) -> None:
    story.where(8)


def _late_and_acknowledged(story: GroupStory) -> None:
    other = story.begin_commit("a", 2, 5)
    story.commit("a", 2, 9)
    story.end_commit(other, "a")
    story.where(5)


def _before(story: GroupStory) -> None:
    story.commit("a", 2, 5)
    story.commit("a", 2, 9)
    story.where(5)


def _back_by_a_commit(story: GroupStory) -> None:
    story.commit("a", 2, 5)
    story.where(5)


def _behind(story: GroupStory) -> None:
    story.commit("b", 1, 9, while_owned=True)


def _ahead_of_what_it_knows(story: GroupStory) -> None:
    story.commit("a", 1, 9, while_owned=True)


def _fenced(story: GroupStory) -> None:
    story.commit("b", 1, 9)


def _outsider(story: GroupStory) -> None:
    story.commit("x", -1, 9)


def _backwards(story: GroupStory) -> None:
    story.join("b", 1)


def _split(story: GroupStory) -> None:
    story.join("b", 2)


def _two_leaders(story: GroupStory) -> None:
    story.join("a", 2, "a", "b")


def _twice(story: GroupStory) -> None:
    story.sync("b", 2, T)


def _passed_over(story: GroupStory) -> None:
    story.read("a", 10, 12)
    story.commit("a", 2, 12)


def _trimmed(story: GroupStory) -> None:
    story.earliest("a", 10)
    story.read("a", 10, 12, start=10)
    story.commit("a", 2, 12)


def _not_read_yet(story: GroupStory) -> None:
    story.commit("a", 2, 12, "unknown")
    story.read("a", 9, 12)


def _back_as_another(story: GroupStory) -> None:
    story.join("s", 3, "s1", instance="i", leader="s1", as_id="s1")
    story.sync("s1", 3, T)
    story.join("s", 3, instance="i", leader="s2", as_id="s2")
    story.sync("s2", 3, T)


@pytest.mark.parametrize(
    ("happens", "finding"),
    [
        (_late, []),  # the commit of unknown outcome took effect behind the newer one
        (_older, ["lost-commit"]),
        (_unheard, ["lost-commit", "phantom-commit"]),
        (_late_and_acknowledged, []),  # the two were under way together: either may be the last
        (_before, ["lost-commit"]),
        (_back_by_a_commit, []),
        (_behind, ["fenced-commit"]),  # the partition was given to another in a newer generation
        (_ahead_of_what_it_knows, []),  # it has the partition in the newer generation, too
        (_fenced, ["fenced-commit"]),
        (_outsider, ["fenced-commit"]),
        (_backwards, ["falling-generation"]),
        (_split, ["split-generation"]),
        (_two_leaders, ["split-generation"]),
        (_twice, ["double-assignment"]),
        (_passed_over, ["skipped-record"]),
        (_trimmed, []),
        (_not_read_yet, ["skipped-record"]),
        (_back_as_another, []),  # a static member keeps its part under its new id
    ],
)  # fmt: skip
def test_what_must_never_happen_is_found(happens: object, finding: list[str]) -> None:
    """One thing more than the sound history, and the judge of that thing speaks, and no other."""
    story = sound()
    assert callable(happens)
    happens(story)
    assert story.found() == finding
