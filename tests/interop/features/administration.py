"""Administration: topics, configs, records, groups, the cluster."""

from __future__ import annotations

from tests.interop.bridges.face import Wire
from tests.interop.features.catalogue import feature
from tests.interop.lab import TOPIC_ALREADY_EXISTS, UNKNOWN_TOPIC_OR_PARTITION, Lab, compare, refused, until

GROUP_ID_NOT_FOUND = 69
INVALID_CONFIG, INVALID_PARTITIONS = 40, 37
_LOCAL_UNKNOWN = (-188, -190)
"""librdkafka's own words: unknown topic, unknown partition."""


@feature("topics", "create, list, describe, delete topics")
async def topics(lab: Lab) -> None:
    """A topic that is there twice, or no longer, is refused by the right code."""
    topic = f"{lab.prefix}-t"
    create = {"topic": topic, "partitions": 4, "replicas": lab.replicas, "configs": {"retention.ms": "3600000"}}
    await lab.call("topic_create", **create)
    await refused(lab.call("topic_create", **create), TOPIC_ALREADY_EXISTS)
    assert topic in await lab.call("topic_list")
    rows = await until(
        lambda: lab.call("topic_describe", topic=topic), lambda rows: all(one["leader"] >= 0 for one in rows), "leaders"
    )
    assert [one["partition"] for one in rows] == [0, 1, 2, 3]
    assert all(len(one["replicas"]) == lab.replicas and one["leader"] in one["replicas"] for one in rows), rows
    await lab.call("topic_delete", topic=topic)
    await until(lambda: lab.call("topic_list"), lambda names: topic not in names, "the topic to be gone")
    await refused(lab.call("topic_delete", topic=topic), UNKNOWN_TOPIC_OR_PARTITION, *_LOCAL_UNKNOWN)


@feature("no-topic", "an unknown topic is named as such")
async def no_topic(lab: Lab) -> None:
    """By UNKNOWN_TOPIC_OR_PARTITION, when it is deleted."""
    await refused(lab.call("topic_delete", topic=f"{lab.prefix}-none"), UNKNOWN_TOPIC_OR_PARTITION, *_LOCAL_UNKNOWN)


@feature("configs", "describe and alter configs")
async def configs(lab: Lab) -> None:
    """What was set at creation and what is altered later is described; the other keys keep their values."""
    topic = await lab.topic(configs={"retention.ms": "3600000"})
    described = await lab.call("config_describe", topic=topic)
    assert described.get("retention.ms") == "3600000", f"described as {described}"
    assert described.get("cleanup.policy") == "delete", f"described as {described}"
    await lab.call("config_alter", topic=topic, configs={"retention.ms": "7200000", "max.message.bytes": "200000"})
    described = await until(
        lambda: lab.call("config_describe", topic=topic), lambda seen: seen.get("retention.ms") == "7200000", "the new value"
    )
    assert described.get("max.message.bytes") == "200000"
    await refused(lab.call("config_alter", topic=topic, configs={"retention.ms": "soon"}), INVALID_CONFIG)


@feature("partitions", "add partitions")
async def partitions(lab: Lab) -> None:
    """A topic grows, its records stay, the new partitions take records; fewer are refused."""
    topic = await lab.topic(partitions=2)
    records = lab.records(10, partition=1)
    if lab.bridge.facts["partitions"]:
        await lab.send(topic, records)
    await lab.call("topic_grow", topic=topic, partitions=5)
    await until(
        lambda: lab.call("topic_describe", topic=topic),
        lambda rows: len(rows) == 5 and all(one["leader"] >= 0 for one in rows), "five partitions with leaders",
    )  # fmt: skip
    if lab.bridge.facts["partitions"]:
        compare(records, await lab.read(topic, 10, partitions=(1,)), lab.bridge.facts)
    await lab.fill(topic, 4, 10)
    await lab.read(topic, 10, partitions=(4,))
    await refused(lab.call("topic_grow", topic=topic, partitions=3), INVALID_PARTITIONS)


@feature("delete-records", "delete records below an offset")
async def delete_records(lab: Lab) -> None:
    """The earliest offset moves, and reading begins there."""
    topic = await lab.topic()
    async with lab.producer() as send:
        for first in range(0, 50, 10):
            await send(topic, lab.records(10, first=first))
    await lab.call("records_delete", topic=topic, partition=0, offset=25)
    await until(
        lambda: lab.call("offsets", topic=topic, partition=0), lambda seen: seen == [25, 50], "the earliest offset to be 25"
    )
    read = await lab.read(topic, 25)
    assert [one["o"] for one in read] == list(range(25, 50))


