"""Watches over the run's own event loop: while that stands still, nobody can say that the cluster did."""

from __future__ import annotations

import asyncio
import faulthandler
from pathlib import Path

from tests.chaos.recorder import Recorder

TICK_S = 0.1
ASLEEP_S = 0.75
"""A loop that was late by so much was not watching; no scheduler of a machine that is merely busy is so late."""
STACKS_FILE = "asleep.txt"


async def stay_awake(recorder: Recorder, directory: Path) -> None:
    """Until cancelled: note every time the loop stood still, and write down what all threads did meanwhile."""
    loop = asyncio.get_running_loop()
    with (directory / STACKS_FILE).open("w") as stacks:
        try:
            while True:
                begun, begun_us = loop.time(), recorder.now_us()
                faulthandler.dump_traceback_later(TICK_S + ASLEEP_S, file=stacks)
                await asyncio.sleep(TICK_S)
                late_s = loop.time() - begun - TICK_S
                if late_s > ASLEEP_S:
                    recorder.note("asleep", begin=begun_us, seconds=round(late_s, 2))
        finally:
            faulthandler.cancel_dump_traceback_later()
