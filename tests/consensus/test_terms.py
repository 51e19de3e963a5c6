"""The term of an entry that cannot be read, by its neighbours."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftlog.consensus.terms import term_by_neighbours
from raftlog.core.entry import EntryHeader, EntryKind
from raftlog.errors import DataLossError

KINDS = [EntryKind.RECORDS, EntryKind.COMMAND, EntryKind.TRIM, EntryKind.CONFIGURATION]


class Log:
    """Headers from index 1 on; those of ``damaged`` cannot be read."""

    def __init__(self, places: list[tuple[EntryKind, int]], *damaged: int) -> None:
        self.headers = [
            EntryHeader(kind=kind, group=1, index=index, term=term, base_offset=0) for index, (kind, term) in enumerate(places, 1)
        ]
        self.damaged = damaged

    def header(self, index: int) -> EntryHeader | None:
        """See the port."""
        if index in self.damaged:
            raise DataLossError(f"entry {index}")
        return self.headers[index - 1] if 0 < index <= len(self.headers) else None


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[EntryKind, int]]:
    """Kinds and terms as leaders make them, one of which may have been made so by force."""
    places, term, forced = [(EntryKind.NOOP, 0)], 0, False
    for _ in range(draw(st.integers(1, 6))):
        by_force = not forced and draw(st.booleans())
        forced = forced or by_force
        term += draw(st.integers(1, 3)) + 1_000 * by_force
        places.append((EntryKind.CONFIGURATION if by_force else EntryKind.NOOP, term))
        places += [(kind, term) for kind in draw(st.lists(st.sampled_from(KINDS), max_size=4))]
    return places


@given(logs(), st.data())
def test_what_the_neighbours_tell_is_the_term(places: list[tuple[EntryKind, int]], data: st.DataObject) -> None:
    """Or they tell nothing; whatever was elected, and by force, and where more than one is damaged."""
    index = data.draw(st.integers(1, len(places)))
    log = Log(places, index, *data.draw(st.lists(st.integers(1, len(places)), max_size=2)))
    assert term_by_neighbours(log, index) in (None, places[index - 1][1])


def test_an_entry_before_another_of_a_term_is_of_that_term() -> None:
    """Whether or not it begins the term itself."""
    places = [(EntryKind.NOOP, 1), (EntryKind.RECORDS, 1), (EntryKind.NOOP, 4), (EntryKind.RECORDS, 4)]
    assert [term_by_neighbours(Log(places, index), index) for index in (1, 3)] == [1, 4]


def test_an_entry_before_the_beginning_of_the_next_term_is_of_the_one_before() -> None:
    """There may have been a leader between, whose only entry this was, where a number is left for one."""
    for begins, told in ((2, 1), (3, None)):
        places = [(EntryKind.NOOP, 1), (EntryKind.RECORDS, 1), (EntryKind.NOOP, begins)]
        assert term_by_neighbours(Log(places, 2), 2) == told


def test_the_last_entry_has_no_neighbour_that_tells() -> None:
    """A later term may have begun with it."""
    assert term_by_neighbours(Log([(EntryKind.NOOP, 1), (EntryKind.RECORDS, 1)], 2), 2) is None
