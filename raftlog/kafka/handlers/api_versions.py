"""ApiVersions: what this door speaks, and the cluster's feature level (KIP-584).

A version that is not known is answered in version 0, so that the rest is seen.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from raftlog.core.features import FEATURE_NAME, Level
from raftlog.kafka import codec
from raftlog.kafka.handlers.call import Call
from raftlog.kafka.wire.api import APIS, ApiKey
from raftlog.kafka.wire.errors import NONE
from raftlog.kafka.wire.header import RequestHeader, begin_answer
from raftlog.kafka.wire.primitives import Buffer, Reader, Writer
from raftlog.model import ClusterInfo

GROUP_APIS: Final = frozenset(
    {
        ApiKey.OFFSET_COMMIT, ApiKey.OFFSET_FETCH, ApiKey.FIND_COORDINATOR, ApiKey.JOIN_GROUP, ApiKey.HEARTBEAT,
        ApiKey.LEAVE_GROUP, ApiKey.SYNC_GROUP, ApiKey.DESCRIBE_GROUPS, ApiKey.LIST_GROUPS, ApiKey.DELETE_GROUPS,
        ApiKey.OFFSET_DELETE,
    }
)  # fmt: skip
"""What needs consumer groups."""
FEATURES_SINCE: Final = 3
"""The first version that tells of features."""
Features = tuple[int, int, int, int]
"""The lowest and the highest feature level that this node supports; the cluster's, and the entry that made it so."""


async def api_versions(call: Call, _body: Reader) -> list[Buffer]:
    """The table. What the client says of itself is not looked at."""
    features = _features(call.broker.cluster()) if call.version >= FEATURES_SINCE else None
    return answer(call.header, NONE, groups=call.door.groups is not None, features=features)


def answer(header: RequestHeader, error_code: int, *, groups: bool, features: Features | None = None) -> list[Buffer]:
    """The table as an answer; in version 0 where the client's own is not known."""
    writer = begin_answer(header)
    writer.raw(_encoded(header.version if header.is_served else 0, error_code, groups, features))
    return writer.finish()


def _features(cluster: ClusterInfo) -> Features:
    low, high = cluster.supported
    return low, high, cluster.level, cluster.level_index


@cache
def _encoded(version: int, error_code: int, groups: bool, features: Features | None) -> bytes:
    writer = Writer()
    apis = [
        {"api_key": int(api.key), "min_version": api.advertised_min, "max_version": api.version_max}
        for api in APIS.values()
        if groups or api.key not in GROUP_APIS
    ]
    told: dict[str, Any] = {"error_code": error_code, "api_keys": apis}
    if features is not None:
        low, high, level, index = features
        told["supported_features"] = [{"name": FEATURE_NAME, "min_version": low, "max_version": high}]
        told["finalized_features_epoch"] = index
        told["finalized_features"] = [{"name": FEATURE_NAME, "min_version_level": Level.FIRST, "max_version_level": level}]
    codec.encode_answer(ApiKey.API_VERSIONS, version, told, writer)
    return b"".join(writer.finish())
