"""The list of features: a name, what it says, and the scenario that shows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.interop.lab import Lab

Scenario = Callable[[Lab], Awaitable[None]]
TIMEOUT_S = 90.0
"""What one cell may take, with the start of a Java program and a rebalance or two in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """A row of the matrix. A scenario that ends shows the feature; AssertionError and Refused are failures."""

    name: str
    text: str
    run: Scenario
    timeout_s: float = TIMEOUT_S


FEATURES: list[Feature] = []


def feature(name: str, text: str, *, timeout_s: float = TIMEOUT_S) -> Callable[[Scenario], Scenario]:
    """Enter a scenario into the list."""

    def enter(run: Scenario) -> Scenario:
        FEATURES.append(Feature(name=name, text=text, run=run, timeout_s=timeout_s))
        return run

    return enter
