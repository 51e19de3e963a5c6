"""Every decoder that faces a socket, against its corpus, random bytes, and the corpus bent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS

SEEDS_MIN = 5
NASTY = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff" * 10, b"\x80" * 10 + b"\x01")
"""Lengths of −1, 0, 2³¹−1 and −2³¹, and varints without an end."""
ROOT = Path(__file__).resolve().parents[2]

EXAMPLES = [(target, name) for target in TARGETS for name in corpus.kept(target)]


@pytest.mark.parametrize(("target", "name"), EXAMPLES, ids=lambda part: part)
def test_what_was_kept_does_no_harm(target: str, name: str) -> None:
    """Each file is accepted or refused by name; those that are called ``good`` are accepted, all others are not."""
    data = corpus.kept(target)[name]
    assert TARGETS[target].takes(data) == name.startswith("good")


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_has_a_corpus(target: str) -> None:
    """With good and bad bytes, so that bending them reaches the depths; and no directory is left without its target."""
    names = list(corpus.kept(target))
    assert len(names) >= SEEDS_MIN
    assert any(name.startswith("good") for name in names)
    assert {path.name for path in corpus.DIRECTORY.iterdir()} == set(TARGETS)


def harmless(target: str, data: bytes) -> None:
    """Keep what does harm, and fail."""
    try:
        TARGETS[target].takes(data)
    except Exception:
        if len(data) <= corpus.FILE_BYTES_MAX:
            print(f"kept as {corpus.keep(target, data)}")
        raise


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.binary(max_size=400))
def test_random_bytes_do_no_harm(target: str, data: bytes) -> None:
    """Nothing but the refusals of the target comes out."""
    harmless(target, data)


@st.composite
def bent(draw: st.DrawFn, target: str) -> bytes:
    """A file of the corpus with bytes changed, cut, doubled or put in, or joined to another."""
    files = list(corpus.kept(target).values())
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 5)):
            case 0:
                data[at : at + 1] = bytes((draw(st.integers(0, 255)),))
            case 1:
                nasty = draw(st.sampled_from(NASTY))
                data[at : at + len(nasty)] = nasty
            case 2:
                del data[at:]
            case 3:
                del data[at : at + draw(st.integers(1, 16))]
            case 4:
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case _:
                data += draw(st.sampled_from(files))
    return bytes(data[: corpus.FILE_BYTES_MAX])


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
def test_bent_bytes_do_no_harm(target: str, data: st.DataObject) -> None:
    """Nor of those that are nearly right."""
    harmless(target, data.draw(bent(target)))


def test_an_example_is_kept_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and only small ones under names that say something."""
    monkeypatch.setattr(corpus, "DIRECTORY", tmp_path)
    assert corpus.keep("entry", b"abc", "three-bytes").read_bytes() == b"abc"
    assert corpus.kept("entry") == {"three-bytes": b"abc"}
    assert corpus.keep("entry", b"x") == corpus.keep("entry", b"x")
    for name, data in (("Bad Name", b""), ("big", bytes(corpus.FILE_BYTES_MAX + 1))):
        with pytest.raises(ValueError, match=r"name|many"):
            corpus.keep("entry", data, name)


def test_the_command_refuses_an_unknown_target() -> None:
    """And says which there are."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "nobody", "x", "--hex", "00"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "record-batch" in done.stderr
