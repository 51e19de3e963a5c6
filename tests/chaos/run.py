"""One run: a cluster, its clients and a nemesis; then healing, full reads, all disks compared, and the judges."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc

from raftlog import Client
from raftlog.core.clock import SystemClock
from raftlog.errors import RaftlogError
from tests.chaos import early, liveness, picture, replicas
from tests.chaos.client import Fetcher, ends_of
from tests.chaos.cluster import NAMESPACES, PRELOAD, PROGRAM, SMALL_DISK, ChaosCluster
from tests.chaos.cluster import remove as remove_directory
from tests.chaos.crowd import GROUPS, GroupPlan
from tests.chaos.liveness import Window
from tests.chaos.load import Load, LoadPlan
from tests.chaos.nemesis import Nemesis
from tests.chaos.observer import Observer, replicas_of
from tests.chaos.plan import KINDS, Episode, plan
from tests.chaos.recorder import EVENTS_FILE, Recorder, merge, read_history
from tests.chaos.scene import Scene
from tests.chaos.summary import Summary, summarize
from tests.chaos.timeline import Timeline, timeline
from tests.history.checkers import judge
from tests.history.group_checkers import judge_groups

TOPIC = "chaos"
PARTITIONS = 3
WARM_UP_S = 1.0
COOL_DOWN_S = 2.0
CAUGHT_UP_S = 20.0
"""For every replica to hold what is committed, once all faults are over."""
PICTURE_FILE = "timeline.png"
FINDINGS_FILE = "findings.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to run. ``rate`` is records a second of each idempotent producer."""

    seconds: float
    seed: int
    directory: Path
    nodes: int = 3
    only: Sequence[str] = tuple(KINDS)
    proxies: bool = False
    rate: float = 25.0
    episodes: tuple[Episode, ...] = ()
    """These, instead of a plan."""
    program: tuple[str, ...] = PROGRAM
    """What nodes run."""
    kafka: bool = True
    """Also clients of the Kafka door."""
    groups: Sequence[GroupPlan] = GROUPS


@dataclass(slots=True)
class Report:
    """What came of it; ``findings`` is empty where all is well."""

    findings: list[str]
    played: dict[str, int]
    left_out: list[str]
    mishaps: dict[str, dict[str, int]]
    """Group → what befell its members, how often."""
    summary: Summary
    made: Timeline = field(repr=False, default_factory=Timeline)


async def run(options: Options) -> Report:
    """Run to the end; everything is written below ``options.directory``."""
    await asyncio.to_thread(remove_directory, options.directory)
    options.directory.mkdir(parents=True)
    use = ({KINDS[kind].needs for kind in options.only} & {PRELOAD, SMALL_DISK}) | (set() if options.proxies else {NAMESPACES})
    with Recorder(options.directory, SystemClock()) as recorder:
        async with ChaosCluster(options.nodes, options.directory / "nodes", use, program=options.program) as cluster:
            episodes = list(options.episodes) or plan(options.seed, options.seconds, options.only, cluster.has)
            recorder.note("run", seed=options.seed, nodes=options.nodes, has=sorted(cluster.has), episodes=len(episodes))
            nemesis, load, sent = await _under_load(options, cluster, recorder, episodes)
            committed = await _read_everything(cluster, recorder, load.topics)
            for node_id in cluster.nodes:
                await cluster.stop(node_id)
            stored = {node_id: replicas.read_disk(node.data_dir) for node_id, node in cluster.nodes.items()}
            left_out = [kind for kind in options.only if KINDS[kind].needs and KINDS[kind].needs not in cluster.has]
            if NAMESPACES not in cluster.has and not options.proxies:
                left_out.append("network namespaces (they need root, ip and iptables; proxies cut the links)")
    await asyncio.to_thread(merge, options.directory)
    findings = [*recorder.findings, *replicas.differences(stored, committed)]
    report = await asyncio.to_thread(_judge, options, findings, sent)
    report.played, report.left_out, report.mishaps = nemesis.played, left_out, load.mishaps
    if not report.findings:
        await asyncio.to_thread(remove_directory, options.directory / "nodes")
    return report


