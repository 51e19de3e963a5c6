"""How a cluster begins, and who is let in: a pure state machine over what the founding nodes tell each other.

Theory of operation. A node is EMPTY, then SEEDED (it has persisted the cluster id), then SEALED (it knows that all founders
have persisted it). Only a sealed node votes, campaigns or acknowledges. The founder with the lowest id waits until it has a
link to *every* other one, mints the id (or takes over the one that a founder already has), persists it, and sends it round;
when all have answered, it seals and says so. Each step can be repeated, so an interrupted bootstrap resumes.

A founder whose disk was wiped later is empty again, and finds a sealed peer: it *joins* instead, as another replica of itself
(``raftlog.core.joining``), before it could vote with an empty log under the name that it had.

Rules:

1. A cluster begins only when all founders were seen empty or seeded.
2. Nothing is sent before it is persisted; ``Persist`` effects come first.
3. The list of founders must be the same everywhere while the cluster begins; a sealed cluster no longer looks at it.
4. Who has begun to join takes no further part in a bootstrap, and speaks with nobody but as a guest until it has joined.
5. With its id a cluster gets the feature level that it begins at, the newest that all founders support; every founder persists
   both at once (``raftlog.core.features``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from raftlog.core.features import THIS_VERSION, Level, Supported, newest_common
from raftlog.errors import BootstrapRefusedError, JoinRequiredError, UnavailableError


class FounderState(IntEnum):
    """As in the peers' Hello."""

    EMPTY = 1
    SEEDED = 2
    SEALED = 3


@dataclass(frozen=True, slots=True)
class Persist:
    """Make this durable before anything that follows."""

    cluster_id: str
    sealed: bool
    level: int = Level.FIRST


@dataclass(frozen=True, slots=True)
class SendSeed:
    """Tell a founder the cluster id and its level, and whether all have it."""

    node_id: int
    cluster_id: str
    sealed: bool
    level: int = Level.FIRST


Effect = Persist | SendSeed


@dataclass(frozen=True, slots=True)
class Told:
    """What a founder told of itself when its link came up; ``cluster_id`` is empty while it has none."""

    state: FounderState
    cluster_id: str
    supported: Supported = THIS_VERSION
    level: int = Level.FIRST
    """What its directory is marked with."""


