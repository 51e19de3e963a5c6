"""Deleting records up to an offset: the leader moves the log start by a TRIM, as retention does, and waits for it."""

from __future__ import annotations

import asyncio

from raftlog.broker.partition import Partition
from raftlog.broker.port import ALL_COMMITTED
from raftlog.broker.subscribe import CheckLeader, first_index
from raftlog.broker.trim import append_trim
from raftlog.core.clock import Clock
from raftlog.errors import IndeterminateError, OffsetOutOfRangeError, RequestTimedOutError
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb


async def delete_records(
    partition: Partition, offset: int, *, timeout_s: float, clock: Clock, check_leader: CheckLeader
) -> int:  # fmt: skip
    """See ``Broker.delete_records``. A TRIM that is under way is waited for: there is one at most (``retention``, rule 2)."""
    check_leader(partition)
    wanted = partition.high_watermark if offset == ALL_COMMITTED else offset
    if not 0 <= wanted <= partition.high_watermark:
        raise OffsetOutOfRangeError(
            f"{partition.name}: records up to {wanted} cannot be deleted; the log ends at {partition.high_watermark}",
            earliest=partition.log_start_offset,
            latest=partition.high_watermark,
        )
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    proposed = False
    while partition.log_start_offset < wanted:
        if proposed and not partition.log.ready:
            raise IndeterminateError(f"{partition.name}: leadership was lost before the deletion was known to be committed")
        check_leader(partition)
        if partition.trim_index <= partition.log.applied_index:
            partition.trim_index = _propose(partition, wanted, clock.wall_ms())
            proposed = True
        left_s = deadline_s - loop.time()
        if left_s <= 0:
            raise RequestTimedOutError(f"{partition.name}: the deletion was not committed in {timeout_s:g} s; it may be yet")
        await partition.wait_trimmed(left_s)
    return partition.log_start_offset


def _propose(partition: Partition, start: int, now_ms: int) -> int:
    log = partition.log
    needed = first_index(partition, lambda header: header.next_offset > start)
    keep_from = max(min(needed, log.min_match_index(), log.applied_index), 0)
    return append_trim(log, pb.Trim(log_start_offset=start, keep_from_index=keep_from), now_ms).header.index
