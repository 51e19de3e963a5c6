"""``raftlog cluster``: move replicas, drain and remove nodes, balance, and see how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from raftlog.cli.errors import UsageError
from raftlog.cli.move_words import balanced_in_words, drain_in_words, moves_in_words, nodes_in_words, share_done
from raftlog.cli.numbers import NUMBER_MAX, parse_number
from raftlog.cli.output import Format, human_bytes, print_json, print_records, talk
from raftlog.cli.session import ADMIN_TIMEOUT_S, BrokersOption, FormatOption, run, session
from raftlog.cli.watching import watch
from raftlog.model import Balanced, Move, TopicPartition

if TYPE_CHECKING:
    from raftlog.client.client import Client

NodeArgument = Annotated[int, typer.Argument(min=1, max=NUMBER_MAX, metavar="NODE", help="the node's id")]
WaitOption = Annotated[bool, typer.Option("--wait", help="stay until it is done, and show how far it is")]


def move(
    ctx: typer.Context,
    partition: Annotated[str, typer.Argument(metavar="TOPIC-PARTITION", help="such as events-0")],
    replicas: Annotated[
        str | None, typer.Option(metavar="NODE,…", help="the nodes of all replicas, the preferred leader first")
    ] = None,
    source: Annotated[
        int | None, typer.Option("--from", min=1, max=NUMBER_MAX, metavar="NODE", help="the node whose replica moves")
    ] = None,
    target: Annotated[
        int | None, typer.Option("--to", min=1, max=NUMBER_MAX, metavar="NODE", help="the node that it moves to")
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="take the move under way back")] = False,
    wait: WaitOption = False,
    brokers: BrokersOption = None,
    form: FormatOption = None,
) -> None:
    """Move replicas of a partition: name all of them by --replicas, or one by --from and --to."""
    tp = parse_partition(partition)
    nodes = None if replicas is None else parse_nodes(replicas)
    if [replicas is not None, source is not None and target is not None, cancel].count(True) != 1:
        raise UsageError("say where to: by --replicas NODE,…, or by --from NODE --to NODE, or by --cancel")
    shared = session(ctx, brokers, form)

    async def work() -> tuple[tuple[int, ...], tuple[int, ...]]:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            before = await _replicas(client, tp)
            wanted = None if cancel else _wanted(tp, before, nodes, source, target)
            await client.admin.move_partitions({tp: wanted})
            after = await _replicas(client, tp)
            _tell(tp, before, after)
            if wait:
                await watch(client, lambda one: one.tp == tp)
            return before, after

    def _tell(tp: TopicPartition, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        talk(f"{tp} is to be on {nodes_in_words(after)}; before, on {nodes_in_words(before)}")
        if shared.form is Format.JSON:
            print_json({"topic": tp.topic, "partition": tp.partition, "before": list(before), "replicas": list(after)})

    run(work())


def drain(
    ctx: typer.Context,
    node: NodeArgument,
    cancel: Annotated[bool, typer.Option("--cancel", help="let replicas come to it again")] = False,
    wait: WaitOption = False,
    brokers: BrokersOption = None,
    form: FormatOption = None,
) -> None:
    """Let all replicas leave a node, and none come, as before taking it down for good."""
    shared = session(ctx, brokers, form)

    async def work() -> None:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            count = await client.admin.drain_node(node, cancel=cancel)
            talk(f"node {node} takes replicas again" if cancel else drain_in_words(node, count))
            if shared.form is Format.JSON:
                print_json({"node": node, "draining": not cancel, "partitions": count})
            if wait and not cancel:
                await _drained(client, node)

    run(work())


def remove(
    ctx: typer.Context, node: NodeArgument, wait: WaitOption = False, brokers: BrokersOption = None, form: FormatOption = None
) -> None:
    """Take a node out of the cluster for good. It has to be drained; with --wait it is drained first."""
    shared = session(ctx, brokers, form)

    async def work() -> None:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            if wait:
                await client.admin.drain_node(node)
                await _drained(client, node)
            await client.admin.remove_node(node)
            talk(f"node {node} is not part of the cluster any more; its process ends by itself")
            if shared.form is Format.JSON:
                print_json({"node": node, "removed": True})

    run(work())


def balance(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be done")] = False,
    wait: WaitOption = False,
    brokers: BrokersOption = None,
    form: FormatOption = None,
) -> None:
    """Spread replicas and leaders evenly over racks and nodes."""
    shared = session(ctx, brokers, form)

    async def work() -> None:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            balanced = await client.admin.balance(dry_run=dry_run)
            _print_balanced(balanced, shared.form, dry_run)
            if wait and not dry_run:
                groups = {one.tp for one in balanced.replacements}
                await watch(client, lambda one: one.tp in groups)

    run(work())


def moves(ctx: typer.Context, wait: WaitOption = False, brokers: BrokersOption = None, form: FormatOption = None) -> None:
    """Show what is on the move, why, how far it is, and what it waits for."""
    shared = session(ctx, brokers, form)

    async def work() -> None:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            found = await client.admin.list_moves()
            columns = ["partition", "replicas", "adding", "removing", "copied", "state", "reason"]
            if shared.form is Format.JSON:
                print_records(columns, [as_json(one) for one in found], Format.JSON)
            elif found:
                print_records(columns, [_row(one) for one in found], Format.TEXT)
            talk(moves_in_words(found) if found else "nothing is on the move")
            if wait:
                await watch(client, lambda _: True)

    run(work())


def parse_partition(text: str) -> TopicPartition:
    """``events-0`` as a partition.

    Raises:
        UsageError: it is none.
    """
    topic, dash, number = text.rpartition("-")
    if not (topic and dash and number.isdecimal()):
        raise UsageError(f"{text!r} is no partition; name the topic, a dash and the number: events-0")
    return TopicPartition(topic, parse_number(number, NUMBER_MAX))


def parse_nodes(text: str) -> tuple[int, ...]:
    """``1,2,4`` as node ids.

    Raises:
        UsageError: they are none.
    """
    pieces = [piece.strip() for piece in text.split(",")]
    if not all(piece.isdecimal() for piece in pieces):
        raise UsageError(f"{text!r} is no list of nodes; name their ids: 1,2,4")
    return tuple(parse_number(piece, NUMBER_MAX) for piece in pieces)


def as_json(move: Move) -> dict[str, object]:
    """A move for scripts."""
    return {
        "topic": move.tp.topic,
        "partition": move.tp.partition,
        "replicas": list(move.replicas),
        "adding": list(move.adding),
        "removing": list(move.removing),
        "reason": move.reason,
        "state": move.state,
        "held_up": move.held_up,
        "started_at_ms": move.started_at_ms,
        "bytes_total": move.bytes_total,
        "bytes_done": move.bytes_done,
        "bytes_per_second": move.rate,
        "seconds_left": move.seconds_left,
    }


def _row(move: Move) -> dict[str, object]:
    copied = f"{share_done(move):.0%} of {human_bytes(move.bytes_total)}" if move.adding and move.bytes_total else None
    return {
        "partition": str(move.tp),
        "replicas": move.replicas,
        "adding": move.adding or None,
        "removing": move.removing or None,
        "copied": copied,
        "state": move.state,
        "reason": move.reason,
    }


def _print_balanced(balanced: Balanced, form: Format, dry_run: bool) -> None:
    rows: list[dict[str, object]] = [
        {
            "partition": str(one.tp),
            "before": list(one.before),
            "replicas": list(one.replicas),
            "size": human_bytes(one.size_bytes) if form is Format.TEXT else one.size_bytes,
            "reason": one.reason,
        }
        for one in balanced.replacements
    ]
    if rows or form is Format.JSON:
        print_records(["partition", "before", "replicas", "size", "reason"], rows, form)
    for text in balanced.stuck:
        talk(text)
    moved = sum(1 for one in balanced.replacements if set(one.replicas) != set(one.before))
    led = len(rows) - moved
    if not rows:
        talk("replicas and leaders are spread evenly")
    else:
        talk(balanced_in_words(moved, led, dry_run=dry_run))


def _wanted(
    tp: TopicPartition, before: tuple[int, ...], replicas: tuple[int, ...] | None, source: int | None, target: int | None
) -> tuple[int, ...]:
    if replicas is not None:
        return replicas
    assert source is not None
    assert target is not None
    if source not in before:
        raise UsageError(f"{tp} has no replica on node {source}; it is on {nodes_in_words(before)}")
    if target in before:
        raise UsageError(f"{tp} has a replica on node {target} already; it is on {nodes_in_words(before)}")
    return tuple(target if node == source else node for node in before)


async def _replicas(client: Client, tp: TopicPartition) -> tuple[int, ...]:
    partitions = (await client.admin.describe_topic(tp.topic)).topic.partitions
    if tp.partition >= len(partitions):
        raise UsageError(f"topic {tp.topic} has partitions 0 to {len(partitions) - 1}")
    return partitions[tp.partition].replicas


async def _drained(client: Client, node: int) -> None:
    async def empty() -> bool:
        return await client.admin.drain_node(node) == 0  # asked again, it tells what is left

    await watch(client, lambda one: node in one.removing or node in one.replicas, empty)
    talk(f"node {node} holds no replicas any more")
