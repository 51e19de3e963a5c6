"""Shows the doors what was set: topic configs over the catalogue of keys, the node's own settings under Kafka's names."""

from __future__ import annotations

from collections.abc import Mapping

from raftlog.config import topic
from raftlog.config.node import NodeConfig
from raftlog.gateway.port import DescribedConfig
from raftlog.kafka.port import KafkaOptions


def describe_configs(configs: Mapping[str, str]) -> list[DescribedConfig]:
    """Every key there is, given those that are set."""
    return [
        DescribedConfig(key=row.key, value=row.value, set=row.set, effective=row.effective, documentation=row.documentation)
        for row in topic.describe(configs)
    ]


def kafka_options(config: NodeConfig) -> KafkaOptions:
    """What the node's settings say of the Kafka door."""
    return KafkaOptions(
        listen=config.kafka_listeners(),
        auto_create_topics=config.auto_create_topics_enable,
        idle_ms_max=config.connections_max_idle_ms,
        connections_max=config.max_connections,
        data_dir=str(config.data_dir),
        broker_configs={
            "auto.create.topics.enable": str(config.auto_create_topics_enable).lower(),
            "auto.leader.rebalance.enable": str(config.auto_leader_rebalance_enable).lower(),
            "broker.id": str(config.node_id),
            "broker.rack": config.rack,
            "group.initial.rebalance.delay.ms": str(config.group_initial_rebalance_delay_ms),
            "group.max.session.timeout.ms": str(config.group_max_session_timeout_ms),
            "group.max.size": str(config.group_max_size),
            "group.min.session.timeout.ms": str(config.group_min_session_timeout_ms),
            "connections.max.idle.ms": str(config.connections_max_idle_ms),
            "leader.imbalance.check.interval.seconds": str(config.leader_imbalance_check_interval_seconds),
            "leader.imbalance.per.broker.percentage": str(config.leader_imbalance_per_broker_percentage),
            "listeners": _listeners(config.kafka_listen),
            "advertised.listeners": _listeners({**config.kafka_listen, **config.kafka_advertise}),
            "log.dirs": str(config.data_dir),
            "log.retention.check.interval.ms": str(config.log_retention_check_interval_ms),
            "max.connections": str(config.max_connections),
            "node.id": str(config.node_id),
            "offsets.retention.minutes": str(config.offsets_retention_minutes),
            "offsets.topic.num.partitions": str(config.offsets_topic_num_partitions),
            "offsets.topic.replication.factor": str(config.offsets_topic_replication_factor),
            "replica.lag.time.max.ms": str(config.replica_lag_time_max_ms),
        },
    )


def _listeners(addresses: Mapping[str, str]) -> str:
    return ",".join(f"{name}://{address}" for name, address in addresses.items())
