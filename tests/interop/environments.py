"""Environments of the clients: made once below ``var/interop``, and again only when what they hold is another.

Python clients get a virtual environment each, Java's are fetched by Maven; kcat is a program of the system.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.interop.bridges.leash import leashed

FETCH_TIMEOUT_S = 300.0
"""A release of Kafka with all it needs is a hundred jars; a slow line needs a few minutes for them, once."""

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>raftlog</groupId><artifactId>interop</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{release}</version>{one_log}</dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{release}</version>{one_log}</dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


_ONE_LOG = "<exclusions><exclusion><groupId>org.slf4j</groupId><artifactId>slf4j-reload4j</artifactId></exclusion></exclusions>"
"""Where there are two bindings of the log's interface, the silent one may win."""


class Unavailable(Exception):
    """A client cannot be had here; the text says why, in a few words."""


def python_of(home: Path, packages: Sequence[str]) -> Path:
    """The interpreter of a virtual environment with exactly these packages."""
    python, mark = home / "bin" / "python", home / "packages"
    if not _marked(mark, packages):
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        mark.write_text("\n".join(packages))
    return python


def class_path(home: Path, release: str) -> str:
    """The jars of a release of Apache Kafka, its tools included."""
    java()
    jars, mark = home / "jars", home / "made-by.xml"
    pom = _POM.format(release=release, one_log=_ONE_LOG)
    if not _marked(mark, [pom]):
        maven = program("mvn", "Maven is not here")
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        (home / "pom.xml").write_text(pom)
        _run([maven, "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={jars}"], where=home)
        mark.write_text(pom)
    return f"{jars}/*"


def java_class(home: Path, source: Path, jars: str) -> Path:
    """The directory of a class that is compiled from ``source``."""
    classes = home / "classes"
    made = classes / f"{source.stem}.class"
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        compiler = program("javac", "no Java compiler")
        _run([compiler, "-nowarn", "-cp", jars, "-d", str(classes), str(source)])
    return classes


def java() -> str:
    """The Java program."""
    return program("java", "Java is not here")


def program(name: str, hint: str) -> str:
    """A program of the system.

    Raises:
        Unavailable: it is not there.
    """
    path = shutil.which(name)
    if path is None:
        raise Unavailable(f"no {name} ({hint})")
    return path


def _marked(mark: Path, content: Sequence[str]) -> bool:
    return mark.exists() and mark.read_text() == "\n".join(content)


def _run(command: Sequence[str], where: Path | None = None) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    try:
        done = subprocess.run(
            leashed(command), capture_output=True, text=True, cwd=where, env=environ, timeout=FETCH_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{Path(command[0]).name} took more than {FETCH_TIMEOUT_S:g} s") from None
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "no words").splitlines()
        raise Unavailable(f"{Path(command[0]).name} failed: {words[-1][:160]}")
