"""Publishing under any sequence of commits, crashes and changes of leader, against a second replica that may win."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.broker.pending import PublishCall
from raftlog.broker.port import Published
from raftlog.core.entry import Entry, EntryKind
from raftlog.errors import NotLeaderError
from raftlog.model import Acks
from raftlog.records.batch import split
from tests.broker.doubles import Leader, records

_STEPS = (
    "publish", "publish", "publish several", "again", "persist", "commit one", "lead",
    "depose", "replace", "return", "overthrow", "give up", "restart",
)  # fmt: skip


class _World:
    """One leader, what it was sent, and entries that were truncated here but live on elsewhere."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.leader = Leader(budget_bytes=1 << 30, lost_wait_s=3_600)
        self.sent: list[tuple[bytes, Acks, PublishCall, int]] = []
        """Each batch with its call, and its slot there."""
        self.sequence = 0
        self.elsewhere: list[Entry] = []
        self.mark = 0

    def run(self, step: str) -> None:
        """Take one step, where it is possible now, and look at what must hold after each."""
        getattr(self, "_" + step.replace(" ", "_"))()
        mark = self.leader.partition.high_watermark
        assert self.mark <= mark <= self.leader.partition.log_end_offset
        self.mark = mark

    def _send(self, *batches: bytes, acks: Acks) -> None:
        if self.leader.log.ready:
            call = self.leader.publish(*batches, acks=acks)
            self.sent += [(data, acks, call, position) for position, data in enumerate(batches)]

    def _publish(self) -> None:
        if self.rng.random() < 0.5:
            self._send(records(1, size=20 + len(self.sent)), acks=self.rng.choice((Acks.ALL, Acks.LEADER)))
        else:
            self._send(records(1, size=20 + len(self.sent), producer=5, sequence=self.sequence), acks=Acks.ALL)
            self.sequence += 1

    def _publish_several(self) -> None:
        """Batches of two kinds in one call: those side by side that may share an entry do."""
        batches = []
        for number in range(self.rng.randint(2, 5)):
            size = 20 + len(self.sent) + number
            if self.rng.random() < 0.3:
                batches.append(records(1, size=size))
            else:
                batches.append(records(1, size=size, producer=5, sequence=self.sequence))
                self.sequence += 1
        self._send(*batches, acks=Acks.ALL)

    def _again(self) -> None:
        """An idempotent producer sends one of its batches again."""
        batches = [data for data, *_ in self.sent if b"\0\0\0\0\0\0\0\5" in data[43:51]]
        if batches:
            self._send(self.rng.choice(batches[-5:]), acks=Acks.ALL)

    def _persist(self) -> None:
        self.leader.log.persist()

    def _commit(self) -> None:
        self.leader.log.commit()

    def _commit_one(self) -> None:
        log = self.leader.log
        log.commit(min(log.commit_index + 1, log.last_index))

    def _depose(self) -> None:
        self.leader.log.follow(self.leader.log.term + 1)

    def _replace(self) -> None:
        """Another leader's entry takes the place of an uncommitted one."""
        log = self.leader.log
        if not log.ready and log.last_index > log.commit_index:
            cut = self.rng.randint(log.commit_index + 1, log.last_index)
            self.elsewhere = [log.kept[index] for index in range(cut, log.last_index + 1)]
            log.truncate(cut)
            if self.rng.random() < 0.5:
                log.receive_noop(log.term)

    def _return(self) -> None:
        """A third node wins with the entries that were truncated here, and brings them back."""
        log = self.leader.log
        if not log.ready and self.elsewhere and self.elsewhere[0].header.index > log.commit_index:
            if self.elsewhere[0].header.index <= log.last_index:
                log.truncate(self.elsewhere[0].header.index)
            if self.elsewhere[0].header.index == log.last_index + 1:
                for entry in self.elsewhere:
                    log.receive(entry)
        self.elsewhere = []

    def _overthrow(self) -> None:
        self._depose()
        self._replace()
        if self.rng.random() < 0.5:
            self._return()

    def _lead(self) -> None:
        if not self.leader.log.ready:
            self.leader.log.lead(self.leader.log.term + 1)

    def _give_up(self) -> None:
        if not self.leader.log.ready:
            self.leader.partition.outstanding.lost(self.leader.log.term)

    def _restart(self) -> None:
        """The process dies: callers learn nothing, the disk stays."""
        self.leader.partition.close()
        again = self.leader.new_partition()
        log = self.leader.log.restarted(again)
        again.bind(log)
        self.leader.partition, self.leader.log = again, log
        log.follow(log.term + 1)
        self.mark = again.high_watermark

    def check_end(self) -> None:
        """Commit what is there, and compare every answer with the log."""
        self._lead()
        self._commit()
        entries = [entry for _, entry in sorted(self.leader.log.kept.items()) if entry.header.kind is EntryKind.RECORDS]
        batches = [found for entry in entries for found in split(entry.payload)]
        at_offset = {header.base_offset: bytes(data[16:]) for header, data in batches}
        stored = list(at_offset.values())
        sequences = [header.base_sequence for header, _ in batches if header.producer_id == 5]
        assert sequences == sorted(set(sequences)), "a producer's order is kept, and nothing is there twice (I4)"
        outcomes: dict[bytes, list[object]] = {}
        for data, acks, call, position in self.sent:
            outcome = call.outcomes[position]
            assert outcome is not None, "every call ends"
            outcomes.setdefault(data[16:], []).append(outcome)
            if isinstance(outcome, Published) and acks is Acks.ALL:
                assert at_offset[outcome.base_offset] == data[16:], "what was acknowledged is there (I1)"
        for body, answers in outcomes.items():
            if all(isinstance(answer, NotLeaderError) for answer in answers):
                assert body not in stored, "a definite failure is never read"
            assert stored.count(body) <= 1
        assert self.leader.budget.used_bytes == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(_STEPS), min_size=20, max_size=80), st.integers(0, 1 << 16))
def test_every_answer_agrees_with_the_log(steps: list[str], seed: int) -> None:
    """Acknowledged batches are in the log at their offset, refused ones are not, and every call is answered (I1, I4, I6)."""

    async def run() -> None:
        world = _World(random.Random(seed))
        for step in steps:
            world.run(step)
        world.check_end()

    asyncio.run(run())
