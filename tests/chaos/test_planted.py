"""A bug that only real processes have: the operating system is left to sync. It must be caught where SIGKILL shows nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.hunt import hunt


@pytest.mark.timeout(180)
def test_a_node_that_skips_its_syncs_is_caught(tmp_path: Path) -> None:
    """It acknowledges sooner than the slow disks of all nodes allow."""
    found = hunt("skip-the-fsync", tmp_path, proxies=True)
    assert found.caught.startswith("early-ack in chaos-"), found
