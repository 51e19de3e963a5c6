"""``raftlog dev``: a local cluster in the foreground, for trying things out and for scripts that need one."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from raftlog.cli.errors import FAILED, CommandError
from raftlog.cli.output import counted, talk
from raftlog.cli.session import ending_signals, key_values, run
from raftlog.testing.local_cluster import NODES_MAX, LocalCluster, LocalClusterError, LocalNode

DESCRIPTION = "cluster.json"
_DOOR_SPAN = 399
"""The highest port is base + 300 + 99."""
_WATCH_S = 0.2


def dev(
    nodes: Annotated[int, typer.Option(min=1, max=NODES_MAX, help="how many nodes")] = 3,
    data_dir: Annotated[Path, typer.Option(help="where the nodes store, log, and cluster.json appears")] = Path("raftlog-dev"),
    base_port: Annotated[
        int,
        typer.Option(
            min=1, max=65_535 - _DOOR_SPAN, help="node n: base+n peers, base+100+n gRPC, base+200+n Kafka, base+300+n admin"
        ),
    ] = 7000,
    node_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="a setting of raftlog-node for every node; may be repeated")
    ] = None,
) -> int:
    """Run a cluster on this machine until Ctrl-C.

    When all nodes are ready, DATA_DIR/cluster.json says where they are. A node that is killed stays dead: that is what this is
    for. Data stays in DATA_DIR, and the next start goes on from it.
    """
    settings = key_values(node_option or [], "--node-option")
    cluster = LocalCluster(nodes, data_dir=data_dir, base_port=base_port, settings=settings)
    description = data_dir / DESCRIPTION
    description.unlink(missing_ok=True)  # of an earlier run: its process ids may be anybody's by now
    talk(f"starting; the nodes write their logs to {data_dir}")
    try:
        code = run(_dev(cluster, description))
    finally:
        description.unlink(missing_ok=True)
    talk(f"all nodes have ended; what they stored stays in {data_dir}")
    return code


async def _dev(cluster: LocalCluster, description: Path) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in ending_signals():
        loop.add_signal_handler(number, stop.set)
    failure: str | None = None
    try:
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(_serve(cluster, description))
            stopping = group.create_task(stop.wait())
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                talk("stopping: the nodes hand over what they lead, and finish their calls")
            stopping.cancel()
            serving.cancel()  # has no effect where it has ended by itself
    except* LocalClusterError as error:
        failure = str(error.exceptions[0])  # raised below: here, Python 3.11.2 would put it into a group again
    if failure is not None:
        raise CommandError(failure)
    return FAILED if serving.done() and not serving.cancelled() else 0


async def _serve(cluster: LocalCluster, description: Path) -> None:
    """Until cancelled, or until no node is left."""
    async with cluster:
        _write_whole(description, json.dumps(cluster.describe(), indent=2) + "\n")
        brokers = ",".join(cluster.brokers)
        talk(f"ready: {counted(len(cluster.nodes), 'node')}; export RAFTLOG_BROKERS={brokers}   (Ctrl-C ends them)")
        talk(f"Kafka clients: bootstrap.servers={cluster.kafka}")
        talk(f"one node more: {shlex.join(['raftlog-node', *cluster.next_flags()])}")
        dead: set[int] = set()
        while len(dead) < len(cluster.nodes):
            await asyncio.sleep(_WATCH_S)
            for node_id, node in cluster.nodes.items():
                if node_id not in dead and not node.alive:
                    dead.add(node_id)
                    talk(ending_in_words(node))
        talk("no node is left")


def ending_in_words(node: LocalNode) -> str:
    """How a node ended, and why, where its log says so."""
    error = node.last_error()
    why = f" ({error})" if error else ""
    return f"node {node.node_id} (pid {node.pid}) has ended with {node.exit_code}{why}; it stays dead, the others go on"


def _write_whole(path: Path, text: str) -> None:
    """A reader sees the whole file or none."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)
