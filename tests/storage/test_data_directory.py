"""A data directory belongs to one process at a time and to one node for ever."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from raftlog.errors import DataDirectoryError, DataDirectoryLockedError, NewerFormatError, UnreadableLogError, WrongNodeError
from raftlog.storage import identity
from raftlog.storage.data_directory import IDENTITY_FILE, DataDirectory
from raftlog.storage.environment import BALLAST_FILE, DATA_FILE, LOG_DIR
from raftlog.storage.identity import PAST_BOOTS_KEPT, Identity
from tests.storage.helpers import open_store

VOTERS = {1: "127.0.0.1:9001", 2: "127.0.0.1:9002"}
ALONE = {1: "127.0.0.1:9001"}


def start(path: Path, node_id: int = 1, nonce: str = "aa", voters: dict[int, str] = VOTERS) -> DataDirectory:
    """Open the directory as a node does."""
    return DataDirectory.open(path, node_id=node_id, boot_nonce=nonce, voters=voters, may_join=len(voters) > 1)


def founded(path: Path, voters: dict[int, str]) -> None:
    """A member stopped here, with a log."""
    directory = start(path, voters=voters)
    open_store(path).close()
    directory.update(cluster_id="c", sealed=True)
    directory.close()


def set_aside(path: Path) -> list[Path]:
    """Where data was moved."""
    return list(path.glob("set-aside-*"))


def check_emptied(path: Path, why: str, *, cluster_id: str | None = "c") -> Path:
    """The next start finds nothing, knows why, and all that was there is kept; where."""
    for _ in range(2):
        directory = start(path)
        assert directory.identity.rejoin == why
        assert (directory.identity.sealed, directory.identity.damaged, directory.identity.cluster_id) == (False, "", cluster_id)
        directory.close()
    (place,) = set_aside(path)
    assert (place / "why.txt").read_text() == f"{why}\n"
    assert not (path / LOG_DIR).exists()
    return place


def test_each_start_has_its_own_boot_number(tmp_path: Path) -> None:
    """It is on disk before the directory is handed out, with the start's nonce; the first voters stay."""
    path = tmp_path / "deep" / "data"
    for number, nonce in ((1, "aa"), (2, "bb")):
        directory = start(path, nonce=nonce)
        on_disk = identity.load(path / IDENTITY_FILE)
        assert on_disk == directory.identity
        past = ((1, "aa"),) if number == 2 else ()
        assert on_disk == Identity(node_id=1, boot_number=number, boot_nonce=nonce, past_boots=past, voters=VOTERS)
        directory.close()
        directory.close()


async def test_voters_may_be_corrected_until_there_is_a_cluster(tmp_path: Path) -> None:
    """A founder that was started with the wrong ones has promised nothing; a member keeps those that it began with."""
    start(tmp_path).close()
    corrected = {7: "127.0.0.1:9007"}
    directory = DataDirectory.open(tmp_path, node_id=1, boot_nonce="bb", voters=corrected)
    assert directory.identity.voters == corrected
    open_store(tmp_path).close()
    directory.update(cluster_id="c")
    directory.close()
    member = DataDirectory.open(tmp_path, node_id=1, boot_nonce="cc", voters=VOTERS)
    assert member.identity.voters == corrected
    member.close()


def test_the_newest_starts_are_remembered(tmp_path: Path) -> None:
    """So many that a Hello can hold them."""
    for number in range(1, PAST_BOOTS_KEPT + 4):
        directory = start(tmp_path, nonce=f"n{number}")
        directory.close()
    assert directory.identity.past_boots == tuple((n, f"n{n}") for n in range(3, PAST_BOOTS_KEPT + 3))


def test_a_directory_of_a_cluster_of_one_that_is_known_to_be_damaged_is_refused(tmp_path: Path) -> None:
    """At every start, with the reason: there is nobody to get its data from."""
    directory = start(tmp_path, voters=ALONE)
    directory.update(damaged="node 2 saw a later one")
    directory.close()
    for _ in range(2):
        with pytest.raises(DataDirectoryError, match="must not be used any more: node 2 saw a later one"):
            start(tmp_path, voters=ALONE)


