"""Which engine gRPC reads its sockets with."""

from __future__ import annotations

import subprocess
import sys

import pytest

from raftlog.core.grpc_threads import FEWER_THREADS, VARIABLE, fewer_grpc_threads, is_known

LOADS = """
import os, sys
import {module}
import grpc
print(os.environ.get("GRPC_EXPERIMENTS"))
channel = grpc.insecure_channel("127.0.0.1:1")
channel.close()
"""


@pytest.mark.parametrize("module", ["raftlog.client.client", "raftlog.gateway.server"])
def test_whoever_loads_a_door_of_grpc_gets_fewer_threads(module: str) -> None:
    """The variable is set before gRPC is loaded, and gRPC knows the names in it: it would say so on stderr."""
    done = subprocess.run([sys.executable, "-c", LOADS.format(module=module)], capture_output=True, text=True, check=True, env={})
    assert done.stdout.strip() == FEWER_THREADS
    assert "xperiment" not in done.stderr


def test_a_variable_that_is_set_is_left_alone() -> None:
    """Also one that is empty: that is how to keep gRPC's own choice."""
    environment = {VARIABLE: ""}
    assert not fewer_grpc_threads(environment)
    assert environment == {VARIABLE: ""}


@pytest.mark.parametrize(
    ("version", "known"), [("1.85.3", True), ("1.86.0", False), ("1.9.0", False), ("2.85.0", False), ("", False)]
)
def test_only_versions_that_were_tested_are_told(version: str, known: bool) -> None:
    """A newer gRPC may have dropped the names, and would complain at every start."""
    assert is_known(version) is known
