"""A node's settings: sources and their priority, and a clear error for each way to get one wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raftlog.config.node import NodeConfig, help_text, setting_names
from raftlog.config.values import join_address, parse_size, parse_voters, split_address
from raftlog.errors import ConfigError

THREE = "1=10.0.0.1:7001,2=10.0.0.2:7001,3=10.0.0.3:7001"


def refused(*argv: str, **environ: str) -> str:
    """The text of the error that these sources meet."""
    with pytest.raises(ConfigError) as caught:
        NodeConfig.from_sources(argv, environ)
    return str(caught.value)


def write(path: Path, text: str) -> str:
    """A config file with this text."""
    path.write_text(text)
    return str(path)


def test_without_any_setting_it_is_a_cluster_of_one() -> None:
    """Everything has a default; the only voter is node 1 at its own listen address."""
    config = NodeConfig.from_sources([], {"PATH": "/bin"})
    assert config.single
    assert config.peer_addresses == {1: "127.0.0.1:7001"}
    assert config.listen("grpc") == ("127.0.0.1", 7101)
    assert config.listen("admin") == ("127.0.0.1", 7301)


def test_the_command_line_of_the_contract_is_understood() -> None:
    """The flags that scripts rely on."""
    argv = "--node-id 2 --data-dir d --peer-listen 10.0.0.2:7001 --grpc-listen 10.0.0.2:7101 --admin-listen 10.0.0.2:7301"
    more = f" --voters {THREE} --peer-advertise b:1 --grpc-advertise b:2 --rack r2"
    config = NodeConfig.from_sources((argv + more).split(), {})
    assert (config.node_id, config.data_dir, config.rack) == (2, Path("d"), "r2")
    assert config.peer_addresses == {1: "10.0.0.1:7001", 2: "10.0.0.2:7001", 3: "10.0.0.3:7001"}
    assert (config.advertised("peer"), config.advertised("grpc")) == ("b:1", "b:2")
    assert config.advertised("admin") == "10.0.0.2:7301"


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    """One setting from each source, and one default."""
    file = write(tmp_path / "n.toml", 'rack = "file"\nnode-id = 7\nlog_level = "error"\n')
    config = NodeConfig.from_sources([f"--config={file}", "--rack=line"], {"RAFTLOG_RACK": "env", "RAFTLOG_NODE_ID": "8"})
    assert (config.rack, config.node_id, config.log_level, config.log_format) == ("line", 8, "error", "text")


def test_a_file_may_nest_tables_and_write_voters_as_one(tmp_path: Path) -> None:
    """``storage.bytes.max`` is ``storage-bytes-max``; a table of voters is the same as the text."""
    text = 'storage.bytes.max = "2GiB"\n[voters]\n1 = "a:1"\n2 = "b:1"\n'
    config = NodeConfig.from_sources([], {"RAFTLOG_CONFIG": write(tmp_path / "n.toml", text)})
    assert config.storage_bytes_max == 2 << 30
    assert config.peer_addresses == {1: "a:1", 2: "b:1"}


def test_all_problems_are_reported_at_once() -> None:
    """Three wrong values and an unknown name make one error with four lines."""
    error = refused("--node-id", "x", "--grpc-listen", "nowhere", "--log-lvl", "info", RAFTLOG_UVLOOP="maybe")
    assert error.startswith("the configuration has 4 problems:")
    for part in (
        "--node-id (command line) = 'x'",
        "--grpc-listen (command line) = 'nowhere'",
        "RAFTLOG_UVLOOP (environment) = 'maybe'",
    ):
        assert part in error
    assert "--log-lvl is not a known setting; did you mean --log-level?" in error


def test_an_unknown_variable_is_refused_with_the_nearest_name() -> None:
    """A misspelt variable is not silently without effect."""
    assert "did you mean RAFTLOG_DATA_DIR?" in refused(RAFTLOG_DATADIR="x")
    assert "did you mean RAFTLOG_DATA_DIR?" in refused(RAFTLOG_data_dir="x")


def test_variables_of_the_command_line_do_not_disturb_a_node() -> None:
    """RAFTLOG_BROKERS is for clients."""
    assert NodeConfig.from_sources([], {"RAFTLOG_BROKERS": "a:1"}) == NodeConfig()


def test_an_unknown_key_of_a_file_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    """The error names the file."""
    file = write(tmp_path / "n.toml", "[storage]\nbytes_mx = 5\n")
    assert f"storage-bytes-mx in {file} is not a known setting; did you mean storage-bytes-max?" in refused("--config", file)


def test_a_name_like_no_other_points_to_the_help() -> None:
    """No far-fetched suggestion."""
    assert "see raftlog-node --help" in refused("--zzzzqqqq", "1")


def test_the_kafka_door_has_one_listener_several_by_name_or_none(tmp_path: Path) -> None:
    """As text, or as a table of a file; a port of 0 is told as the one that was bound."""
    assert NodeConfig.from_sources([], {}).kafka_listeners() == {"default": ("127.0.0.1", 7201)}
    assert NodeConfig.from_sources(["--kafka-listen="], {}).kafka_listeners() == {}
    one = NodeConfig.from_sources(["--kafka-listen", "0.0.0.0:0", "--grpc-listen", "0.0.0.0:0"], {})
    assert one.kafka_advertised({"default": 4711}) == (("default", "127.0.0.1:4711"),)
    argv = ["--kafka-listen", "in=0.0.0.0:7201,out=0.0.0.0:9092", "--kafka-advertise", "in=a:7201,out=example.org:19092"]
    two = NodeConfig.from_sources([*argv, "--voters", THREE, "--grpc-listen", "10.0.0.1:7101"], {})
    assert two.kafka_listeners() == {"in": ("0.0.0.0", 7201), "out": ("0.0.0.0", 9092)}
    assert two.kafka_advertised({}) == (("in", "a:7201"), ("out", "example.org:19092"))
    file = write(tmp_path / "n.toml", '[kafka-listen]\nin = "0.0.0.0:1"\n[kafka-advertise]\nin = "b:1"\n')
    assert NodeConfig.from_sources(["--config", file], {}).kafka_advertised({}) == (("in", "b:1"),)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--kafka-listen", "a:1,b:2"], "given twice; give each a name"),
        (["--kafka-listen", "x=a:1,x=b:2"], "the listener x is given twice"),
        (["--kafka-listen", "x=a:1,y=a:1"], "the address a:1 is given twice"),
        (["--kafka-listen", "x y=a:1"], "no name of a listener"),
        (["--kafka-listen", "x=a"], "HOST:PORT"),
        (["--kafka-advertise", "a:0"], "a port from 1"),
        (["--kafka-listen", "in=a:1", "--kafka-advertise", "out=a:1"], "kafka-advertise names out"),
        (["--kafka-listen", "127.0.0.1:7101"], "each needs a port of its own"),
        (["--kafka-listen", "0.0.0.0:7201", "--voters", THREE], "kafka-advertise"),
    ],
)
def test_a_wrong_kafka_listener_is_refused_in_words(argv: list[str], said: str) -> None:
    """Each with what to do about it."""
    assert said in refused(*argv)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["7"], "'7' on the command line: settings are given as --name VALUE"),
        (["--rack"], "--rack on the command line has no value"),
        (["--rack", "--log-level", "info"], "--rack on the command line has no value"),
        (["--rack", "a", "--rack", "b"], "--rack is given twice"),
        (["--node-id", "0"], "greater than or equal to 1"),
        (["--log-level", "loud"], "'debug', 'info', 'warning' or 'error'"),
        (["--storage-bytes-max", "much"], "a size is a whole number of bytes"),
        (["--storage-bytes-max", "-1"], "a size is a whole number of bytes"),
        (["--heartbeat-interval-ms", "0"], "greater than or equal to 1"),
        (["--grpc-advertise", "0.0.0.0:7101"], "a host they can reach"),
        (["--grpc-advertise", "here:0"], "a port from 1"),
        (["--grpc-listen", "h:65536"], "a port from 0 to 65535"),
        (["--voters", "1=a:1,2"], "'2' is not ID=HOST:PORT"),
        (["--voters", "1=a:1,x=b:1"], "'x' is not a node id"),
        (["--voters", "1=a:1,1=b:1"], "node 1 is listed twice"),
        (["--voters", "1=a:1,2=a:1"], "the address a:1 is listed twice"),
        (["--voters", "1=0.0.0.0:1"], "to which nobody can connect"),
        (["--voters", THREE, "--node-id", "4"], "node-id = 4 is not among the voters (1, 2, 3)"),
        (["--voters", THREE, "--grpc-listen", "0.0.0.0:7101"], "grpc-listen = 0.0.0.0:7101 is an address nobody can connect to"),
        (["--grpc-listen", "h:5", "--peer-listen", "h:5"], "peer-listen and grpc-listen are both h:5"),
        (["--election-timeout-min-ms", "800"], "is not above election-timeout-min-ms"),
        (["--heartbeat-interval-ms", "300"], "more than half of election-timeout-min-ms"),
        (["--group-min-session-timeout-ms", "1800001"], "nobody could join"),
        (["--grpc-tls-cert", "/no/such"], "TLS for the grpc port also needs grpc-tls-key"),
        (["--grpc-tls-cert", "/no/such"], "grpc-tls-cert = /no/such: there is no such file"),
        (["--peer-tls-ca", "/no/such"], "TLS for the peer port also needs peer-tls-cert and peer-tls-key"),
        (["--config", "/no/such.toml"], "cannot read /no/such.toml: No such file or directory"),
    ],
)
def test_each_wrong_setting_meets_its_own_words(argv: list[str], said: str) -> None:
    """The error says what is wrong and what is allowed."""
    assert said in refused(*argv)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"rack = ", "is not valid TOML"),
        (b"rack = '\xff'", "is not UTF-8 text (byte 8)"),
        (b"#" * ((1 << 20) + 1), "is longer than"),
        (b"rack = 'a'\nRACK = 'b'", "RACK in"),
        (b"data-dir = 'a'\ndata_dir = 'b'", "is written twice"),
        (b"voters = 5", "write 1=HOST:PORT"),
        (b"config = 'more.toml'", "config in"),
        (b"node-id = 'one'", "valid integer"),
        (b"rack = 5", "valid string"),
        (b"storage-bytes-max = true", "a size is"),
    ],
)
def test_a_bad_file_meets_its_own_words(tmp_path: Path, content: bytes, said: str) -> None:
    """The error names the file."""
    file = tmp_path / "n.toml"
    file.write_bytes(content)
    error = refused("--config", str(file))
    assert said in error
    assert str(file) in error


def test_a_node_among_voters_is_reached_where_they_say() -> None:
    """Listening on all interfaces is fine for peers: the list of voters has the address."""
    argv = ["--voters", THREE, "--peer-listen", "0.0.0.0:7001", "--grpc-listen", "10.0.0.1:7101"]
    assert NodeConfig.from_sources(argv, {}).advertised("peer") == "10.0.0.1:7001"


def test_port_0_is_advertised_as_the_port_that_was_bound() -> None:
    """The composition root fills it in."""
    config = NodeConfig.from_sources(["--grpc-listen", "0.0.0.0:0"], {})
    assert config.advertised("grpc", 4711) == "127.0.0.1:4711"


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """And exits with 0."""
    with pytest.raises(SystemExit) as caught:
        NodeConfig.from_sources(["--help"], {})
    assert caught.value.code == 0
    assert capsys.readouterr().out == help_text()
    assert all(f"--{name}" in help_text() for name in setting_names())
    assert max(map(len, help_text().splitlines())) <= 100


def test_version_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    """And exits with 0."""
    with pytest.raises(SystemExit) as caught:
        NodeConfig.from_sources(["--version"], {})
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("raftlog-node ")


def test_addresses_survive_a_round_trip() -> None:
    """IPv6 hosts stand in brackets."""
    for text in ("127.0.0.1:1", "[::1]:65535", "node-1.example:0"):
        assert join_address(*split_address(text)) == text


@pytest.mark.parametrize("text", ["", "h", ":1", "h:", "h:x", "::1:5", "[::1]", "a b:1", "h:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """No guess is made."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        split_address(text)


