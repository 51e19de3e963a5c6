"""What Prometheus sees of a node: names begin with ``raftlog_``, units are seconds and bytes.

State (offsets, terms, storage) is read from the broker when it is scraped; traffic is counted as it passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from raftlog.admin.move_metrics import MoveCollector, MoveFigures
from raftlog.broker.group_port import GroupState
from raftlog.broker.port import Broker
from raftlog.model import METADATA_GROUP, ReplicaStatus, Role

_SECONDS_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_LABELS: Final = ("topic", "partition", "group")

_REPLICA_GAUGES: Final[tuple[tuple[str, str, Callable[[ReplicaStatus], float]], ...]] = (
    ("partition_log_start_offset", "First offset that can be read.", lambda r: r.log_start_offset),
    ("partition_high_watermark", "Next offset after the last that is committed.", lambda r: r.high_watermark),
    ("partition_log_end_offset", "Next offset to be given.", lambda r: r.log_end_offset),
    ("partition_size_bytes", "Bytes of stored entries.", lambda r: r.size_bytes),
    ("replica_is_leader", "1 where this node leads.", lambda r: r.role is Role.LEADER),
    ("replica_has_leader", "1 where this node knows a leader.", lambda r: r.leader is not None),
    ("replica_damaged", "1 where stored bytes failed their check.", lambda r: r.damaged),
    ("raft_term", "Current term.", lambda r: r.term),
    ("raft_first_index", "First index in the log.", lambda r: r.first_index),
    ("raft_last_index", "Last index in the log.", lambda r: r.last_index),
    ("raft_commit_index", "Last index known committed.", lambda r: r.commit_index),
    ("raft_applied_index", "Last index applied.", lambda r: r.applied_index),
)


class GroupFigures(Protocol):
    """What a scrape asks of consumer groups: those that this node coordinates, and what it counted since its start."""

    @property
    def commits(self) -> int:
        """Commits that it acknowledged."""
        ...

    @property
    def commits_refused(self) -> int:
        """Commits of members that are none, or of another generation."""
        ...

    @property
    def rebalances(self) -> int:
        """Generations with members that it made."""
        ...

    def states(self) -> Mapping[GroupState, int]:
        """How many groups are in each state; states that no group is in may be left out."""
        ...


class NodeMetrics:
    """The figures of one node, in a registry of their own. It is the gateway's ``GatewayMetrics``."""

    def __init__(
        self, broker: Broker, *, version: str, groups: GroupFigures | None = None, moves: MoveFigures | None = None,
        sleeping: Callable[[], int] | None = None,
    ) -> None:  # fmt: skip
        self._registry = CollectorRegistry()
        ProcessCollector(namespace="raftlog", registry=self._registry)
        self._registry.register(_BrokerCollector(broker, version))
        if groups is not None:
            self._registry.register(_GroupCollector(groups))
        if moves is not None:
            self._registry.register(MoveCollector(moves, broker))
        self._batches = Counter(
            "raftlog_publish_batches", "Batches in publish requests that were answered.", registry=self._registry
        )
        self._bytes = Counter("raftlog_publish_bytes", "Bytes of those batches.", registry=self._registry)
        self._seconds = Histogram(
            "raftlog_publish_seconds",
            "Time from a publish request's arrival to its answer.",
            buckets=_SECONDS_BUCKETS,
            registry=self._registry,
        )
        self._fetched = Counter("raftlog_fetch_bytes", "Bytes of batches sent to readers.", registry=self._registry)
        self._errors = Counter(
            "raftlog_grpc_errors", "Calls and items that failed, by reason.", ("reason",), registry=self._registry
        )
        if sleeping is not None:
            text = "Raft groups with nothing to do: they have no heartbeats and no timers."
            asleep = Gauge("raftlog_groups_asleep", text, registry=self._registry)
            asleep.set_function(sleeping)
        self.kafka = KafkaFigures(self._registry)
        """What the Kafka door counts."""

    def published(self, batches: int, size_bytes: int, seconds: float) -> None:
        """A publish request was answered."""
        self._batches.inc(batches)
        self._bytes.inc(size_bytes)
        self._seconds.observe(seconds)

    def fetched(self, size_bytes: int) -> None:
        """Bytes of batches left for a reader."""
        self._fetched.inc(size_bytes)

    def failed(self, reason: str) -> None:
        """A call or an item in it failed."""
        self._errors.labels(reason).inc()

    def page(self) -> bytes:
        """All figures in Prometheus's text format."""
        return generate_latest(self._registry)


