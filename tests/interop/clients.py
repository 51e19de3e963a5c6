"""The clients: each a name, a release, and how its bridge is started."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.interop.environments import Unavailable, class_path, java, java_class, program, python_of

ROOT = Path(__file__).resolve().parents[2]
BRIDGES = Path(__file__).resolve().parent / "bridges"
_MODULES = "tests.interop.bridges"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKind:
    """A column of the matrix."""

    name: str
    release: str
    packages: Sequence[str] = ()
    """Of PyPI, pinned: the environment of a Python client."""
    module: str = ""
    """The bridge of a client that Python runs."""
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """As the matrix shows it."""
        return f"{self.name} {self.release}"

    @property
    def slug(self) -> str:
        """As names of directories and topics have it."""
        return re.sub(r"[^a-z0-9.]+", "-", self.title.lower())

    def command(self, home: Path) -> list[str]:
        """Make its environment below ``home``, where it is not there yet; gives the bridge's command.

        Raises:
            Unavailable: something that it needs is not on this machine, or cannot be fetched.
        """
        if self.packages:
            return [str(python_of(home / self.slug, self.packages)), "-m", f"{_MODULES}.{self.module}"]
        if self.name == "kcat":
            program("kcat", "apt-get install kcat")
            return [sys.executable, "-m", f"{_MODULES}.{self.module}"]
        jars = class_path(home / f"java-{self.release}", self.release)
        if self.module:
            return [sys.executable, "-m", f"{_MODULES}.{self.module}", jars, self.release]
        classes = java_class(home / f"java-{self.release}", BRIDGES / "KafkaClients.java", jars)
        return [java(), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m", "-cp", f"{classes}:{jars}", "KafkaClients"]


_CODECS = ("cramjam==2.11.0", "python-snappy==0.7.3", "lz4==4.4.4", "zstandard==0.23.0")
CONFLUENT = ClientKind(
    name="confluent-kafka", release="2.16.1", packages=("confluent-kafka==2.16.1",), module="with_confluent"
)  # fmt: skip

CLIENTS = (
    CONFLUENT,
    # Before librdkafka 2.11.1: it compresses only where Produce is offered from version 0.
    ClientKind(name="confluent-kafka", release="2.11.0", packages=("confluent-kafka==2.11.0",), module="with_confluent"),
    ClientKind(name="kafka-python", release="3.0.12", packages=("kafka-python==3.0.12", *_CODECS), module="with_kafka_python"),
    ClientKind(name="kafka-python", release="2.0.6", packages=("kafka-python==2.0.6", *_CODECS), module="with_kafka_python"),
    ClientKind(name="aiokafka", release="0.14.0", packages=("aiokafka==0.14.0", *_CODECS), module="with_aiokafka"),
    ClientKind(name="aiokafka", release="0.11.0", packages=("aiokafka==0.11.0", *_CODECS), module="with_aiokafka"),
    ClientKind(name="kcat", release="1.7", module="with_kcat"),
    ClientKind(name="java", release="4.1.0"),
    ClientKind(name="java", release="3.9.1"),
    ClientKind(name="java tools", release="4.1.0", module="with_java_tools"),
    ClientKind(name="java tools", release="3.9.1", module="with_java_tools"),
)

__all__ = ["CLIENTS", "CONFLUENT", "ROOT", "ClientKind", "Unavailable"]
