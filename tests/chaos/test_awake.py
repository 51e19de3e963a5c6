"""The watch over the run's own loop."""

from __future__ import annotations

import threading
from io import StringIO

from tests.chaos.awake import Watchman


class Page(StringIO):
    """Tells when it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def flush(self) -> None:
        self.written.set()


def test_what_all_threads_do_is_written_when_the_loop_stands_still() -> None:
    """Once for each time, with the names of those that stand there."""
    page = Page()
    with Watchman(page, 0.02) as watchman:
        for _ in range(2):
            page.written.clear()
            watchman.beat()
            assert page.written.wait(10)
    assert page.getvalue().count("MainThread:") >= 2
    assert "test_what_all_threads_do_is_written" in page.getvalue()


def test_nothing_is_written_of_a_loop_that_beats() -> None:
    """Nor when the watch ends."""
    page = Page()
    with Watchman(page, 60.0) as watchman:
        watchman.beat()
    assert page.getvalue() == ""
