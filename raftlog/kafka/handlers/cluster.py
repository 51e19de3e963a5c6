"""DescribeCluster and DescribeLogDirs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from raftlog.kafka.handlers.call import Call, Request
from raftlog.kafka.handlers.metadata import controller, nodes
from raftlog.model import METADATA_GROUP

ENDPOINT_BROKERS: Final = 1
UNSUPPORTED_ENDPOINT_TYPE: Final = 115


async def describe_cluster(call: Call, request: Request) -> Mapping[str, Any]:
    """The nodes as clients reach them. There are no controllers beside them."""
    if request.endpoint_type != ENDPOINT_BROKERS:
        call.door.metrics.error(UNSUPPORTED_ENDPOINT_TYPE)
        return {"error_code": UNSUPPORTED_ENDPOINT_TYPE, "error_message": "nodes are the only endpoints", "cluster_id": ""}
    cluster = call.broker.cluster()
    return {
        "cluster_id": cluster.cluster_id,
        "controller_id": controller(call, cluster),
        "brokers": nodes(call, cluster, "broker_id"),
    }


async def describe_log_dirs(call: Call, request: Request) -> Mapping[str, Any]:
    """This node's one directory, and its replicas of the topics asked for (all where none are named)."""
    wanted = (
        None if request.topics is None else {(topic.topic, number) for topic in request.topics for number in topic.partitions}
    )
    usage = call.broker.storage_usage()
    by_topic: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for replica in call.broker.replicas():
        if replica.group_id != METADATA_GROUP and (wanted is None or (replica.topic, replica.partition) in wanted):
            by_topic[replica.topic].append({"partition_index": replica.partition, "partition_size": replica.size_bytes})
    directory = {
        "log_dir": call.door.options.data_dir,
        "topics": [{"name": name, "partitions": partitions} for name, partitions in sorted(by_topic.items())],
        "total_bytes": usage.limit_bytes or usage.used_bytes + usage.disk_free_bytes,
        "usable_bytes": usage.disk_free_bytes,
    }
    return {"results": [directory]}
