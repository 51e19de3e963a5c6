"""Numbers and places on the command line. Numbers are as large as calls can carry them: a larger one is wrong usage."""

from __future__ import annotations

from typing import Final

from raftlog.cli.errors import UsageError

NUMBER_MAX: Final = 2**31 - 1
"""Of nodes, partitions and feature levels: what both doors have room for."""
OFFSET_MAX: Final = 2**63 - 1

ENDS: Final = {"beginning": "beginning", "earliest": "beginning", "end": "end", "latest": "end"}
"""The ends of a log by their names: ours, and Kafka's."""


def parse_number(text: str, most: int) -> int:
    """Digits as a number.

    Raises:
        UsageError: it is more than ``most``.
    """
    digits = text.lstrip("0") or "0"
    # The length first: Python does not read thousands of digits, and says so with an error of its own.
    if len(digits) > len(str(most)) or int(digits) > most:
        raise UsageError(f"{text} is too large a number; the largest is {most}")
    return int(digits)


def end_or_offset(text: str) -> str | int | None:
    """An end of a log in our words, or an offset; None where the text is neither.

    Raises:
        UsageError: it is further than any offset.
    """
    return ENDS[text] if text in ENDS else parse_number(text, OFFSET_MAX) if text.isdecimal() else None
