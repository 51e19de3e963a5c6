"""What a coordinator replicates of a group: values, the same on every replica."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from raftlog.core.groups.values import CommittedOffset

CONSUMER_PROTOCOL = "consumer"
"""Protocol type of Kafka's consumers; of others (Connect's workers, for one) nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """A member of a generation, with all that it said when it joined."""

    member_id: str
    instance_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]
    """(assignor, metadata for it), the preferred first."""
    assignment: bytes = b""

    def metadata(self, protocol: str) -> bytes:
        """What the member said for one assignor; nothing where it did not name it."""
        return next((metadata for name, metadata in self.protocols if name == protocol), b"")

    @property
    def size_bytes(self) -> int:
        """What the member takes in a command, about; each string with what goes around it."""
        texts = (self.member_id, self.instance_id or "", self.client_id, self.client_host)
        named = sum(len(name.encode()) + len(metadata) + 8 for name, metadata in self.protocols)
        return named + sum(len(text.encode()) + 4 for text in texts) + 16


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """A group: its last generation, whose members may all have gone since.

    ``assigned`` ⇒ the generation's one assignment is in the members. Generation 0 is a group that never had members.
    """

    group_id: str
    generation: int = 0
    protocol_type: str = ""
    protocol: str = ""
    leader: str = ""
    members: Mapping[str, MemberRecord] = field(default_factory=dict)
    """By member id, in the order in which they joined."""
    assigned: bool = False
    empty_since_ms: int = 0
    """When the last member went, 0 for a group that never had one."""


class StoredOffset(NamedTuple):
    """A committed offset with what tells it from others: a tuple, for there are many."""

    offset: int
    leader_epoch: int
    metadata: str
    commit_time_ms: int
    raft_group: int
    """Raft group of the partition."""
    commit_index: int
    """Index of the entry that committed it."""

    @property
    def committed(self) -> CommittedOffset:
        """What readers see of it."""
        return CommittedOffset(
            offset=self.offset, leader_epoch=self.leader_epoch, metadata=self.metadata, commit_time_ms=self.commit_time_ms
        )
