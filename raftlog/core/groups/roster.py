"""The members of one live group, with what is asked of all of them at once kept in step, for groups of a thousand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from raftlog.core.groups.member import Member
from raftlog.core.groups.records import MemberRecord
from raftlog.errors import FencedInstanceError, UnknownMemberError


class Roster:
    """Members in the order in which they joined; a static member that comes back keeps its place."""

    __slots__ = ("_group_id", "_instances", "_members", "_named", "size_bytes")

    def __init__(self, group_id: str, members: Iterable[Member]) -> None:
        self._group_id = group_id
        self._members: dict[str, Member] = {}
        self._instances: dict[str, str] = {}
        """Group instance id → member id, of the static members."""
        self._named: Counter[str] = Counter()
        """Assignor → how many members name it."""
        self.size_bytes = 0
        """What the members say of themselves."""
        for member in members:
            self.add(member)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __contains__(self, member_id: str) -> bool:
        return member_id in self._members

    def get(self, member_id: str) -> Member | None:
        """The member of this id."""
        return self._members.get(member_id)

    def instance(self, instance_id: str | None) -> Member | None:
        """The static member of this group instance id."""
        return None if instance_id is None else self._members.get(self._instances.get(instance_id, ""))

    def find(self, member_id: str, instance_id: str | None) -> Member:
        """The member that calls itself so.

        Raises:
            UnknownMemberError: there is none.
            FencedInstanceError: the instance is another member by now.
        """
        if instance_id is not None:
            present = self._instances.get(instance_id)
            if present is None:
                raise UnknownMemberError(f"group {self._group_id!r} has no instance {instance_id!r}; join again")
            if present != member_id:
                raise FencedInstanceError(f"instance {instance_id!r} of group {self._group_id!r} is now member {present!r}")
        member = self._members.get(member_id)
        if member is None:
            raise UnknownMemberError(f"group {self._group_id!r} has no member {member_id!r}; join again")
        return member

    def add(self, member: Member) -> None:
        """One more."""
        self._members[member.member_id] = member
        self._count(member.record, 1)

    def remove(self, member: Member) -> None:
        """One less."""
        del self._members[member.member_id]
        self._count(member.record, -1)

    def update(self, member: Member, record: MemberRecord) -> None:
        """A member says something else of itself, maybe under another id."""
        old_id = member.member_id
        self._count(member.record, -1)
        member.record = record
        self._count(record, 1)
        if record.member_id != old_id:
            self._members = {other.member_id: other for other in self._members.values()}

    def staying(self, *, preparing: bool) -> int:
        """How many have a place in the next generation; ``preparing``: members join for it now."""
        return sum(1 for member in self if member.stays(preparing=preparing))

    def records(self) -> list[MemberRecord]:
        """What the members say of themselves."""
        return [member.record for member in self._members.values()]

    def common_protocols(self) -> set[str]:
        """The assignors that every member names; none where there are no members."""
        return {name for name, count in self._named.items() if count == len(self._members)}

    def select_protocol(self) -> str:
        """The one of the common assignors that most members prefer, as in Kafka; of several the one that was preferred first.

        There must be a common one: joining makes sure of it.
        """
        common = self.common_protocols()
        votes = Counter(next(name for name, _ in member.record.protocols if name in common) for member in self)
        return max(votes, key=lambda name: votes[name])

    def rebalance_timeout_ms(self) -> int:
        """The members' largest; 0 where there are none."""
        return max((member.record.rebalance_timeout_ms for member in self), default=0)

    def _count(self, record: MemberRecord, by: int) -> None:
        self.size_bytes += by * record.size_bytes
        for name in {name for name, _ in record.protocols}:
            self._named[name] += by
        if by < 0:
            self._named += Counter()  # forgets what nobody names
        if record.instance_id is not None:
            if by > 0:
                self._instances[record.instance_id] = record.member_id
            else:
                self._instances.pop(record.instance_id, None)
