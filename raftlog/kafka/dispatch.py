"""From a request to its answer: decodes, calls the API's handler, encodes. The handlers' table is here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from raftlog.kafka import codec
from raftlog.kafka.connection import Closed, Connection
from raftlog.kafka.handlers import (
    api_versions,
    cluster,
    configs,
    features,
    fetch,
    group_admin,
    group_offsets,
    groups,
    metadata,
    offsets,
    produce,
    producers,
    reassignments,
    topics,
)
from raftlog.kafka.handlers.call import Call, Door
from raftlog.kafka.wire import errors
from raftlog.kafka.wire.api import APIS, ApiKey
from raftlog.kafka.wire.header import RequestHeader, begin_answer
from raftlog.kafka.wire.primitives import Buffer, Reader

Handler = Callable[[Call, Any], Awaitable[Mapping[str, Any]]]
"""Answers a request that the codec has read."""
RawHandler = Callable[[Call, Reader], Awaitable[list[Buffer] | None]]
"""Reads and writes by itself."""

RAW: Final[Mapping[int, RawHandler]] = {
    ApiKey.PRODUCE: produce.produce,
    ApiKey.FETCH: fetch.fetch,
    ApiKey.API_VERSIONS: api_versions.api_versions,
}
HANDLERS: Final[Mapping[int, Handler]] = {
    ApiKey.LIST_OFFSETS: offsets.list_offsets,
    ApiKey.METADATA: metadata.metadata,
    ApiKey.OFFSET_COMMIT: group_offsets.offset_commit,
    ApiKey.OFFSET_FETCH: group_offsets.offset_fetch,
    ApiKey.FIND_COORDINATOR: groups.find_coordinator,
    ApiKey.JOIN_GROUP: groups.join_group,
    ApiKey.HEARTBEAT: groups.heartbeat,
    ApiKey.LEAVE_GROUP: groups.leave_group,
    ApiKey.SYNC_GROUP: groups.sync_group,
    ApiKey.DESCRIBE_GROUPS: group_admin.describe_groups,
    ApiKey.LIST_GROUPS: group_admin.list_groups,
    ApiKey.CREATE_TOPICS: topics.create_topics,
    ApiKey.DELETE_TOPICS: topics.delete_topics,
    ApiKey.DELETE_RECORDS: offsets.delete_records,
    ApiKey.INIT_PRODUCER_ID: producers.init_producer_id,
    ApiKey.OFFSET_FOR_LEADER_EPOCH: offsets.offset_for_leader_epoch,
    ApiKey.DESCRIBE_CONFIGS: configs.describe_configs,
    ApiKey.ALTER_CONFIGS: configs.alter_configs,
    ApiKey.DESCRIBE_LOG_DIRS: cluster.describe_log_dirs,
    ApiKey.CREATE_PARTITIONS: topics.create_partitions,
    ApiKey.DELETE_GROUPS: group_admin.delete_groups,
    ApiKey.ELECT_LEADERS: reassignments.elect_leaders,
    ApiKey.INCREMENTAL_ALTER_CONFIGS: configs.incremental_alter_configs,
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: reassignments.alter_partition_reassignments,
    ApiKey.LIST_PARTITION_REASSIGNMENTS: reassignments.list_partition_reassignments,
    ApiKey.OFFSET_DELETE: group_offsets.offset_delete,
    ApiKey.UPDATE_FEATURES: features.update_features,
    ApiKey.DESCRIBE_CLUSTER: cluster.describe_cluster,
    ApiKey.LIST_CONFIG_RESOURCES: configs.list_config_resources,
}


class Dispatcher:
    """Answers the requests of a node's connections (``connection.Dispatch``)."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, connection: Connection, header: RequestHeader, body: Reader) -> list[Buffer] | None:
        """See ``connection.Dispatch``."""
        if not header.is_served or (self._door.groups is None and header.key in api_versions.GROUP_APIS):
            return self._not_served(header)
        call = Call(door=self._door, header=header, listener=connection.listener, client_host=connection.client_host)
        raw = RAW.get(header.key)
        if raw is not None:
            return await raw(call, body)
        request = codec.decode_request(header.key, header.version, body)
        answer = await HANDLERS[header.key](call, request)
        writer = begin_answer(header)
        codec.encode_answer(header.key, header.version, answer, writer)
        return writer.finish()

    def _not_served(self, header: RequestHeader) -> list[Buffer]:
        """ApiVersions tells what there is; for all others there is no answer that a client of such a version would understand."""
        if header.key != ApiKey.API_VERSIONS:
            name = APIS[header.key].name if header.key in APIS else f"API {header.key}"
            raise Closed(f"{name} version {header.version} is not served here")
        return api_versions.answer(header, errors.UNSUPPORTED_VERSION, groups=self._door.groups is not None)
