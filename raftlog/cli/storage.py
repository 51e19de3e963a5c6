"""``raftlog storage``: the data directory of a stopped node. None of these commands speaks to a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raftlog.cli.errors import FAILED
from raftlog.cli.output import Format, counted, human_bytes, print_json, print_table, progress, talk, utc
from raftlog.cli.session import FormatOption, session
from raftlog.core.configuration import named

if TYPE_CHECKING:
    from raftlog.node.stopped import StoppedNode, StoppedReplica
    from raftlog.storage.check import Checked

DataDirOption = Annotated[
    Path, typer.Option("--data-dir", metavar="DIR", show_default=False, help="data directory of a node that does not run")
]
_MIB = 1 << 20


def info(ctx: typer.Context, data_dir: DataDirOption, form: FormatOption = None) -> None:
    """Show whose data it is, how much space it takes, and what lies in it."""
    from raftlog.node.stopped import describe
    from raftlog.storage.data_directory import stopped

    shared = session(ctx, None, form)
    with stopped(data_dir):
        node = describe(data_dir)
    if shared.form is Format.JSON:
        print_json({**_facts(data_dir, node), "groups": [_replica(replica) for replica in node.replicas]})
        return
    facts = _facts(data_dir, node)
    print_table(["fact", "value"], [[name.replace("_", " "), _shown(name, value)] for name, value in facts.items()])
    print_table(list(_COLUMNS), [[_shown(name, value) for name, value in _replica(each).items()] for each in node.replicas])


def check(ctx: typer.Context, data_dir: DataDirOption, form: FormatOption = None) -> int:
    """Read every entry and row, and say what is damaged. Exit code 1 where anything is."""
    from raftlog.storage.check import check
    from raftlog.storage.data_directory import stopped

    shared = session(ctx, None, form)
    with stopped(data_dir), _bar() as tell:
        found = check(data_dir, lambda done, total: tell("reading", done, total))
    more = found.damaged - len(found.findings)
    if shared.form is Format.JSON:
        print_json(_checked(found))
    elif found.findings:
        print_table(["group", "what is damaged"], [[finding.group, finding.what] for finding in found.findings])
    read = f"{counted(found.entries, 'entry', 'entries')} and {counted(found.rows, 'row')}"
    size = f"{read} of {counted(len(found.groups), 'group')}, {human_bytes(found.size_bytes)}"
    unlisted = f"; {counted(more, 'more finding is', 'more findings are')} not listed" if more else ""
    talk(f"{'damaged' if found.damaged else 'sound'}: {size}{unlisted}")
    return FAILED if found.damaged else 0


def compact(ctx: typer.Context, data_dir: DataDirOption, form: FormatOption = None) -> None:
    """Give the disk back what the data file does not use. Needs as much free beside it as is used."""
    from raftlog.storage.compact import compact
    from raftlog.storage.data_directory import stopped

    shared = session(ctx, None, form)
    with stopped(data_dir), _bar() as tell:
        done = compact(data_dir, tell)
    if shared.form is Format.JSON:
        print_json({"before_bytes": done.before_bytes, "after_bytes": done.after_bytes})
    talk(f"compacted: the data file took {human_bytes(done.before_bytes)}, and takes {human_bytes(done.after_bytes)}")


_COLUMNS = (
    *("group", "topic", "partition", "voters", "learners", "first_index", "last_index", "last_term", "end_offset"),
    *("commit_index", "applied_index", "term", "size_bytes", "unclean_at_ms", "damaged"),
)
_SAME = frozenset(_COLUMNS) - {"topic", "partition", "voters", "learners", "damaged"}


def _facts(data_dir: Path, node: StoppedNode) -> dict[str, object]:
    known = node.identity
    return {
        "data_dir": str(data_dir),
        "node_id": known and known.node_id,
        "cluster_id": known and known.cluster_id,
        "sealed": known is not None and known.sealed,
        "boot_number": known and known.boot_number,
        "refused_because": known and (known.damaged or None),
        "storage_format": node.storage_format,
        "used_bytes": node.used_bytes,
        "file_bytes": node.file_bytes,
        "ballast_bytes": node.ballast_bytes,
        "disk_free_bytes": node.disk_free_bytes,
    }


def _replica(replica: StoppedReplica) -> dict[str, object]:
    facts: dict[str, object] = {name: getattr(replica, name) for name in _SAME}
    name = replica.name
    facts |= {
        "topic": name and name.topic,
        "partition": name and name.partition,
        "voters": [named(member) for member in replica.configuration.voters],
        "learners": [named(member) for member in replica.configuration.learners],
        "unclean_at_ms": replica.unclean_at_ms or None,
        "damaged": replica.damaged or None,
    }
    return {column: facts[column] for column in _COLUMNS}


def _checked(found: Checked) -> dict[str, object]:
    return {
        "sound": not found.damaged,
        "groups": len(found.groups),
        "entries": found.entries,
        "rows": found.rows,
        "bytes": found.size_bytes,
        "damaged": found.damaged,
        "findings": [{"group": finding.group, "what": finding.what} for finding in found.findings],
    }


def _shown(name: str, value: object) -> object:
    if name.endswith("_bytes") and isinstance(value, int):
        return human_bytes(value)
    return utc(value) if name.endswith("_at_ms") and isinstance(value, int) else value


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar in MiB for each thing that is done, one after the other."""
    with progress() as bars:
        tasks: dict[str, object] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(f"{what} (MiB)", total=max(1, total // _MIB))
            bars.update(tasks[what], completed=done // _MIB)  # type: ignore[arg-type]

        yield tell
