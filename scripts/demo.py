"""Kill a leader in the middle of a stream, and prove that nothing acknowledged was lost, doubled or reordered.

Three node processes, a topic of four partitions with three copies each. The lines of a file are published, keyed by their first
word, while a subscriber for each partition reads. Ends by itself; exit code 1 where the proof fails.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from raftlog.cli.session import run
from raftlog.client.client import Client
from raftlog.client.values import RecordMetadata
from raftlog.errors import IndeterminateError, RaftlogError, UnavailableError
from raftlog.model import ReplicaStatus, Role, TopicPartition
from raftlog.testing import LocalCluster, LocalClusterError
from raftlog.testing.proof import NUMBER_HEADER, Place, Seen, Verdict, verdict

TOPIC, PARTITIONS, REPLICAS = "demo", 4, 3
PUBLISHING_S = 8.0
"""The stream is paced to take this long, so that a death in its middle has a before and an after."""
LINES_MAX, LINES_BYTES_MAX = 200_000, 128 << 20
DEFAULT_LINES = 20_000
KILL_AT, RESTART_AT = 0.4, 0.65
PATIENCE_S = 15.0
"""How long any single thing may take before the demo says that it did not happen."""
LIMIT_S = 58.0
POLL_S = 0.02
PACES = 400
"""Steps in which the lines are published."""


@dataclass(slots=True)
class History:
    """Everything that happened, for the proof and the story. Times are seconds of ``time.monotonic``."""

    lines: list[bytes]
    sent: int = 0
    acknowledged: dict[int, Place] = field(default_factory=dict)
    failed: dict[int, RaftlogError] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)
    read: dict[int, list[Seen]] = field(default_factory=lambda: {number: [] for number in range(PARTITIONS)})
    positions: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(PARTITIONS), 0))
    last_ack_s: dict[int, float] = field(default_factory=dict)

    def settled(self, number: int, future: asyncio.Future[RecordMetadata]) -> None:
        """Note the outcome of one line."""
        error = future.exception() if not future.cancelled() else IndeterminateError("cancelled")
        if error is None:
            record = future.result()
            self.acknowledged[number] = Place(record.partition, record.offset)
            self.last_ack_s[record.partition] = time.monotonic()
        elif isinstance(error, RaftlogError) and not isinstance(error, IndeterminateError):
            self.failed[number] = error
        else:
            self.unknown.add(number)

    def busiest(self) -> int:
        """The partition with the most acknowledged lines."""
        return Counter(place.partition for place in self.acknowledged.values()).most_common(1)[0][0]


@dataclass(slots=True)
class Casualty:
    """The node that died."""

    node_id: int = 0
    partition: int = 0
    term: int = 0
    successor: int = 0
    term_next: int = 0
    leaderless_s: float = 0.0
    silent_s: float = 0.0
    missed: int = 0
    caught_up_s: float = 0.0


class Story:
    """Tells what happens, with the time since the beginning."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._began_s = time.monotonic()

    def tell(self, text: str) -> None:
        """One line."""
        self.console.print(f"[dim]{time.monotonic() - self._began_s:5.1f} s[/dim]  {text}", soft_wrap=True)


def load_lines(path: Path | None) -> tuple[list[bytes], str]:
    """The lines to publish, as bytes without their newlines, and what they are called.

    Without a file: the sources of Python's own standard library, which every machine has.
    """
    if path is not None:
        with path.open("rb") as file:
            lines = _capped(line.removesuffix(b"\n") for line in file)
            rest = bool(file.readline())
        return lines, f"{path.name}{' (its beginning)' if rest else ''}"
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    every = (line for source in sources for line in source.read_bytes().split(b"\n") if line.strip())
    return list(islice(every, DEFAULT_LINES)), "the sources of Python's standard library"


def _capped(lines: Iterable[bytes]) -> list[bytes]:
    taken, size = [], 0
    for line in lines:
        taken.append(line)
        size += len(line)
        if len(taken) >= LINES_MAX or size >= LINES_BYTES_MAX:
            break
    return taken


