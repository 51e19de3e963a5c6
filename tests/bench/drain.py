"""librdkafka's consumer without Python in its way: ``consume.c``, built here with cc."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import confluent_kafka

_SOURCE = Path(__file__).with_name("consume.c")
_ERROR_BYTES = 512


class DrainError(Exception):
    """The consumer failed; the text is librdkafka's."""


def librdkafka() -> Path | None:
    """The library that confluent-kafka's wheel brings along; None where it stands on the system's."""
    beside = Path(str(confluent_kafka.__file__)).parent.with_name("confluent_kafka.libs")
    return next(iter(sorted(beside.glob("librdkafka-*.so*"))), None)


def build(directory: Path) -> Path | None:
    """Compile the consumer into ``directory``; None where there is no cc, or no librdkafka for it.

    Raises:
        RuntimeError: cc is there and refuses.
    """
    compiler = shutil.which("cc")
    if compiler is None or librdkafka() is None:
        return None
    library = directory / "consume.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", str(library), str(_SOURCE), "-ldl"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return library


def drain(library: Path, settings: Mapping[str, str], topic: str, count: int, timeout_s: float) -> dict[str, float]:
    """Read ``count`` records of a topic's partition 0; the time begins with the first of them.

    Raises:
        DrainError: it could not, or not within ``timeout_s``.
    """
    function = ctypes.CDLL(str(library)).drain
    function.restype = ctypes.c_double
    words = [word.encode() for pair in settings.items() for word in pair]
    first, size_bytes, error = ctypes.c_int64(), ctypes.c_int64(), ctypes.create_string_buffer(_ERROR_BYTES)
    seconds = function(
        str(librdkafka()).encode(), (ctypes.c_char_p * (len(words) + 1))(*words, None), topic.encode(), ctypes.c_int64(count),
        ctypes.c_double(timeout_s), ctypes.byref(first), ctypes.byref(size_bytes), error, ctypes.c_size_t(_ERROR_BYTES),
    )  # fmt: skip
    if seconds < 0:
        raise DrainError(error.value.decode())
    return {"records": count - first.value, "seconds": seconds, "value_bytes": size_bytes.value}
