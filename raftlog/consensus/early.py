"""Entries that leave for the followers while this node's own commit is under way.

Theory of operation. A turn waits for the commit of the one before, and what is appended meanwhile waits with it. Under load that
is megabytes: the followers' disks would idle until this one is done, and then all at once have as much to write as it had. A
leader may send entries before it has them on its own disk (Raft dissertation, section 10.2.1), so once ``send_early_bytes`` have
gathered they leave at once. Less than that is not worth a frame of its own.

Rules:

1. Only appends of a leader that serves: its term is durable, for an entry of that term is committed.
2. Nothing is ticked, delivered or acknowledged here, and no timer moves: the next turn finds followers that have been sent more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from raftlog.consensus.group import Group
from raftlog.consensus.outgoing import Mail
from raftlog.peers.port import Peers


class Early:
    """See the module.

    Args:
        bytes_min: so much must have gathered since the last time.
        post: has a group's member send what its followers lack, and adds that to the mail.
    """

    def __init__(self, bytes_min: int, peers: Peers, post: Callable[[Group, Mail], None]) -> None:
        self._bytes_min, self._peers, self._post = bytes_min, peers, post
        self._at_bytes = 0
        self.sent = 0
        """How often entries have left early, since the start."""

    def commit_begins(self) -> None:
        """The batch that gathers from now on is empty."""
        self._at_bytes = 0

    def look(self, size_bytes: int, touched: Iterable[Group]) -> None:
        """A commit is under way, and the batch behind it has grown to ``size_bytes``."""
        if size_bytes - self._at_bytes < self._bytes_min:
            return
        self._at_bytes = size_bytes
        mail = Mail()
        for group in list(touched):
            if group.ready and not group.suspended:
                self._post(group, mail)
        self.sent += bool(mail)
        mail.flush(self._peers)
