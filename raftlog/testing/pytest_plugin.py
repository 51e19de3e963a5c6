"""Fixtures for anyone's tests, there as soon as raftlog is installed beside pytest.

- ``raftlog_cluster``: three nodes for the whole session. Tests share it: give every test its own topics.
- ``raftlog_cluster_factory``: makes a cluster for one test that may break it: ``cluster = raftlog_cluster_factory(nodes=3)``.

Both give a ``SyncLocalCluster``; its ``brokers`` are what ``raftlog.Client`` takes, in async tests as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # pytest loads this module for every run, also for those that want no cluster
    from raftlog.testing.sync_cluster import SyncLocalCluster


@pytest.fixture(scope="session")
def raftlog_cluster() -> Iterator[SyncLocalCluster]:
    """Three nodes for the whole session."""
    from raftlog.testing.sync_cluster import SyncLocalCluster

    with SyncLocalCluster(nodes=3) as cluster:
        yield cluster


@pytest.fixture
def raftlog_cluster_factory() -> Iterator[Callable[..., SyncLocalCluster]]:
    """A function with the arguments of ``LocalCluster`` that starts a cluster; all are ended after the test."""
    from raftlog.testing.sync_cluster import SyncLocalCluster

    with ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(SyncLocalCluster(**arguments))
