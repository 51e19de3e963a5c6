"""Real clusters for anyone's tests: ``LocalCluster`` (asyncio), ``SyncLocalCluster``, and the fixtures of ``pytest_plugin``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raftlog.testing.local_cluster import LocalCluster
    from raftlog.testing.process import LocalClusterError, LocalNode
    from raftlog.testing.sync_cluster import SyncLocalCluster

__all__ = ["LocalCluster", "LocalClusterError", "LocalNode", "SyncLocalCluster"]

_HOMES = {"SyncLocalCluster": "sync_cluster", "LocalNode": "process", "LocalClusterError": "process"}


def __getattr__(name: str) -> Any:
    """Import late: the pytest plugin lives in this package, and every pytest run loads it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'local_cluster')}"), name)
