"""Keep an example: ``python -m tests.fuzz TARGET NAME < FILE``, or ``--hex BYTES``; and say what the target does with it."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.corpus import keep
from tests.fuzz.targets import TARGETS


def main(arguments: list[str]) -> int:
    """The exit code is 1 where the target fails at the bytes; they are kept nevertheless."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Add bytes to a decoder's corpus.")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("name", help="what the bytes are, in small letters and dashes")
    parser.add_argument("--hex", default=None, help="the bytes, instead of stdin")
    given = parser.parse_args(arguments)
    data = sys.stdin.buffer.read() if given.hex is None else bytes.fromhex(given.hex)
    print(keep(given.target, data, given.name))
    try:
        print("accepted" if TARGETS[given.target].takes(data) else "refused")
    except Exception as error:
        print(f"FAILS: {error!r}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
