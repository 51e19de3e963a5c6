"""DescribeConfigs, AlterConfigs, IncrementalAlterConfigs: topics' are shown and changed; those of nodes and groups are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

from raftlog.config import topic as topic_config
from raftlog.config.topic_keys import TOPIC_KEYS, ValueType
from raftlog.errors import InvalidConfigError, InvalidRequestError
from raftlog.kafka.codec import Encoded, encode_item
from raftlog.kafka.handlers.broker_configs import broker_rows
from raftlog.kafka.handlers.call import Call, Request, in_parallel
from raftlog.kafka.handlers.config_rows import SOURCE_DEFAULT, SOURCE_TOPIC, row
from raftlog.kafka.handlers.group_configs import group_rows
from raftlog.kafka.wire import errors
from raftlog.kafka.wire.api import ApiKey


class Resource(IntEnum):
    """Kinds of what has configs."""

    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


_UNCHANGEABLE: Final[Mapping[int, str]] = {
    Resource.BROKER: "a node's settings are given when it starts",
    Resource.GROUP: "those of groups are of protocols that are not spoken here, and have no effect",
}


class Operation(IntEnum):
    """What an incremental change does (KIP-339); the last two are for lists."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


async def describe_configs(call: Call, request: Request) -> Mapping[str, Any]:
    """Every key there is, or those asked for, with value, source and words; a resource that is named twice is told once."""

    async def describe(wanted: Any) -> Encoded:
        answer: dict[str, Any] = {"resource_type": wanted.resource_type, "resource_name": wanted.resource_name, "configs": []}
        try:
            rows = _rows(call, wanted)
        except Exception as error:
            code, words = call.told(error)
            answer |= {"error_code": code, "error_message": words}
            rows = []
        keys = frozenset(wanted.configuration_keys or ())
        answer["configs"] = [
            {
                **row,
                "synonyms": row["synonyms"] if request.include_synonyms else [],
                "documentation": row["documentation"] if request.include_documentation else None,
            }
            for row in rows
            if not keys or row["name"] in keys
        ]
        # At once, for as dicts the configs of a thousand topics take a hundred megabytes.
        return encode_item(ApiKey.DESCRIBE_CONFIGS, call.version, "results", answer)

    asked = {
        (wanted.resource_type, wanted.resource_name, tuple(wanted.configuration_keys or ())): wanted
        for wanted in request.resources
    }
    return {"results": await in_parallel(asked.values(), describe)}


def _rows(call: Call, wanted: Any) -> list[dict[str, Any]]:
    match wanted.resource_type:
        case Resource.TOPIC:
            return _topic_rows(call.broker.topic(wanted.resource_name).configs)
        case Resource.BROKER if not wanted.resource_name:
            return []  # what was set for all nodes at once: nothing can be
        case Resource.BROKER:
            if wanted.resource_name != str(call.broker.node_id):
                raise InvalidRequestError(
                    f"this is node {call.broker.node_id}; ask node {wanted.resource_name!r} for its own settings"
                )
            return broker_rows(call.door.options.broker_configs)
        case Resource.BROKER_LOGGER:
            return []
        case Resource.GROUP if wanted.resource_name:
            return group_rows()
        case Resource.GROUP:
            raise InvalidRequestError("a group needs an id")
    raise InvalidRequestError(
        f"resources of type {wanted.resource_type} have no configs here; topics (2), nodes (4) and groups (32) have"
    )


def _topic_rows(configs: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        row(
            one.key, one.type, one.documentation, TOPIC_KEYS[one.key].default, value=one.value,
            source=SOURCE_TOPIC if one.set else SOURCE_DEFAULT,
        )
        for one in topic_config.describe(configs)
    ]  # fmt: skip


