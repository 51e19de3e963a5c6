"""``raftlog topic``: create, list, describe, alter, delete."""

from __future__ import annotations

from typing import Annotated

import typer

from raftlog.cli.errors import UsageError
from raftlog.cli.output import Format, counted, human_bytes, print_json, print_records, print_table, talk
from raftlog.cli.session import ADMIN_TIMEOUT_S, BrokersOption, FormatOption, Session, key_values, run, session
from raftlog.client.values import Topic, TopicDescription

TopicArgument = Annotated[str, typer.Argument(help="the topic's name")]
ConfigOption = Annotated[
    list[str] | None, typer.Option("--config", metavar="KEY=VALUE", help="a config, like retention.ms=86400000; may be repeated")
]


def create(
    ctx: typer.Context,
    name: TopicArgument,
    partitions: Annotated[int, typer.Option(min=1, max=10_000, help="how many")] = 1,
    replication_factor: Annotated[
        int | None, typer.Option(min=1, max=99, help="copies of each partition [as many as nodes, 3 at most]")
    ] = None,
    config: ConfigOption = None,
    brokers: BrokersOption = None,
    form: FormatOption = None,
) -> None:
    """Create a topic. Done when its metadata is durable on a majority."""
    configs = key_values(config or [], "--config")
    shared = session(ctx, brokers, form)

    async def work() -> Topic:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            return await client.admin.create_topic(
                name, partitions=partitions, replication_factor=replication_factor or 0, configs=configs
            )

    topic = run(work())
    size = f"{counted(len(topic.partitions), 'partition')}, {counted(topic.replication_factor, 'replica')} each"
    _tell(shared, topic, f"created {topic.name}: {size}")


def list_topics(
    ctx: typer.Context,
    internal: Annotated[bool, typer.Option("--internal", help="also those whose names begin with two underscores")] = False,
    brokers: BrokersOption = None,
    form: FormatOption = None,
) -> None:
    """List the topics."""
    shared = session(ctx, brokers, form)

    async def work() -> list[Topic]:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            return list(await client.admin.list_topics(internal=internal))

    print_records(
        ["name", "partitions", "replication_factor", "configs"], [_summary(topic) for topic in run(work())], shared.form
    )


def describe(ctx: typer.Context, name: TopicArgument, brokers: BrokersOption = None, form: FormatOption = None) -> None:
    """Show a topic's configs, and its partitions with leaders, replicas, offsets and sizes."""
    shared = session(ctx, brokers, form)

    async def work() -> TopicDescription:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            return await client.admin.describe_topic(name, offsets=True)

    _print_description(run(work()), shared.form)


def alter(
    ctx: typer.Context,
    name: TopicArgument,
    config: ConfigOption = None,
    unset: Annotated[list[str] | None, typer.Option(metavar="KEY", help="back to the default; may be repeated")] = None,
    partitions: Annotated[int | None, typer.Option(min=1, max=10_000, help="the new number; it can only grow")] = None,
    brokers: BrokersOption = None,
    form: FormatOption = None,
) -> None:
    """Set or unset configs, or add partitions."""
    if not (config or unset or partitions):
        raise UsageError("nothing to alter: give --config KEY=VALUE, --unset KEY or --partitions N")
    set_configs = key_values(config or [], "--config")
    shared = session(ctx, brokers, form)

    async def work() -> Topic:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            return await client.admin.alter_topic(
                name, set_configs=set_configs, unset_configs=unset or [], partitions=partitions or 0
            )

    _tell(shared, run(work()), f"altered {name}")


def delete(ctx: typer.Context, name: TopicArgument, brokers: BrokersOption = None, form: FormatOption = None) -> None:
    """Delete a topic and all its records."""
    shared = session(ctx, brokers, form)

    async def work() -> None:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            await client.admin.delete_topic(name)

    run(work())
    talk(f"deleted {name}")


def _tell(shared: Session, topic: Topic, sentence: str) -> None:
    talk(sentence)
    if shared.form is Format.JSON:
        print_json(_summary(topic))


def _summary(topic: Topic) -> dict[str, object]:
    return {
        "name": topic.name,
        "topic_id": topic.topic_id,
        "partitions": len(topic.partitions),
        "replication_factor": topic.replication_factor,
        "configs": topic.configs,
    }


def _partitions(description: TopicDescription) -> list[dict[str, object]]:
    offsets = {offset.partition: offset for offset in description.offsets}
    found: list[dict[str, object]] = []
    for partition in description.topic.partitions:
        known = offsets.get(partition.partition)
        found.append(
            {
                "partition": partition.partition,
                "leader": partition.leader,
                "leader_address": partition.leader_address,
                "leader_epoch": partition.leader_epoch,
                "replicas": list(partition.replicas),
                "log_start_offset": known.log_start_offset if known else None,
                "high_watermark": known.high_watermark if known else None,
                "size_bytes": known.size_bytes if known else None,
            }
        )
    return found


def _print_description(description: TopicDescription, form: Format) -> None:
    topic, partitions = description.topic, _partitions(description)
    if form is Format.JSON:
        configs = [
            {"key": config.key, "value": config.value, "set": config.is_set, "effective": config.effective}
            for config in description.configs
        ]
        print_json({**_summary(topic), "configs": configs, "partitions": partitions})
        return
    print_table(
        ["topic", "id", "partitions", "replicas"], [[topic.name, topic.topic_id, len(partitions), topic.replication_factor]]
    )
    columns = ["partition", "leader", "leader_epoch", "replicas", "log_start_offset", "high_watermark"]
    rows = [[*(row[column] for column in columns), _size(row["size_bytes"])] for row in partitions]
    print_table([*(column.replace("_", " ") for column in columns), "size"], rows)
    in_force = [
        [config.key, config.value, "topic" if config.is_set else "default", "" if config.effective else "kept, without effect"]
        for config in description.configs
        if config.is_set or config.effective
    ]
    print_table(["config", "value", "from", "remark"], in_force)


def _size(value: object) -> object:
    return human_bytes(value) if isinstance(value, int) else None
