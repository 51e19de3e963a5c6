"""What a live group asks of its coordinator."""

from __future__ import annotations

from dataclasses import dataclass

from raftlog.core.groups.values import JoinedGroup, SyncedGroup
from raftlog.errors import RaftlogError
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer a call that waits."""

    ticket: int
    outcome: JoinedGroup | SyncedGroup | RaftlogError


@dataclass(frozen=True, slots=True)
class Propose:
    """Replicate a command. Then ``durable`` is called with what it made of the group, or the group is given up."""

    command: pb.GroupCommand


Effect = Answer | Propose
