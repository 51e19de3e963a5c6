"""``raftlog-node``: run one node until SIGTERM or SIGINT. Exit 0 after a clean stop, 1 after a failure, 2 for bad settings."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from raftlog import __version__
from raftlog.config.node import NodeConfig
from raftlog.errors import ConfigError, RaftlogError

GC_THRESHOLD = 50_000
"""Allocations between young collections: batches are acyclic, and the default of 700 costs a tenth of the publish path."""


def main() -> None:
    """Entry point of the ``raftlog-node`` command."""
    try:
        config = NodeConfig.from_sources(sys.argv[1:], os.environ)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(config))


def run(config: NodeConfig) -> int:
    """Run a node to its end; the exit code."""
    from raftlog.core.allocator import keep_freed_memory
    from raftlog.node import logs

    keep_freed_memory()
    logs.set_up(config.log_level, config.log_format, config.node_id)
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    try:
        _runner(config)(_life(config))
    except RaftlogError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    except Exception:
        logging.getLogger("raftlog").critical("the node failed", exc_info=True)
        return 1
    return 0


def _runner(config: NodeConfig) -> Callable[[Coroutine[Any, Any, None]], None]:
    if config.uvloop == "off":
        return asyncio.run
    try:
        import uvloop
    except ImportError as error:
        if config.uvloop == "on":
            raise ConfigError("uvloop = on, but it is not installed; install it, or choose auto") from error
        return asyncio.run
    runner: Callable[[Coroutine[Any, Any, None]], None] = uvloop.run
    return runner


async def _life(config: NodeConfig) -> None:
    from raftlog.core.clock import SystemClock
    from raftlog.core.features import LEVEL_MAX_VARIABLE, supported_here
    from raftlog.node.node import Node

    rng = Random(os.urandom(32))  # noqa: S311 - for election timeouts and ids, which are no secrets
    supported = supported_here(os.environ.get(LEVEL_MAX_VARIABLE))
    node = Node(config, clock=SystemClock(), rng=rng, version=__version__, supported=supported)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stop_soon)
    await node.run(started=gc.freeze)


if __name__ == "__main__":
    main()
