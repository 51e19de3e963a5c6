"""What one node may choose for itself: its settings, validated once, at start.

Sources by priority: command line, ``RAFTLOG_…`` environment, ``--config FILE.toml``, defaults. With nothing set at all it is a
cluster of one. What the cluster must agree on (topics and their configs) is replicated, and not here.

pydantic alone validates; pydantic-settings would read the sources too, but doubles the import time of every node start and
merges before it validates, so that an error could not name the place of the wrong value.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from raftlog import __version__
from raftlog.config.sources import Setting, read_sources, variable_name
from raftlog.config.values import (
    ANY_HOSTS,
    join_address,
    parse_addresses,
    parse_listeners,
    parse_size,
    parse_voters,
    split_address,
)
from raftlog.errors import ConfigError

Door = Literal["peer", "grpc", "admin"]
DOORS: tuple[Door, ...] = ("peer", "grpc", "admin")


def _address(value: object) -> str:
    text = str(value)
    split_address(text)
    return text


def _address_to_reach(value: object) -> str:
    text = _address(value)
    host, port = split_address(text)
    if port == 0 or host in ANY_HOSTS:
        raise ValueError("others connect to an advertised address, so it needs a host they can reach and a port from 1")
    return text


def _listeners_to_reach(value: object) -> dict[str, str]:
    return {name: _address_to_reach(address) for name, address in parse_listeners(value).items()}


Listeners = Annotated[dict[str, str], BeforeValidator(parse_listeners)]
AdvertiseListeners = Annotated[dict[str, str], BeforeValidator(_listeners_to_reach)]
Listen = Annotated[str, BeforeValidator(_address)]
Advertise = Annotated[str, BeforeValidator(_address_to_reach)]
Join = Annotated[tuple[str, ...], BeforeValidator(parse_addresses)]
Voters = Annotated[dict[int, str], BeforeValidator(parse_voters)]
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0, le=1 << 50)]
Millis = Annotated[int, Field(ge=1, le=7 * 24 * 3_600_000)]


class NodeConfig(BaseModel):
    """A node's settings. Addresses are ``host:port``; times are milliseconds; sizes are bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    node_id: int = Field(default=1, ge=1, le=2**31 - 1, description="this node's number in the cluster, from 1")
    data_dir: Path = Field(
        default=Path("raftlog-data"), description="directory of everything this node stores; made where it is missing"
    )
    peer_listen: Listen = Field(default="127.0.0.1:7001", description="where other nodes connect to; port 0 takes a free one")
    grpc_listen: Listen = Field(default="127.0.0.1:7101", description="where gRPC clients connect to; port 0 takes a free one")
    kafka_listen: Listeners = Field(
        default={"default": "127.0.0.1:7201"},
        description="where Kafka clients connect to: H:P, or several by name, NAME=H:P,NAME2=H:P; empty: no such door",
    )
    admin_listen: Listen = Field(
        default="127.0.0.1:7301", description="where /livez, /readyz and /metrics are; port 0 takes a free one"
    )
    voters: Voters = Field(
        default={},
        description="1=H:P,2=H:P,3=H:P: the founding nodes' ids and peer addresses; without it, a cluster of one",
    )
    join: Join = Field(
        default=(),
        description="H:P,H:P: peer addresses of any members of a running cluster, which this node joins; may be repeated, and"
        " is ignored once it is a member",
    )
    peer_advertise: Advertise | None = Field(
        default=None, description="address that other nodes are told (default: this node's in --voters, else --peer-listen)"
    )
    grpc_advertise: Advertise | None = Field(
        default=None, description="address that clients are sent to (default: --grpc-listen)"
    )
    kafka_advertise: AdvertiseListeners = Field(
        default={},
        description="addresses that Kafka clients are told, by the same names: who connects to NAME is told every node's NAME"
        " (default: --kafka-listen)",
    )
    admin_advertise: Advertise | None = Field(default=None, description="address of the admin port (default: --admin-listen)")
    rack: str = Field(default="", max_length=200, description="place of this node; replicas are spread over racks")

    storage_bytes_max: Size = Field(
        default=0, description="publishing is refused when data takes this much; 0: the disk is the limit"
    )
    storage_disk_free_min_bytes: Size = Field(default=256 << 20, description="publishing is refused with less of the disk free")
    storage_ballast_bytes: Size = Field(default=16 << 20, description="file kept in reserve, given back when the disk is full")
    tail_cache_bytes: Size = Field(default=16 << 20, description="memory for the newest batches of all partitions together")
    log_retention_check_interval_ms: Millis = Field(default=60_000, description="how often old records are looked for")
    replica_lag_time_max_ms: Millis = Field(
        default=30_000,
        description="space is not kept for a replica that is silent or takes nothing for so long: it gets a snapshot later",
    )

    replica_replacement_delay_ms: Millis = Field(
        default=30 * 60_000, description="a node that was down for so long is dead: its replicas are made anew elsewhere"
    )
    leader_replication_throttled_rate: Size = Field(
        default=32 << 20, description="bytes a second that this node sends to replicas that come; 0 is no limit"
    )
    auto_replica_rebalance_enable: bool = Field(
        default=True, description="whether replicas are spread evenly over the nodes without being told, a few at a time"
    )
    auto_leader_rebalance_enable: bool = Field(
        default=True, description="whether leaders go back to their preferred replicas without being told"
    )
    leader_imbalance_check_interval_seconds: int = Field(
        default=300, ge=1, le=7 * 24 * 3_600, description="how often the cluster's leader looks whether both are even"
    )
    leader_imbalance_per_broker_percentage: int = Field(
        default=10, ge=0, le=100, description="a node may lead so much less of what it is preferred for"
    )

    auto_create_topics_enable: bool = Field(
        default=True, description="whether a Kafka client that asks for a topic that does not exist makes it"
    )
    connections_max_idle_ms: Millis = Field(
        default=600_000, description="a Kafka connection that says nothing for so long is closed"
    )
    max_connections: int = Field(default=10_000, ge=1, le=1 << 20, description="Kafka connections at a time")
    offsets_topic_num_partitions: int = Field(
        default=8, ge=1, le=1_000, description="coordinators of consumer groups; counts until the first group is there"
    )
    offsets_topic_replication_factor: int = Field(
        default=3, ge=1, le=7, description="replicas of each coordinator, or as many as there are nodes"
    )
    offsets_retention_minutes: int = Field(
        default=7 * 24 * 60, ge=1, le=10 * 365 * 24 * 60, description="how long offsets outlive their group's last member"
    )
    group_initial_rebalance_delay_ms: int = Field(
        default=200, ge=0, le=60_000, description="how long an empty group waits for more members after each that joins"
    )
    group_min_session_timeout_ms: Millis = Field(default=6_000, description="shortest session that a member may ask for")
    group_max_session_timeout_ms: Millis = Field(default=1_800_000, description="longest session that a member may ask for")
    group_max_size: int = Field(default=1_000, ge=1, le=10_000, description="most members of a group")

    heartbeat_interval_ms: Millis = Field(default=100, description="how often a leader is heard of")
    election_timeout_min_ms: Millis = Field(default=400, description="how long a leader may be silent, at least")
    election_timeout_max_ms: Millis = Field(default=800, description="how long a leader may be silent, at most")

    peer_tls_cert: Path | None = Field(default=None, description="PEM certificate of this node, for its peers")
    peer_tls_key: Path | None = Field(default=None, description="PEM key of that certificate")
    peer_tls_ca: Path | None = Field(default=None, description="PEM certificates that sign those of all peers")
    grpc_tls_cert: Path | None = Field(default=None, description="PEM certificate of the gRPC door")
    grpc_tls_key: Path | None = Field(default=None, description="PEM key of that certificate")
    grpc_tls_ca: Path | None = Field(
        default=None, description="PEM certificates; with it, gRPC clients must show one signed by them"
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level of what is logged to stderr"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="how it is logged")
    uvloop: Literal["auto", "on", "off"] = Field(
        default="auto", description="the faster event loop: if installed, always, or never"
    )

    @classmethod
    def from_sources(cls, argv: Sequence[str], environ: Mapping[str, str]) -> NodeConfig:
        """Read, merge and validate. ``argv`` is without the program's name. Reads the config file, and looks at TLS files.

        Raises:
            ConfigError: all problems at once, each with its place, its value and what is allowed.
            SystemExit: with 0, after ``--help`` or ``--version`` was answered on stdout.
        """
        settings = read_sources(setting_names(), argv, environ)
        if settings.flags:
            sys.stdout.write(help_text() if "help" in settings.flags else f"raftlog-node {__version__}\n")
            raise SystemExit(0)
        problems = list(settings.problems)
        config = _validated(settings.values, problems)
        if config is not None:
            problems += config.conflicts()
        if problems:
            head = "the configuration has a problem" if len(problems) == 1 else f"the configuration has {len(problems)} problems"
            raise ConfigError("\n".join([f"{head}:", *(f"  {problem}" for problem in problems)]))
        assert config is not None
        return config

    @property
    def single(self) -> bool:
        """Whether this is a cluster of one."""
        return len(self.peer_addresses) == 1

    @property
    def peer_addresses(self) -> dict[int, str]:
        """Node id → peer address of the founders, this node among them; nothing where it joins a cluster that is there."""
        return {} if self.join else dict(sorted(self.voters.items())) or {self.node_id: self.advertised("peer")}

    @property
    def knows_others(self) -> bool:
        """Whether these settings name other nodes."""
        return bool(self.join) or len(self.voters) > 1

    def listen(self, door: Door) -> tuple[str, int]:
        """Host and port to listen on. Port 0 means any free one."""
        return split_address(getattr(self, f"{door}_listen"))

    def advertised(self, door: Door, bound_port: int = 0) -> str:
        """The address that others are told. ``bound_port`` is the port really bound, for a listen address with port 0."""
        given: str | None = getattr(self, f"{door}_advertise")
        if given is None and door == "peer":
            given = self.voters.get(self.node_id)
        if given is not None:
            return given
        host, port = self.listen(door)
        return join_address("127.0.0.1" if host in ANY_HOSTS else host, port or bound_port)

    def kafka_listeners(self) -> dict[str, tuple[str, int]]:
        """Listener name → host and port to listen on."""
        return {name: split_address(address) for name, address in self.kafka_listen.items()}

    def kafka_advertised(self, bound_ports: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
        """(listener name, address that clients are told), given the ports that are really bound."""
        told = []
        for name, (host, port) in self.kafka_listeners().items():
            own = join_address("127.0.0.1" if host in ANY_HOSTS else host, port or bound_ports[name])
            told.append((name, self.kafka_advertise.get(name, own)))
        return tuple(told)

    def conflicts(self) -> list[str]:
        """What is wrong between settings that are each right by themselves. Looks whether TLS files are there."""
        return [*self._address_conflicts(), *self._timer_conflicts(), *self._tls_conflicts()]

    def _address_conflicts(self) -> list[str]:
        found = []
        if self.voters and self.node_id not in self.voters:
            listed = ", ".join(map(str, sorted(self.voters)))
            found.append(f"node-id = {self.node_id} is not among the voters ({listed}); give this node's own id, or list it")
        if self.voters and self.join:
            found.append("voters found a new cluster, and join is for one that is there; give one of the two")
        unknown = sorted(self.kafka_advertise.keys() - self.kafka_listen.keys())
        if unknown:
            found.append(f"kafka-advertise names {', '.join(unknown)}, which kafka-listen does not; use the same names")
        taken: dict[str, str] = {}
        for door, listen, told in self._listens():
            host, port = split_address(listen)
            other = taken.setdefault(listen, door)
            if other != door and port != 0:
                found.append(f"{other}-listen and {door}-listen are both {listen}; each needs a port of its own")
            if (len(self.voters) > 1 or self.join) and host in ANY_HOSTS and not told:
                found.append(
                    f"{door}-listen = {listen} is an address nobody can connect to; say where others can, with {door}-advertise"
                )
        return found

    def _listens(self) -> list[tuple[str, str, bool]]:
        """Every door's name, listen address, and whether it is said by which address others reach it."""
        listens: list[tuple[str, str, bool]] = []
        for door in DOORS:
            known = door == "peer" and self.node_id in self.voters
            told = known or getattr(self, f"{door}_advertise") is not None
            listens.append((door, getattr(self, f"{door}_listen"), told))
        return listens + [("kafka", address, name in self.kafka_advertise) for name, address in self.kafka_listen.items()]

    def _timer_conflicts(self) -> list[str]:
        found = []
        low, high, beat = self.election_timeout_min_ms, self.election_timeout_max_ms, self.heartbeat_interval_ms
        if high <= low:
            found.append(
                f"election-timeout-max-ms = {high} is not above election-timeout-min-ms = {low}; elections would collide"
            )
        if beat * 2 > low:
            found.append(
                f"heartbeat-interval-ms = {beat} is more than half of election-timeout-min-ms = {low}; one lost costs a leader"
            )
        shortest, longest = self.group_min_session_timeout_ms, self.group_max_session_timeout_ms
        if shortest > longest:
            found.append(
                f"group-min-session-timeout-ms = {shortest} is above group-max-session-timeout-ms = {longest}; nobody could join"
            )
        return found

    def _tls_conflicts(self) -> list[str]:
        found = []
        for door, needed in (("peer", ("cert", "key", "ca")), ("grpc", ("cert", "key"))):
            paths: dict[str, Path | None] = {part: getattr(self, f"{door}_tls_{part}") for part in ("cert", "key", "ca")}
            missing = [f"{door}-tls-{part}" for part in needed if paths[part] is None]
            if missing and any(paths.values()):
                found.append(f"TLS for the {door} port also needs {' and '.join(missing)}")
            absent = [(part, path) for part, path in paths.items() if path and not path.is_file()]
            found += [f"{door}-tls-{part} = {path}: there is no such file" for part, path in absent]
        return found


def setting_names() -> list[str]:
    """The names of all settings as flags spell them (without the dashes in front), in the order of the help."""
    return [name.replace("_", "-") for name in NodeConfig.model_fields]


def help_text() -> str:
    """The answer to ``--help``."""
    import textwrap

    lines = [
        "usage: raftlog-node [--config FILE.toml] [--SETTING VALUE ...]",
        "",
        "Run one node of a raftlog cluster in the foreground, until SIGTERM or Ctrl-C.",
        "",
        f"Every setting can also be given as a variable ({variable_name('data-dir')}) or in the file (data-dir = ...).",
        "The command line wins over the environment, the environment over the file.",
        "Sizes are bytes, or have KiB, MiB or GiB behind them.",
        "",
        "  -h, --help             show this and exit",
        "  --version              show the version and exit",
        "  --config FILE.toml     read settings from a file",
    ]
    for name, info in NodeConfig.model_fields.items():
        default = "" if info.default in (None, {}, (), "") else f" [{_shown(info.default)}]"
        flag = f"--{name.replace('_', '-')}"
        head = f"  {flag:<22} " if len(flag) <= 22 else f"  {flag}\n{'':25}"
        body = textwrap.wrap(f"{info.description}{default}", 75)
        lines.append(head + f"\n{'':25}".join(body))
    return "\n".join(lines) + "\n"


def _shown(default: object) -> object:
    return ",".join(default.values()) if isinstance(default, dict) else default


def _validated(values: Mapping[str, Setting], problems: list[str]) -> NodeConfig | None:
    try:
        return NodeConfig.model_validate({name.replace("-", "_"): setting.value for name, setting in values.items()})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name = str(detail["loc"][0]).replace("_", "-")
            said = detail["msg"].removeprefix("Value error, ").removesuffix(".")
            setting = values[name]
            problems.append(f"{setting.where} = {setting.value!r}: {said[:1].lower()}{said[1:]}")
        return None
