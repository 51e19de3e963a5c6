"""The allocator's settings, in a process of their own."""

from __future__ import annotations

import subprocess
import sys

FAULTS = """
import resource, sys
if sys.argv[1] == "kept":
    from raftlog.core.allocator import keep_freed_memory
    assert keep_freed_memory()
def work():
    blocks = [bytes(bytearray(1 << 20)) for _ in range(16)]
    assert len(blocks) == 16
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(setting: str) -> int:
    """Page faults of a process that allocates and frees 16 MiB twenty times."""
    done = subprocess.run([sys.executable, "-c", FAULTS, setting], check=True, capture_output=True, text=True, timeout=60)
    return int(done.stdout)


def test_freed_megabytes_are_used_again_without_page_faults() -> None:
    """A fault for each page of each copy is what big messages cost by default."""
    assert faults("kept") * 4 < faults("default")
