"""A simulated machine, and the node process on it: put together as ``raftlog.node.node`` does, but for the doors.

A client's request reaches a node as through a door: it takes time, it may be lost, and when the process dies, whoever waits for
an answer learns only that the connection broke.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, cast

from raftlog.broker.broker import NodeBroker
from raftlog.consensus.group import Group
from raftlog.errors import DataDirectoryError, IndeterminateError, RaftlogError, RequestTimedOutError, UnavailableError
from raftlog.model import NodeInfo
from raftlog.node.core import NodeCore
from tests.simulation.disk import Disk, SimulatedDirectory, SimulatedStore
from tests.simulation.loop import Process, VirtualLoop

if TYPE_CHECKING:
    from tests.simulation.world import World

PEER_PORT = 7_000
REBASE_S = 1_767_225_600
"""The simulated day begins in 2026."""
DOOR_DELAY_S = (0.0001, 0.002)

T = TypeVar("T")
Ask = Callable[[NodeBroker], Awaitable[T]]


class NodeClock:
    """``raftlog.core.clock.Clock`` of one machine: ``skew_s`` moves its wall clock, its monotonic one is the loop's."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.skew_s = 0.0
        self.monotonic_s: Callable[[], float] = loop.time
        """See ``Clock``; asked some ten times a turn."""

    def wall_ms(self) -> int:
        """See ``Clock``."""
        return int((REBASE_S + self._loop.now_s + self.skew_s) * 1_000)


class Machine:
    """A machine with a disk, a clock, and at times a process."""

    def __init__(self, world: World, node_id: int, *, founder: bool = True) -> None:
        self.world, self.id, self.founder = world, node_id, founder
        self.name = f"n{node_id}"
        self.rng = Random(world.rng.random())
        self.clock = NodeClock(world.loop)
        self.disk = Disk(world.loop, Random(self.rng.random()))
        self.disk.joined = lambda again: world.covered("rejoins" if again else "joins")
        self.rate = 1.0
        self.run: NodeRun | None = None
        """The process that runs, None while there is none."""
        self.gone = False
        """It cannot come back by itself: its disk is refused, or damaged."""

    @property
    def address(self) -> str:
        """Where its peers find it."""
        return f"{self.name}:{PEER_PORT}"

    @property
    def groups(self) -> dict[int, Group]:
        """Its open groups."""
        return {} if self.run is None or self.run.core is None else self.run.core.turns.groups()

    def knows(self, group: int) -> bool:
        """Whether a topic has the group, by this node's metadata."""
        broker = None if self.run is None else getattr(self.run.core, "broker", None)
        topics = () if broker is None else broker._machine.state.topics.values()
        return any(partition.group_id == group for topic in topics for partition in topic.partitions)

    def begins_anew(self, group: int) -> bool:
        """Whether another replica of the group takes the place of the one before."""
        broker = None if self.run is None else getattr(self.run.core, "broker", None)
        return group in self.groups or (broker is not None and group in broker._replicas._waiting)

    def start(self) -> None:
        """Start a process, and the machine if need be."""
        assert self.run is None
        self.world.network.host(self.name).up = True
        self.run = NodeRun(self)

    def kill(self, *, power: bool = False) -> None:
        """End the process at once; with ``power`` its connections do not even say so."""
        if self.run is not None:
            self.run.die(power=power)

    async def ask(self, ask: Ask[T], *, timeout_s: float, hidden: bool = False) -> T:
        """Have the node's broker do something, as a client through a door would.

        Args:
            timeout_s: the client's own time limit.
            hidden: the client cannot reach this node, or hears no answer.

        Raises:
            UnavailableError: nobody answers there; nothing was done.
            IndeterminateError: the connection broke, or the time ran out.
            RaftlogError: what the broker raised.
        """
        rng = self.world.door_rng
        await asyncio.sleep(rng.uniform(*DOOR_DELAY_S))
        if self.run is None or self.run.broker is None:
            raise UnavailableError(f"node {self.id} refuses the connection")
        if hidden and rng.random() < 0.5:
            raise UnavailableError(f"node {self.id} cannot be reached")
        answer = self.run.serve(ask)
        try:
            async with asyncio.timeout(timeout_s):
                result = await answer.future
        except TimeoutError:
            answer.hang_up()
            raise RequestTimedOutError(f"node {self.id} has not answered in {timeout_s:g} s") from None
        await asyncio.sleep(rng.uniform(*DOOR_DELAY_S))
        if hidden:
            raise IndeterminateError(f"the answer of node {self.id} was lost")
        return cast(T, result)


class _Request:
    """One request at a node's door."""

    def __init__(self, run: NodeRun) -> None:
        self._run = run
        self.future: asyncio.Future[Any] = run.machine.world.loop.create_future()
        self.task: asyncio.Task[None] | None = None

    def hang_up(self) -> None:
        """The client has gone: the door cancels the call."""
        if self.task is not None:
            self._run.call(self.task.cancel)

    def settle(self, result: object, error: BaseException | None) -> None:
        """The node's answer."""
        self._run.requests.pop(self, None)
        if not self.future.done():
            if error is not None:
                self.future.set_exception(error)
                self.future.exception()  # looked at: nobody may wait any more
            else:
                self.future.set_result(result)


