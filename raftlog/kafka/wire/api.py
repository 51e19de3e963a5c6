"""The one table of APIs: which versions are advertised, which are served, and from which on a version is flexible.

Source: kafka.apache.org/protocol, "Api Keys"; the flexible versions are those of the message schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

NEVER: Final = 1 << 15
"""``flexible_from`` of an API without flexible versions."""


class ApiKey(IntEnum):
    """The keys of the APIs that are served."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    DESCRIBE_GROUPS = 15
    LIST_GROUPS = 16
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    DELETE_TOPICS = 20
    DELETE_RECORDS = 21
    INIT_PRODUCER_ID = 22
    OFFSET_FOR_LEADER_EPOCH = 23
    DESCRIBE_CONFIGS = 32
    ALTER_CONFIGS = 33
    DESCRIBE_LOG_DIRS = 35
    CREATE_PARTITIONS = 37
    DELETE_GROUPS = 42
    ELECT_LEADERS = 43
    INCREMENTAL_ALTER_CONFIGS = 44
    ALTER_PARTITION_REASSIGNMENTS = 45
    LIST_PARTITION_REASSIGNMENTS = 46
    OFFSET_DELETE = 47
    UPDATE_FEATURES = 57
    DESCRIBE_CLUSTER = 60
    LIST_CONFIG_RESOURCES = 74


@dataclass(frozen=True, slots=True)
class Api:
    """One API. ``advertised_min`` may be below ``served_min``: see the table."""

    key: ApiKey
    name: str
    advertised_min: int
    served_min: int
    version_max: int
    flexible_from: int
    waits: bool = False
    """Its answers may take as long as the client asked for; they are cut short when the node stops."""

    def serves(self, version: int) -> bool:
        """Whether requests of this version are answered."""
        return self.served_min <= version <= self.version_max


def _api(
    key: ApiKey, name: str, low: int, high: int, flexible_from: int, *, advertised: int | None = None, waits: bool = False
) -> Api:
    return Api(key, name, low if advertised is None else advertised, low, high, flexible_from, waits)


_ALL: Final = (
    # Advertised from 0: librdkafka before 2.11.1 sends uncompressed, in silence, where version 0 is missing. It sends 3 or newer.
    _api(ApiKey.PRODUCE, "Produce", 3, 9, 9, advertised=0),
    _api(ApiKey.FETCH, "Fetch", 4, 12, 12, waits=True),  # 13 names topics by their ids
    _api(ApiKey.LIST_OFFSETS, "ListOffsets", 1, 7, 6),
    _api(ApiKey.METADATA, "Metadata", 0, 12, 9),
    _api(ApiKey.OFFSET_COMMIT, "OffsetCommit", 2, 8, 8),
    _api(ApiKey.OFFSET_FETCH, "OffsetFetch", 1, 8, 6),
    _api(ApiKey.FIND_COORDINATOR, "FindCoordinator", 0, 4, 3),
    _api(ApiKey.JOIN_GROUP, "JoinGroup", 0, 9, 6, waits=True),
    _api(ApiKey.HEARTBEAT, "Heartbeat", 0, 4, 4),
    _api(ApiKey.LEAVE_GROUP, "LeaveGroup", 0, 5, 4),
    _api(ApiKey.SYNC_GROUP, "SyncGroup", 0, 5, 4, waits=True),
    _api(ApiKey.DESCRIBE_GROUPS, "DescribeGroups", 0, 6, 5),
    _api(ApiKey.LIST_GROUPS, "ListGroups", 0, 5, 3),
    _api(ApiKey.API_VERSIONS, "ApiVersions", 0, 4, 3),
    _api(ApiKey.CREATE_TOPICS, "CreateTopics", 2, 7, 5),
    _api(ApiKey.DELETE_TOPICS, "DeleteTopics", 1, 6, 4),
    _api(ApiKey.DELETE_RECORDS, "DeleteRecords", 0, 2, 2),
    _api(ApiKey.INIT_PRODUCER_ID, "InitProducerId", 0, 4, 2),
    _api(ApiKey.OFFSET_FOR_LEADER_EPOCH, "OffsetForLeaderEpoch", 2, 4, 4),
    _api(ApiKey.DESCRIBE_CONFIGS, "DescribeConfigs", 1, 4, 4),
    _api(ApiKey.ALTER_CONFIGS, "AlterConfigs", 0, 2, 2),
    _api(ApiKey.DESCRIBE_LOG_DIRS, "DescribeLogDirs", 1, 5, 2),
    _api(ApiKey.CREATE_PARTITIONS, "CreatePartitions", 0, 3, 2),
    _api(ApiKey.DELETE_GROUPS, "DeleteGroups", 0, 2, 2),
    _api(ApiKey.ELECT_LEADERS, "ElectLeaders", 0, 2, 2),
    _api(ApiKey.INCREMENTAL_ALTER_CONFIGS, "IncrementalAlterConfigs", 0, 1, 1),
    _api(ApiKey.ALTER_PARTITION_REASSIGNMENTS, "AlterPartitionReassignments", 0, 1, 0),
    _api(ApiKey.LIST_PARTITION_REASSIGNMENTS, "ListPartitionReassignments", 0, 0, 0),
    _api(ApiKey.OFFSET_DELETE, "OffsetDelete", 0, 0, NEVER),
    _api(ApiKey.UPDATE_FEATURES, "UpdateFeatures", 0, 2, 0),
    _api(ApiKey.DESCRIBE_CLUSTER, "DescribeCluster", 0, 2, 0),
    _api(ApiKey.LIST_CONFIG_RESOURCES, "ListConfigResources", 0, 1, 0),
)

APIS: Final[Mapping[int, Api]] = {int(api.key): api for api in _ALL}
"""Every API by its key, in the order of the table."""
