"""Shared by all tests: two profiles for hypothesis (``HYPOTHESIS_PROFILE=long`` searches further), and our own fixtures."""

from __future__ import annotations

import os

from hypothesis import settings

# Also where raftlog is not installed, and its plugin therefore not loaded.
from raftlog.testing.pytest_plugin import raftlog_cluster, raftlog_cluster_factory

__all__ = ["raftlog_cluster", "raftlog_cluster_factory"]

settings.register_profile("default", deadline=None, derandomize=True, database=None)
settings.register_profile("long", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
