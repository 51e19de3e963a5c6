"""The transport that PySyncObj is given: it always succeeds, and hands messages to the member."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftlog.consensus.door import Node, Transport


class Outlet(Transport):  # type: ignore[misc]  # PySyncObj is untyped
    """``deliver`` takes a recipient and PySyncObj's message for it."""

    ready = True

    def __init__(self, deliver: Callable[[int, dict[str, Any]], None]) -> None:
        super().__init__(None, None, None)
        self._deliver = deliver

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        """See ``Transport``."""
        self._deliver(node.id, message)
        return True

    def destroy(self) -> None:
        """There is nothing to end."""

    def addNode(self, node: Node) -> None:  # noqa: N802
        """Members are ``Member``'s business."""

    def dropNode(self, node: Node) -> None:  # noqa: N802
        """Members are ``Member``'s business."""