class Bootstrap:
    """One node's view. ``cluster_id``, ``sealed`` and ``level`` are what its disk says, ``supported`` what its version says;
    ``joining`` begins it as one that joins."""

    def __init__(
        self,
        node_id: int,
        founders: tuple[int, ...],
        *,
        cluster_id: str | None,
        sealed: bool,
        mint: Callable[[], str],
        joining: bool = False,
        supported: Supported = THIS_VERSION,
        level: int = Level.FIRST,
    ) -> None:
        self.node_id = node_id
        self.founders = tuple(sorted(founders))
        self.cluster_id = cluster_id
        self.sealed = sealed
        self.joining = joining
        """It has begun to join, and has not joined."""
        assert not (sealed and joining)
        self._mint = mint
        self._supported, self._level = supported, level
        self._linked: dict[int, Told] = {}
        self._seeded: set[int] = set()  # founders that have this cluster id on disk

    @property
    def state(self) -> FounderState:
        """What this node says of itself."""
        if self.sealed:
            return FounderState.SEALED
        return FounderState.SEEDED if self.cluster_id and not self.joining else FounderState.EMPTY

    def check(self, node_id: int, state: FounderState, cluster_id: str, founders: tuple[int, ...]) -> None:
        """Whether a peer belongs here.

        Raises:
            BootstrapRefusedError: it belongs to another cluster or another list of founders.
            JoinRequiredError: it is empty, and has to join this cluster first.
            UnavailableError: this node is joining.
        """
        if self.cluster_id and cluster_id and self.cluster_id != cluster_id:
            raise BootstrapRefusedError(
                f"node {self.node_id} belongs to cluster {self.cluster_id}, node {node_id} to cluster {cluster_id};"
                " give each cluster addresses and data directories of its own"
            )
        if self.joining:
            raise UnavailableError(f"node {self.node_id} has no data and is joining; try again when it has joined")
        if self.sealed and state is FounderState.EMPTY:
            raise JoinRequiredError(f"cluster {self.cluster_id} has begun, and node {node_id} has no data: it has to join")
        if state is not FounderState.SEALED and not self.sealed and founders != self.founders:
            raise BootstrapRefusedError(
                f"node {self.node_id} was started with --voters of nodes {_ids(self.founders)}, node {node_id} with"
                f" {_ids(founders)}; start all founding nodes with the same --voters"
            )

    def comes_late(self, state: FounderState) -> bool:
        """Whether a peer's state shows that the cluster has begun, while this node holds nothing of it: so it has to join."""
        return self.state is FounderState.EMPTY and state is FounderState.SEALED

    def join(self) -> bool:
        """Begin to join, if this node is (still) empty; whether it does."""
        self.joining = self.state is FounderState.EMPTY
        return self.joining

    def joined(self, cluster_id: str) -> None:
        """The cluster has taken this node, and that is persisted."""
        assert self.joining
        self.cluster_id, self.sealed, self.joining, self.founders = cluster_id, True, False, ()

    def linked(self, node_id: int, told: Told) -> list[Effect]:
        """A link to a founder is up, both having been checked."""
        self._linked[node_id] = told
        sealed = told.state is FounderState.SEALED and told.cluster_id == self.cluster_id
        if self.cluster_id and not self.sealed and sealed:
            return self._seal(tell=())
        return self._lead()

    def unlinked(self, node_id: int) -> None:
        """The link is gone."""
        self._linked.pop(node_id, None)
        self._seeded.discard(node_id)

    def begin(self) -> list[Effect]:
        """At start: a cluster of one needs nobody."""
        return self._lead()

    def seed(self, node_id: int, cluster_id: str, sealed: bool, level: int = Level.FIRST) -> list[Effect]:
        """A founder sent a Seed.

        Raises:
            BootstrapRefusedError: of another cluster.
        """
        if self.joining:
            return []
        if self.cluster_id is not None and cluster_id != self.cluster_id:
            raise BootstrapRefusedError(f"node {node_id} seeds cluster {cluster_id}, this node has {self.cluster_id}")
        if self.sealed:
            return [self._seed_for(node_id)] if not sealed and not self._leads else []
        effects: list[Effect] = []
        if self.cluster_id is None:
            self.cluster_id, self._level = cluster_id, level
            effects.append(Persist(cluster_id, False, level))
        if self._leads:
            self._seeded.add(node_id)
            return effects + self._seal_if_all()
        if sealed:
            return effects + self._seal(tell=())
        return [*effects, self._seed_for(node_id)]

    @property
    def _leads(self) -> bool:
        return self.founders[:1] == (self.node_id,)

    @property
    def _others(self) -> tuple[int, ...]:
        return tuple(other for other in self.founders if other != self.node_id)

    def _lead(self) -> list[Effect]:
        if not self._leads or self.sealed or self.joining or any(other not in self._linked for other in self._others):
            return []
        effects: list[Effect] = []
        if self.cluster_id is None:
            self._begin_cluster()
            effects.append(self._persist())
        effects += [self._seed_for(other) for other in self._others]
        return effects + self._seal_if_all()

    def _begin_cluster(self) -> None:
        """Take over the id and level of a cluster that some founder knows of already, or mint an id."""
        others = [self._linked[other] for other in self._others]
        known = min((told.cluster_id for told in others if told.cluster_id), default=None)
        if known is None:
            self.cluster_id = self._mint()
            self._level = newest_common([self._supported, *(told.supported for told in others)])
        else:
            self.cluster_id = known
            self._level = max(told.level for told in others if told.cluster_id == known)

    def _persist(self) -> Persist:
        assert self.cluster_id is not None
        return Persist(self.cluster_id, self.sealed, self._level)

    def _seed_for(self, node_id: int) -> SendSeed:
        assert self.cluster_id is not None
        return SendSeed(node_id, self.cluster_id, self.sealed, self._level)

    def _seal_if_all(self) -> list[Effect]:
        return self._seal(tell=self._others) if self._seeded >= set(self._others) else []

    def _seal(self, *, tell: tuple[int, ...]) -> list[Effect]:
        self.sealed = True
        return [self._persist(), *(self._seed_for(other) for other in tell)]


def _ids(nodes: tuple[int, ...]) -> str:
    return ", ".join(map(str, nodes)) or "none"