async def publish(client: Client, history: History, seconds: float) -> None:
    """Publish all lines at a steady pace, in order, each with its number."""
    began_s, count = time.monotonic(), len(history.lines)
    step = max(1, count // PACES)
    async with client.producer() as producer:
        for number, line in enumerate(history.lines):
            words = line.split(maxsplit=1)
            future = await producer.send(
                TOPIC, line, key=words[0] if words else b"", headers=[(NUMBER_HEADER, str(number).encode())]
            )
            future.add_done_callback(partial(history.settled, number))
            history.sent = number + 1
            if number % step == 0:
                await asyncio.sleep(max(0.0, began_s + seconds * number / count - time.monotonic()))
        await producer.flush()


async def subscribe(client: Client, partition: int, history: History) -> None:
    """Read one partition from the beginning, until cancelled."""
    seen, lines = history.read[partition], history.lines
    async with client.consumer(TopicPartition(TOPIC, partition)) as consumer:
        async for batch in consumer.batches():
            for record in batch.records:
                number = int(dict(record.headers)[NUMBER_HEADER] or b"-1")
                seen.append(Seen(record.offset, number, 0 <= number < len(lines) and lines[number] == record.value))
            history.positions[partition] = batch.next_offset


async def until(condition: Callable[[], Awaitable[bool]], what: str, patience_s: float = PATIENCE_S) -> float:
    """Poll a condition; how many seconds it took.

    Raises:
        LocalClusterError: it did not come true within ``patience_s``.
    """
    began_s = time.monotonic()
    while not await condition():
        if time.monotonic() - began_s > patience_s:
            raise LocalClusterError(f"in {patience_s:g} s it did not happen that {what}")
        await asyncio.sleep(POLL_S)
    return time.monotonic() - began_s


async def leader_of(cluster: LocalCluster, client: Client, partition: int) -> tuple[int, int]:
    """(term, node) of the leader of a partition: the node that says so of itself, in the highest term; (0, 0) for none."""
    found = (0, 0)
    for node in cluster.nodes.values():
        if node.alive:
            for replica in await replicas_on(client, node.grpc):
                if replica.partition == partition and replica.role is Role.LEADER:
                    found = max(found, (replica.term, node.node_id))
    return found


async def ends(client: Client) -> dict[int, int]:
    """Where each partition ends now."""
    found = await client.admin.list_offsets({TopicPartition(TOPIC, number): "latest" for number in range(PARTITIONS)})
    return {tp.partition: listed.offset for tp, listed in found.items()}


async def replicas_on(client: Client, address: str) -> list[ReplicaStatus]:
    """A node's replicas of the topic; none while the connection to a node that came back is not yet there."""
    try:
        replicas = (await client.admin.describe_replicas(address)).replicas
    except (UnavailableError, IndeterminateError):
        return []
    return [replica for replica in replicas if replica.topic == TOPIC]


async def held_by(client: Client, address: str) -> dict[int, int]:
    """How far each partition reaches on one node."""
    return {replica.partition: replica.high_watermark for replica in await replicas_on(client, address)}


async def cause_havoc(cluster: LocalCluster, client: Client, history: History, story: Story) -> Casualty:
    """Kill the leader of the busiest partition in the middle of the stream; bring it back, and watch it catch up."""
    total, lost = len(history.lines), Casualty()

    async def reached(share: float) -> bool:
        return history.sent >= share * total and bool(history.acknowledged)

    await until(partial(reached, KILL_AT), "publishing came to its middle", LIMIT_S)
    lost.partition = history.busiest()

    async def led() -> bool:
        lost.term, lost.node_id = await leader_of(cluster, client, lost.partition)
        return lost.node_id != 0

    await until(led, f"partition {lost.partition} had a leader")
    before = await ends(client)
    killed_s = time.monotonic()
    await cluster.kill(lost.node_id)
    story.tell(
        f"[bold red]killed node {lost.node_id}[/bold red] (SIGKILL), the leader of partition {lost.partition}, the busiest, "
        f"in term {lost.term}"
    )

    async def succeeded() -> bool:
        lost.term_next, lost.successor = await leader_of(cluster, client, lost.partition)
        return lost.term_next > lost.term

    await until(succeeded, f"partition {lost.partition} got a new leader")
    elected_s = time.monotonic()
    lost.leaderless_s = elected_s - killed_s

    async def served() -> bool:
        return history.last_ack_s.get(lost.partition, 0.0) > elected_s or history.sent >= total

    await until(served, f"a line was acknowledged in partition {lost.partition}")
    lost.silent_s = max(history.last_ack_s.get(lost.partition, 0.0), elected_s) - killed_s
    story.tell(
        f"[bold green]node {lost.successor} leads partition {lost.partition}[/bold green] after {lost.leaderless_s:.2f} s, "
        f"in term {lost.term_next}; the next line was acknowledged {lost.silent_s:.2f} s after the kill"
    )
    await until(partial(reached, RESTART_AT), "publishing went on", LIMIT_S)
    await bring_back(cluster, client, lost, before, story)
    return lost


async def bring_back(cluster: LocalCluster, client: Client, lost: Casualty, before: dict[int, int], story: Story) -> None:
    """Restart the dead node over its data, and wait until it has what it missed."""
    goal, address = await ends(client), cluster.nodes[lost.node_id].grpc
    began_s = time.monotonic()
    lost.missed = sum(goal.values()) - sum(before.values())
    story.tell(f"restarting node {lost.node_id}; {lost.missed:,} lines were acknowledged while it was dead")
    await cluster.start(lost.node_id)

    async def caught_up() -> bool:
        held = await held_by(client, address)
        return all(held.get(partition, 0) >= end for partition, end in goal.items())

    await until(caught_up, f"node {lost.node_id} caught up")
    lost.caught_up_s = time.monotonic() - began_s
    story.tell(
        f"[bold green]node {lost.node_id} has caught up[/bold green] {lost.caught_up_s:.2f} s after its restart: "
        f"it holds all that it missed"
    )


async def show_progress(history: History, console: Console) -> None:
    """A bar of lines published, until cancelled; only on a terminal."""
    columns = (TextColumn("         publishing"), BarColumn(), TextColumn("{task.completed:,} of {task.total:,} lines"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("publishing", total=len(history.lines))
        while True:
            bar.update(task, completed=history.sent)
            await asyncio.sleep(0.1)


async def play(cluster: LocalCluster, client: Client, history: History, story: Story, seconds: float) -> Casualty:
    """Publish, read and cause havoc at once, until every subscriber has read everything and all copies are equal."""
    async with asyncio.TaskGroup() as group:
        background = [group.create_task(subscribe(client, number, history)) for number in range(PARTITIONS)]
        background.append(group.create_task(show_progress(history, story.console)))
        publishing = group.create_task(publish(client, history, seconds))
        lost = await cause_havoc(cluster, client, history, story)
        await publishing
        story.tell(f"all {history.sent:,} lines are published; {len(history.acknowledged):,} were acknowledged")
        goal = await ends(client)

        async def all_read() -> bool:
            return all(history.positions[partition] >= end for partition, end in goal.items())

        async def copies_equal() -> bool:
            return all([await held_by(client, node.grpc) == goal for node in cluster.nodes.values()])

        await until(all_read, "the subscribers read everything")
        story.tell("the subscribers have read to the end of every partition")
        await until(copies_equal, "the three copies of every partition became equally long")
        story.tell("the three copies of every partition are equally long")
        for task in background:
            task.cancel()
    return lost


def print_proof(result: Verdict, history: History, lost: Casualty, console: Console) -> bool:
    """The comparison as a table and in words; whether it holds."""
    table = Table(box=box.SIMPLE_HEAVY, title="what was acknowledged, against what was read", title_justify="left")
    for column in ("partition", "acknowledged", "read", "lost", "doubled", "out of order", "altered"):
        table.add_column(column, justify="right", no_wrap=True)
    for number, one in result.partitions.items():
        faults = (one.lost, one.doubled, one.reordered, one.altered + one.unexplained)
        name = f"[bold]* {number}[/bold]" if number == lost.partition else str(number)
        cells = [f"[bold red]{fault:,}[/bold red]" if fault else "0" for fault in faults]
        table.add_row(name, f"{one.acknowledged:,}", f"{one.read:,}", *cells)
    console.print()
    console.print(table)
    console.print("[dim]* its leader was killed in the middle of the stream[/dim]\n")
    unanswered = len(history.lines) - len(history.acknowledged)
    if unanswered:
        console.print(
            f"{unanswered:,} lines were not acknowledged ({len(history.failed):,} refused, {len(history.unknown):,} unknown); "
            "nothing is promised about those that are unknown."
        )
    holds = result.holds and bool(history.acknowledged)
    if holds:
        console.print(
            f"[bold green]Proven:[/bold green] each of the {len(history.acknowledged):,} acknowledged lines was read once, "
            "byte for byte, at the offset that was promised, and in the order of publishing.",
            soft_wrap=True,
        )
    else:
        console.print("[bold red]The proof fails:[/bold red] the numbers in red should be zero.")
    console.print(
        f"Partition {lost.partition} had no leader for {lost.leaderless_s:.2f} s; publishing to it went on "
        f"{lost.silent_s:.2f} s after the kill, by itself.",
        soft_wrap=True,
    )
    return holds


async def demo(path: Path | None, seconds: float) -> int:
    """The whole story; the exit code."""
    story = Story()
    lines, name = load_lines(path)
    if not lines:
        raise LocalClusterError("there is not a single line in the file")
    history = History(lines)
    async with asyncio.timeout(LIMIT_S), LocalCluster(nodes=3) as cluster:
        story.tell("three nodes are up: " + ", ".join(f"node {n} (pid {node.pid})" for n, node in cluster.nodes.items()))
        async with Client(cluster.brokers) as client:
            await client.admin.create_topic(TOPIC, partitions=PARTITIONS, replication_factor=REPLICAS)
            story.tell(f"topic '{TOPIC}' has {PARTITIONS} partitions, each on {REPLICAS} nodes")
            story.tell(f"publishing {len(lines):,} lines of {name}, keyed by their first word, while 4 subscribers read")
            lost = await play(cluster, client, history, story, seconds)
    result = verdict(PARTITIONS, history.acknowledged, frozenset(history.failed), history.read)
    return 0 if print_proof(result, history, lost, story.console) else 1


def main() -> int:
    """Parse the command line and run; errors in one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="publish the lines of this file (default: Python's own sources)")
    parser.add_argument("--seconds", type=float, default=PUBLISHING_S, help="how long publishing takes [%(default)s]")
    arguments = parser.parse_args()
    try:
        return run(demo(arguments.file, arguments.seconds))
    except KeyboardInterrupt:
        return 130
    except TimeoutError:
        problem: BaseException | str = f"the demo did not end within {LIMIT_S:g} s"
    except (LocalClusterError, RaftlogError, OSError, ExceptionGroup) as error:
        problem = error
        while isinstance(problem, BaseExceptionGroup):
            problem = problem.exceptions[0]
    sys.stderr.write(f"error: {problem}\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
