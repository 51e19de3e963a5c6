"""Running the matrix: a cluster, each client's environment, one bridge a cell, bounded in time, its log kept."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from raftlog.client.client import Client
from raftlog.core.clock import SystemClock
from raftlog.testing import LocalCluster
from tests.interop.bridges.face import Absent
from tests.interop.clients import CONFLUENT, ROOT, ClientKind, Unavailable
from tests.interop.features import crossing
from tests.interop.features.catalogue import Feature
from tests.interop.lab import AGE_MS, Lab, Skipped
from tests.interop.matrix import Cell, Outcome
from tests.interop.talking import Bridge

NODES = 3
WORDS_MAX = 400
_ENVIRON = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be run, and where."""

    clients: Sequence[ClientKind]
    features: Sequence[Feature]
    home: Path
    """Environments, logs, and the cluster's data."""
    brokers: str | None
    """A cluster of someone else, instead of one of raftlog's."""
    replicas: int
    seed: int


async def run(plan: Plan) -> list[Cell]:
    """All cells, client by client; what is read across clients comes when all have written."""
    async with AsyncExitStack() as stack:
        cluster, address = None, plan.brokers
        if address is None:
            cluster = await stack.enter_async_context(LocalCluster(NODES, data_dir=plan.home / "data"))
            address = cluster.kafka
        runner = _Runner(plan, cluster, address)
        steward = Bridge(
            await asyncio.to_thread(CONFLUENT.command, plan.home),
            address,
            environ=_ENVIRON,
            log=plan.home / "logs" / "steward.log",
        )
        runner.steward = await stack.enter_async_context(steward)
        await runner.own_writes()
        return await runner.all()


class _Runner:
    def __init__(self, plan: Plan, cluster: LocalCluster | None, address: str) -> None:
        self._plan, self._cluster, self._address = plan, cluster, address
        self._shared: dict[str, Any] = {}
        self._commands: dict[str, list[str]] = {}
        self.steward: Bridge

    async def own_writes(self) -> None:
        """raftlog's own client leaves a topic that all others read."""
        if self._cluster is None:
            return
        lab = self._lab(self.steward, crossing.OWN, "own")
        records = lab.records(crossing.EACH * len(crossing.CODECS))
        async with Client(self._cluster.brokers) as client:
            await crossing.write_by_own(client, f"{lab.prefix}-t", self._plan.replicas, records)
        self._shared["written"] = {lab.client: (f"{lab.prefix}-t", records, self.steward.facts)}

    async def all(self) -> list[Cell]:
        """Every client's features, then what crosses clients."""
        cells: list[Cell] = []
        late = [feature for feature in self._plan.features if feature.name == "crossing"]
        early = [feature for feature in self._plan.features if feature.name != "crossing"]
        for features in (early, late):
            for client in self._plan.clients:
                for feature in features:
                    cells.append(await self._cell(client, feature))
                    _log.info("%s · %s: %s %s", client.title, feature.name, cells[-1].outcome.value, cells[-1].words[:120])
        return cells

    async def _cell(self, client: ClientKind, feature: Feature) -> Cell:
        log = self._plan.home / "logs" / client.slug / f"{feature.name}.log"
        log.unlink(missing_ok=True)
        began = perf_counter()
        outcome, words = await self._outcome(client, feature, log)
        await self._heal()
        return Cell(
            client=client.title, feature=feature.name, outcome=outcome, words=words, log=str(log),
            seconds=perf_counter() - began,
        )  # fmt: skip

    async def _outcome(self, client: ClientKind, feature: Feature, log: Path) -> tuple[Outcome, str]:
        try:
            command = await self._command(client)
            async with asyncio.timeout(feature.timeout_s), Bridge(command, self._address, environ=_ENVIRON, log=log) as bridge:
                await feature.run(self._lab(bridge, client.slug, feature.name))
        except Absent as absent:
            return Outcome.ABSENT, str(absent)
        except (Skipped, Unavailable) as why:
            return Outcome.SKIPPED, str(why)
        except TimeoutError:
            return Outcome.FAIL, f"took more than {feature.timeout_s:g} s"
        except Exception as error:  # a cell that fails, however it does, must not end the matrix
            return Outcome.FAIL, f"{type(error).__name__}: {error}"[:WORDS_MAX]
        return Outcome.OK, ""

    async def _command(self, client: ClientKind) -> list[str]:
        if client.title not in self._commands:
            self._commands[client.title] = await asyncio.to_thread(client.command, self._plan.home)
        return self._commands[client.title]

    async def _heal(self) -> None:
        """A cell that failed half-way may have left a node dead, or the steward: the next one starts with all of them."""
        for number, node in self._cluster.nodes.items() if self._cluster is not None else ():
            if not node.alive:
                await self._cluster.start(number)  # type: ignore[union-attr]
        if not self.steward.alive:
            await self.steward.__aenter__()

    def _lab(self, bridge: Bridge, client: str, feature: str) -> Lab:
        return Lab(
            bridge=bridge,
            steward=self.steward,
            prefix=f"{client}-{feature}-{self._plan.seed:x}",
            cluster=self._cluster,
            replicas=self._plan.replicas,
            rng=random.Random(f"{self._plan.seed} {client} {feature}"),
            base_ms=SystemClock().wall_ms() - AGE_MS,
            client=client,
            shared=self._shared,
        )
