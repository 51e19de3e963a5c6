from __future__ import annotations

import subprocess
import sys

import pytest

from raftlog.core import failpoints
from raftlog.errors import ConfigError


def test_a_point_does_nothing_without_the_variable() -> None:
    """It is the same empty function at every place."""
    first, second = failpoints.point("storage-before-commit", {}), failpoints.point("turn-after-send", {})
    assert first is second
    assert first() is None


def test_the_variable_names_places_and_their_hits() -> None:
    """A name alone means its first hit; spaces and empty items are nothing."""
    assert failpoints.armed("turn-after-send, storage-before-commit:40,,") == {"turn-after-send": 1, "storage-before-commit": 40}


@pytest.mark.parametrize("text", ["storage", "turn-after-send:0", "turn-after-send:x", "turn-after-send:-1"])
def test_a_misspelt_variable_is_refused(text: str) -> None:
    """A crash that never comes would prove nothing."""
    with pytest.raises(ConfigError):
        failpoints.point("storage-after-commit", {failpoints.VARIABLE: text})


def test_the_process_ends_at_the_hit_that_was_asked_for() -> None:
    """Nothing runs after it: no exit handler, no flush."""
    code = (
        "import atexit, os\n"
        "from raftlog.core import failpoints\n"
        "atexit.register(lambda: os.write(1, b'exit handler'))\n"
        "crash = failpoints.point('storage-after-commit', {failpoints.VARIABLE: 'storage-after-commit:3'})\n"
        "for hit in b'123456789':\n"
        "    os.write(1, bytes([hit]))\n"
        "    crash()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (failpoints.EXIT_CODE, b"123")
    assert done.stderr == b"crash point storage-after-commit reached\n"
