"""Consumer groups in memory, as much of them as a door can tell: what was asked, and answers or errors given by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from raftlog.broker.group_port import (
    CommittedOffset,
    DescribedGroup,
    DescribedMember,
    GroupMember,
    GroupState,
    JoinedGroup,
    JoinedMember,
    JoinGroup,
    Leaver,
    ListedGroup,
    SyncedGroup,
)
from raftlog.errors import GroupIdNotFoundError, RaftlogError, UnknownMemberError
from raftlog.model import NodeInfo, TopicPartition


class FakeGroups:
    """Implements ``GroupBroker`` for one group ``g`` with a member ``m``. ``failures`` are raised by the next calls, in turn."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.failures: dict[str, list[RaftlogError]] = defaultdict(list)
        self.committed: dict[TopicPartition, CommittedOffset] = {}
        self.skip_assignment = False

    def _called(self, name: str, facts: object) -> None:
        self.calls.append((name, facts))
        if self.failures[name]:
            raise self.failures[name].pop(0)

    async def find_coordinator(self, group_id: str) -> NodeInfo:
        self._called("find", group_id)
        return NodeInfo(node_id=2, peer_address="", grpc_address="", kafka_listeners=(("default", "b.example:9002"),))

    async def join_group(self, wish: JoinGroup, *, direct: bool = False) -> JoinedGroup:
        self._called("join", (wish, direct))
        members = (JoinedMember(member_id="m", instance_id="i", metadata=b"meta"),)
        return JoinedGroup(
            generation=4, protocol_type="consumer", protocol="range", leader="m", member_id="m", members=members,
            skip_assignment=self.skip_assignment,
        )  # fmt: skip

    async def sync_group(
        self, member: GroupMember, assignments: Mapping[str, bytes], *, protocol_type: str = "", protocol: str = "",
        direct: bool = False,
    ) -> SyncedGroup:  # fmt: skip
        self._called("sync", (member, dict(assignments), protocol_type, protocol, direct))
        return SyncedGroup(protocol_type="consumer", protocol="range", assignment=assignments.get("m", b"other"))

    async def heartbeat(self, member: GroupMember, *, direct: bool = False) -> None:
        self._called("heartbeat", (member, direct))

    async def leave_group(self, group_id: str, leavers: Sequence[Leaver], *, direct: bool = False) -> list[RaftlogError | None]:
        self._called("leave", (group_id, tuple(leavers), direct))
        known = [leaver.member_id == "m" or leaver.instance_id == "i" for leaver in leavers]
        return [None if one else UnknownMemberError("who?") for one in known]

    async def commit_offsets(
        self, member: GroupMember, offsets: Mapping[TopicPartition, CommittedOffset], *, direct: bool = False
    ) -> dict[TopicPartition, RaftlogError | None]:
        self._called("commit", (member, dict(offsets), direct))
        good = {tp: offset for tp, offset in offsets.items() if tp.topic == "t"}
        self.committed.update(good)
        return {tp: None if tp in good else GroupIdNotFoundError("no such topic") for tp in offsets}

    async def fetch_offsets(
        self, group_id: str, partitions: Sequence[TopicPartition] | None, *, direct: bool = False
    ) -> dict[TopicPartition, CommittedOffset]:
        self._called("fetch", (group_id, None if partitions is None else tuple(partitions), direct))
        return {tp: offset for tp, offset in self.committed.items() if partitions is None or tp in partitions}

    async def list_groups(self, *, direct: bool = False) -> list[ListedGroup]:
        self._called("list", direct)
        return [
            ListedGroup(group_id="g", protocol_type="consumer", state=GroupState.STABLE),
            ListedGroup(group_id="e", protocol_type="", state=GroupState.EMPTY),
        ]

    async def describe_group(self, group_id: str, *, direct: bool = False) -> DescribedGroup:
        self._called("describe", (group_id, direct))
        if group_id != "g":
            return DescribedGroup(group_id=group_id, state=GroupState.DEAD)
        member = DescribedMember(
            member_id="m", instance_id="i", client_id="c", client_host="/h", metadata=b"meta", assignment=b"mine"
        )
        return DescribedGroup(
            group_id="g", state=GroupState.STABLE, protocol_type="consumer", protocol="range", generation=4, members=(member,)
        )

    async def delete_group(self, group_id: str, *, direct: bool = False) -> None:
        self._called("delete", (group_id, direct))

    async def delete_offsets(
        self, group_id: str, partitions: Sequence[TopicPartition], *, direct: bool = False
    ) -> dict[TopicPartition, RaftlogError | None]:
        self._called("delete_offsets", (group_id, tuple(partitions), direct))
        return {tp: None if tp in self.committed else GroupIdNotFoundError("none there") for tp in partitions}
