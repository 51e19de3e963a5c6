"""Lines in, lines out: bytes are kept, whatever they are and however they arrive."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.cli import lines as lines_module
from raftlog.cli.errors import CommandError
from raftlog.cli.lines import LineSplitter, read_lines


@given(st.lists(st.binary(max_size=20)))
def test_splitting_does_not_depend_on_where_the_chunks_end(chunks: list[bytes]) -> None:
    """Joined by newlines, the lines are the input (an end of line at the very end begins no further line)."""
    splitter = LineSplitter()
    found = [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.end()
    whole = b"".join(chunks)
    assert found == (whole.removesuffix(b"\n").split(b"\n") if whole else [])


def test_a_line_without_an_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without newlines does not fill the memory."""
    monkeypatch.setattr(lines_module, "LINE_BYTES_MAX", 10)
    splitter = LineSplitter()
    splitter.feed(b"12345")
    with pytest.raises(CommandError):
        splitter.feed(b"678901")


async def test_a_line_is_handed_on_before_the_next_is_written() -> None:
    """Nothing waits for a full buffer."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb"), os.fdopen(writer, "wb", buffering=0) as pipe:
        stream = read_lines(reader)
        pipe.write(b"one\n")
        assert await anext(stream) == [b"one"]
        pipe.write(b"\xff\x00two\nthr")
        assert await anext(stream) == [b"\xff\x00two"]
        pipe.write(b"ee")
        pipe.close()
        assert await anext(stream) == [b"three"]
        assert [rest async for rest in stream] == []
