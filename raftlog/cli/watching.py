"""Waiting until replicas are where they are wanted, with a bar for each partition on a terminal and a line for each elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from rich.progress import Progress, TaskID

from raftlog.cli.move_words import move_in_words
from raftlog.cli.output import human_bytes, moving_bars, talk
from raftlog.errors import IndeterminateError, UnavailableError
from raftlog.model import Move

if TYPE_CHECKING:
    from raftlog.client.client import Client

LOOK_S = 0.5
"""How often a waiting command asks how far it is."""

Mine = Callable[[Move], bool]


async def watch(client: Client, mine: Mine, over: Callable[[], Awaitable[bool]] | None = None) -> None:
    """Show the moves that are ``mine`` until there are none, and ``over`` says that no more come.

    What is being moved goes on when this ends, by an interrupt as well.
    """
    with moving_bars() as bars:
        shown = _Shown(bars)
        while True:
            try:
                moves = [move for move in await client.admin.list_moves() if mine(move)]
                shown.update(moves)
                if not moves and (over is None or await over()):
                    return
            except (UnavailableError, IndeterminateError) as error:
                shown.say(f"no answer just now: {error}")
            await asyncio.sleep(LOOK_S)


class _Shown:
    """What the person has been told."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[int, TaskID] = {}
        self._moves: dict[int, Move] = {}

    def update(self, moves: list[Move]) -> None:
        there = {move.group_id: move for move in moves}
        for group, move in there.items():
            if group not in self._tasks:
                self._tasks[group] = self._bars.add_task(str(move.tp), total=None, state="")
                if self._bars.disable:
                    talk(move_in_words(move))
            self._bars.update(self._tasks[group], total=move.bytes_total or None, completed=move.bytes_done, state=_state(move))
        for group in [group for group in self._tasks if group not in there]:
            self._bars.remove_task(self._tasks.pop(group))
            self.say(f"{self._moves[group].tp}: done")
        self._moves = there

    def say(self, text: str) -> None:
        if self._bars.disable:
            talk(text)
        else:
            self._bars.console.print(text, highlight=False, markup=False)


def _state(move: Move) -> str:
    return f"{human_bytes(move.rate)}/s" if move.rate else move.state
