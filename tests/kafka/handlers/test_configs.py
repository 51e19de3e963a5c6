"""Configs: shown in full, changed one by one or as a whole."""

from __future__ import annotations

from typing import Any

import pytest

from raftlog.config.topic_keys import TOPIC_KEYS
from raftlog.kafka.budget import REQUEST_BYTES_HELD_MAX
from raftlog.kafka.handlers.broker_keys import KAFKA_KEYS
from raftlog.kafka.wire.api import ApiKey
from tests.kafka.handlers.helpers import Handlers, versions

TOPIC, BROKER, LOGGER, METRICS, GROUP = 2, 4, 8, 16, 32
STATIC, DEFAULT = 4, 5


def resource(kind: int, name: str, **more: Any) -> dict[str, Any]:
    """A resource to describe or alter."""
    return {"resource_type": kind, "resource_name": name, **more}


@pytest.mark.parametrize("version", versions(ApiKey.DESCRIBE_CONFIGS))
async def test_a_topic_shows_every_key_with_its_source(version: int) -> None:
    """Connect looks at cleanup.policy, set or not; never an empty answer."""
    handlers = Handlers()
    handlers.broker.add_topic("c", retention_ms="77")
    answer = await handlers.ask(
        ApiKey.DESCRIBE_CONFIGS, version, resources=[resource(TOPIC, "c", configuration_keys=None)],
        include_synonyms=True, include_documentation=True,
    )  # fmt: skip
    (result,) = answer.results
    shown = {config.name: config for config in result.configs}
    assert shown.keys() == TOPIC_KEYS.keys()
    assert (shown["retention.ms"].value, shown["retention.ms"].config_source) == ("77", 1)
    assert (shown["cleanup.policy"].value, shown["cleanup.policy"].config_source) == ("delete", 5)
    assert [(one.name, one.value, one.source) for one in shown["retention.ms"].synonyms] == [
        ("retention.ms", "77", 1), ("retention.ms", "604800000", 5),
    ]  # fmt: skip
    assert not any(config.read_only or config.is_sensitive for config in result.configs)
    if version >= 3:
        assert shown["retention.ms"].config_type == 5
        assert "kept" in shown["retention.ms"].documentation


async def test_only_what_is_asked_for_is_shown() -> None:
    """Keys, synonyms and words."""
    handlers = Handlers()
    wanted = resource(TOPIC, "t", configuration_keys=["cleanup.policy", "no.such.key"])
    (result,) = (await handlers.ask(ApiKey.DESCRIBE_CONFIGS, resources=[wanted])).results
    assert [(config.name, config.synonyms, config.documentation) for config in result.configs] == [("cleanup.policy", (), None)]


async def test_a_node_shows_its_own_settings_and_nobody_elses() -> None:
    """Read only; what it was started with is told from what is a default."""
    handlers = Handlers(broker_configs={"node.id": "1", "log.dirs": "/d"})
    wanted = [resource(BROKER, "1", configuration_keys=None), resource(BROKER, "2", configuration_keys=None)]
    own, other = (await handlers.ask(ApiKey.DESCRIBE_CONFIGS, resources=wanted)).results
    shown = {config.name: (config.value, config.config_source, config.read_only) for config in own.configs}
    assert shown["node.id"] == ("1", 4, True)
    assert shown["log.dirs"] == ("/d", 4, True)
    assert shown["auto.create.topics.enable"] == ("true", 5, True)
    assert {"message.max.bytes", "log.cleanup.policy", "num.partitions", "default.replication.factor"} <= shown.keys()
    assert (other.error_code.value, other.configs) == (42, ())


