"""The states of a group and what leads from one to another: the table that the protocol follows, and its picture.

The events are changes of membership and entries that became durable. What is not in the table cannot happen: joins, syncs,
heartbeats and commits that a state has no use for are refused before they become an event.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from raftlog.core.groups.values import GroupState


class GroupEvent(Enum):
    """What moves a group; the values are the words of the picture."""

    MEMBER_JOINED = "a member joined, or changed what it said"
    MEMBER_LEFT = "a member left or was expelled"
    GENERATION_DURABLE = "the new generation is durable"
    EMPTIED = "nobody is left"
    ASSIGNMENT_DURABLE = "the assignment is durable"
    DELETED = "the group was deleted"


TRANSITIONS: Final[dict[GroupState, dict[GroupEvent, GroupState]]] = {
    GroupState.EMPTY: {
        GroupEvent.MEMBER_JOINED: GroupState.PREPARING_REBALANCE,
        GroupEvent.DELETED: GroupState.DEAD,
    },
    GroupState.PREPARING_REBALANCE: {
        GroupEvent.MEMBER_JOINED: GroupState.PREPARING_REBALANCE,
        GroupEvent.MEMBER_LEFT: GroupState.PREPARING_REBALANCE,
        GroupEvent.GENERATION_DURABLE: GroupState.COMPLETING_REBALANCE,
        GroupEvent.EMPTIED: GroupState.EMPTY,
        GroupEvent.DELETED: GroupState.DEAD,
    },
    GroupState.COMPLETING_REBALANCE: {
        GroupEvent.MEMBER_JOINED: GroupState.PREPARING_REBALANCE,
        GroupEvent.MEMBER_LEFT: GroupState.PREPARING_REBALANCE,
        GroupEvent.ASSIGNMENT_DURABLE: GroupState.STABLE,
    },
    GroupState.STABLE: {
        GroupEvent.MEMBER_JOINED: GroupState.PREPARING_REBALANCE,
        GroupEvent.MEMBER_LEFT: GroupState.PREPARING_REBALANCE,
    },
    GroupState.DEAD: {},
}


def next_state(state: GroupState, event: GroupEvent) -> GroupState:
    """Where ``event`` leads; it must be one that can happen in ``state``."""
    assert event in TRANSITIONS[state], f"{event} cannot happen in {state}"
    return TRANSITIONS[state][event]


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {GroupState.EMPTY.value}"]
    for state, events in TRANSITIONS.items():
        lines += [f"    {state.value} --> {target.value}: {event.value}" for event, target in events.items()]
        if not events:
            lines.append(f"    {state.value} --> [*]")
    return "\n".join(lines)
