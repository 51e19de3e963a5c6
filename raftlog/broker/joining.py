"""Lets nodes into the cluster: a member's part of a join, on behalf of a guest that has no vote, no log and no name yet.

The guest's wish becomes an ``AddNode`` command at group 0's leader. What is looked at before:

* an id is taken while a node that bears it is up: known to the member that is asked, or to group 0's leader, by its link;
* a founder that comes back without its data, started as it was, is taken for the node that it was, if it is at the address that
  this node registered: whoever mistypes an address must not take over another cluster's node.
"""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import DecodeError

from raftlog.broker.metadata_calls import MetadataCalls
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.errors import ConfigError, InvalidRequestError, JoinRefusedError, NodeIdTakenError, NodeRemovedError
from raftlog.pb.raftlog.internal.v1 import join_pb2, metadata_pb2
from raftlog.peers.address import parse_address

JOIN_METHOD = "join"
PROBE_METHOD = "probe"
"""Asks whether this is a member of a cluster that has begun, and whether who asks was removed from it; answered by the cluster's
id alone."""


class Joins:
    """See the module.

    Args:
        cluster_id: this cluster.
        machine, calls: group 0.
        alive: whether a node is up as far as this one knows.
    """

    def __init__(
        self, cluster_id: Callable[[], str], machine: MetadataMachine, calls: MetadataCalls, alive: Callable[[int], bool]
    ) -> None:
        self._cluster_id = cluster_id
        self._machine = machine
        self._calls = calls
        self._alive = alive

    async def answer(self, node_id: int, method: str, body: bytes) -> bytes:
        """Answer a guest that says it is ``node_id``.

        Raises:
            InvalidRequestError: a method that guests do not have, or a body that is not the method's.
            JoinRefusedError: why it is not let in.
            RaftlogError: of the metadata command.
        """
        if method not in (JOIN_METHOD, PROBE_METHOD):
            raise InvalidRequestError(f"a guest may ask to join, and nothing else; {method!r} is for members")
        try:
            call = join_pb2.JoinCall.FromString(body)
            if method == JOIN_METHOD:
                parse_address(call.node.peer_address)
        except (DecodeError, ConfigError) as error:
            raise InvalidRequestError(f"the call by which node {node_id} asks to join cannot be read: {error}") from error
        if method == JOIN_METHOD and call.node.node_id != node_id:
            raise InvalidRequestError(f"node {node_id} asks to let node {call.node.node_id} in; each asks for itself")
        if method == JOIN_METHOD:
            return (await self._join(call)).SerializeToString()
        known = self._machine.state.removed.get(node_id)
        if known is not None and (call.node.incarnation or 1) <= known.incarnation:
            raise NodeRemovedError(f"node {node_id} was removed from the cluster; to add it again, empty its data directory")
        return join_pb2.JoinAnswer(cluster_id=self._cluster_id()).SerializeToString()

    async def _join(self, call: join_pb2.JoinCall) -> join_pb2.JoinAnswer:
        node_id = call.node.node_id
        if self._alive(node_id):
            raise NodeIdTakenError(
                f"node {node_id} is up: the id is taken. Give this node an id of its own, or stop the other one"
            )
        if call.as_founder:
            self._check_founder(node_id, call.node.peer_address)
        known = (self._machine.state.nodes | self._machine.state.removed).get(node_id)
        add = metadata_pb2.AddNode(
            node=call.node, join_id=call.join_id, known_incarnation=0 if known is None else known.incarnation
        )  # fmt: skip
        answer = await self._calls.call(metadata_pb2.MetadataCommand(add_node=add), again=True)
        peers = [
            join_pb2.JoinedPeer(node_id=node.node_id, peer_address=node.peer_address)
            for node in self._machine.state.nodes.values()
            if node.node_id != node_id
        ]
        level = self._machine.state.level
        return join_pb2.JoinAnswer(cluster_id=self._cluster_id(), incarnation=answer.incarnation, peers=peers, level=level)

    def _check_founder(self, node_id: int, address: str) -> None:
        known = self._machine.state.nodes.get(node_id)
        if known is None and node_id not in self._machine.log.members:
            raise JoinRefusedError(
                f"cluster {self._cluster_id()} has begun without node {node_id}; to add it, start it with --join and without"
                " --voters, or correct the addresses in --voters"
            )
        if known is not None and known.peer_address != address:
            raise JoinRefusedError(
                f"node {node_id} of cluster {self._cluster_id()} is at {known.peer_address}, and an empty node at {address}"
                " says that it is that node; to let it take that place, start it with --join and without --voters"
            )
