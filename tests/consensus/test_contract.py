"""What raftlog relies on of PySyncObj's inside. A new version fails here first, and says where to look."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pysyncobj.syncobj as engine
import pytest
from pysyncobj.syncobj import SyncObj

from raftlog.consensus import door, member
from raftlog.consensus.guard import Guards
from raftlog.consensus.messages import Append, RequestVote, Vote, to_pysyncobj
from raftlog.core.configuration import member_id
from tests.consensus.bench import Bench

PRIVATE = re.compile(r"_SyncObj(__\w+)")
USED = sorted({f"_SyncObj{name}" for name in PRIVATE.findall(Path(member.__file__).read_text())})
REPLACED = {
    "_SyncObj__applyLogEntries",
    "_SyncObj__onBecomeLeader",
    "_SyncObj__parseChangeClusterRequest",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__setState",
    "_onTick",
}


def test_the_version_is_the_one_that_was_read() -> None:
    """Every override below was written against this source."""
    assert version("pysyncobj") == "0.3.17"


@pytest.mark.parametrize("name", USED)
def test_a_private_name_that_is_used_exists(name: str) -> None:
    """As an attribute of an instance or as a method; a name that vanished would be set and never read."""
    stock_methods = vars(SyncObj)
    made = vars(Bench(1).member(1))
    assert name in stock_methods or (name in made and name.replace("_SyncObj", "self.") in inspect.getsource(SyncObj.__init__))


@pytest.mark.parametrize("name", sorted(REPLACED))
def test_a_replaced_method_exists_and_takes_the_same_arguments(name: str) -> None:
    """An override that nothing calls guards nothing."""
    ours, stock = getattr(member.Member, name), getattr(SyncObj, name)
    assert ours is not stock
    assert len(inspect.signature(ours).parameters) == len(inspect.signature(stock).parameters)


def test_nothing_else_of_pysyncobj_is_replaced_by_accident() -> None:
    """A method of ours that happens to have a name of PySyncObj's would change it silently."""
    shared = {name for name in vars(member.Member) if name in vars(SyncObj) and not re.fullmatch(r"__\w+__", name)}
    assert shared == REPLACED


@pytest.mark.parametrize(
    "name", ["monotonicTime", "random", "createJournal", "createPoller", "PIPE_NOTIFIER_ENABLED", "_COMMAND_TYPE", "_RAFT_STATE"]
)
def test_a_global_that_is_handed_in_exists(name: str) -> None:
    """It is read from the module at each use, so that setting it there works."""
    assert hasattr(engine, name)
    assert re.search(rf"\b{name}\b", inspect.getsource(SyncObj))


def test_states_have_the_numbers_that_are_compared() -> None:
    """FOLLOWER, CANDIDATE, LEADER."""
    states = engine._RAFT_STATE
    assert (states.FOLLOWER, states.CANDIDATE, states.LEADER) == (member.FOLLOWER, member.CANDIDATE, member.LEADER)


def test_an_empty_log_begins_with_a_no_op_of_term_zero() -> None:
    """The constructor asks for the length of an empty journal, and adds index 1."""
    assert Bench(3).log(1) == [(1, 0)]


def test_a_new_leader_appends_its_no_op_before_it_sends() -> None:
    """The append of its election already carries it, and all followers start behind it as unmatched."""
    bench = Bench(3)
    bench.win(1, 2)
    append = bench.appends(1, 3)[0]
    assert [(entry.header.index, entry.header.term) for entry in append.entries] == [(2, 1)]
    assert bench.member(1)._SyncObj__noopIDx == 2
    assert set(bench.member(1).matches().values()) <= {0, 1}


def calls_in_order(bench: Bench, number: int, monkeypatch: pytest.MonkeyPatch, *names: str) -> list[tuple[Any, ...]]:
    """Calls to these methods of a member's journal, and what PySyncObj sends, in one list."""
    calls: list[tuple[Any, ...]] = []
    journal = bench.journal(number)

    def recording(name: str) -> Callable[..., None]:
        original = getattr(journal, name)

        def call(*arguments: Any) -> None:
            calls.append((name, *arguments))
            original(*arguments)

        return call

    for name in names:
        monkeypatch.setattr(journal, name, recording(name))
    outlet = bench.member(number)._outlet
    monkeypatch.setattr(outlet, "_deliver", lambda recipient, message: calls.append(("send", message["type"])))
    return calls


