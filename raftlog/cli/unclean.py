"""``raftlog storage force-configuration``: what is left to do when a majority of a group's disks is lost for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from raftlog.cli.errors import FAILED, UsageError
from raftlog.cli.move_words import nodes_in_words
from raftlog.cli.numbers import NUMBER_MAX, parse_number
from raftlog.cli.output import Format, counted, print_json, print_table, talk, utc
from raftlog.cli.session import FormatOption, session
from raftlog.cli.storage import DataDirOption
from raftlog.core.configuration import named, node_of

if TYPE_CHECKING:
    from raftlog.node.unclean import ForcedGroup, Plan

_COLUMNS = (
    *("group", "topic", "partition", "voters", "lost", "survivors"),
    *("last_index", "last_term", "end_offset", "commit_index", "written_at"),
)
METADATA = "(the cluster's metadata)"


def force_configuration(
    ctx: typer.Context,
    data_dir: DataDirOption,
    lost_nodes: Annotated[
        str, typer.Option("--lost-nodes", metavar="ID,…", help="nodes whose disks are lost for good, and never come back")
    ],
    group: Annotated[
        list[int] | None,
        typer.Option("--group", metavar="N", help="only this Raft group; may be repeated [all whose majority is lost]"),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes-i-accept-data-loss", help="do it; without this, only what would be done is said")
    ] = False,
    form: FormatOption = None,
) -> int:
    """Let groups that lost their majority for good go on from this node's replicas. May lose acknowledged records.

    Run it over the stopped node whose replicas hold the most: raftlog storage info says so on each survivor.
    """
    from raftlog.core.clock import SystemClock
    from raftlog.node.unclean import carry_out, plan
    from raftlog.storage.data_directory import stopped

    lost = _nodes(lost_nodes)
    shared = session(ctx, None, form)
    with stopped(data_dir):
        decided = plan(data_dir, lost, group)
        _print(decided, shared.form)
        if not decided.forced:
            talk("nothing was changed: no group here needs it")
            return FAILED
        talk(_what_may_be_lost(decided))
        if not yes:
            talk("nothing was changed. To do it, say so: --yes-i-accept-data-loss")
            return FAILED
        carry_out(data_dir, decided, SystemClock().wall_ms())
    go_on = counted(len(decided.forced), "group goes on", "groups go on")
    talk(
        f"done: {go_on} from node {decided.node_id} alone when it is started. Never start a lost node's old data again: empty it"
        " first. Then replace the lost nodes; raftlog cluster health shows what is left to do"
    )
    return 0


def forget_unclean(ctx: typer.Context, data_dir: DataDirOption, form: FormatOption = None) -> None:
    """Let raftlog cluster health no longer say that groups of this stopped node went on without a majority."""
    from raftlog.node.unclean import forget_all
    from raftlog.storage.data_directory import stopped

    shared = session(ctx, None, form)
    with stopped(data_dir):
        forgotten = forget_all(data_dir)
    if shared.form is Format.JSON:
        print_json({"groups": forgotten})
    talk(f"forgotten for {counted(len(forgotten), 'group')}")


def forget_damage(
    ctx: typer.Context,
    data_dir: DataDirOption,
    group: Annotated[
        list[int] | None, typer.Option("--group", metavar="N", help="only this Raft group; may be repeated [all]")
    ] = None,
    form: FormatOption = None,
) -> None:
    """Take replicas of this stopped node that were found to be damaged for sound again, where you know that the damage is gone.

    They may lead again; whoever reads what is damaged yet marks them anew.
    """
    from raftlog.node.unclean import forget_damage as forget
    from raftlog.storage.data_directory import stopped

    shared = session(ctx, None, form)
    with stopped(data_dir):
        forgotten = forget(data_dir, frozenset(group or ()))
    if shared.form is Format.JSON:
        print_json({"groups": forgotten})
    talk(f"{counted(len(forgotten), 'replica counts', 'replicas count')} as sound again when the node is started")


def _nodes(text: str) -> frozenset[int]:
    pieces = [piece.strip() for piece in text.split(",")]
    if not all(piece.isascii() and piece.isdecimal() and piece.strip("0") for piece in pieces):
        raise UsageError(f"--lost-nodes {text!r} is no list of node ids; name them as 2,3")
    return frozenset(parse_number(piece, NUMBER_MAX) for piece in pieces)


def _print(decided: Plan, form: Format) -> None:
    groups = [_facts(each) for each in decided.forced]
    left = [{"group": group, "why": why} for group, why in decided.left.items()]
    if form is Format.JSON:
        print_json({"node_id": decided.node_id, "lost_nodes": list(decided.lost), "groups": groups, "left": left})
        return
    if groups:
        print_table(_COLUMNS, [[_shown(row, column) for column in _COLUMNS] for row in groups])
    if left:
        print_table(["group", "why nothing is done"], [[row["group"], row["why"]] for row in left])


def _facts(each: ForcedGroup) -> dict[str, object]:
    return {
        "group": each.group,
        "topic": each.name and each.name.topic,
        "partition": each.name and each.name.partition,
        "voters": [named(member) for member in each.voters],
        "lost": [named(member) for member in each.lost],
        "survivors": [named(member) for member in each.survivors],
        "last_index": each.last_index,
        "last_term": each.last_term,
        "end_offset": each.end_offset,
        "commit_index": each.commit_index,
        "written_at": utc(each.written_at_ms) if each.written_at_ms else None,
    }


def _shown(row: Mapping[str, object], column: str) -> object:
    return METADATA if column == "topic" and row["group"] == 0 else row[column]


def _what_may_be_lost(decided: Plan) -> str:
    said = (
        f"what may be lost: everything acknowledged that node {decided.node_id} does not hold, and it cannot know of it: records"
        " behind end_offset, committed offsets of consumer groups, topics and settings. What stands behind commit_index may never"
        " have been acknowledged, and will be there all the same"
    )
    others = sorted({node_of(member) for each in decided.forced for member in each.survivors})
    if not others:
        return said
    return (
        f"{said}. Other survivors are on {nodes_in_words(others)}: compare with raftlog storage info there,"
        " and go on from the replica with the highest (last_term, last_index). One that holds more than that ends its node"
    )
