"""The voters of a configuration, as one of its members counts them."""

from __future__ import annotations

from raftlog.core.configuration import Configuration


class Electorate:
    """Fixed: another configuration is another electorate.

    Attributes:
        others: the other voters.
        votes: whether this member is a voter itself.
    """

    __slots__ = ("_size", "others", "votes")

    def __init__(self, me: int, configuration: Configuration) -> None:
        self.others = tuple(voter for voter in configuration.voters if voter != me)
        self.votes = me in configuration.voters
        self._size = len(configuration.voters)

    def majority(self, count: int) -> bool:
        """Whether ``count`` voters are a majority."""
        return count * 2 > self._size

    def elected_by(self, votes: set[int]) -> bool:
        """Whether a majority is among those who gave their vote. Who is no voter counts nowhere."""
        return self.majority(sum(voter in votes for voter in self.others) + self.votes)
