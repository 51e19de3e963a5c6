"""What a node decides about its own life."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from raftlog.config.node import NodeConfig
from raftlog.core.clock import SystemClock
from raftlog.errors import FatalError, StaleDataDirectoryError, StorageFailedError
from raftlog.node.node import Node


def node_in(directory: Path) -> Node:
    """A node that knows others, and has not been started."""
    node = Node(NodeConfig(node_id=1, data_dir=directory), clock=SystemClock(), rng=Random(1), version="1")
    node._may_join = True
    return node


@pytest.mark.parametrize(
    ("error", "asked_to_stop", "starts_again"),
    [
        (StaleDataDirectoryError("an old copy"), False, True),
        (StaleDataDirectoryError("an old copy"), True, False),
        (StorageFailedError("EIO"), False, False),
    ],
)
async def test_a_node_starts_again_on_an_empty_disk_unless_it_was_asked_to_stop(
    tmp_path: Path, error: FatalError, asked_to_stop: bool, starts_again: bool
) -> None:
    """SIGTERM while it ends over its data is not forgotten: the data stays where it is, and the process ends."""
    node = node_in(tmp_path)
    node.fail(error)
    if asked_to_stop:
        node.stop_soon()
    assert node._starts_again() is starts_again
    assert not node._starts_again(), "once is enough"
