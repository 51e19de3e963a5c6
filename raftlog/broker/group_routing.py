"""Finds the coordinator of a group, waits for it where there is none just now, and makes the internal topic for the first."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from raftlog.broker.config import BrokerConfig
from raftlog.broker.coordinator import Coordinator
from raftlog.broker.group_port import GROUPS_TOPIC
from raftlog.broker.routing import ELECTION_RETRY_AFTER_MS, Router
from raftlog.core.groups.hashing import partition_of
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_values import PartitionMeta, TopicMeta
from raftlog.errors import (
    CoordinatorNotAvailableError,
    IndeterminateError,
    InvalidGroupIdError,
    LeaderHint,
    NotCoordinatorError,
    RaftlogError,
    ShuttingDownError,
    TopicExistsError,
    UnavailableError,
)

GROUP_ID_BYTES_MAX = 32_767
"""As long as a string of the Kafka protocol may be."""
COORDINATOR_LOOK_S = 0.02
"""How often a call looks for a coordinator that it waits for (and up to twice that)."""
_T = TypeVar("_T")

Here = Callable[[Coordinator], Awaitable[_T]]
"""Makes a call on a coordinator of this node."""
There = Callable[[int], Awaitable[_T]]
"""Makes a call on another node."""


class GroupRouter:
    """See the module.

    Args:
        node_id: this node.
        state: the applied metadata.
        router: who leads what.
        coordinators: Raft group → this node's replicas of coordinators.
        create_topic: has the internal topic made.
        check_running: raises when the node stops.
        rng: spreads retries.
        config: how long to wait.
    """

    def __init__(
        self, node_id: int, *, state: MetadataState, router: Router, coordinators: Mapping[int, Coordinator],
        create_topic: Callable[[], Awaitable[None]], check_running: Callable[[], None], rng: random.Random, config: BrokerConfig,
    ) -> None:  # fmt: skip
        self._node_id = node_id
        self._state = state
        self._router = router
        self._coordinators = coordinators
        self._create_topic = create_topic
        self._check_running = check_running
        self._rng = rng
        self._config = config
        self._creating = asyncio.Lock()

    @property
    def topic(self) -> TopicMeta | None:
        """The internal topic, where this node knows it."""
        return self._state.topics.get(GROUPS_TOPIC)

    async def call(self, group_id: str, here: Here[_T], there: There[_T], *, direct: bool = False, harmless: bool = True) -> _T:
        """Make a call on the group's coordinator, wherever that is.

        Args:
            group_id: the group.
            here, there: the call.
            direct: whether to make it only here.
            harmless: whether it does no harm when it happens twice.

        Raises:
            InvalidGroupIdError, NotCoordinatorError, CoordinatorNotAvailableError, and what the call raises.
        """
        _check_group_id(group_id)

        async def once() -> _T:
            place = self._place(await self._partition(group_id), group_id)
            if isinstance(place, Coordinator):
                return await here(place)
            if direct:
                raise self._elsewhere(group_id, place)
            return await there(place)

        return await self.patiently(once, patient=not direct, harmless=harmless)

    async def patiently(self, once: Callable[[], Awaitable[_T]], *, patient: bool = True, harmless: bool = True) -> _T:
        """Make a call, again and again for ``coordinator_wait_s`` where it said that nothing was done.

        Raises:
            NotCoordinatorError, CoordinatorNotAvailableError, and what the call raises.
        """
        loop = asyncio.get_running_loop()
        patience_s = loop.time() + self._config.coordinator_wait_s if patient else 0.0
        while True:
            self._check_running()
            try:
                return await once()
            except IndeterminateError as error:
                if not harmless:
                    raise
                raise CoordinatorNotAvailableError(f"the coordinator did not answer: {error}") from error
            except UnavailableError as error:
                pause_s = COORDINATOR_LOOK_S * (1 + self._rng.random())
                if loop.time() + pause_s >= patience_s:
                    raise _final(error) from error
            await asyncio.sleep(pause_s)

    def leader(self, meta: PartitionMeta) -> int:
        """The node that leads a partition of the internal topic.

        Raises:
            CoordinatorNotAvailableError: nobody does, as far as known.
        """
        leader, _ = self._router.leader(meta.group_id)
        if leader is None:
            raise _nobody("some groups")
        return leader

    async def _partition(self, group_id: str) -> PartitionMeta:
        topic = self.topic
        if topic is None:
            async with self._creating:
                topic = self.topic or await self._create()
        return topic.partitions[partition_of(group_id, len(topic.partitions))]

    async def _create(self) -> TopicMeta:
        """Have the internal topic made; it may be there already, and not known here yet."""
        try:
            await self._create_topic()
        except TopicExistsError:
            pass
        except (UnavailableError, IndeterminateError) as error:
            raise CoordinatorNotAvailableError(f"topic {GROUPS_TOPIC} could not be made: {error}") from error
        topic = self.topic
        if topic is None:
            raise CoordinatorNotAvailableError(f"topic {GROUPS_TOPIC} is being made; try again")
        return topic

    def _place(self, meta: PartitionMeta, group_id: str) -> Coordinator | int:
        """The coordinator where this node leads and serves, else the node that leads."""
        coordinator = self._coordinators.get(meta.group_id)
        if coordinator is not None and coordinator.machine.serving:
            return coordinator
        leader, _ = self._router.leader(meta.group_id)
        if leader is None or leader == self._node_id:
            raise _nobody(f"group {group_id!r}")
        return leader

    def _elsewhere(self, group_id: str, leader: int) -> NotCoordinatorError:
        node = self._state.nodes.get(leader)
        hint = LeaderHint(node_id=leader, address="" if node is None else node.grpc_address, term=0)
        return NotCoordinatorError(f"node {self._node_id} does not coordinate group {group_id!r}; node {leader} does", hint=hint)


def _check_group_id(group_id: str) -> None:
    if not group_id:
        raise InvalidGroupIdError("a group needs an id; set group.id")
    try:
        size_bytes = len(group_id.encode())
    except UnicodeEncodeError as error:
        raise InvalidGroupIdError(f"the group id is not a text that can be written: {error}") from error
    if size_bytes > GROUP_ID_BYTES_MAX:
        raise InvalidGroupIdError(f"a group id has {GROUP_ID_BYTES_MAX} bytes at most, not {size_bytes}")


def _final(error: UnavailableError) -> RaftlogError:
    """What the caller hears in the end: of this node's own stop, or of the coordinator."""
    if isinstance(error, NotCoordinatorError | CoordinatorNotAvailableError | ShuttingDownError):
        return error
    return CoordinatorNotAvailableError(str(error), retry_after_ms=error.retry_after_ms)


def _nobody(whom: str) -> CoordinatorNotAvailableError:
    return CoordinatorNotAvailableError(f"nobody coordinates {whom} just now; try again", retry_after_ms=ELECTION_RETRY_AFTER_MS)