async def list_config_resources(call: Call, request: Request) -> Mapping[str, Any]:
    """What has configs, by kind (KIP-1142); of groups and client metrics those that somebody has set, which are none.

    All kinds where none is named. Version 0 is of client metrics alone.
    """
    kinds: set[int] = set(request.resource_types or Resource) if call.version >= 1 else {Resource.CLIENT_METRICS}
    if not kinds <= set(Resource):
        call.door.metrics.error(errors.UNSUPPORTED_VERSION)
        return {"error_code": errors.UNSUPPORTED_VERSION}
    nodes = [str(node.node_id) for node in call.broker.cluster().nodes if call.address(node) is not None and node.alive]
    names = {
        Resource.TOPIC: [topic.name for topic in call.broker.topics()],
        Resource.BROKER: nodes,
        Resource.BROKER_LOGGER: nodes,
    }
    found = [{"resource_name": name, "resource_type": kind} for kind in sorted(kinds) for name in names.get(Resource(kind), ())]
    return {"config_resources": found}


async def incremental_alter_configs(call: Call, request: Request) -> Mapping[str, Any]:
    """Change single keys, or single members of lists."""

    def changes(wanted: Any, current: Mapping[str, str]) -> dict[str, str | None]:
        return {config.name: _changed(config, current) for config in wanted.configs}

    return {"responses": await _alter(call, request, changes)}


async def alter_configs(call: Call, request: Request) -> Mapping[str, Any]:
    """Replace all that is set by what is given."""

    def changes(wanted: Any, current: Mapping[str, str]) -> dict[str, str | None]:
        return {**dict.fromkeys(current), **{config.name: config.value for config in wanted.configs}}

    return {"responses": await _alter(call, request, changes)}


async def _alter(call: Call, request: Request, changes: Any) -> list[dict[str, Any]]:
    counts = Counter((wanted.resource_type, wanted.resource_name) for wanted in request.resources)

    async def alter(wanted: Any) -> dict[str, Any]:
        answer = {"resource_type": wanted.resource_type, "resource_name": wanted.resource_name}
        try:
            if counts[wanted.resource_type, wanted.resource_name] > 1:
                raise InvalidRequestError(f"{wanted.resource_name!r} is named more than once in this request")
            await _alter_topic(call, wanted, changes, validate_only=request.validate_only)
        except Exception as error:
            code, words = call.told(error)
            return {**answer, "error_code": code, "error_message": words}
        return answer

    return await in_parallel(request.resources, alter)


async def _alter_topic(call: Call, wanted: Any, changes: Any, *, validate_only: bool) -> None:
    if wanted.resource_type != Resource.TOPIC:
        why = _UNCHANGEABLE.get(wanted.resource_type, f"there are none of resources of type {wanted.resource_type}")
        raise InvalidRequestError(f"only topics' configs can be changed: {why}")
    names = Counter(config.name for config in wanted.configs)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise InvalidRequestError(f"{', '.join(twice)}: named more than once for topic {wanted.resource_name!r}")
    current = call.broker.topic(wanted.resource_name).configs
    changed: dict[str, str | None] = changes(wanted, current)
    topic_config.merge(current, changed)
    if validate_only:
        return
    await call.broker.alter_topic(
        wanted.resource_name,
        set_configs={name: value for name, value in changed.items() if value is not None},
        unset_configs=[name for name, value in changed.items() if value is None],
    )


def _changed(config: Any, current: Mapping[str, str]) -> str | None:
    """The value that a key is to have; None for its default."""
    if config.config_operation == Operation.DELETE:
        return None
    if config.value is None:
        raise InvalidRequestError(f"{config.name}: a change needs a value")
    if config.config_operation == Operation.SET:
        return str(config.value)
    key = TOPIC_KEYS.get(config.name)
    if config.config_operation not in (Operation.APPEND, Operation.SUBTRACT):
        raise InvalidRequestError(f"{config.name}: there is no operation {config.config_operation}; 0 to 3 are known")
    if key is not None and key.type is not ValueType.LIST:
        raise InvalidConfigError(f"{config.name} is no list; set it as a whole")
    text = current.get(config.name, "" if key is None else key.default)
    members = [member for member in text.split(",") if member]
    given = [member.strip() for member in config.value.split(",") if member.strip()]
    if config.config_operation == Operation.APPEND:
        members += [member for member in given if member not in members]
    else:
        members = [member for member in members if member not in given]
    return ",".join(members)