class NodeRun:
    """One process of a node, from its start to its end."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.process = Process(machine.name, rate=machine.rate)
        self.requests: dict[_Request, None] = {}
        self.core: NodeCore | None = None
        self.broker: NodeBroker | None = None
        """There once the doors are open."""
        self.failure: BaseException | None = None
        self._stop = asyncio.Event()
        self._rng = Random(machine.rng.random())
        machine.disk.crash = self.die
        self.call(self._begin)

    def call(self, method: Callable[[], object]) -> None:
        """Have the process do something."""
        self.machine.world.loop.call_soon(method, context=self.process.context)

    def _begin(self) -> None:
        self._main = self.machine.world.loop.create_task(self._run())
        self._main.add_done_callback(self._over)

    def _over(self, main: asyncio.Task[None]) -> None:
        """What a node does not catch itself ends a real process with a traceback."""
        error = None if main.cancelled() else main.exception()
        if error is not None:
            self.machine.world.violated(f"node {self.machine.id} is broken: {error!r}")

    async def _run(self) -> None:
        """Start, serve until asked to stop, stop: the order of ``raftlog.node.node``."""
        machine, world = self.machine, self.machine.world
        voters = {other.id: other.address for other in world.machines.values() if other.founder and machine.founder}
        join = [] if machine.founder else [other.address for other in world.machines.values() if other is not machine]
        nonce = self._rng.randbytes(8).hex()
        try:
            directory = SimulatedDirectory(
                machine.disk, self.process, node_id=machine.id, boot_nonce=nonce, voters=voters, may_join=world.mode == "returns"
            )
        except DataDirectoryError as error:
            self.fail(error)
            self._gone(power=False)
            return
        store = machine.disk.open_store(self.process, self.fail, lambda batch: world.on_commit(machine, batch))
        core = NodeCore(
            directory=directory, store=store, peer_listen=machine.address, clock=machine.clock, rng=self._rng,
            consensus=world.consensus_config, broker=world.broker_config, fail=self.fail, told=voters,
            join=join, supported=world.supported,
        )  # fmt: skip
        world.watch(machine, core.turns)
        self.core = core
        try:
            await core.listen()
            await self._unless_stopped(self._become_member(core))
            if not self._stop.is_set():
                self.broker = core.broker
            await self._stop.wait()
            if self.failure is None:
                await core.hand_over()
        except RaftlogError as error:
            self.fail(error)
        self.broker = None
        await core.stop()
        self._end(store)

    async def _become_member(self, core: NodeCore) -> None:
        info = NodeInfo(node_id=self.machine.id, peer_address=self.machine.address, grpc_address="")
        try:
            await core.become_member(info)
            await core.serve(info)
        except RaftlogError as error:
            self.fail(error)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work), group.create_task(self._stop.wait())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

    def _end(self, store: SimulatedStore) -> None:
        store.close()
        self._gone(power=False)
        self.machine.world.on_exit(self.machine, self.failure)

    def stop_soon(self) -> None:
        """SIGTERM."""
        self.call(self._stop.set)

    def fail(self, error: BaseException) -> None:
        """See ``Node.fail``."""
        if self.failure is None:
            self.failure = error
            self.machine.world.on_failure(self.machine, error)
        self._stop.set()

    def serve(self, ask: Ask[T]) -> _Request:
        """A request has come."""
        request = _Request(self)
        self.requests[request] = None
        self.call(lambda: self._accept(request, ask))
        return request

    def _accept(self, request: _Request, ask: Ask[T]) -> None:
        request.task = self.machine.world.loop.create_task(self._serve(request, ask))

    async def _serve(self, request: _Request, ask: Ask[T]) -> None:
        broker = self.broker
        try:
            if broker is None:
                raise UnavailableError(f"node {self.machine.id} is closing its doors")
            request.settle(await ask(broker), None)
        except RaftlogError as error:
            request.settle(None, error)
        except asyncio.CancelledError:
            request.settle(None, IndeterminateError("hung up"))
            raise

    def die(self, *, power: bool = False) -> None:
        """The process is gone, in the middle of whatever it does."""
        if self.process.dead:
            return
        self.machine.disk.contents.store.die()
        self._gone(power=power)

    def _gone(self, *, power: bool) -> None:
        world = self.machine.world
        self.process.dead = True
        self.machine.run = None
        world.bury(self.process)
        world.network.died(self.process, power=power)
        if power:
            world.network.host(self.machine.name).up = False
        for request in list(self.requests):
            delay_s = world.door_rng.uniform(*DOOR_DELAY_S) + (1.0 if power else 0.0)
            world.loop.schedule(
                world.loop.now_s + delay_s, request.settle, None, IndeterminateError(f"node {self.machine.id} hung up")
            )
