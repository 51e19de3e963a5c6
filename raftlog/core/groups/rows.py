"""A coordinator's rows: keys and values of groups and of their offsets."""

from __future__ import annotations

import hashlib
from typing import Final

from raftlog.core.groups.records import GroupRecord, MemberRecord, StoredOffset
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb

TABLE_GROUPS: Final = 1
"""Key: the group's id; value: ``GroupRow``, its members in it: a rebalance changes all of them at once."""
TABLE_OFFSETS: Final = 2
"""Key: the group's id, the topic's name, the partition as 4 bytes, big endian; value: ``OffsetRow``."""
TABLES: Final = (TABLE_GROUPS, TABLE_OFFSETS)

KEY_TEXT_BYTES_MAX: Final = 190
"""Longer texts are keyed by their SHA-256: two of them and a number fit into a row key of 400 bytes. The text is in the value."""

Row = tuple[int, bytes, bytes]
RowWrite = tuple[int, bytes, bytes | None]
"""(table, key, value or None to delete)."""


def text_key(text: str) -> bytes:
    """A text as a part of a key, of which none is the beginning of another."""
    raw = text.encode()
    if len(raw) > KEY_TEXT_BYTES_MAX:
        return b"\xff" + hashlib.sha256(raw).digest()
    return bytes([len(raw)]) + raw


def offset_key(group_id: str, tp: TopicPartition) -> bytes:
    """The key of a committed offset."""
    return text_key(group_id) + text_key(tp.topic) + tp.partition.to_bytes(4, "big")


def group_row(record: GroupRecord) -> Row:
    """The row that holds a group."""
    row = pb.GroupRow(
        group_id=record.group_id,
        generation=record.generation,
        protocol_type=record.protocol_type,
        protocol=record.protocol,
        leader=record.leader,
        members=map(member_row, record.members.values()),
        assigned=record.assigned,
        empty_since_ms=record.empty_since_ms,
    )
    return TABLE_GROUPS, text_key(record.group_id), row.SerializeToString(deterministic=True)


def group_of(row: pb.GroupRow) -> GroupRecord:
    """The group that a row holds."""
    return GroupRecord(
        group_id=row.group_id,
        generation=row.generation,
        protocol_type=row.protocol_type,
        protocol=row.protocol,
        leader=row.leader,
        members={member.member_id: member_of(member) for member in row.members},
        assigned=row.assigned,
        empty_since_ms=row.empty_since_ms,
    )


def member_row(member: MemberRecord) -> pb.MemberRow:
    """A member as rows and commands hold it."""
    return pb.MemberRow(
        member_id=member.member_id,
        instance_id=member.instance_id,
        client_id=member.client_id,
        client_host=member.client_host,
        session_timeout_ms=member.session_timeout_ms,
        rebalance_timeout_ms=member.rebalance_timeout_ms,
        protocols=[pb.MemberProtocol(name=name, metadata=metadata) for name, metadata in member.protocols],
        assignment=member.assignment,
    )


def member_of(row: pb.MemberRow) -> MemberRecord:
    """The member that a row or command holds."""
    return MemberRecord(
        member_id=row.member_id,
        instance_id=row.instance_id if row.HasField("instance_id") else None,
        client_id=row.client_id,
        client_host=row.client_host,
        session_timeout_ms=row.session_timeout_ms,
        rebalance_timeout_ms=row.rebalance_timeout_ms,
        protocols=tuple((protocol.name, protocol.metadata) for protocol in row.protocols),
        assignment=row.assignment,
    )


def offset_row(group_id: str, tp: TopicPartition, stored: StoredOffset) -> Row:
    """The row that holds a committed offset."""
    row = pb.OffsetRow(
        group_id=group_id,
        topic=tp.topic,
        partition=tp.partition,
        offset=stored.offset,
        leader_epoch=stored.leader_epoch,
        metadata=stored.metadata,
        commit_time_ms=stored.commit_time_ms,
        raft_group=stored.raft_group,
        commit_index=stored.commit_index,
    )
    return TABLE_OFFSETS, offset_key(group_id, tp), row.SerializeToString(deterministic=True)


def offset_of(row: pb.OffsetRow) -> StoredOffset:
    """The committed offset that a row or a command holds."""
    return StoredOffset(row.offset, row.leader_epoch, row.metadata, row.commit_time_ms, row.raft_group, row.commit_index)
