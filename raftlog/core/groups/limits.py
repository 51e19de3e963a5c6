"""What a coordinator allows its groups."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    """Kafka's name of the key stands beside a limit where it has one."""

    members_max: int = 1_000
    """Members of a group, with those that were only given an id: a generation is one entry. (group.max.size)"""
    member_bytes_max: int = 4 * 1024 * 1024
    """What the members of a group say of themselves, in all, and what they are assigned: a generation is one entry."""
    protocols_max: int = 100
    """Assignors that a member names: all are compared with those of all others."""
    session_timeout_min_ms: int = 6_000
    """(group.min.session.timeout.ms)"""
    session_timeout_max_ms: int = 1_800_000
    """(group.max.session.timeout.ms)"""
    initial_rebalance_delay_ms: int = 200
    """How long an empty group waits for more members after each that joins, so that members that start together make one
    generation and not many; the longest wait is their rebalance timeout. (group.initial.rebalance.delay.ms)"""
