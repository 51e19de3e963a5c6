"""What is to happen to the cluster, and when: a pure function of the seed.

A plan is a list of episodes, one after the other with quiet between them. Whom an episode hits is said by role (``Target``): who
leads at that moment is known only then. An episode may have a companion, a simple fault on another node at the same time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random

QUIET_S = (2.0, 5.0)
"""Between episodes: long enough to see the cluster work again."""
COMPANION_CHANCE = 0.2
COMPANIONS = ("kill", "pause", "restart", "slow-disk")
OVERHEAD_S = 3.5
"""What an episode takes beside its own time: restarts, and waiting until all is well."""


class Target(Enum):
    """Whom an episode hits."""

    LEADER = "leader"
    """Of a partition that is drawn then."""
    FOLLOWER = "follower"
    """Any node that does not lead that partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault: how long it lasts, how often it is drawn, what it needs of the cluster, and how many nodes it takes."""

    name: str
    seconds: tuple[float, float]
    weight: int = 2
    needs: str = ""
    majority: bool = False
    """More than a minority is hurt: nothing is promised about publishing meanwhile."""
    alone: bool = False
    """Never with a companion."""


KINDS = {
    kind.name: kind
    for kind in (
        Kind(name="kill", seconds=(0.5, 6), weight=4),
        Kind(name="kill-all", seconds=(0.5, 3), majority=True, alone=True),
        Kind(name="crash-point", seconds=(6, 10), weight=4),
        Kind(name="restart", seconds=(0.2, 2)),
        Kind(name="pause", seconds=(1, 20), weight=3),
        Kind(name="pause-majority", seconds=(1, 8), weight=1, majority=True, alone=True),
        Kind(name="isolate", seconds=(4, 12), weight=3),
        Kind(name="one-way-out", seconds=(4, 12)),
        Kind(name="one-way-in", seconds=(4, 12)),
        Kind(name="bridge", seconds=(4, 12)),
        Kind(name="split-all", seconds=(3, 8), weight=1, majority=True, alone=True),
        Kind(name="reset", seconds=(0.2, 5)),
        Kind(name="flapping", seconds=(4, 10)),
        Kind(name="slow-disk", seconds=(5, 12), needs="preload"),
        Kind(name="slow-disks", seconds=(5, 10), weight=1, needs="preload", majority=True, alone=True),
        Kind(name="failed-sync", seconds=(1, 4), needs="preload"),
        Kind(name="disk-full", seconds=(4, 10), needs="small_disk", alone=True),
        Kind(name="clock-jump", seconds=(4, 10), needs="preload"),
        Kind(name="old-disk", seconds=(3, 5), weight=1, alone=True),
        Kind(name="wiped-disk", seconds=(1, 3), weight=1, alone=True),
        Kind(name="bit-flip", seconds=(1, 3), weight=1, alone=True),
        Kind(name="second-process", seconds=(1, 2), weight=1, alone=True),
    )
}
"""Every kind by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One fault: after ``quiet_s`` of quiet, for ``hold_s``. ``draw`` seeds whatever is decided when it begins."""

    kind: str
    target: Target
    quiet_s: float
    hold_s: float
    draw: int
    companion: str = ""

    @property
    def spares_majority(self) -> bool:
        """Whether publishing must go on meanwhile."""
        return not KINDS[self.kind].majority and not self.companion


def plan(seed: int, seconds: float, kinds: Sequence[str], has: Collection[str]) -> list[Episode]:
    """Episodes for about so many seconds.

    Args:
        kinds: names to draw from.
        has: what the cluster offers; kinds that need more are left out.

    Raises:
        ValueError: a kind is not known, or none is left.
    """
    unknown = [name for name in kinds if name not in KINDS]
    if unknown:
        raise ValueError(f"there is no fault {', '.join(unknown)}; there are {', '.join(KINDS)}")
    usable = [KINDS[name] for name in kinds if not KINDS[name].needs or KINDS[name].needs in has]
    if not usable:
        raise ValueError(f"none of {', '.join(kinds)} can be made on this machine")
    episodes: list[Episode] = []
    left_s = seconds
    for episode in _episodes(Random(seed), usable, has):
        left_s -= episode.quiet_s + episode.hold_s + OVERHEAD_S
        if left_s < 0 and episodes:
            return episodes
        episodes.append(episode)
    raise AssertionError("the episodes never end")


def _episodes(rng: Random, usable: Sequence[Kind], has: Collection[str]) -> Iterator[Episode]:
    """Every kind once in a drawn order, then by weight for ever."""
    companions = [name for name in COMPANIONS if not KINDS[name].needs or KINDS[name].needs in has]
    first = rng.sample(usable, len(usable))
    while True:
        kind = first.pop() if first else rng.choices(usable, [kind.weight for kind in usable])[0]
        accompanied = not kind.alone and rng.random() < COMPANION_CHANCE
        yield Episode(
            kind=kind.name,
            target=rng.choice(list(Target)),
            quiet_s=round(rng.uniform(*QUIET_S), 2),
            hold_s=round(rng.uniform(*kind.seconds), 2),
            draw=rng.getrandbits(32),
            companion=rng.choice(companions) if accompanied else "",
        )
