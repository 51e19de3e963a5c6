"""Who is in a Raft group, and how that may change: the pure part of membership.

Theory of operation. A configuration names a group's *voters*, which count in every quorum, and its *learners*, which get the
log and count nowhere. It changes by entries of the log, one voter at a time (Raft dissertation section 4.1): then any majority
of the old voters and any of the new ones have a member in common, and no two leaders can be elected side by side.

Rules:

1. A member is a node's replica: (node id, replica id) in one number. A replica id is unique among all that its group ever had,
   so that nothing which a lost or removed replica has said is taken for the word of another.
2. One step changes one voter at most: a learner is promoted, or a voter goes. Learners may come and go with it.
3. A voter was a learner before: so it holds the log, or nearly, when it begins to count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from raftlog.core.features import check_form
from raftlog.errors import DataLossError, InvalidReplicaAssignmentError
from raftlog.pb.raftlog.internal.v1 import membership_pb2 as pb

REPLICA_BITS = 32
_REPLICA_MASK = (1 << REPLICA_BITS) - 1


def member_id(node_id: int, replica_id: int) -> int:
    """A group member: a node's replica. A replica id is unique among all that its group ever had."""
    return node_id << REPLICA_BITS | replica_id


def node_of(member: int) -> int:
    """The node that a member lives on."""
    return member >> REPLICA_BITS


def replica_of(member: int) -> int:
    """A member's replica id."""
    return member & _REPLICA_MASK


@dataclass(frozen=True, slots=True)
class Configuration:
    """A group's members by id, rising. Without any it stands for not knowing the group's configuration."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()

    @staticmethod
    def of(voters: Iterable[int], learners: Iterable[int] = ()) -> Configuration:
        """A configuration of these members, in any order."""
        return Configuration(tuple(sorted(voters)), tuple(sorted(learners)))

    @property
    def members(self) -> tuple[int, ...]:
        """Voters and learners, rising."""
        return tuple(sorted(self.voters + self.learners))

    def with_learner(self, member: int) -> Configuration:
        """This one and a learner more."""
        return Configuration.of(self.voters, (*self.learners, member))

    def with_voter(self, member: int) -> Configuration:
        """This one with a learner promoted."""
        return Configuration.of((*self.voters, member), (other for other in self.learners if other != member))

    def without(self, member: int) -> Configuration:
        """This one without a voter or learner."""
        return Configuration(
            tuple(other for other in self.voters if other != member), tuple(other for other in self.learners if other != member)
        )

    def __str__(self) -> str:
        return f"voters {_names(self.voters)}, learners {_names(self.learners)}"


UNKNOWN = Configuration()
"""What a replica that came later has until the log has told it."""


def check_step(old: Configuration, new: Configuration) -> None:
    """Whether ``new`` may follow ``old``.

    Raises:
        InvalidReplicaAssignmentError: it names a member twice, has no voter, changes nothing, changes two voters, or makes a
            voter of one that was no learner.
    """
    if len(set(new.members)) != len(new.members) or Configuration.of(new.voters, new.learners) != new:
        raise InvalidReplicaAssignmentError(f"a configuration names each member once, in order; not so {new}")
    if not new.voters:
        raise InvalidReplicaAssignmentError("a group needs at least one voter; name one that stays")
    if new == old:
        raise InvalidReplicaAssignmentError(f"the group has {old} already")
    more, fewer = set(new.voters) - set(old.voters), set(old.voters) - set(new.voters)
    if len(more) + len(fewer) > 1:
        raise InvalidReplicaAssignmentError(f"one voter at a time may come or go; from {old} to {new} it is more: make steps")
    if not more <= set(old.learners):
        raise InvalidReplicaAssignmentError(f"{_names(tuple(more))} was no learner; add it as one first, and let it catch up")


def encode(configuration: Configuration) -> bytes:
    """The payload of a configuration's entry."""
    return _to_pb(configuration).SerializeToString(deterministic=True)


def decode(payload: bytes) -> Configuration:
    """A configuration out of its entry's payload.

    Raises:
        DataLossError: it is none.
        NewerFormatError: it is of a newer version, which may count votes in another way.
    """
    try:
        return _from_pb(pb.Configuration.FromString(payload))
    except DecodeError as error:
        raise DataLossError(f"a configuration entry cannot be read: {error}") from error


def encode_row(replica_id: int, configurations: Iterable[tuple[int, Configuration]]) -> bytes:
    """The row that holds a replica's id, and configurations with the indices of their entries."""
    row = pb.ConfigurationsRow(
        replica_id=replica_id,
        configurations=[pb.ConfigurationAt(index=index, configuration=_to_pb(one)) for index, one in configurations],
    )
    return row.SerializeToString(deterministic=True)


def decode_row(row: bytes) -> tuple[int, list[tuple[int, Configuration]]]:
    """What ``encode_row`` was given.

    Raises:
        DataLossError: it is no such row.
        NewerFormatError: a newer version wrote it.
    """
    try:
        found = pb.ConfigurationsRow.FromString(row)
    except DecodeError as error:
        raise DataLossError(f"the row of a group's configurations cannot be read: {error}") from error
    check_form(found.level, "the row of a group's configurations")
    return found.replica_id, [(at.index, _from_pb(at.configuration)) for at in found.configurations]


def _to_pb(configuration: Configuration) -> pb.Configuration:
    return pb.Configuration(voters=configuration.voters, learners=configuration.learners)


def _from_pb(wire: pb.Configuration) -> Configuration:
    check_form(wire.level, "the configuration of a group")
    return Configuration.of(wire.voters, wire.learners)


def named(member: int) -> str:
    """A member as people read it: node/replica."""
    return f"{node_of(member)}/{replica_of(member)}"


def _names(members: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(named, members)) + "]"
