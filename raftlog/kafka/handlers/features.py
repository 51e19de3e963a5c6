"""UpdateFeatures: raising the cluster's feature level by Kafka's own tools.

Source: KIP-584. There is one feature, ``raftlog.version``; its level is never lowered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from raftlog.core.features import FEATURE_NAME
from raftlog.errors import FeatureLevelError
from raftlog.kafka.handlers.call import Call, Request
from raftlog.kafka.wire.errors import FEATURES

RESULTS_UNTIL: Final = 1
"""The last version whose answer has a result for each feature; a newer one has one error for all."""
DONE: Final[Mapping[str, Any]] = {"error_code": 0, "error_message": None}


async def update_features(call: Call, request: Request) -> Mapping[str, Any]:
    """Raise the level, or, to validate only, say what would come of it."""
    results = [await _update(call, request, update) for update in request.feature_updates]
    if call.version <= RESULTS_UNTIL:
        return {"results": results}
    failed = next((one for one in results if one["error_code"]), DONE)
    return {name: failed[name] for name in DONE}


async def _update(call: Call, request: Request, update: Any) -> dict[str, Any]:
    try:
        await _raise(call, update.feature, update.max_version_level, validate_only=request.validate_only)
    except Exception as error:
        code, words = call.told(error, FEATURES)
        return {"feature": update.feature, "error_code": code, "error_message": words}
    return {"feature": update.feature, **DONE}


async def _raise(call: Call, feature: str, level: int, *, validate_only: bool) -> None:
    if feature != FEATURE_NAME:
        raise FeatureLevelError(f"there is no feature {feature!r}; there is {FEATURE_NAME}")
    now = call.broker.cluster().level
    if level < now:
        raise FeatureLevelError(f"{FEATURE_NAME} is at level {now}, and is never lowered")
    report = await call.broker.raise_level(level, dry_run=validate_only)
    if report.held_back:
        raise FeatureLevelError(f"the cluster stays at feature level {report.level}, not {level}: {report.held_back}")
