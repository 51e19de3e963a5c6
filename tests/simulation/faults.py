"""What goes wrong, at random: each fault is a method that begins it and, where it passes, sets the time of its end.

What cannot be mended (a lost, an old, a damaged disk) befalls a minority at most, and one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.disk import CRASH_POINTS, Contents

if TYPE_CHECKING:
    from tests.simulation.node import Machine
    from tests.simulation.world import World


class Faults:
    """See the module. ``once`` begins one fault. ``lost_disks``: whether such faults are among them."""

    def __init__(self, world: World, *, lost_disks: bool = True) -> None:
        self.world = world
        self.rng = Random(world.rng.random())
        self.begun = 0
        self._backups: list[tuple[int, Contents]] = []
        self._kinds: dict[Callable[[], str | None], int] = {
            self._kill: 6, self._kill_leader: 6, self._crash_point: 4, self._power: 2, self._all: 1, self._stop: 3,
            self._pause: 3, self._reset: 3, self._half_open: 2, self._stall: 3, self._partition: 4, self._one_way: 3,
            self._bridge: 1, self._slow_link: 2, self._slow_disk: 3, self._sync_fails: 2, self._full: 2, self._low: 2,
            self._clock_jump: 2, self._transfer: 4, self._deaf: 3, self._backup: 3, self._old_disk: 4, self._wiped_disk: 1,
            self._damage: 1,
        }  # fmt: skip
        for kind in () if lost_disks else (self._backup, self._old_disk, self._wiped_disk, self._damage):
            del self._kinds[kind]

    def once(self) -> None:
        """Begin one fault that is possible now."""
        kinds, weights = list(self._kinds), list(self._kinds.values())
        for _ in range(8):
            kind = self.rng.choices(kinds, weights)[0]
            text = kind()
            if text is not None:
                self.begun += 1
                self.world.covered(kind.__name__.strip("_").replace("_", " "))
                self.world.note(f"fault: {text}")
                return

    # ---- processes

    def _running(self) -> list[Machine]:
        return [machine for machine in self.world.machines.values() if machine.run is not None]

    def _any(self) -> Machine | None:
        running = self._running()
        return self.rng.choice(running) if running else None

    def _down(self, machine: Machine, *, power: bool = False) -> None:
        machine.kill(power=power)
        self.world.later(self.rng.choice((0.05, 0.3, 1.0, 3.0)) * self.rng.uniform(0.5, 1.5), self.world.start, machine)

    def _kill(self) -> str | None:
        machine = self._any()
        if machine is None:
            return None
        self._down(machine)
        return f"node {machine.id} is killed"

    def _kill_leader(self) -> str | None:
        leader = self.world.leader_of(self.rng.choice((0, 1, 2)))
        if leader is None:
            return None
        self._down(leader)
        return f"leader {leader.id} is killed"

    def _crash_point(self) -> str | None:
        machine = self._any()
        if machine is None:
            return None
        point = self.rng.choice(CRASH_POINTS)
        machine.disk.crash_at = point
        self.world.later(2.0, self.world.start, machine)
        return f"node {machine.id} is to die {point.replace('_', ' ')}"

    def _power(self) -> str | None:
        machine = self._any()
        if machine is None:
            return None
        self._down(machine, power=True)
        return f"node {machine.id} loses power"

    def _all(self) -> str | None:
        for machine in self._running():
            self._down(machine, power=True)
        return "all nodes lose power"

    def _stop(self) -> str | None:
        machine = self._any()
        if machine is None or machine.run is None:
            return None
        machine.run.stop_soon()
        self.world.later(self.rng.uniform(3.5, 5.0), self.world.start, machine)
        return f"node {machine.id} is asked to stop"

    def _pause(self) -> str | None:
        machine = self._any()
        if machine is None or machine.run is None:
            return None
        process = machine.run.process
        process.paused = True
        seconds = self.rng.choice((0.2, 1.0, 4.0))
        self.world.later(seconds, self.world.loop.resume, process)
        return f"node {machine.id} is paused for {seconds} s"

    # ---- links

    def _pair(self) -> tuple[str, str] | None:
        if len(self.world.machines) < 2:
            return None
        one, other = self.rng.sample(list(self.world.machines.values()), 2)
        return one.name, other.name

    def _reset(self) -> str | None:
        pair = self._pair()
        return f"{pair[0]} and {pair[1]} are disconnected" if pair and self.world.network.reset(*pair) else None

    def _half_open(self) -> str | None:
        pair = self._pair()
        return f"{pair[0]} and {pair[1]} are half open" if pair and self.world.network.half_open(*pair) else None

    def _stall(self) -> str | None:
        pair = self._pair()
        if pair is None:
            return None
        seconds = self.rng.choice((0.1, 0.7, 2.0))
        self.world.network.stall(*pair, seconds)
        return f"{pair[0]} to {pair[1]} stalls for {seconds} s"

    def _block(self, ways: list[tuple[str, str]]) -> float:
        seconds = self.rng.choice((0.3, 1.0, 2.5, 6.0))
        for way in ways:
            self.world.network.block(*way)
            self.world.later(seconds, self.world.network.open, *way)
        return seconds

    def _partition(self) -> str | None:
        names = [machine.name for machine in self.world.machines.values()]
        if len(names) < 3:
            return None
        apart = self.rng.sample(names, self.rng.randint(1, len(names) // 2))
        rest = [name for name in names if name not in apart]
        seconds = self._block([way for one in apart for other in rest for way in ((one, other), (other, one))])
        return f"{', '.join(apart)} cut off for {seconds} s"

    def _one_way(self) -> str | None:
        pair = self._pair()
        return f"{pair[0]} to {pair[1]} is blocked for {self._block([pair])} s" if pair else None

    def _bridge(self) -> str | None:
        names = [machine.name for machine in self.world.machines.values()]
        if len(names) < 3:
            return None
        self.rng.shuffle(names)
        left, right = names[1 : 1 + len(names) // 2], names[1 + len(names) // 2 :]
        seconds = self._block([way for one in left for other in right for way in ((one, other), (other, one))])
        return f"only {names[0]} reaches both sides for {seconds} s"

    def _slow_link(self) -> str | None:
        pair = self._pair()
        if pair is None:
            return None
        way = self.world.network.way(*pair)
        way.delay_max_s, way.bandwidth = self.rng.choice((0.05, 0.4)), 100_000.0
        self.world.later(self.rng.uniform(0.5, 4.0), self.world.network.open, *pair)
        return f"{pair[0]} to {pair[1]} is slow"

    def _deaf(self) -> str | None:
        client, machine = self.rng.choice(self.world.clients).name, self.rng.choice(list(self.world.machines.values()))
        self.world.deaf.add((client, machine.id))
        self.world.later(self.rng.uniform(0.3, 2.0), self.world.deaf.discard, (client, machine.id))
        return f"{client} does not hear node {machine.id}"

    # ---- disks and clocks

    def _slow_disk(self) -> str | None:
        machine = self.rng.choice(list(self.world.machines.values()))
        machine.disk.latency_s = self.rng.choice(((0.01, 0.1), (0.1, 0.9)))
        self.world.later(self.rng.uniform(0.5, 4.0), setattr, machine.disk, "latency_s", (0.0005, 0.004))
        return f"the disk of node {machine.id} is slow"

    def _sync_fails(self) -> str | None:
        machine = self._any()
        if machine is None:
            return None
        machine.disk.sync_fails = True
        return f"the next fsync of node {machine.id} fails"

    def _full(self) -> str | None:
        machine = self.rng.choice(list(self.world.machines.values()))
        machine.disk.set_full(full=True)
        self.world.later(self.rng.uniform(0.3, 3.0), lambda: machine.disk.set_full(full=False))
        return f"the disk of node {machine.id} is full"

    def _low(self) -> str | None:
        machine = self.rng.choice(list(self.world.machines.values()))
        machine.disk.low = True
        self.world.later(self.rng.uniform(0.3, 3.0), setattr, machine.disk, "low", False)
        return f"the disk of node {machine.id} is nearly full"

    def _clock_jump(self) -> str | None:
        machine = self.rng.choice(list(self.world.machines.values()))
        machine.clock.skew_s = self.rng.choice((-600.0, -3.0, 0.0, 1.0, 600.0))
        return f"the clock of node {machine.id} is off by {machine.clock.skew_s} s"

    # ---- leadership

    def _transfer(self) -> str | None:
        number = self.rng.choice((0, 1, 2))
        leader = self.world.leader_of(number)
        if leader is None or leader.run is None:
            return None
        group = leader.groups[number]
        leader.run.call(group.transfer)
        return f"node {leader.id} is asked to hand over group {number}"

    # ---- disks that lie: a minority only, and for good (nodes that come back are in ``returns``)

    def _may_lose(self, machine: Machine) -> bool:
        lost = sum(1 for other in self.world.machines.values() if other.gone)
        few = not machine.gone and (lost + 1) * 2 < len(self.world.machines)
        return few and self.world.sealed() and self.world.mover.may_lose(machine)

    def _backup(self) -> str | None:
        machine = self.rng.choice(list(self.world.machines.values()))
        if machine.gone or machine.disk.contents.identity is None:
            return None
        self._backups.append((machine.id, machine.disk.contents.copy()))
        return f"a copy of the disk of node {machine.id} is kept"

    def _old_disk(self) -> str | None:
        kept = [(node_id, contents) for node_id, contents in self._backups if self._may_lose(self.world.machines[node_id])]
        if not kept:
            return None
        node_id, contents = self.rng.choice(kept)
        machine = self.world.machines[node_id]
        if not self.known_to_be_old(node_id, contents):
            return None
        machine.kill()
        machine.gone = True
        machine.disk.swap(contents.copy())
        self.world.later(0.2, self.world.start, machine)
        return f"node {node_id} comes back on an old copy of its disk"

    def known_to_be_old(self, node_id: int, contents: Contents) -> bool:
        """Whether all peers have seen a later start. One that has not, and is alone with the old disk, takes it for good:
        boot numbers cannot tell it otherwise."""
        old = contents.identity
        others = [other for other in self.world.machines.values() if other.id != node_id and not other.gone]
        known = [other.disk.contents.identity for other in others]
        return old is not None and all(
            identity is not None and identity.peers_seen.get(node_id, (0, 0, ""))[:2] > (old.incarnation, old.boot_number)
            for identity in known
        )

    def _wiped_disk(self) -> str | None:
        machine = self._any()
        if machine is None or not self._may_lose(machine):
            return None
        machine.kill()
        machine.gone = True
        machine.disk.wipe()
        return f"the disk of node {machine.id} is lost, and it does not come back"

    def _damage(self) -> str | None:
        machine = self._any()
        if machine is None or not self._may_lose(machine):
            return None
        group = self.rng.choice(machine.disk.contents.store.groups() or [0])
        bounds = machine.disk.contents.store.bounds(group)
        if bounds is None or group == 0:
            return None
        machine.gone = True
        self.world.damage_done = True
        index = self.rng.randint(*bounds)
        machine.disk.damage(group, index, self.rng.choice((-1, 5, 40)))
        return f"a bit of entry {index} of group {group} of node {machine.id} flips"
