"""Moving replicas in memory: remembers what was wished for, and says what a test tells it to."""

from __future__ import annotations

from collections.abc import Sequence

from raftlog.broker.move_port import Placing
from raftlog.errors import RaftlogError
from raftlog.model import Balanced, Move, TopicPartition


class FakeMoves:
    """Implements ``MoveBroker``. ``failure`` is raised by the next call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.failure: RaftlogError | None = None
        self.outcome: RaftlogError | None = None
        self.under_way: list[Move] = []
        self.balanced = Balanced(replacements=())

    def _called(self, name: str, what: object) -> None:
        self.calls.append((name, what))
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    async def place(self, wishes: Sequence[Placing], *, reason: str) -> None:
        """See ``MoveBroker``."""
        self._called("place", (tuple(wishes), reason))

    async def drain_node(self, node_id: int, *, cancel: bool = False) -> int:
        """See ``MoveBroker``."""
        self._called("drain", (node_id, cancel))
        return 5

    async def remove_node(self, node_id: int) -> None:
        """See ``MoveBroker``."""
        self._called("remove", node_id)

    async def balance(self, *, dry_run: bool) -> Balanced:
        """See ``MoveBroker``."""
        self._called("balance", dry_run)
        return self.balanced

    async def moves(self) -> list[Move]:
        """See ``MoveBroker``."""
        self._called("moves", None)
        return self.under_way

    async def elect_leaders(self, tps: Sequence[TopicPartition]) -> list[RaftlogError | None]:
        """See ``MoveBroker``."""
        self._called("elect", tuple(tps))
        return [self.outcome] * len(tps)