class KafkaFigures:
    """Traffic of the Kafka door. It is that door's ``KafkaMetrics``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "raftlog_kafka_request_seconds",
            "Time from a request's receipt to its answer, waits that the client asked for among it.",
            ("api",),
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self._errors = Counter("raftlog_kafka_errors", "Error codes in answers.", ("code",), registry=registry)
        self._connections = Gauge("raftlog_kafka_connections", "Connections.", registry=registry)
        self._batches = Counter("raftlog_kafka_produce_batches", "Batches that were produced.", registry=registry)
        self._bytes = Counter("raftlog_kafka_produce_bytes", "Bytes of those batches.", registry=registry)
        self._fetched = Counter("raftlog_kafka_fetch_bytes", "Bytes of batches sent to consumers.", registry=registry)
        self._by_api: dict[str, Histogram] = {}

    def request(self, api: str, seconds: float) -> None:
        """A request was answered."""
        child = self._by_api.get(api)
        if child is None:
            child = self._by_api[api] = self._seconds.labels(api)
        child.observe(seconds)

    def error(self, code: int) -> None:
        """Something in an answer failed."""
        self._errors.labels(str(code)).inc()

    def connections(self, change: int) -> None:
        """Connections came or went."""
        self._connections.inc(change)

    def produced(self, batches: int, size_bytes: int) -> None:
        """Batches were answered."""
        self._batches.inc(batches)
        self._bytes.inc(size_bytes)

    def fetched(self, size_bytes: int) -> None:
        """Bytes of batches left for a consumer."""
        self._fetched.inc(size_bytes)


class _BrokerCollector(Collector):
    """Reads the broker at each scrape, so that nothing is counted twice and nothing goes stale."""

    def __init__(self, broker: Broker, version: str) -> None:
        self._broker = broker
        self._version = version

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask a broker that has not started."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The state of replicas, storage and cluster."""
        yield from self._replicas()
        yield from self._storage()
        yield from self._cluster()

    def _replicas(self) -> Iterator[Metric]:
        replicas = [(_labels(replica), replica) for replica in self._broker.replicas()]
        for name, documentation, value in _REPLICA_GAUGES:
            family = GaugeMetricFamily(f"raftlog_{name}", documentation, labels=_LABELS)
            for labels, replica in replicas:
                family.add_metric(labels, value(replica))
            yield family

    def _storage(self) -> Iterator[Metric]:
        usage = self._broker.storage_usage()
        yield _gauge("storage_used_bytes", "Bytes that live data takes.", usage.used_bytes)
        yield _gauge("storage_file_bytes", "Bytes of the data file; it does not shrink by itself.", usage.file_bytes)
        yield _gauge("storage_limit_bytes", "Most that data may take; 0 without a limit.", usage.limit_bytes)
        yield _gauge("storage_disk_free_bytes", "Bytes free on the disk.", usage.disk_free_bytes)
        yield _gauge("storage_room_bytes", "Bytes that may still be stored before publishing is refused.", usage.room_bytes)
        yield _gauge("storage_low", "1 while retention does not wait for its next check, for there is little room.", usage.low)
        yield _gauge("storage_full", "1 while publishing is refused for want of space.", usage.full)

    def _cluster(self) -> Iterator[Metric]:
        cluster = self._broker.cluster()
        others = [node for node in cluster.nodes if node.node_id != self._broker.node_id]
        yield _gauge("peers_connected", "Other nodes with a link to this one.", sum(node.alive for node in others))
        yield _gauge("peers_known", "Other nodes registered with the cluster.", len(others))
        info = InfoMetricFamily("raftlog_node", "This node.")
        labels = {"node_id": str(self._broker.node_id), "cluster_id": cluster.cluster_id, "version": self._version}
        info.add_metric((), labels)
        yield info


class _GroupCollector(Collector):
    """Reads the coordinators at each scrape."""

    def __init__(self, groups: GroupFigures) -> None:
        self._groups = groups

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask a broker that has not started."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Groups by state, and what was counted."""
        states = self._groups.states()
        family = GaugeMetricFamily("raftlog_groups", "Consumer groups that this node coordinates, by state.", labels=("state",))
        for state in GroupState:
            family.add_metric((state.value,), states.get(state, 0))
        yield family
        yield _counter("group_rebalances", "Generations with members that this node made.", self._groups.rebalances)
        yield _counter("group_commits", "Commits of offsets that were acknowledged.", self._groups.commits)
        yield _counter("group_commits_refused", "Commits of members of no or another generation.", self._groups.commits_refused)


def _labels(replica: ReplicaStatus) -> tuple[str, str, str]:
    if replica.group_id == METADATA_GROUP:
        return "", "", str(METADATA_GROUP)
    return replica.topic, str(replica.partition), str(replica.group_id)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"raftlog_{name}", documentation, value=value)


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(f"raftlog_{name}", documentation, value=value)