@pytest.mark.parametrize("version", versions(ApiKey.DESCRIBE_CONFIGS))
async def test_a_node_shows_every_setting_that_tools_may_look_for(version: int) -> None:
    """All of Kafka's, read only; those without effect here say so, secrets have no value, numbers that count here are ours."""
    handlers = Handlers(broker_configs={"node.id": "1"})
    answer = await handlers.ask(
        ApiKey.DESCRIBE_CONFIGS, version, resources=[resource(BROKER, "1", configuration_keys=None)],
        include_documentation=True, include_synonyms=True,
    )  # fmt: skip
    shown = {config.name: config for config in answer.results[0].configs}
    assert shown.keys() == KAFKA_KEYS.keys()
    assert all(config.read_only for config in shown.values())
    secrets = {name for name, config in shown.items() if config.is_sensitive}
    assert "ssl.keystore.password" in secrets
    assert {shown[name].value for name in secrets} == {None}
    values = [
        shown[name].value for name in ("group.initial.rebalance.delay.ms", "offsets.topic.num.partitions", "num.io.threads")
    ]
    assert values == ["200", "8", "8"]
    assert shown["queued.max.request.bytes"].value == str(REQUEST_BYTES_HELD_MAX)
    assert [(one.name, one.value, one.source) for one in shown["node.id"].synonyms] == [
        ("node.id", "1", STATIC), ("node.id", None, DEFAULT),
    ]  # fmt: skip
    if version >= 3:
        assert "no effect" in shown["num.io.threads"].documentation
        assert "no effect" not in shown["group.max.size"].documentation
        assert [shown[name].config_type for name in ("num.io.threads", "transaction.state.log.replication.factor")] == [3, 4]


async def test_what_is_set_for_all_nodes_is_nothing() -> None:
    """A node without a name is the default of all of them in Kafka, which here nobody can set."""
    (result,) = (await Handlers().ask(ApiKey.DESCRIBE_CONFIGS, resources=[resource(BROKER, "", configuration_keys=None)])).results
    assert (result.error_code.value, result.configs) == (0, ())


@pytest.mark.parametrize("version", versions(ApiKey.DESCRIBE_CONFIGS))
async def test_a_group_shows_the_settings_of_protocols_that_are_not_spoken_here(version: int) -> None:
    """As Kafka 4 does for any name; each says that it has no effect."""
    handlers = Handlers()
    answer = await handlers.ask(
        ApiKey.DESCRIBE_CONFIGS, version, resources=[resource(GROUP, name, configuration_keys=None) for name in ("g", "")],
        include_documentation=True,
    )  # fmt: skip
    named, unnamed = answer.results
    shown = {config.name: (config.value, config.config_source, config.read_only) for config in named.configs}
    assert shown["consumer.session.timeout.ms"] == ("45000", DEFAULT, True)
    assert shown["share.auto.offset.reset"] == ("latest", DEFAULT, True)
    assert shown["streams.num.standby.replicas"] == ("0", DEFAULT, True)
    assert len(shown) == 10
    assert (unnamed.error_code.value, unnamed.configs) == (42, ())
    if version >= 3:
        assert all("no effect" in config.documentation for config in named.configs)


async def test_what_has_configs_is_listed_by_kind() -> None:
    """Topics and nodes; groups and client metrics have none that somebody set. All kinds where none is named, and in version 0
    client metrics alone."""
    handlers = Handlers()
    handlers.broker.add_topic("u")
    everything = await handlers.ask(ApiKey.LIST_CONFIG_RESOURCES, 1, resource_types=[])
    assert [(one.resource_type, one.resource_name) for one in everything.config_resources] == [
        (TOPIC, "t"), (TOPIC, "u"), (BROKER, "1"), (BROKER, "2"), (LOGGER, "1"), (LOGGER, "2"),
    ]  # fmt: skip
    some = await handlers.ask(ApiKey.LIST_CONFIG_RESOURCES, 1, resource_types=[GROUP, BROKER, GROUP])
    assert [(one.resource_type, one.resource_name) for one in some.config_resources] == [(BROKER, "1"), (BROKER, "2")]
    assert (await handlers.ask(ApiKey.LIST_CONFIG_RESOURCES, 0)).config_resources == ()
    unknown = await handlers.ask(ApiKey.LIST_CONFIG_RESOURCES, 1, resource_types=[TOPIC, 99])
    assert (unknown.error_code.value, unknown.config_resources) == (35, ())