def test_term_and_vote_are_in_the_journal_before_a_vote_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """``setCurrentTerm`` comes first, so what is held back until the commit holds back the vote too."""
    bench = Bench(3)
    calls = calls_in_order(bench, 2, monkeypatch, "setCurrentTerm")
    bench.member(2).receive(member_id(1, 1), RequestVote(5, 1, 0))
    assert calls == [("setCurrentTerm", 5, None), ("setCurrentTerm", 5, member_id(1, 1)), ("send", "response_vote")]


def test_an_append_is_answered_after_it_is_in_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the commit index is taken over after the answer was made, which is why the guard clamps it beforehand."""
    bench = Bench(3)
    bench.win(1, 2)
    append = bench.appends(1, 3)[0]
    calls = calls_in_order(bench, 3, monkeypatch, "add", "setRaftCommitIndex")
    bench.member(3).receive(member_id(1, 1), append)
    assert [call[0] for call in calls] == ["add", "send", "setRaftCommitIndex"]


class NoBytes:
    """A command that is not to be looked into."""

    def __getitem__(self, item: Any) -> Any:
        raise AssertionError("PySyncObj looked into a command")

    def __len__(self) -> int:
        raise AssertionError("PySyncObj measured a command")


def test_the_handler_never_looks_into_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are entries: neither the append handler nor the applier may slice, measure or unpickle them."""
    bench = Bench(3)
    bench.win(1, 2)
    append = bench.appends(1, 3)[0]
    added: list[Any] = []
    target = bench.member(3)
    monkeypatch.setattr(target.journal, "add", lambda command, idx, term: added.append(command))
    raw = to_pysyncobj(append)
    command = NoBytes()
    raw["entries"] = [(command, index, term) for _, index, term in raw["entries"]]
    target._ambience.enter()
    target._outlet._onMessageReceived(target._nodes[member_id(1, 1)], raw)
    assert added == [command]


def test_the_stock_handler_counts_votes_by_message() -> None:
    """Which is why a guard counts voters; the day it does, the guard can go."""
    bench = Bench(5, Guards(votes_once=False))
    bench.now_s += 2.0
    bench.act(1, lambda m: m._campaign(disruptive=True))
    for _ in range(2):
        bench.act(1, lambda m: m.receive(member_id(2, 1), Vote(1)))
    assert bench.member(1).state() == member.LEADER


def test_a_vote_request_with_an_empty_log_raises_the_term_and_gets_no_vote() -> None:
    """How a member adopts a higher term that it only heard of."""
    bench = Bench(3)
    bench.win(1, 2)
    bench.act(1, lambda m: m._step_down_to(member_id(2, 1), 9))
    assert (bench.member(1).state(), bench.member(1).term()) == (member.FOLLOWER, 9)
    assert bench.journal(1).getVotedForNodeId() is None


def test_its_own_compaction_and_batching_limits_are_out_of_reach() -> None:
    """Its defaults would delete the log and cut entries into chunks."""
    bench = Bench(1)
    conf = bench.member(1).conf
    limits = (conf.logCompactionMinEntries, conf.logCompactionMinTime, conf.appendEntriesBatchSizeBytes)
    assert limits == (door.UNBOUNDED,) * 3
    assert not conf.autoTick
    assert not conf.dynamicMembershipChange
    assert not conf.useFork


def test_an_append_below_the_log_is_reset_and_not_committed() -> None:
    """The stock handler refuses a ``prev`` that it does not have, before it looks at the commit index."""
    bench = Bench(3)
    bench.win(1, 2)
    bench.act(3, lambda m: m.receive(member_id(1, 1), Append(1, 40, 1, 40)))
    assert bench.journal(3).commit_index == 1
    assert bench.wire[3, 1][-1].reset


@pytest.mark.parametrize("name", ["raftNextIndex", "raftMatchIndex", "lastResponseTime", "connectedNodes"])
def test_what_the_sender_was_handed_is_never_replaced(name: str) -> None:
    """It is the same dict or set for life."""
    assert len(re.findall(rf"self\.__{name} =", inspect.getsource(SyncObj))) == 1