def test_sizes_may_have_units() -> None:
    """All of them binary."""
    assert [parse_size(text) for text in (5, "5", "5B", "1KiB", "1k", "2 MB", "1GiB", "1T")] == [
        5,
        5,
        5,
        1024,
        1024,
        2 << 20,
        1 << 30,
        1 << 40,
    ]


def test_a_node_may_be_told_to_join_at_several_addresses(tmp_path: Path) -> None:
    """As a list, by repeating the flag, and as an array of the file; each once. It is no cluster of one then."""
    file = tmp_path / "node.toml"
    file.write_text('join = ["a:7001", "b:7001"]')
    for argv, environ in (
        (["--join", "a:7001,b:7001"], {}),
        (["--join", "a:7001", "--join=b:7001", "--join", "a:7001"], {}),
        ([], {"RAFTLOG_JOIN": "a:7001, b:7001"}),
        (["--config", str(file)], {}),
    ):
        config = NodeConfig.from_sources([*argv, "--node-id", "4"], environ)
        assert config.join == ("a:7001", "b:7001")
        assert config.peer_addresses == {}
        assert config.knows_others
        assert not config.single


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--join", "a:0"], "nobody can connect to a:0"),
        (["--join", "0.0.0.0:7001"], "nobody can connect to 0.0.0.0:7001"),
        (["--join", "a"], "an address is HOST:PORT"),
        (["--join", "a:7001", "--voters", "1=a:7001"], "voters found a new cluster, and join is for one that is there"),
        (["--join", "a:7001", "--grpc-listen", "0.0.0.0:7101"], "grpc-listen = 0.0.0.0:7101 is an address nobody can connect to"),
    ],
)
def test_a_wrong_join_is_refused_in_words(argv: list[str], said: str) -> None:
    """It names what to do instead."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        NodeConfig.from_sources(argv, {})


def test_an_empty_list_of_voters_is_a_cluster_of_one() -> None:
    """As if it were not given."""
    assert parse_voters("") == {}
