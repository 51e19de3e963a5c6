"""A topic's configs: Kafka's keys and no others, with errors that say what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.config.topic import TopicConfig, check, describe, merge
from raftlog.config.topic_keys import TOPIC_KEYS
from raftlog.errors import InvalidConfigError

EFFECTIVE = {
    "cleanup.policy",
    "max.message.bytes",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.type",
    "retention.bytes",
    "retention.ms",
}


def test_the_defaults_are_kafkas() -> None:
    """A topic without configs has the defaults, in the dataclass as in the table; they pass their own checks."""
    assert TopicConfig.of({}) == TopicConfig()
    assert TopicConfig() == TopicConfig(
        deletes=True, max_message_bytes=1_048_588, message_timestamp_after_max_ms=3_600_000,
        is_log_append_time=False, retention_bytes=-1, retention_ms=7 * 24 * 3_600_000,
    )  # fmt: skip
    defaults = {name: key.default for name, key in TOPIC_KEYS.items()}
    assert check(defaults) == defaults


def test_what_is_set_is_parsed() -> None:
    """Every key with an effect reaches its field."""
    configs = {
        "cleanup.policy": "compact", "max.message.bytes": "2000", "message.timestamp.after.max.ms": "5",
        "message.timestamp.before.max.ms": "6", "message.timestamp.type": "LogAppendTime",
        "retention.bytes": "7", "retention.ms": "8",
    }  # fmt: skip
    assert configs.keys() == EFFECTIVE
    assert TopicConfig.of(configs) == TopicConfig(
        deletes=False, max_message_bytes=2000, message_timestamp_after_max_ms=5, message_timestamp_before_max_ms=6,
        is_log_append_time=True, retention_bytes=7, retention_ms=8,
    )  # fmt: skip


@pytest.mark.parametrize(("policy", "deletes"), [("delete", True), ("compact", False), ("compact, delete", True), ("", False)])
def test_only_a_policy_that_names_delete_deletes(policy: str, deletes: bool) -> None:
    """A compacted topic keeps everything rather than lose what compaction would have kept."""
    assert TopicConfig.of(check({"cleanup.policy": policy})).deletes is deletes


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    """A typing error is named with its correction; nonsense without one."""
    with pytest.raises(InvalidConfigError, match=r"'retention\.mss'; did you mean 'retention\.ms'\?"):
        check({"retention.mss": "1"})
    with pytest.raises(InvalidConfigError, match="see the topic keys"):
        check({"%" * 10_000: "1"})
    with pytest.raises(InvalidConfigError):
        merge({}, {"retention": None})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("retention.ms", "-2"),
        ("retention.ms", "1h"),
        ("retention.ms", "1_000"),
        ("retention.ms", "٣"),
        ("retention.ms", ""),
        ("retention.ms", str(1 << 63)),
        ("retention.ms", "9" * 5_000),
        ("max.message.bytes", str(17 << 20)),
        ("message.timestamp.type", "createtime"),
        ("cleanup.policy", "remove"),
        ("compression.gzip.level", "0"),
        ("compression.type", "brotli"),
        ("min.cleanable.dirty.ratio", "1.1"),
        ("min.cleanable.dirty.ratio", "nan"),
        ("preallocate", "yes"),
        ("leader.replication.throttled.replicas", "0"),
        ("min.insync.replicas", "0"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(key: str, value: str) -> None:
    """The error names the key, the value and what the key takes."""
    with pytest.raises(InvalidConfigError) as caught:
        check({key: value})
    for part in (key, repr(value[:100]), TOPIC_KEYS[key].allowed):
        assert part in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("key", "value", "canonical"),
    [
        ("retention.ms", " +0010 ", "10"),
        ("preallocate", "TRUE", "true"),
        ("cleanup.policy", "delete , compact,delete", "delete,compact"),
        ("compression.gzip.level", "-1", "-1"),
        ("min.cleanable.dirty.ratio", ".5", "0.5"),
        ("follower.replication.throttled.replicas", "0:1,1:2", "0:1,1:2"),
    ],
)
def test_values_are_kept_in_canonical_form(key: str, value: str, canonical: str) -> None:
    """Spaces, signs and case do not make two values of one; a canonical value is its own."""
    assert check({key: value}) == check({key: canonical}) == {key: canonical}


def test_values_that_contradict_each_other_are_refused() -> None:
    """Also when one of them was set before."""
    with pytest.raises(InvalidConfigError, match=r"max\.compaction\.lag\.ms"):
        merge({"max.compaction.lag.ms": "5"}, {"min.compaction.lag.ms": "6"})


def test_changes_set_and_unset() -> None:
    """None unsets, also what is not set; the arguments stay as they are."""
    current = {"retention.ms": "5", "retention.bytes": "6"}
    changes = {"retention.ms": None, "retention.bytes": "7", "flush.ms": None}
    assert merge(current, changes) == {"retention.bytes": "7"}
    assert current == {"retention.ms": "5", "retention.bytes": "6"}


def test_a_description_has_a_row_for_every_key() -> None:
    """Tools made for Kafka look for keys such as cleanup.policy; what has no effect here says so."""
    rows = {row.key: row for row in describe({"retention.ms": "5"})}
    assert list(rows) == sorted(TOPIC_KEYS)
    assert (rows["retention.ms"].value, rows["retention.ms"].source) == ("5", "topic")
    assert (rows["cleanup.policy"].value, rows["cleanup.policy"].source) == ("delete", "default")
    assert {key for key, row in rows.items() if row.effective} == EFFECTIVE
    assert all(row.documentation.endswith(".") for row in rows.values())


def test_configs_of_another_version_do_not_stop_a_node() -> None:
    """A key that is not known is passed over; a retention that is not understood deletes nothing."""
    strange = {"new.key": "1", "retention.ms": "P7D", "retention.bytes": "", "cleanup.policy": "delete,archive"}
    assert TopicConfig.of(strange | {"max.message.bytes": "x"}) == TopicConfig(deletes=False, retention_ms=-1, retention_bytes=-1)


@given(st.dictionaries(st.sampled_from(sorted(TOPIC_KEYS)), st.text(max_size=12) | st.integers().map(str), max_size=3))
def test_any_value_is_taken_or_refused(configs: dict[str, str]) -> None:
    """No other error escapes; what is taken is canonical."""
    TopicConfig.of(configs)
    try:
        taken = check(configs)
    except InvalidConfigError:
        return
    assert check(taken) == taken
