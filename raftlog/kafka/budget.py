"""The bytes that a node holds for all connections of its Kafka door: of requests that are not answered yet, and of answers that
are not taken.

Rules of requests:

1. Above ``max_bytes`` a connection stops reading, but for one at a time that has received a part of a request: they are
   finished one after another, so that many halves of requests can never hold all the room for good.
2. A connection learns of it when it has read, so the bound is exceeded by one read of each connection at most.
"""

from __future__ import annotations

from typing import Final, Protocol

REQUEST_BYTES_HELD_MAX: Final = 256 * 1024 * 1024
"""Bytes of requests that a node holds, over all connections. (queued.max.request.bytes)"""
ANSWER_BYTES_HELD_MAX: Final = 256 * 1024 * 1024
"""Bytes of answers that are made and not taken: what slow consumers, each with some megabytes, may hold together."""


class AnswerBudget:
    """The node's count of answers. A fetch may bring half of what is left, so all of them together never bring more; but for the
    one batch that each brings in any case."""

    __slots__ = ("held_bytes", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def allowance(self, bytes_wanted: int) -> int:
        """How many bytes a fetch may bring that would bring ``bytes_wanted``; 1 where nothing is left."""
        return max(min(bytes_wanted, (self.max_bytes - self.held_bytes) // 2), 1)

    def change(self, bytes_more: int) -> None:
        """Count bytes in, or out (negative)."""
        self.held_bytes += bytes_more


class Reading(Protocol):
    """A connection, as far as it is stopped and let go on."""

    @property
    def is_receiving(self) -> bool:
        """Whether it has a part of a request."""
        ...

    def regulate(self) -> None:
        """Look again whether to read."""
        ...


class ReceiveBudget:
    """The node's count."""

    __slots__ = ("_favoured", "_stopped", "held_bytes", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._favoured: Reading | None = None
        self._stopped: dict[Reading, None] = {}
        """Who stopped for want of room, the first that did so first."""

    def may_read(self, connection: Reading) -> bool:
        """Whether a connection may go on; where not, it is told by ``regulate`` when it may."""
        if self.held_bytes < self.max_bytes:
            self._stopped.pop(connection, None)
            return True
        if self._favoured is None and connection.is_receiving:
            self._favoured = connection
        if self._favoured is connection:
            self._stopped.pop(connection, None)
            return True
        self._stopped[connection] = None
        return False

    def change(self, bytes_more: int) -> None:
        """Count bytes in, or out (negative)."""
        self.held_bytes += bytes_more
        if bytes_more < 0 and self._stopped and self.held_bytes < self.max_bytes:
            stopped, self._stopped = self._stopped, {}
            self._favoured = None
            for connection in stopped:
                connection.regulate()

    def finished(self, connection: Reading) -> None:
        """A connection has received a request whole, or is gone: the next one's turn."""
        self._stopped.pop(connection, None)
        if self._favoured is connection:
            self._favoured = None
            following = next((one for one in self._stopped if one.is_receiving), None)
            if following is not None:
                following.regulate()
