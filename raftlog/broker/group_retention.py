"""Retention of groups: this node's periodic job over the coordinators that it leads.

Offsets that have served their time, offsets of deleted topics, and groups without members and offsets are forgotten by
commands that the leader proposes; a coordinator's log is cut behind its applied state, as all of it is in rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping

from raftlog.broker.config import BrokerConfig
from raftlog.broker.coordinator import Coordinator
from raftlog.broker.trim import cut_applied
from raftlog.core.clock import Clock
from raftlog.core.groups.expiry import OFFSETS_MAX, Gone, expired_offsets, unused_groups
from raftlog.errors import GroupIdNotFoundError, GroupNotEmptyError, RaftlogError
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb

_log = logging.getLogger(__name__)

CUT_INTERVAL_S = 10.0
"""How often logs are cut: often enough that a busy coordinator's stays some megabytes, and it costs nothing where it is short."""


LOOKED_AT_ONCE = 2_000
"""Offsets between two turns of the loop: some milliseconds."""


class GroupRetention:
    """See the module.

    Args:
        coordinators: those that this node has a replica of.
        gone: whether the partition that had a Raft group was deleted.
        clock: the leader's time.
        rng: spreads the nodes' passes.
        config: intervals and times.
    """

    def __init__(
        self, coordinators: Mapping[int, Coordinator], gone: Gone, *, clock: Clock, rng: random.Random, config: BrokerConfig
    ) -> None:
        self._coordinators = coordinators
        self._gone = gone
        self._clock = clock
        self._rng = rng
        self._config = config
        self._trim_index: dict[int, int] = {}
        self._wake = asyncio.Event()

    def topics_deleted(self) -> None:
        """Offsets of topics are to be forgotten soon."""
        self._wake.set()

    async def run(self) -> None:
        """Pass over all coordinators, for ever."""
        interval_s = self._config.offsets_retention_check_interval_ms / 1000
        loop = asyncio.get_running_loop()
        due_s = loop.time() + interval_s
        while True:
            try:
                async with asyncio.timeout(min(CUT_INTERVAL_S, max(due_s - loop.time(), 0.0))):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self.cut_all()
            if self._wake.is_set() or loop.time() >= due_s:
                self._wake.clear()
                due_s = loop.time() + interval_s * (0.9 + 0.2 * self._rng.random())
                await self.expire_all()

    def cut_all(self) -> None:
        """Cut the logs that are long."""
        self._trim_index = {group: index for group, index in self._trim_index.items() if group in self._coordinators}
        for group, coordinator in list(self._coordinators.items()):
            if not coordinator.machine.serving:
                self._trim_index.pop(group, None)
                continue
            try:
                done = cut_applied(coordinator.machine.log, self._trim_index.get(group, 0), self._clock.wall_ms())
                self._trim_index[group] = done
            except RaftlogError as error:
                _log.warning("cutting the log of %s: %s", coordinator.machine.name, error)

    async def expire_all(self) -> None:
        """Forget what has served its time. One coordinator's error does not stop the others."""
        for coordinator in list(self._coordinators.values()):
            try:
                if coordinator.machine.serving:
                    await self._expire(coordinator)
            except RaftlogError as error:
                _log.warning("retention of the groups of %s: %s", coordinator.machine.name, error)

    async def _expire(self, coordinator: Coordinator) -> None:
        await self._expire_offsets(coordinator)
        before_ms = self._clock.wall_ms() - self._config.offsets_retention_check_interval_ms
        tried: set[str] = set()
        while unused := unused_groups(
            coordinator.machine.state, before_ms=before_ms, state_of=coordinator.state_of, but=tried
        ):  # fmt: skip
            for record in unused:
                tried.add(record.group_id)
                with contextlib.suppress(GroupNotEmptyError, GroupIdNotFoundError):  # somebody came back, or was faster
                    await coordinator.delete_group(record.group_id, only_unused=True)

    async def _expire_offsets(self, coordinator: Coordinator) -> None:
        """Group by group, so that the loop is not held up by hundreds of thousands of offsets that are to stay."""
        refs: list[pb.OffsetRef] = []
        looked_at = 0
        for group_id in list(coordinator.machine.state.offsets):
            state = coordinator.machine.state
            looked_at += len(state.offsets.get(group_id, ()))
            refs += expired_offsets(
                state,
                group_id,
                now_ms=self._clock.wall_ms(),
                retention_ms=self._config.offsets_retention_ms,
                state_of=coordinator.state_of,
                gone=self._gone,
            )
            while len(refs) >= OFFSETS_MAX:
                await coordinator.delete_offsets(refs[:OFFSETS_MAX])
                del refs[:OFFSETS_MAX]
            if looked_at >= LOOKED_AT_ONCE:
                looked_at = 0
                await asyncio.sleep(0)
                coordinator.check_serving()
        if refs:
            await coordinator.delete_offsets(refs)
