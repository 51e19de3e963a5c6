"""``raftlog cluster upgrade``: the last step of an upgrade, when all nodes run the new version."""

from __future__ import annotations

from typing import Annotated

import typer

from raftlog.cli.errors import FAILED
from raftlog.cli.numbers import NUMBER_MAX
from raftlog.cli.output import Format, print_json, print_table, talk
from raftlog.cli.session import ADMIN_TIMEOUT_S, BrokersOption, FormatOption, run, session
from raftlog.core.features import DESCRIPTIONS
from raftlog.model import LevelReport, NodeSupport

LevelOption = Annotated[
    int, typer.Option("--level", min=0, max=NUMBER_MAX, show_default=False, help="[the newest that all nodes support]")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="only say what would come of it, and who holds it back")]
WithoutOption = Annotated[
    list[int] | None,
    typer.Option(
        "--without",
        min=1,
        max=NUMBER_MAX,
        metavar="NODE",
        help="a node that is gone, or comes back with the new version; may be repeated",
    ),
]


def upgrade(
    ctx: typer.Context,
    level: LevelOption = 0,
    dry_run: DryRunOption = False,
    without: WithoutOption = None,
    brokers: BrokersOption = None,
    form: FormatOption = None,
) -> int:
    """Raise the cluster's feature level, once all nodes run the new version. There is no way back to versions before.

    Exit code 1 where a node holds the cluster back: it is too old, or down."""
    shared = session(ctx, brokers, form)

    async def work() -> LevelReport:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            report = await client.admin.raise_level(level, dry_run=True, without=without or ())
            if dry_run or report.held_back or report.target == report.level:
                return report
            return await client.admin.raise_level(report.target, without=without or ())

    report = run(work())
    nodes = [_node(node) for node in report.nodes]
    if shared.form is Format.JSON:
        print_json({"level": report.level, "target": report.target, "raised": report.raised, "nodes": nodes})
    else:
        print_table(["id", "version", "supports", "holds back"], [list(node.values()) for node in nodes])
    talk(_outcome(report))
    return FAILED if report.held_back else 0


def _outcome(report: LevelReport) -> str:
    """What came of it, in words."""
    if report.held_back:
        return f"the cluster stays at feature level {report.level}, not {report.target}: {report.held_back}"
    if report.target == report.level:
        return f"the cluster is at feature level {report.level} already, the newest that all its nodes support"
    what = DESCRIPTIONS.get(report.target, "of a newer version")
    if report.raised:
        return f"raised from feature level {report.level} to {report.target}: {what}"
    return f"it can be raised from feature level {report.level} to {report.target}: {what}"


def _node(node: NodeSupport) -> dict[str, object]:
    low, high = node.level_min, node.level_max
    levels = None if not high else str(low) if low == high else f"{low} to {high}"
    return {"id": node.node_id, "version": node.version or None, "supports": levels, "problem": node.problem or None}
