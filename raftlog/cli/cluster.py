"""``raftlog cluster``: who is there, and what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from raftlog.cli.errors import FAILED
from raftlog.cli.health import Finding, findings
from raftlog.cli.move_words import move_in_words, moves_in_words
from raftlog.cli.output import Format, human_bytes, print_json, print_table, talk
from raftlog.cli.session import ADMIN_TIMEOUT_S, BrokersOption, FormatOption, run, session
from raftlog.client.values import NodeReplicas
from raftlog.errors import RaftlogError, UnavailableError
from raftlog.model import ClusterInfo, Move, NodeInfo, NodeStatus, Role

if TYPE_CHECKING:
    from raftlog.client.client import Client

ANSWER_TIMEOUT_S = 5.0
"""A node that says nothing for so long is not well, whatever the reason."""

MOVES_SHOWN_MAX = 10
"""Moves that health tells one by one."""

Answers = dict[int, NodeReplicas | str]


def info(ctx: typer.Context, brokers: BrokersOption = None, form: FormatOption = None) -> None:
    """Show the nodes, what they hold and lead, and how full they are."""
    shared = session(ctx, brokers, form)

    async def work() -> tuple[ClusterInfo, Answers]:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            cluster = await client.admin.describe_cluster()
            return cluster, await _ask_all(client, cluster.nodes)

    cluster, answers = run(work())
    nodes = [_node(node, answers[node.node_id], cluster.controller) for node in cluster.nodes]
    if shared.form is Format.JSON:
        facts = {"cluster_id": cluster.cluster_id, "controller": cluster.controller, "level": cluster.level}
        print_json({**facts, "nodes": nodes})
        return
    print_table(["cluster", "controller", "level"], [[cluster.cluster_id, cluster.controller, cluster.level]])
    columns = ["id", "state", "status", "rack", "grpc", "kafka", "peer", "admin", "replicas", "leads"]
    sizes = [[_size(node[name]) for name in ("used_bytes", "file_bytes", "disk_free_bytes")] for node in nodes]
    rows = [[*(node[column] for column in columns), *size] for node, size in zip(nodes, sizes, strict=True)]
    print_table([*columns, "used", "file", "disk free"], rows)


def health(ctx: typer.Context, brokers: BrokersOption = None, form: FormatOption = None) -> int:
    """Ask every node how it is. Exit code 1 where anything is wrong."""
    shared = session(ctx, brokers, form)

    async def work() -> tuple[list[Finding], list[str], str]:
        async with shared.client(ADMIN_TIMEOUT_S) as client:
            cluster = await client.admin.describe_cluster()
            topics = await client.admin.list_topics(internal=True)
            partitions = [partition for topic in topics for partition in topic.partitions]
            moves = await _moves(client)
            found = findings(cluster.nodes, partitions, await _ask_all(client, cluster.nodes), moves)
            size = f"nodes {len(cluster.nodes)}, topics {len(topics)}, partitions {len(partitions)}"
            return found, _under_way(cluster.nodes, moves), size

    found, under_way, size = run(work())
    if shared.form is Format.JSON:
        findings_ = [{"kind": one.kind, "text": one.text} for one in found]
        print_json({"healthy": not found, "findings": findings_, "under_way": under_way})
    elif found:
        print_table(["what is wrong", "in words"], [[one.kind.replace("_", " "), one.text] for one in found])
    for text in under_way:
        talk(text)
    talk(f"{'unhealthy' if found else 'healthy'}: {size}")
    return FAILED if found else 0


async def _moves(client: Client) -> list[Move]:
    """What is on the move; nothing where nobody leads the cluster, which is a finding of its own."""
    try:
        return await client.admin.list_moves()
    except RaftlogError:
        return []


def _under_way(nodes: Sequence[NodeInfo], moves: Sequence[Move]) -> list[str]:
    """What goes on that is not wrong, and when it will be over."""
    texts = [f"node {node.node_id} is being drained" for node in nodes if node.status is NodeStatus.DRAINING]
    if moves:
        texts += [moves_in_words(moves), *map(move_in_words, moves[:MOVES_SHOWN_MAX])]
    if len(moves) > MOVES_SHOWN_MAX:
        texts.append(f"and {len(moves) - MOVES_SHOWN_MAX} more; raftlog cluster moves shows all")
    return texts


async def _ask_all(client: Client, nodes: tuple[NodeInfo, ...]) -> Answers:
    async with asyncio.TaskGroup() as group:
        asked = {node.node_id: group.create_task(_ask(client, node)) for node in nodes}
    return {node_id: task.result() for node_id, task in asked.items()}


async def _ask(client: Client, node: NodeInfo) -> NodeReplicas | str:
    """A node's replicas, or why it did not tell them."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await client.admin.describe_replicas(node.grpc_address)
    except TimeoutError:
        return f"no answer in {ANSWER_TIMEOUT_S:g} s"
    except UnavailableError:
        return "no connection to it"
    except RaftlogError as error:
        return str(error)


def _node(node: NodeInfo, answer: NodeReplicas | str, controller: int | None) -> dict[str, object]:
    facts: dict[str, object] = {
        "id": node.node_id,
        "state": "down" if isinstance(answer, str) else "controller" if node.node_id == controller else "up",
        "status": node.status.value,
        "rack": node.rack,
        "peer": node.peer_address,
        "grpc": node.grpc_address,
        "kafka": node.kafka_address or None,
        "admin": node.admin_address,
        "replicas": None,
        "leads": None,
        "used_bytes": None,
        "file_bytes": None,
        "disk_free_bytes": None,
    }
    if isinstance(answer, NodeReplicas):
        storage = answer.storage
        facts |= {
            "replicas": len(answer.replicas),
            "leads": sum(replica.role is Role.LEADER for replica in answer.replicas),
            "used_bytes": storage.used_bytes,
            "file_bytes": storage.file_bytes,
            "disk_free_bytes": storage.disk_free_bytes,
        }
    return facts


def _size(value: object) -> str | None:
    return human_bytes(value) if isinstance(value, int) else None
