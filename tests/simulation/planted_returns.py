"""Bugs planted in joining and coming back on purpose; the scenario of returns must catch them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

from raftlog.broker.broker import NodeBroker
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_rows import node_of
from raftlog.core.metadata_values import Effects
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from tests.simulation.planted import let_empty_disks_in, let_old_disks_in, vote_with_an_emptied_log

Plant = Callable[[], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def open_replicas_of_the_past() -> Iterator[None]:
    """A node that came back opens what old metadata names, before it knows that this is another disk."""

    def open_replicas(self: NodeBroker) -> None:
        self._replicas_open = True
        self._replicas.start(self._machine.state)

    with patch.object(NodeBroker, "_open_replicas", open_replicas):
        yield


@contextlib.contextmanager
def join_as_what_it_was() -> Iterator[None]:
    """A node that lost its disk gets its old incarnation, and its old replicas."""

    def add(self: MetadataState, index: int, command: pb.AddNode) -> Effects:
        known = self.nodes.get(command.node.node_id)
        if known is None:
            return original(self, index, command)
        node = replace(node_of(command.node), incarnation=known.incarnation)
        return replace(self._set_node(node, command.join_id), incarnation=known.incarnation)

    original = MetadataState._add
    with patch.object(MetadataState, "_add", add):
        yield


RETURN_PLANTS: Final[dict[str, Plant]] = {
    f"returns-{plant.__name__.replace('_', '-')}": plant
    for plant in (
        vote_with_an_emptied_log, let_old_disks_in, let_empty_disks_in, open_replicas_of_the_past, join_as_what_it_was,
    )
}  # fmt: skip
"""By name: what ``--planted`` must catch in the mode of returns."""
