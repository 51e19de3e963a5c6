"""What Prometheus sees of moving replicas: told by the node that leads the metadata's group, where the others tell zeros."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from raftlog.model import ClusterInfo, Move, NodeStatus


class MoveFigures(Protocol):
    """What a scrape asks of moving replicas."""

    @property
    def steps(self) -> Mapping[str, int]:
        """Steps that this node had taken since its start, by kind."""
        ...

    @property
    def renewed(self) -> int:
        """Damaged replicas that this node gave up for new ones, since its start."""
        ...

    def under_way(self) -> Sequence[Move]:
        """What is on the move, as this node knows where it leads the metadata's group; nothing elsewhere."""
        ...


class MoveCollector(Collector):
    """Reads the reconciler at each scrape."""

    def __init__(self, moves: MoveFigures, nodes: NodesOf) -> None:
        self._moves = moves
        self._nodes = nodes

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask a broker that has not started."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """What moves, how fast, and how much is left; nodes by status, and the feature level."""
        moves = self._moves.under_way()
        left = sum(max(move.bytes_total - move.bytes_done, 0) for move in moves)
        yield _gauge("moves", "Partitions whose replicas are not where they are wanted.", len(moves))
        yield _gauge("moves_waiting", "Those of them that wait for a node that is down.", sum(move.held_up for move in moves))
        yield _gauge("moves_bytes_left", "Bytes that have yet to be copied to replicas that come.", left)
        yield _gauge("moves_bytes_per_second", "Bytes copied to them lately.", sum(move.rate for move in moves))
        steps = CounterMetricFamily("raftlog_move_steps", "Steps that this node had taken, by kind.", labels=("step",))
        for kind, count in sorted(self._moves.steps.items()):
            steps.add_metric((kind,), count)
        yield steps
        text = "Damaged replicas that this node gave up, to have new ones filled from the others."
        yield CounterMetricFamily("raftlog_replicas_renewed", text, value=self._moves.renewed)
        cluster = self._nodes.cluster()
        yield _gauge("feature_level", "The cluster's feature level, as this node knows it.", cluster.level)
        yield _gauge("feature_level_supported", "The highest one that this node's version supports.", cluster.supported[1])
        statuses = Counter(node.status for node in cluster.nodes)
        family = GaugeMetricFamily("raftlog_nodes", "Nodes of the cluster, by status.", labels=("status",))
        for status in (NodeStatus.ACTIVE, NodeStatus.DRAINING):
            family.add_metric((status.value,), statuses[status])
        yield family


class NodesOf(Protocol):
    """Who knows the nodes."""

    def cluster(self) -> ClusterInfo:
        """See ``Broker``."""
        ...


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"raftlog_{name}", documentation, value=value)
