"""How an episode is played."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, cast

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.nemesis import Nemesis
from tests.chaos.plan import Episode, Target
from tests.chaos.scene import Scene


class Stage:
    """As much of a scene as an episode needs whose faults are made up."""

    def __init__(self) -> None:
        self.node_ids = (1, 2, 3)
        self.recorder = self.cluster = self
        self.nodes: dict[int, object] = {}
        self.mended = asyncio.Event()

    def choose(self, *_: object) -> int:
        return 1

    def note(self, *_: object, **__: object) -> None: ...

    def now_us(self) -> int:
        return 0

    async def ready(self) -> None: ...

    async def acknowledged_since(self, *_: object) -> bool:
        return True

    async def mend(self) -> None:
        self.mended.set()


async def test_links_are_mended_though_the_companion_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that was killed behind a cut gets ready when that is over, which must not wait for it."""
    stage = Stage()

    async def cut(*_: Any) -> None: ...

    async def kill(*_: Any) -> None:
        await stage.mended.wait()

    monkeypatch.setitem(FAULTS, "bridge", cut)
    monkeypatch.setitem(FAULTS, "kill", kill)
    nemesis = Nemesis(cast(Scene, stage), "t")
    draw = Random(1).getrandbits(32)
    episode = Episode(kind="bridge", target=next(iter(Target)), quiet_s=0.0, hold_s=0.0, draw=draw, companion="kill")
    async with asyncio.timeout(5):
        await nemesis.run([episode])
    assert nemesis.played == {"bridge": 1, "kill": 1}