@feature("groups", "list and describe groups")
async def groups(lab: Lab) -> None:
    """A group is stable with its member, and empty without."""
    topic, group = await lab.topic(), f"{lab.prefix}-g"
    await _with_a_member(lab, topic, group)
    seen = await _empty(lab, group)
    assert seen["members"] == 0, seen


@feature("delete-groups", "delete groups")
async def delete_groups(lab: Lab) -> None:
    """A group that is deleted is gone, and refused when it is deleted again."""
    topic, group = await lab.topic(), f"{lab.prefix}-g"
    await _with_a_member(lab, topic, group)
    await _empty(lab, group)
    await lab.call("group_delete", group=group)
    await until(lambda: lab.call("group_list"), lambda names: group not in names, "the group to be gone")
    await refused(lab.call("group_delete", group=group), GROUP_ID_NOT_FOUND)


async def _empty(lab: Lab, group: str) -> Wire:
    """Wait until the last member is gone: some programs end without leaving, and their sessions run out."""
    return await until(
        lambda: lab.call("group_describe", group=group), lambda seen: seen["state"].lower() == "empty", "the group to be empty"
    )


async def _with_a_member(lab: Lab, topic: str, group: str) -> None:
    await lab.send(topic, lab.records(5))
    async with lab.consumer(topics=[topic], group=group, auto_commit=True) as reader:
        await reader.until(5)
        assert group in await lab.call("group_list")
        described = await lab.call("group_describe", group=group)
        assert (described["state"].lower(), described["members"]) == ("stable", 1), described


@feature("delete-offsets", "delete a group's offsets")
async def delete_offsets(lab: Lab) -> None:
    """One partition's offset is forgotten, the other one's stays."""
    topic, group = await lab.topic(partitions=2), f"{lab.prefix}-g"
    await _commit(lab, topic, group)
    await lab.call("group_delete_offsets", group=group, topic=topic, partition=0)
    left = await lab.call("group_offsets", group=group)
    assert [(number, offset) for _, number, offset, _ in left if offset >= 0] == [(1, 4)], left


@feature("set-offsets", "set a stopped group's offsets")
async def set_offsets(lab: Lab) -> None:
    """The next member begins where the administrator said."""
    topic, group = await lab.topic(partitions=2), f"{lab.prefix}-g"
    await _commit(lab, topic, group)
    await lab.call("group_set_offsets", group=group, offsets=[[topic, 0, 1]])
    left = await lab.call("group_offsets", group=group)
    assert sorted((number, offset) for _, number, offset, _ in left) == [(0, 1), (1, 4)], left
    async with lab.consumer(topics=[topic], group=group) as reader:
        await reader.until(2)
        assert [one["o"] for one in reader.records] == [1, 2]


async def _commit(lab: Lab, topic: str, group: str) -> None:
    await lab.fill(topic, 0, 3)
    await lab.fill(topic, 1, 4)
    async with lab.consumer(topics=[topic], group=group, auto_commit=True) as reader:
        await reader.until(7)


@feature("cluster", "describe the cluster")
async def cluster(lab: Lab) -> None:
    """All nodes, and a controller that is one of them."""
    described = await lab.call("cluster_describe")
    if lab.cluster is not None:
        assert sorted(described["brokers"]) == sorted(lab.cluster.nodes), described
    assert described["brokers"], described
    controller = described.get("controller")
    assert controller is None or controller in described["brokers"], described


@feature("log-dirs", "describe log directories")
async def log_dirs(lab: Lab) -> None:
    """Each replica of a partition tells its size, and the size is that of what it holds."""
    topic = await lab.topic()
    await lab.send(topic, lab.records(50, size_bytes=1_000))

    async def look() -> list[int]:
        found: dict[str, dict[str, int]] = await lab.call("log_dirs")
        return [sizes[f"{topic}-0"] for sizes in found.values() if f"{topic}-0" in sizes]

    await until(look, lambda sizes: len(sizes) == lab.replicas and min(sizes) >= 30_000, "the sizes of all replicas")


@feature("verifiable", "verifiable producer and consumer")
async def verifiable(lab: Lab) -> None:
    """What one was told is written, the other one reads."""
    topic = await lab.topic(partitions=3)
    told = await lab.call("verifiable", topic=topic, count=2_000)
    assert told == {"sent": 2_000, "acknowledged": 2_000, "consumed": 2_000}, told
