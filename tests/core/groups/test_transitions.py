"""The table of a group's states."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftlog.core.groups.transitions import TRANSITIONS, GroupEvent, diagram, next_state
from raftlog.core.groups.values import GroupState

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "groups.md"


def test_the_picture_in_the_documents_is_that_of_the_table() -> None:
    """``docs/groups.md`` shows what ``diagram`` makes of the table."""
    assert f"```mermaid\n{diagram()}\n```" in DOCUMENT.read_text()


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    """Nothing leads out of Dead, and Dead is reached by deletion alone."""
    assert TRANSITIONS.keys() == set(GroupState)
    reached = {target for events in TRANSITIONS.values() for target in events.values()}
    assert reached == set(GroupState)
    assert TRANSITIONS[GroupState.DEAD] == {}
    assert {event for events in TRANSITIONS.values() for event, to in events.items() if to is GroupState.DEAD} == {
        GroupEvent.DELETED
    }


def test_what_is_not_in_the_table_cannot_happen() -> None:
    """A mistake in the protocol is found where it is made."""
    with pytest.raises(AssertionError):
        next_state(GroupState.STABLE, GroupEvent.ASSIGNMENT_DURABLE)
