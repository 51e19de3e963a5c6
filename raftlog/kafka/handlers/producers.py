"""InitProducerId: identities of idempotent producers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raftlog.kafka.handlers.call import Call, Request
from raftlog.kafka.wire import errors


async def init_producer_id(call: Call, request: Request) -> Mapping[str, Any]:
    """A fresh id, also for a producer that has one and lost its way (KIP-360): a new id begins at sequence 0 as well."""
    if request.transactional_id is not None:
        # There are no transactions. On this code every client gives up at once; others make it try again until its time is up.
        call.door.metrics.error(errors.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
        return {"error_code": errors.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "producer_epoch": -1}
    try:
        producer_id, epoch = await call.broker.init_producer()
    except Exception as error:
        return {"error_code": call.failed(error, errors.PRODUCER), "producer_epoch": -1}
    return {"producer_id": producer_id, "producer_epoch": epoch}
