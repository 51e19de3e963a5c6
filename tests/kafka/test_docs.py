"""What the documentation says of APIs and versions is what the door serves."""

from __future__ import annotations

import re
from pathlib import Path

from raftlog.kafka.dispatch import HANDLERS, RAW
from raftlog.kafka.wire.api import APIS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "kafka.md"


def test_the_table_in_the_documentation_is_the_table_of_the_door() -> None:
    """Every API, with the versions that are served."""
    rows = re.findall(r"^\| ([A-Z]\w+(?:, \w+)*) \| ([0-9–, ]+) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    told = {}
    for names, versions in rows:
        for name, span in zip(names.split(", "), versions.split(", "), strict=True):
            low, _, high = span.partition("–")
            told[name] = (int(low), int(high or low))
    assert told == {api.name: (api.served_min, api.version_max) for api in APIS.values()}


def test_every_api_has_one_handler() -> None:
    """None is advertised that nobody answers."""
    assert HANDLERS.keys() | RAW.keys() == APIS.keys()
    assert not HANDLERS.keys() & RAW.keys()
