"""The operator: wants replicas elsewhere, drains nodes, takes both back, balances, through any node, while all else goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftlog.broker.move_port import Placing
from raftlog.errors import InvalidRequestError, RaftlogError, UnknownTopicOrPartitionError
from raftlog.model import Move
from tests.simulation.clients import Client

if TYPE_CHECKING:
    from tests.simulation.world import World

REPLICAS = 3
TIMEOUT_S = 8.0
SETTLE_S = 120.0
"""In a healthy cluster everything is where it is wanted within this: logs are short, but steps wait for elections and delays."""


class Operator(Client):
    """See the module."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._draining: int | None = None

    async def once(self) -> None:
        """One wish, or a look at what came of one."""
        act = self.rng.choice(
            (self._move, self._move, self._move, self._take_back, self._drain, self._look, self._look, self._balance)
        )
        try:
            await act()
        except RaftlogError as error:
            # A topic may be deleted, a node full or down, and a wish be refused for another one that came before it.
            if isinstance(error, InvalidRequestError) and not isinstance(error, UnknownTopicOrPartitionError):
                self.world.covered("wishes refused")
            self.node(other=True)
        await self.pause(0.2, 1.2)

    async def _move(self) -> None:
        tp = self.rng.choice(self.world.partitions)
        nodes = tuple(self.rng.sample(sorted(self.world.machines), REPLICAS))
        wish = Placing(tp=tp, replicas=nodes)
        await self.node().ask(lambda broker: broker.moves.place([wish], reason="simulated"), timeout_s=TIMEOUT_S)
        self.world.covered("moves wished")
        self.world.note(f"{tp} is wanted on {nodes}")

    async def _take_back(self) -> None:
        wish = Placing(tp=self.rng.choice(self.world.partitions), replicas=None)
        await self.node().ask(lambda broker: broker.moves.place([wish], reason="taken back"), timeout_s=TIMEOUT_S)
        self.world.covered("moves taken back")

    async def _drain(self) -> None:
        if self._draining is not None:
            return
        node = self.rng.choice(sorted(self.world.machines))
        self._draining = node  # whatever the answer: it may have happened
        self.world.note(f"node {node} is to be drained")
        await self.node().ask(lambda broker: broker.moves.drain_node(node), timeout_s=TIMEOUT_S)
        self.world.covered("drains wished")

    async def _look(self) -> None:
        """Whether the node that is being drained is empty; then, or when it takes too long, it takes replicas again."""
        node = self._draining
        if node is None:
            await self.under_way()
            return
        left = await self.node().ask(lambda broker: broker.moves.drain_node(node), timeout_s=TIMEOUT_S)
        if not left:
            self.world.covered("drains")
        if not left or self.rng.random() < 0.2:
            await self._fill()

    async def _fill(self) -> None:
        node = self._draining
        if node is not None:
            await self.node().ask(lambda broker: broker.moves.drain_node(node, cancel=True), timeout_s=TIMEOUT_S)
            self._draining = None

    async def _balance(self) -> None:
        found = await self.node().ask(lambda broker: broker.moves.balance(dry_run=False), timeout_s=TIMEOUT_S)
        if found.replacements:
            self.world.covered("balances")

    async def under_way(self) -> list[Move]:
        """What is on the move, as any node tells."""
        return await self.node().ask(lambda broker: broker.moves.moves(), timeout_s=TIMEOUT_S)

    async def settle(self) -> None:
        """All is healed: no node is drained any more, and everything gets where it is wanted."""
        end_s = self.world.loop.now_s + SETTLE_S
        left: object = "nobody answers"
        while self.world.loop.now_s < end_s:
            try:
                await self._fill()
                left = await self.under_way()
                if not left:
                    return
            except RaftlogError as error:
                left = error
                self.node(other=True)
            await self.pause(0.1, 0.3)
        self.world.violated(f"not within {SETTLE_S:g} s: all replicas are where they are wanted; {left}; {self.world.state()}")