async def test_an_old_copy_is_set_aside_where_there_are_others_to_join(tmp_path: Path) -> None:
    """It keeps its id, its cluster's, and its boot numbers; its log is moved, and is not gone."""
    founded(tmp_path, VOTERS)
    directory = start(tmp_path)
    directory.update(damaged="node 2 saw a later one")
    directory.close()
    log = (tmp_path / LOG_DIR / DATA_FILE).read_bytes()
    place = check_emptied(tmp_path, "node 2 saw a later one")
    assert (place / LOG_DIR / DATA_FILE).read_bytes() == log


@pytest.mark.parametrize("crash_after", range(3))
async def test_setting_aside_may_be_cut_short_anywhere(tmp_path: Path, crash_after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start goes on; the log is in one of the two places at any time."""
    founded(tmp_path, VOTERS)
    directory = start(tmp_path)
    directory.update(damaged="old")
    directory.close()
    stores = 0
    real_store = identity.store

    def store(path: Path, known: Identity) -> None:
        nonlocal stores
        if stores == crash_after:
            raise KeyboardInterrupt
        stores += 1
        real_store(path, known)

    monkeypatch.setattr(identity, "store", store)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    monkeypatch.undo()
    place = check_emptied(tmp_path, "old")
    assert (place / LOG_DIR / DATA_FILE).exists()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """The error names the process that holds the lock, and the boot number stays."""
    directory = start(tmp_path)
    with pytest.raises(DataDirectoryLockedError, match=f"process {os.getpid()}"):
        start(tmp_path)
    directory.close()
    again = start(tmp_path)
    assert again.identity.boot_number == 2
    again.close()


def test_another_nodes_directory_is_refused(tmp_path: Path) -> None:
    """Nothing in it changes, and its lock is free again."""
    start(tmp_path).close()
    with pytest.raises(WrongNodeError, match="belongs to node 1, not to node 2"):
        start(tmp_path, node_id=2)
    directory = start(tmp_path)
    assert directory.identity.boot_number == 2
    directory.close()


def test_updates_are_durable_before_they_are_seen(tmp_path: Path) -> None:
    """What ``identity`` says after ``update`` is what the file says."""
    directory = start(tmp_path)
    directory.update(cluster_id="c", sealed=True, peers_seen={2: (1, 5, "ff")}, damaged="a bad page")
    assert identity.load(tmp_path / IDENTITY_FILE) == directory.identity
    assert directory.identity.peers_seen == {2: (1, 5, "ff")}
    directory.close()


@pytest.mark.parametrize("offset", [0, 10, -3])
async def test_a_damaged_identity_is_refused_or_set_aside(tmp_path: Path, offset: int) -> None:
    """One flipped bit anywhere, and the node does not guess who it is: alone it ends, else it is as if empty, and joins."""
    founded(tmp_path, VOTERS)
    path = tmp_path / IDENTITY_FILE
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataDirectoryError, match="damaged"):
        start(tmp_path, voters=ALONE)
    assert path.read_bytes() == data
    start(tmp_path).close()
    loaded = identity.load(path)
    assert loaded is not None
    assert "damaged" in loaded.rejoin
    assert loaded.cluster_id is None
    assert (tmp_path / "set-aside-1" / IDENTITY_FILE).read_bytes() == data
    assert (tmp_path / "set-aside-2" / LOG_DIR / DATA_FILE).exists()


async def test_what_a_newer_version_wrote_is_never_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sound, and this version is the wrong one."""
    founded(tmp_path, VOTERS)
    known = identity.load(tmp_path / IDENTITY_FILE)
    assert known is not None
    monkeypatch.setattr(identity, "FORMAT_FIRST", identity.FORMAT + 1)
    identity.store(tmp_path / IDENTITY_FILE, known)
    monkeypatch.undo()
    with pytest.raises(NewerFormatError):
        start(tmp_path)
    assert set_aside(tmp_path) == []


def test_what_an_older_version_reads_is_written_as_it_wrote_it() -> None:
    """A founder that knows of no node that joined or came back."""
    plain = Identity(node_id=1, cluster_id="c", sealed=True, peers_seen={2: (1, 5, "ff")})
    assert b'"format":1,' in identity.encode(plain)
    assert b'"peers_seen":{"2":[5,"ff"]}' in identity.encode(plain)
    for news in ({"joined": True}, {"incarnation": 2}, {"rejoin": "x"}, {"peers_seen": {2: (2, 1, "a")}}):
        assert b'"format":2,' in identity.encode(replace(plain, **news))


def test_an_identity_of_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused by name, whatever else it holds."""
    start(tmp_path).close()
    known = identity.load(tmp_path / IDENTITY_FILE)
    assert known is not None
    monkeypatch.setattr(identity, "FORMAT_FIRST", identity.FORMAT + 1)
    identity.store(tmp_path / IDENTITY_FILE, known)
    monkeypatch.undo()
    with pytest.raises(NewerFormatError, match=f"format {identity.FORMAT + 1}"):
        start(tmp_path)


def test_sound_facts_of_the_wrong_shape_are_refused() -> None:
    """A check that holds is not enough."""
    line = b'{"format":1,"node_id":"x"}'
    with pytest.raises(DataDirectoryError):
        identity.decode(b"%s\ncrc32c:%08x\n" % (line, crc32c(line)))
    line = b"[]"
    with pytest.raises(DataDirectoryError):
        identity.decode(b"%s\ncrc32c:%08x\n" % (line, crc32c(line)))


async def test_a_log_without_an_identity_is_refused_or_set_aside(tmp_path: Path) -> None:
    """Nobody knows what this node promised."""
    directory = start(tmp_path)
    open_store(tmp_path).close()
    directory.close()
    (tmp_path / IDENTITY_FILE).unlink()
    with pytest.raises(DataDirectoryError, match="has a log but no"):
        start(tmp_path, voters=ALONE)
    directory = start(tmp_path)
    why = directory.identity.rejoin
    assert "has a log but no node.identity" in why
    directory.close()
    check_emptied(tmp_path, why, cluster_id=None)


async def test_a_cluster_member_without_its_log_is_refused_or_joins(tmp_path: Path) -> None:
    """It would vote with an empty log; before the bootstrap there was nothing to lose."""
    directory = start(tmp_path, voters=ALONE)
    directory.update(cluster_id="c")
    directory.close()
    start(tmp_path, voters=ALONE).close()
    directory = start(tmp_path, voters=ALONE)
    directory.update(sealed=True)
    directory.close()
    with pytest.raises(UnreadableLogError, match="is gone"):
        start(tmp_path, voters=ALONE)
    directory = start(tmp_path)
    assert "is gone" in directory.identity.rejoin
    assert not directory.identity.sealed
    assert set_aside(tmp_path) == []
    directory.close()


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    """The error says which path and why."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirectoryError, match="cannot be used"):
        start(tmp_path / "file")


def test_a_full_disk_gives_up_the_ballast_for_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ballast the boot number still fits; without, the error says so and nothing has changed."""
    directory = start(tmp_path)
    ballast = tmp_path / BALLAST_FILE
    ballast.write_bytes(b"x")
    real_store = identity.store

    def store(path: Path, known: Identity) -> None:
        if ballast.exists() or known.damaged:
            raise OSError(errno.ENOSPC, "no space")
        real_store(path, known)

    monkeypatch.setattr(identity, "store", store)
    directory.update(cluster_id="c")
    assert not ballast.exists()
    with pytest.raises(DataDirectoryError, match="no space"):
        directory.update(damaged="yes")
    assert directory.identity == replace(directory.identity, cluster_id="c", damaged="")
    directory.close()


@given(
    st.builds(
        Identity,
        node_id=st.integers(0, 1 << 40),
        cluster_id=st.none() | st.text(),
        sealed=st.booleans(),
        boot_number=st.integers(0, 1 << 60),
        boot_nonce=st.text(),
        past_boots=st.lists(st.tuples(st.integers(0, 1 << 60), st.text())).map(tuple),
        voters=st.dictionaries(st.integers(0, 99), st.text()),
        peers_seen=st.dictionaries(st.integers(0, 99), st.tuples(st.integers(1, 3), st.integers(0, 1 << 60), st.text())),
        damaged=st.text(),
        incarnation=st.integers(1, 1 << 20),
        joined=st.booleans(),
        others=st.dictionaries(st.integers(0, 99), st.text()),
        rejoin=st.text(),
    )
)
def test_an_identity_survives_the_file(known: Identity) -> None:
    """Every value comes back as it was."""
    assert identity.decode(identity.encode(known)) == known
