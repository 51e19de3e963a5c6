"""What a node may choose about consensus."""

from __future__ import annotations

from dataclasses import dataclass, field

from raftlog.consensus.door import RaftTimes
from raftlog.consensus.guard import Guards

TAIL_CACHE_BYTES = 16 << 20
CATCH_UP_BYTES_PER_S = 32 << 20
"""About a third of what one disk takes: at twice as much, clients had little more than half of their pace (``make bench``)."""
WINDOW_BYTES_MAX = 16 << 20
"""What a node's inbox may have to hold of one peer."""
SEND_EARLY_BYTES = 512 << 10
"""Measured on two cores: less costs frames, more lets disks idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusConfig:
    """What a node may choose. Times in seconds."""

    times: RaftTimes = field(default_factory=RaftTimes)
    replica_lag_time_max_s: float = 30.0
    """Trims do not wait for a member that has been silent for so long."""
    catch_up_bytes_per_s: int = CATCH_UP_BYTES_PER_S
    """Of the logs that this node sends to learners; 0 is no limit. (Kafka: leader.replication.throttled.rate)"""
    send_early_bytes: int = SEND_EARLY_BYTES
    """Entries that gather while a commit is under way leave when there are so many bytes of them (``early``)."""
    window_bytes: int = WINDOW_BYTES_MAX
    """Unacknowledged bytes to one node, over all groups."""
    tail_cache_bytes: int = TAIL_CACHE_BYTES
    guards: Guards = field(default_factory=Guards)
