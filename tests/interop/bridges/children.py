"""Programs of a client that is a command line: run to their end, or read line by line while they live."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO

from tests.interop.bridges.face import Refused, Wire
from tests.interop.bridges.leash import leashed

RUN_TIMEOUT_S = 75.0
END_TIMEOUT_S = 15.0

CODES = {
    "Message size too large": 10,
    "RecordTooLargeException": 10,
    "MESSAGE_TOO_LARGE": 10,
    "Unknown topic or partition": 3,
    "UnknownTopicOrPartitionException": 3,
    "Local: Unknown partition": -190,
    "TopicExistsException": 36,
    "InvalidConfigurationException": 40,
    "InvalidPartitionsException": 37,
    "GroupIdNotFoundException": 69,
    "Local: Message timed out": -192,
}
"""What the programs say, as Kafka's codes."""


def run(command: Sequence[str], input_bytes: bytes = b"", *, failed: str | None = None) -> str:
    """Run a program to its end; gives what it printed.

    Raises:
        Refused: it ended by another code than 0, or its stderr has the word ``failed``.
    """
    done = subprocess.run(leashed(command), input=input_bytes, capture_output=True, timeout=RUN_TIMEOUT_S, check=False)
    said = done.stderr.decode(errors="replace")
    print(" ".join(command), "→", done.returncode, said, sep="\n", file=sys.stderr)
    if done.returncode or (failed is not None and failed in said):
        raise refusal(said + done.stdout.decode(errors="replace"))
    return done.stdout.decode(errors="replace")


def refusal(said: str) -> Refused:
    """What a program said, as a refusal with Kafka's code where it names one."""
    code = next((code for text, code in CODES.items() if text in said), None)
    return Refused(code, said.strip()[-600:])


class Child:
    """A program that runs until it is closed.

    Args:
        command: the program and its words.
        parse: reads one record of its stdout, or something else that it says there (None).
        told: gets each line of its stderr.
    """

    def __init__(
        self,
        command: Sequence[str],
        parse: Callable[[IO[bytes]], Wire | None],
        told: Callable[[str], None] = lambda line: None,
    ) -> None:
        print(" ".join(command), file=sys.stderr)
        self._process = subprocess.Popen(
            leashed(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        self._read: list[Wire] = []
        self._lock = threading.Lock()
        self._parse, self._told = parse, told
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._records, self._words)]
        for thread in self._threads:
            thread.start()

    def take(self) -> list[Wire]:
        """What was read since the last call."""
        with self._lock:
            taken, self._read = self._read, []
        if not taken and self._process.poll():
            raise Refused(None, f"the consumer ended with {self._process.returncode}; its words are in the log")
        return taken

    def close(self) -> list[Wire]:
        """End it as a person would, by SIGTERM; by SIGKILL where it does not listen. Gives what nobody has taken."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(END_TIMEOUT_S)
        return self._read

    def _records(self) -> None:
        assert self._process.stdout is not None
        while not self._process.stdout.closed:
            try:
                record = self._parse(self._process.stdout)
            except EOFError:
                return
            if record is not None:
                with self._lock:
                    self._read.append(record)

    def _words(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            print(text, file=sys.stderr)
            self._told(text)
