"""The primitive types: what is written is read; what is cut off or lies is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.kafka.wire.primitives import ITEMS_MAX, STRING_BYTES_MAX, MalformedRequestError, Reader, Writer

NUMBERS = {"int8": 7, "int16": 15, "int32": 31, "int64": 63}


def written(write: Callable[[Writer], None]) -> bytes:
    """The bytes of what was written."""
    writer = Writer()
    write(writer)
    return b"".join(writer.finish())


def reader(data: bytes) -> Reader:
    """A reader of these bytes."""
    return Reader(memoryview(data))


@pytest.mark.parametrize("kind", NUMBERS)
@given(data=st.data())
def test_numbers_survive_a_round_trip(kind: str, data: st.DataObject) -> None:
    """To their bounds, and one byte less is an error."""
    bits = NUMBERS[kind]
    number = data.draw(st.integers(-(1 << bits), (1 << bits) - 1))
    encoded = written(lambda writer: getattr(writer, kind)(number))
    assert len(encoded) == (bits + 1) // 8
    assert getattr(reader(encoded), kind)() == number
    with pytest.raises(MalformedRequestError):
        getattr(reader(encoded[:-1]), kind)()


@given(st.integers(0, (1 << 32) - 1))
def test_varints_survive_a_round_trip(number: int) -> None:
    """In five bytes at most; a cut one is an error."""
    encoded = written(lambda writer: writer.uvarint(number))
    assert len(encoded) <= 5
    assert reader(encoded).uvarint() == number
    with pytest.raises(MalformedRequestError):
        reader(encoded[:-1]).uvarint()


@given(st.none() | st.text(st.characters(codec="utf-8")), st.booleans())
def test_strings_survive_a_round_trip(text: str | None, compact: bool) -> None:
    """In both forms, None among them."""
    encoded = written(lambda writer: writer.string(text, compact))
    assert reader(encoded).nullable_string(compact) == text
    if text is None:
        with pytest.raises(MalformedRequestError):
            reader(encoded).string(compact)


@given(st.none() | st.binary(), st.booleans())
def test_bytes_survive_a_round_trip(data: bytes | None, compact: bool) -> None:
    """As views of what was received."""
    found = reader(written(lambda writer: writer.data(data, compact))).nullable_bytes(compact)
    assert (None if found is None else bytes(found)) == data


def test_a_string_that_is_too_long_is_cut_between_two_characters() -> None:
    """An error's words must not break an answer."""
    text = reader(written(lambda writer: writer.string("é" * 20_000, compact=False))).string(compact=False)
    assert text == "é" * (STRING_BYTES_MAX // 2)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: r(b"\xff\xfe").nullable_string(compact=False),
        lambda r: r(b"\x00\x05abc").nullable_string(compact=False),
        lambda r: r(b"\x00\x02\xc3\x28").nullable_string(compact=False),
        lambda r: r(b"\x81\x80\x02" + b"x" * 40_000).nullable_string(compact=True),
        lambda r: r(b"\xff\xff\xff\xfe").nullable_bytes(compact=False),
        lambda r: r(b"\x7f\xff\xff\xff").nullable_bytes(compact=False),
        lambda r: r(b"\x00\x00\x00\x02ab").count(compact=False, item_bytes_min=2),
        lambda r: r(b"\x03a").count(compact=True),
        lambda r: r(b"\x01\x00\x05ab").skip_tags(),
        lambda r: r(b"\xff\xff\xff\xff\x0f").skip_tags(),
        lambda r: r(b"ab").raw(-1),
    ],
)
def test_what_lies_about_its_length_is_refused(wrong: Callable[[Any], object]) -> None:
    """Negative, longer than what is there, not UTF-8."""
    with pytest.raises(MalformedRequestError):
        wrong(reader)


def test_tags_are_counted_as_items_are() -> None:
    """Together with those of arrays, and in all places together: each takes its time, and no more than two bytes."""

    def tags(count: int) -> bytes:
        return written(lambda writer: writer.uvarint(count)) + bytes(2 * count)

    quarter = ITEMS_MAX // 4
    found = reader(written(lambda writer: writer.count(quarter, compact=True)) + tags(quarter) + tags(2 * quarter) + tags(1))
    assert found.count(compact=True) == quarter
    found.skip_tags()
    found.skip_tags()
    with pytest.raises(MalformedRequestError, match=f"more than {ITEMS_MAX} items"):
        found.skip_tags()


def test_batches_are_handed_through_and_not_copied() -> None:
    """They stand between the bytes written before and after them, as the same objects."""
    batches: list[bytes | memoryview] = [memoryview(b"first"), b"second"]
    writer = Writer()
    writer.int8(1)
    writer.batches(batches, 11, compact=False)
    writer.int8(2)
    buffers = writer.finish()
    assert buffers[1] is batches[0]
    assert buffers[2] is batches[1]
    assert b"".join(buffers) == b"\x01\x00\x00\x00\x0bfirstsecond\x02"
