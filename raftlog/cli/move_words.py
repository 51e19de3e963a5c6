"""What is on the move, in plain words: pure functions of what the cluster says."""

from __future__ import annotations

from collections.abc import Sequence

from raftlog.cli.output import counted, human_bytes
from raftlog.model import Move


def nodes_in_words(nodes: Sequence[int]) -> str:
    """``node 4``, ``nodes 1 and 4``, ``nodes 1, 2 and 4``."""
    if len(nodes) == 1:
        return f"node {nodes[0]}"
    return f"nodes {', '.join(map(str, nodes[:-1]))} and {nodes[-1]}" if nodes else "no node"


def seconds_in_words(seconds: float) -> str:
    """About how long: ``a few seconds``, ``40 s``, ``3 min``, ``2 h``."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.0f} h"


def share_done(move: Move) -> float:
    """How much of what has to be copied is there, 0 to 1; 1 where nothing has to be."""
    return min(move.bytes_done / move.bytes_total, 1.0) if move.bytes_total else 1.0


def move_in_words(move: Move) -> str:
    """One move: who comes and goes, how far it is, and what it waits for."""
    parts = []
    if move.adding:
        parts.append(f"{nodes_in_words(move.adding)} {_verb(move.adding, 'comes', 'come')}")
    if move.removing:
        parts.append(f"{nodes_in_words(move.removing)} {_verb(move.removing, 'goes', 'go')}")
    text = f"{move.tp}: {', '.join(parts) or 'its leader changes'}"
    if move.adding and move.bytes_total:
        text += f"; {share_done(move):.0%} of {human_bytes(move.bytes_total)} is copied"
        if move.rate:
            text += f" at {human_bytes(move.rate)}/s"
        if move.seconds_left is not None:
            text += f", {seconds_in_words(move.seconds_left)} left"
    return f"{text}; {move.state}"


def moves_in_words(moves: Sequence[Move]) -> str:
    """All moves in a sentence: how many, how much is to be copied, and when that will be over."""
    count = len(moves)
    text = f"{count} {'partition is' if count == 1 else 'partitions are'} on the move"
    left = sum(max(move.bytes_total - move.bytes_done, 0) for move in moves)
    rate = sum(move.rate for move in moves)
    if left:
        text += f", {human_bytes(left)} are to be copied"
        text += f", which takes about {seconds_in_words(left / rate)}" if rate else ""
    held_up = sum(move.held_up for move in moves)
    if held_up:
        text += f"; {held_up} of them {'waits' if held_up == 1 else 'wait'} for a node that is down"
    return text


def drain_in_words(node: int, count: int) -> str:
    """What a node that is being drained has to give away."""
    return f"node {node} is being drained: {counted(count, 'partition leaves', 'partitions leave')} it"


def balanced_in_words(moved: int, led: int, *, dry_run: bool) -> str:
    """How many partitions get other replicas, and how many only another leader."""
    get = ("partition would get", "partitions would get") if dry_run else ("partition gets", "partitions get")
    return f"{counted(moved, *get)} other replicas, {led:,} only another leader"


def _verb(nodes: Sequence[int], one: str, several: str) -> str:
    return one if len(nodes) == 1 else several
