"""Feature levels, pure: what a version supports, what a cluster allows, what a directory may hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.config.sources import ENV_OF_OTHERS
from raftlog.core.features import (
    DESCRIPTIONS,
    FIRST_VERSION,
    LEVEL_MAX_VARIABLE,
    NEWEST,
    THIS_VERSION,
    Features,
    Level,
    Supported,
    check_allowed,
    check_form,
    check_mark,
    held_back,
    newest_common,
    supported_here,
)
from raftlog.errors import ConfigError, FeatureLevelError, NewerFormatError

RANGES = st.tuples(st.integers(1, 5), st.integers(0, 3)).map(lambda pair: Supported(pair[0], pair[0] + pair[1]))


def test_every_level_is_numbered_in_order_and_described() -> None:
    """Levels are added at the end, each with a word for operators."""
    assert [int(level) for level in Level] == list(range(1, NEWEST + 1))
    assert set(DESCRIPTIONS) == set(Level)
    assert THIS_VERSION.has(NEWEST)
    assert Supported(0, 0) != FIRST_VERSION


@given(st.lists(st.integers(1, 9).map(lambda high: Supported(1, high)), min_size=1))
def test_a_cluster_begins_at_the_newest_level_that_all_support(nodes: list[Supported]) -> None:
    """No node is left behind, and no newer level would do."""
    level = newest_common(nodes)
    assert all(node.has(level) for node in nodes)
    assert not all(node.has(level + 1) for node in nodes)


@given(st.integers(1, 8), st.dictionaries(st.integers(1, 9), RANGES, max_size=5))
def test_who_holds_a_cluster_back_is_named(level: int, nodes: dict[int, Supported]) -> None:
    """Every node that does not support the level, and no other."""
    text = held_back(level, nodes)
    for node_id, supported in nodes.items():
        assert (f"node {node_id} supports {supported}" in text) == (not supported.has(level))


def test_the_level_only_rises() -> None:
    """As far as group 0 has been applied; above what this version supports it must not go on."""
    features = Features(Supported(1, 2))
    assert features.level == 1
    features.raised(2)
    features.raised(1)
    assert features.level == 2
    with pytest.raises(NewerFormatError, match="at feature level 3, and this version supports levels 1 to 2"):
        features.raised(3)


def test_what_needs_a_level_says_how_to_raise_it() -> None:
    """Nothing of it is done before."""
    check_allowed(2, 2, "joining")
    with pytest.raises(
        FeatureLevelError, match=r"joining needs feature level 2, and the cluster is at 1; .* raftlog cluster upgrade"
    ):
        check_allowed(1, 2, "joining")


@given(st.integers(1, 9), RANGES)
def test_a_directory_is_used_by_versions_that_know_its_mark(mark: int, supported: Supported) -> None:
    """A higher mark is a newer version's, a lower one that of a cluster which has to be raised first."""
    if supported.has(mark):
        check_mark(mark, supported)
    else:
        with pytest.raises(NewerFormatError if mark > supported.high else FeatureLevelError, match=f"level {mark}"):
            check_mark(mark, supported)


def test_a_form_without_a_level_is_of_the_first() -> None:
    """Those of the first version say nothing."""
    check_form(0, "a row")
    check_form(NEWEST, "a row")
    with pytest.raises(NewerFormatError, match=f"a row has a form of feature level {NEWEST + 1}"):
        check_form(NEWEST + 1, "a row")


def test_a_test_may_cap_what_a_node_supports() -> None:
    """By a variable that is no setting of a node; nonsense is refused, for it would test something else."""
    assert LEVEL_MAX_VARIABLE in ENV_OF_OTHERS
    assert supported_here(None) == supported_here("") == THIS_VERSION
    assert supported_here("1") == FIRST_VERSION
    for text in ("0", "x", "²", str(NEWEST + 1)):
        with pytest.raises(ConfigError, match=LEVEL_MAX_VARIABLE):
            supported_here(text)


def test_supported_levels_read_as_words() -> None:
    """For operators."""
    assert str(FIRST_VERSION) == "level 1"
    assert str(Supported(1, 3)) == "levels 1 to 3"
