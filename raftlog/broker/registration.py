"""Registers a node with the cluster: its addresses, its disk, and the feature levels that its version supports."""

from __future__ import annotations

import asyncio
import logging
from random import Random

from raftlog.broker.metadata_calls import MetadataCalls
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_rows import register_command
from raftlog.errors import RaftlogError
from raftlog.model import NodeInfo
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb

REGISTER_RETRY_MIN_S = 0.1
REGISTER_RETRY_MAX_S = 5.0
"""Registration is tried again for as long as it takes; the pause doubles up to this."""

_log = logging.getLogger(__name__)


async def keep_registered(node: NodeInfo, state: MetadataState, calls: MetadataCalls, rng: Random) -> None:
    """Register a node where the cluster does not know it as it is, however long it takes until group 0 has a leader."""
    command = pb.MetadataCommand(register_node=register_command(node))
    pause_s = REGISTER_RETRY_MIN_S
    while (known := state.nodes.get(node.node_id)) is None or not known.registers_as(node):
        try:
            await calls.call(command, again=True)
        except RaftlogError as error:
            _log.debug("registering node %d: %s", node.node_id, error)
            await asyncio.sleep(pause_s * (0.5 + rng.random()))
            pause_s = min(pause_s * 2, REGISTER_RETRY_MAX_S)