async def test_unknown_resources_are_told_as_such() -> None:
    """Loggers have no configs; a topic that is not there has a code of its own."""
    handlers = Handlers()
    kinds = ((LOGGER, "1"), (TOPIC, "nope"), (METRICS, "m"), (99, "x"))
    wanted = [resource(kind, name, configuration_keys=None) for kind, name in kinds]
    answer = await handlers.ask(ApiKey.DESCRIBE_CONFIGS, resources=wanted)
    assert [(result.error_code.value, result.configs) for result in answer.results] == [(0, ()), (3, ()), (42, ()), (42, ())]


def change(name: str, operation: int, value: str | None = None) -> dict[str, Any]:
    """One incremental change."""
    return {"name": name, "config_operation": operation, "value": value}


@pytest.mark.parametrize("version", versions(ApiKey.INCREMENTAL_ALTER_CONFIGS))
async def test_single_keys_and_members_of_lists_are_changed(version: int) -> None:
    """Set, delete, append, subtract; all else stays."""
    handlers = Handlers()
    handlers.broker.add_topic("c", retention_ms="5", segment_ms="9", flush_ms="3")
    changes = [change("retention.ms", 0, "6"), change("segment.ms", 1), change("cleanup.policy", 2, "compact")]
    answer = await handlers.ask(ApiKey.INCREMENTAL_ALTER_CONFIGS, version, resources=[resource(TOPIC, "c", configs=changes)])
    assert answer.responses[0].error_code.value == 0
    expected = {"retention.ms": "6", "flush.ms": "3", "cleanup.policy": "delete,compact"}
    assert handlers.broker.topic("c").configs == expected
    less = [resource(TOPIC, "c", configs=[change("cleanup.policy", 3, "delete")])]
    await handlers.ask(ApiKey.INCREMENTAL_ALTER_CONFIGS, version, resources=less)
    assert handlers.broker.topic("c").configs["cleanup.policy"] == "compact"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ([change("retention.ms", 0, "x")], 40),
        ([change("retention.mss", 0, "1")], 40),
        ([change("retention.ms", 2, "1")], 40),
        ([change("retention.ms", 0)], 42),
        ([change("retention.ms", 7, "1")], 42),
        ([change("retention.ms", 0, "1"), change("retention.ms", 0, "2")], 42),
    ],
)
async def test_a_wrong_change_is_refused_and_changes_nothing(changes: list[dict[str, Any]], code: int) -> None:
    """Validation says the same as the real thing."""
    for validate_only in (True, False):
        handlers = Handlers()
        answer = await handlers.ask(
            ApiKey.INCREMENTAL_ALTER_CONFIGS, resources=[resource(TOPIC, "t", configs=changes)], validate_only=validate_only
        )
        assert answer.responses[0].error_code.value == code
        assert answer.responses[0].error_message
        assert handlers.broker.topic("t").configs == {}


@pytest.mark.parametrize("version", versions(ApiKey.ALTER_CONFIGS))
async def test_altering_replaces_all_that_was_set(version: int) -> None:
    """What is not given has its default again."""
    handlers = Handlers()
    handlers.broker.add_topic("c", retention_ms="5", segment_ms="9")
    given = [{"name": "retention.ms", "value": "6"}]
    answer = await handlers.ask(ApiKey.ALTER_CONFIGS, version, resources=[resource(TOPIC, "c", configs=given)])
    assert answer.responses[0].error_code.value == 0
    assert handlers.broker.topic("c").configs == {"retention.ms": "6"}


async def test_settings_of_nodes_and_groups_cannot_be_changed_and_a_resource_not_twice() -> None:
    """Said in words, each in its own."""
    handlers = Handlers()
    wanted = [
        resource(kind, name, configs=[])
        for kind, name in ((BROKER, "1"), (GROUP, "g"), (METRICS, "m"), (TOPIC, "t"), (TOPIC, "t"))
    ]
    for key in (ApiKey.INCREMENTAL_ALTER_CONFIGS, ApiKey.ALTER_CONFIGS):
        answer = await handlers.ask(key, resources=wanted)
        assert [one.error_code.value for one in answer.responses] == [42] * 5
        words = [one.error_message for one in answer.responses]
        assert "when it starts" in words[0]
        assert "not spoken here" in words[1]
        assert "more than once" in words[3]
