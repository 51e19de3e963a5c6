"""A pytest plugin for kafka-python's own suite: its fixtures meet a cluster that runs, and what cannot pass is left out by name.

Loaded by ``-p`` in that suite's own environment, where raftlog is not installed: the standard library and pytest alone.
"""

from __future__ import annotations

import os
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

SESSION_TIMEOUT_MS = 6_000
"""The least that a member may ask for (group.min.session.timeout.ms)."""
EXCLUSIONS = Path(__file__).with_name("exclusions.toml")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave out what ``exclusions.toml`` names; a name that matches nothing is an error, for it excuses nothing."""
    _take_addresses()
    _ask_for_longer_sessions()
    excluded = excuses()
    met = set()
    kept, left = [], []
    for item in items:
        name = f"{Path(item.fspath).name}::{item.originalname}"
        if name in excluded:
            met.add(name)
            left.append(item)
        else:
            kept.append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept
    missing = set(excluded) - met
    if missing and not config.option.keyword:
        raise ValueError(f"{EXCLUSIONS.name} names what the suite does not have: {sorted(missing)}")


def excuses() -> dict[str, str]:
    """File::function → why it is left out."""
    return {
        f"{file}::{name}": why for file, names in tomllib.loads(EXCLUSIONS.read_text()).items() for name, why in names.items()
    }


def _take_addresses() -> None:
    """Clients ask the cluster which versions it has, as users' clients do, instead of taking those of a Kafka release."""
    from test.integration.fixtures import KafkaFixture  # type: ignore[import-not-found]  # the suite's, beside the plugin

    enrich = KafkaFixture._enrich_client_params
    replicas = int(os.environ["SUITE_REPLICAS"])

    def asked(self: Any, params: dict[str, Any], **defaults: Any) -> Any:
        return enrich(self, {name: value for name, value in params.items() if name != "api_version"}, **defaults)

    KafkaFixture._enrich_client_params = asked
    began = KafkaFixture.__init__

    def begin(self: Any, *args: Any, **options: Any) -> None:
        began(self, *args, **{**options, "replicas": replicas, "partitions": 4})

    KafkaFixture.__init__ = begin


def _ask_for_longer_sessions() -> None:
    """The suite's own broker is configured to allow sessions of 3 s; as Kafka by default, raftlog asks for twice as long."""
    from test.integration.conftest import ConsumerGroupRunner  # type: ignore[import-not-found]  # the suite's

    spawn = ConsumerGroupRunner.spawn

    def patient(self: Any, group_id: str, count: int = 1, client_id_prefix: str = "consumer", **options: Any) -> Any:
        if "session_timeout_ms" in options:
            options.update(session_timeout_ms=SESSION_TIMEOUT_MS, request_timeout_ms=SESSION_TIMEOUT_MS + 1_000)
        return spawn(self, group_id, count, client_id_prefix, **options)

    ConsumerGroupRunner.spawn = patient


class _Running:
    """A broker that somebody else started."""

    def __init__(self, *_: object) -> None:
        self.pid = None

    def wait_for(self, *_: object, **__: object) -> bool:
        """It is ready."""
        return True

    def stop(self) -> None:
        """It stays."""


# The sdist lacks the module that starts brokers; the suite asks of it no more than a name for one that runs already.
_service = types.ModuleType("test.service")
_service.ExternalService = _service.SpawnedService = _Running  # type: ignore[attr-defined]
sys.modules.setdefault(_service.__name__, _service)