async def _under_load(
    options: Options, cluster: ChaosCluster, recorder: Recorder, episodes: list[Episode]
) -> tuple[Nemesis, Load, Window]:
    """Clients and nemesis until the plan is done; and when producers sent."""
    observer = Observer(cluster, recorder, TOPIC)
    nemesis = Nemesis(Scene(cluster, observer, recorder, PARTITIONS), TOPIC)
    plan = LoadPlan(
        topic=TOPIC, partitions=PARTITIONS, seed=options.seed, rate=options.rate, kafka=options.kafka, groups=options.groups,
        directory=options.directory,
    )  # fmt: skip
    async with Load(plan, cluster, recorder, observer) as load:
        await asyncio.sleep(WARM_UP_S)
        begin_s = recorder.now_us() / 1e6
        await nemesis.run(episodes)
        await asyncio.sleep(COOL_DOWN_S)
        end_s = recorder.now_us() / 1e6
        await load.stop_sending()
        await load.settle_groups()
        await asyncio.sleep(COOL_DOWN_S)
    return nemesis, load, Window(begin_s, end_s)


async def _read_everything(cluster: ChaosCluster, recorder: Recorder, topics: list[tuple[str, int]]) -> dict[int, int]:
    """Full reads through every node, compared; then group → commit index, once every replica has it."""
    async with Client(cluster.brokers) as client:
        for topic, partitions in topics:
            ends = await ends_of(client, topic, partitions)
            read = {}
            for node_id, node in cluster.nodes.items():
                fetcher = Fetcher(f"final-{node_id}", recorder, Random(0), topic, partitions)
                read[node_id] = await fetcher.read_all(node.grpc, ends)
            for difference in replicas.disagreements(read):
                recorder.found(f"{topic}: {difference}")
    return await _committed(cluster, recorder)


async def _committed(cluster: ChaosCluster, recorder: Recorder) -> dict[int, int]:
    channels = {node.node_id: grpc.aio.insecure_channel(node.grpc) for node in cluster.nodes.values()}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CAUGHT_UP_S
    try:
        while True:
            answers = [await replicas_of(channel) for channel in channels.values()]
            commits: dict[int, list[int]] = {}
            damaged = []
            for answer in answers:
                for replica in [] if isinstance(answer, RaftlogError) else answer.replicas:
                    commits.setdefault(replica.group_id, []).append(replica.commit_index)
                    damaged += [f"{replica.topic}-{replica.partition}"] if replica.damaged else []
            behind = [group for group, found in commits.items() if len(set(found)) > 1]
            if not behind and not any(isinstance(answer, RaftlogError) for answer in answers):
                break
            if loop.time() >= deadline:
                recorder.found(f"not all replicas caught up within {CAUGHT_UP_S:g} s: groups {behind}, answers {answers}")
                break
            await asyncio.sleep(0.2)
    finally:
        for channel in channels.values():
            await channel.close()
    if damaged:
        recorder.found(f"replicas are damaged though nobody damaged them: {damaged}")
    return {group: max(found) for group, found in commits.items()}


def _judge(options: Options, findings: list[str], sent: Window) -> Report:
    """Read the files back, ask every judge, draw the picture."""
    history = list(read_history(options.directory))
    events = [json.loads(line) for line in (options.directory / EVENTS_FILE).read_text().splitlines()]
    made = timeline(TOPIC, history, events)
    excused = [Window(band.begin_s, band.healed_s) for band in made.bands if not band.spares_majority]
    acknowledged_s = {at: made.acknowledged_s.get(at, []) for at in range(PARTITIONS)}
    asleep = [Window(begin_s, end_s) for begin_s, end_s in made.asleep]
    findings = [*findings, *map(str, judge(history)), *map(str, judge_groups(history))]
    findings += liveness.stalls(acknowledged_s, sent, excused, asleep)
    findings += early.early(history, early.slow_syncs(events, options.nodes))
    (options.directory / FINDINGS_FILE).write_text("".join(f"{finding}\n" for finding in findings))
    title = f"raftlog under chaos: {options.nodes} nodes, seed {options.seed}, {len(made.bands)} faults, {len(findings)} findings"
    picture.draw(made, options.directory / PICTURE_FILE, nodes=options.nodes, title=title)
    return Report(findings=findings, played={}, left_out=[], mishaps={}, summary=summarize(history), made=made)
