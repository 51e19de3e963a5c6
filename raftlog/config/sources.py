"""Where a node's settings come from: command line, environment, TOML file. Each value keeps the name of its place.

Names are the same everywhere: ``--data-dir``, ``RAFTLOG_DATA_DIR``, and ``data-dir`` (or ``data_dir``) in the file. A file may
nest tables instead of writing long names: ``storage.bytes.max`` is ``storage-bytes-max``.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ENV_PREFIX = "RAFTLOG_"
ENV_OF_OTHERS = frozenset({"RAFTLOG_BROKERS", "RAFTLOG_CRASH_AT", "RAFTLOG_FEATURE_LEVEL_MAX"})
"""Variables of the command line and of tests: not settings of a node, not refused either."""
TABLES = frozenset({"voters", "kafka-listen", "kafka-advertise"})
"""Settings whose value may be a table of a file."""
REPEATABLE = frozenset({"join"})
"""Settings that the command line may give several times: the values make one list."""
CONFIG_BYTES_MAX = 1 << 20
"""A longer configuration file is somebody's log, given by mistake."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A raw value and the place it stands at, as a person would look for it."""

    value: object
    where: str


@dataclass(slots=True)
class Settings:
    """What the sources said, by canonical name (``data-dir``), and everything that is wrong with how they said it."""

    values: dict[str, Setting] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    """Flags without a value that were given: ``help``, ``version``."""


def read_sources(names: Collection[str], argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Merge the three sources: command line over environment over the file named by ``config``.

    ``names`` are the known settings (``data-dir``). Unknown names and unreadable files become problems; nothing is raised.
    """
    known = {*names, "config"}
    merged = Settings()
    command_line = _from_argv(known, argv, merged)
    environment = _from_environ(known, environ, merged)
    config = command_line.get("config") or environment.get("config")
    file = _from_file(known, config, merged) if config else {}
    merged.values = {**file, **environment, **command_line}
    merged.values.pop("config", None)
    return merged


def _from_argv(known: set[str], argv: Sequence[str], merged: Settings) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if word in ("-h", "--help", "--version"):
            merged.flags.add("version" if word == "--version" else "help")
            continue
        if not word.startswith("--"):
            merged.problems.append(f"{word!r} on the command line: settings are given as --name VALUE")
            continue
        if not equals and rest and not rest[0].startswith("--"):
            equals, value = "=", rest.pop(0)
        if name not in known:
            merged.problems.append(_unknown(f"--{name}", name, known, lambda near: f"--{near}"))
        elif not equals:
            merged.problems.append(f"--{name} on the command line has no value; write --{name} VALUE")
        elif name in found and name in REPEATABLE:
            found[name] = Setting(f"{found[name].value},{value}", found[name].where)
        elif name in found:
            merged.problems.append(f"--{name} is given twice on the command line")
        else:
            found[name] = Setting(value, f"--{name} (command line)")
    return found


def _from_environ(known: set[str], environ: Mapping[str, str], merged: Settings) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for variable, value in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX) or variable in ENV_OF_OTHERS:
            continue
        name = variable.removeprefix(ENV_PREFIX).lower().replace("_", "-")
        if name in known and variable == variable_name(name):
            found[name] = Setting(value, f"{variable} (environment)")
        else:
            merged.problems.append(_unknown(f"{variable} in the environment", name, known, variable_name))
    return found


def _from_file(known: set[str], config: Setting, merged: Settings) -> dict[str, Setting]:
    path = Path(str(config.value))
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
        if len(text) > CONFIG_BYTES_MAX:
            merged.problems.append(f"{config.where}: {path} is longer than {CONFIG_BYTES_MAX} bytes; is it a configuration file?")
            return {}
        document = tomllib.loads(text.decode())
    except OSError as error:
        merged.problems.append(f"{config.where}: cannot read {path}: {error.strerror or error}")
        return {}
    except UnicodeDecodeError as error:
        merged.problems.append(f"{config.where}: {path} is not UTF-8 text (byte {error.start})")
        return {}
    except tomllib.TOMLDecodeError as error:
        merged.problems.append(f"{config.where}: {path} is not valid TOML: {error}")
        return {}
    found: dict[str, Setting] = {}
    for name, value in _flat(document):
        place = f"{name} in {path}"
        if name == "config" or name not in known:
            merged.problems.append(_unknown(place, name, known - {"config"}, str))
        elif name in found:
            merged.problems.append(f"{place} is written twice (as one name and as a table, or with - and with _)")
        else:
            found[name] = Setting(value, place)
    return found


def _flat(table: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Nested tables as long names; those of ``TABLES`` are values even where they are tables."""
    flat: list[tuple[str, object]] = []
    for key, value in table.items():
        name = prefix + key.replace("_", "-")
        if isinstance(value, dict) and name not in TABLES:
            flat += _flat(value, f"{name}-")
        else:
            flat.append((name, value))
    return flat


def variable_name(name: str) -> str:
    """The environment's spelling of a setting: ``data-dir`` is ``RAFTLOG_DATA_DIR``."""
    return ENV_PREFIX + name.upper().replace("-", "_")


def _unknown(place: str, name: str, known: Collection[str], spell: Callable[[str], str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    advice = f"did you mean {spell(near[0])}?" if near else "see raftlog-node --help for the names there are"
    return f"{place} is not a known setting; {advice}"
