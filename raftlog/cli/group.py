"""``raftlog group``: list, describe, delete, seek."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from raftlog.cli.errors import FAILED, UsageError
from raftlog.cli.numbers import NUMBER_MAX, OFFSET_MAX, end_or_offset, parse_number
from raftlog.cli.output import Format, counted, print_json, print_records, print_table, talk
from raftlog.cli.session import ADMIN_TIMEOUT_S, BrokersOption, FormatOption, run, session
from raftlog.client.group_values import Group, GroupDescription, GroupMember, GroupState, SoughtOffset
from raftlog.client.values import AtTime
from raftlog.errors import GroupIdNotFoundError
from raftlog.model import TopicPartition

if TYPE_CHECKING:
    from raftlog.client.group_admin import SeekTo

GroupArgument = Annotated[str, typer.Argument(help="the group's id")]


def list_groups(ctx: typer.Context, brokers: BrokersOption = None, form: FormatOption = None) -> None:
    """List the groups."""
    shared = session(ctx, brokers, form)

    async def work() -> list[Group]:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            return await client.admin.list_groups()

    found = [{"group": one.group_id, "state": one.state.value, "protocol_type": one.protocol_type} for one in run(work())]
    print_records(["group", "state", "protocol_type"], found, shared.form)


def describe(ctx: typer.Context, group: GroupArgument, brokers: BrokersOption = None, form: FormatOption = None) -> None:
    """Show a group's members, and for each partition what is committed, how far that is behind, and who reads it."""
    shared = session(ctx, brokers, form)

    async def work() -> GroupDescription:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            return await client.admin.describe_group(group)

    description = run(work())
    if description.state is GroupState.DEAD:
        raise GroupIdNotFoundError(f"there is no group {group!r}; raftlog group list shows which there are")
    _print_description(description, shared.form)


def delete(ctx: typer.Context, group: GroupArgument, brokers: BrokersOption = None, form: FormatOption = None) -> None:
    """Forget a group without members, and its offsets."""
    shared = session(ctx, brokers, form)

    async def work() -> None:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            await client.admin.delete_group(group)

    run(work())
    talk(f"deleted {group}")


def seek(
    ctx: typer.Context,
    group: GroupArgument,
    to: Annotated[
        str,
        typer.Option(
            metavar="beginning|end|OFFSET|+N|-N|TIME",
            help=(
                "where to: an end of the log (or earliest|latest, as in Kafka), an offset, so many records on or back, or a time"
                " like 2026-01-31T12:00:00Z"
            ),
        ),
    ],
    topic: Annotated[
        list[str] | None, typer.Option(help="only this one, may be repeated [all that the group has committed in]")
    ] = None,
    partition: Annotated[int | None, typer.Option(min=0, max=NUMBER_MAX, help="only this one of the topic")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be done")] = False,
    brokers: BrokersOption = None,
    form: FormatOption = None,
) -> int:
    """Move the offsets of a group without members. What lies outside of a log is moved to its nearest end."""
    if partition is not None and not topic:
        raise UsageError("--partition needs --topic")
    place = parse_place(to)
    subjects: dict[str | TopicPartition, SeekTo] = {
        name if partition is None else TopicPartition(name, partition): place for name in topic or [""]
    }
    shared = session(ctx, brokers, form)

    async def work() -> dict[TopicPartition, SoughtOffset]:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            return await client.admin.seek_group(group, subjects, dry_run=dry_run)

    found = run(work())
    rows = [
        {
            "topic": tp.topic,
            "partition": tp.partition,
            "old_offset": one.old_offset,
            "new_offset": None if one.error is not None else one.new_offset,
            "error": None if one.error is None else str(one.error),
        }
        for tp, one in found.items()
    ]
    print_records(["topic", "partition", "old_offset", "new_offset", "error"], rows, shared.form)
    failed = sum(one.error is not None for one in found.values())
    done = "would move" if dry_run else "moved"
    talk(f"{done} {counted(len(found) - failed, 'partition')}" + (f", {failed:,} failed" if failed else ""))
    return FAILED if failed else 0


def parse_place(text: str) -> SeekTo:
    """What ``--to`` means.

    Raises:
        UsageError: nothing, or further than any offset.
    """
    place = end_or_offset(text)
    if place is not None:
        return place
    if text[:1] in ("+", "-") and text[1:].isdecimal():
        parse_number(text[1:], OFFSET_MAX)
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--to {text!r} is neither beginning, end, an offset, +N, -N nor a time") from None
    if moment.tzinfo is None:
        raise UsageError(f"--to {text!r} is a time without a zone; add Z for UTC, or one like +01:00")
    return AtTime(round(moment.timestamp() * 1_000))


def _partitions(description: GroupDescription) -> list[dict[str, object]]:
    readers: dict[TopicPartition, GroupMember] = {tp: member for member in description.members for tp in member.assignment}
    found: list[dict[str, object]] = []
    for tp, offset in description.offsets.items():
        reader = readers.get(tp)
        found.append(
            {
                "topic": tp.topic,
                "partition": tp.partition,
                "committed": offset.committed,
                "end": offset.high_watermark,
                "lag": offset.lag,
                "member": None if reader is None else reader.instance_id or reader.member_id,
                "error": None if offset.error is None else str(offset.error),
            }
        )
    return found


def _print_description(description: GroupDescription, form: Format) -> None:
    facts: dict[str, object] = {
        "group": description.group_id,
        "state": description.state.value,
        "protocol_type": description.protocol_type,
        "assignor": description.assignor,
        "generation": description.generation,
        "coordinator": description.coordinator,
    }
    members: list[dict[str, object]] = [
        {
            "member": one.member_id,
            "instance_id": one.instance_id,
            "client": one.client_id,
            "host": one.client_host,
            "topics": list(one.topics),
            "assignment": [str(tp) for tp in one.assignment],
        }
        for one in description.members
    ]
    partitions = _partitions(description)
    if form is Format.JSON:
        print_json({**facts, "members": members, "partitions": partitions})
        return
    print_table(list(facts), [list(facts.values())])
    columns = ["topic", "partition", "committed", "end", "lag", "member"]
    columns += ["error"] if any(one["error"] for one in partitions) else []
    print_table(columns, [[one[column] for column in columns] for one in partitions])
    if members:
        columns = ["member", "instance_id", "client", "host", "assignment"]
        print_table([column.replace("_", " ") for column in columns], [[one[column] for column in columns] for one in members])
