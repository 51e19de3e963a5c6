"""Raising the cluster's feature level through the Kafka door."""

from __future__ import annotations

import pytest

from raftlog.errors import UnavailableError
from raftlog.kafka.wire.api import ApiKey
from tests.kafka.handlers.helpers import Handlers, versions

NAME = "raftlog.version"


def _update(level: int, feature: str = NAME) -> list[dict[str, object]]:
    return [{"feature": feature, "max_version_level": level}]


async def _ask(
    handlers: Handlers, version: int, updates: list[dict[str, object]], *, validate_only: bool = False
) -> tuple[int, str | None]:
    """The outcome of one update: of its own result, or of the whole answer where that has no results."""
    answer = await handlers.ask(ApiKey.UPDATE_FEATURES, version, feature_updates=updates, validate_only=validate_only)
    if version <= 1:
        assert answer.error_code.value == 0
        (answer,) = answer.results
        assert answer.feature == updates[0]["feature"]
    return answer.error_code.value, answer.error_message


@pytest.mark.parametrize("version", versions(ApiKey.UPDATE_FEATURES))
async def test_the_level_is_raised(version: int) -> None:
    """To the level that was asked for."""
    handlers = Handlers()
    assert await _ask(handlers, version, _update(2)) == (0, None)
    assert handlers.broker.calls == [("raise_level", {"level": 2, "dry_run": False, "without": []})]


@pytest.mark.parametrize("version", versions(ApiKey.UPDATE_FEATURES))
async def test_who_holds_the_cluster_back_is_named(version: int) -> None:
    """Also where the request is only to be validated, of which nothing comes otherwise."""
    handlers = Handlers()
    handlers.broker.level_problem = "it is down"
    code, words = await _ask(handlers, version, _update(2))
    assert (code, words) == (95, "node 2: it is down")
    if version >= 1:
        code, words = await _ask(handlers, version, _update(2), validate_only=True)
        assert (code, words) == (95, "the cluster stays at feature level 1, not 2: node 2: it is down")
        handlers.broker.level_problem = ""
        assert await _ask(handlers, version, _update(2), validate_only=True) == (0, None)
        assert handlers.broker.calls[-1] == ("raise_level", {"level": 2, "dry_run": True, "without": []})


@pytest.mark.parametrize(
    ("level", "feature", "words"),
    [(2, "metadata.version", "no feature 'metadata.version'"), (0, NAME, "never lowered"), (-1, NAME, "never lowered")],
)
async def test_other_features_and_lower_levels_are_refused(level: int, feature: str, words: str) -> None:
    """Nothing is asked of the cluster. 0 would be the newest level elsewhere; here it deletes the feature."""
    handlers = Handlers()
    code, told = await _ask(handlers, 1, _update(level, feature))
    assert code == 95
    assert told is not None
    assert words in told
    assert not handlers.broker.calls


async def test_a_cluster_without_a_controller_is_told_as_such() -> None:
    """It may be tried again: another code than that of a refusal."""
    handlers = Handlers()
    handlers.broker.failures["raise_level"].append(UnavailableError("the metadata group has no leader"))
    code, _ = await _ask(handlers, 2, _update(2))
    assert code not in (0, 95)
