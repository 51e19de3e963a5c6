"""The bridge to kcat: one process for each batch that is produced, and for each partition or member that consumes."""

from __future__ import annotations

import itertools
import json
import re
from typing import IO, Any

from tests.interop.bridges.children import Child, run
from tests.interop.bridges.face import Absent, Client, Wire, as_wire, unpacked
from tests.interop.bridges.serving import serve

FORMAT = "%T %p %o %K %S %t %h\n%k%s\n"
KEY_END = "|"
STRATEGIES = ("range", "roundrobin", "cooperative-sticky")
REBALANCED = re.compile(r"^% Group \S+ rebalanced.*?(incremental )?\b(assign|revoke)\w*.*?: (\S.*)$")
PLACE = re.compile(r"(\S+) \[(\d+)\]")


class _Member:
    """The processes of one consumer, and what they say about their partitions."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.assigned: set[tuple[str, int]] = set()
        self.assignments = 0

    def told(self, line: str) -> None:
        """A line of stderr."""
        found = REBALANCED.match(line)
        if found is None:
            return
        places = {(topic, int(number)) for topic, number in PLACE.findall(found[3])}
        if found[2] == "revoke":
            self.assigned -= places
        else:
            self.assignments += 1
            self.assigned = self.assigned | places if found[1] else places


class Kcat(Client):
    """kcat."""

    binary = False
    timestamps = False
    headers = False
    empty_values = False

    def __init__(self, address: str) -> None:
        self._address = address
        self._options: dict[str, list[str]] = {}
        self._members: dict[str, _Member] = {}

    def _command(self, *words: str) -> list[str]:
        return ["kcat", "-b", self._address, *words]

    def producer_open(self, name: str, **options: Any) -> None:
        words = ["-X", f"acks={options.get('acks', 'all')}", "-z", options.get("codec", "none")]
        if options.get("idempotent"):
            words += ["-X", "enable.idempotence=true"]
        words += ["-X", f"message.timeout.ms={60_000 if options.get('patient') else 20_000}"]
        if size := options.get("request_bytes_max"):
            words += ["-X", f"message.max.bytes={size}"]
        self._options[name] = words

    def producer_send(self, name: str, topic: str, records: list[Wire]) -> list[list[int]]:
        # One process a partition: the order within each stays, and no other is promised.
        by_partition = sorted(records, key=lambda record: -1 if record.get("p") is None else record["p"])
        for partition, several in itertools.groupby(by_partition, key=lambda record: record.get("p")):
            lines = [(unpacked(one["k"]) or b"") + KEY_END.encode() + (unpacked(one["v"]) or b"") + b"\n" for one in several]
            where = [] if partition is None else ["-p", str(partition)]
            # -Z: an empty key or value is a null.
            run(self._command("-P", "-t", topic, *where, "-K", KEY_END, "-Z", *self._options[name]), b"".join(lines))
        return [[-1, -1]] * len(records)

    def producer_close(self, name: str) -> None:
        del self._options[name]

    def consumer_open(self, name: str, **options: Any) -> None:
        member = self._members[name] = _Member()
        limits = [
            "-X",
            "fetch.message.max.bytes=4000000",
            "-X",
            f"enable.auto.commit={'true' if options.get('auto_commit') else 'false'}",
        ]
        if topics := options.get("topics"):
            words = ["-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=10000", "-X", "heartbeat.interval.ms=500"]
            if strategy := options.get("strategy"):
                if strategy not in STRATEGIES:
                    raise Absent(f"no {strategy} assignor")
                words += ["-X", f"partition.assignment.strategy={strategy}"]
            if instance := options.get("instance"):
                words += ["-X", f"group.instance.id={instance}"]
            command = self._command("-G", options["group"], "-u", "-f", FORMAT, *limits, *words, *topics)
            member.children.append(Child(command, _parse, member.told))
            return
        for topic, partition in options["assign"]:
            start = _start(options.get("start") or ["earliest"])
            command = self._command("-C", "-t", topic, "-p", str(partition), "-o", start, "-f", FORMAT, "-u", *limits)
            member.children.append(Child(command, _parse))
            member.assigned.add((topic, partition))

    def consumer_assigned(self, name: str) -> list[list[Any]]:
        return [list(place) for place in sorted(self._members[name].assigned)]

    def consumer_assignments(self, name: str) -> int:
        return self._members[name].assignments

    def consumer_take(self, name: str) -> list[Wire]:
        return [record for child in self._members[name].children for record in child.take()]

    def consumer_close(self, name: str) -> list[Wire]:
        return [record for child in self._members.pop(name).children for record in child.close()]

    def topic_list(self) -> list[str]:
        return [topic["topic"] for topic in self._metadata()["topics"]]

    def topic_describe(self, topic: str) -> list[Wire]:
        [found] = self._metadata("-t", topic)["topics"]
        rows = [
            {
                "partition": one["partition"],
                "leader": one["leader"],
                "replicas": [node["id"] for node in one["replicas"]],
                "isr": [node["id"] for node in one["isrs"]],
            }
            for one in found["partitions"]
        ]
        return sorted(rows, key=lambda row: row["partition"])

    def cluster_describe(self) -> Wire:
        found = self._metadata()
        return {"brokers": [one["id"] for one in found["brokers"]], "controller": found["controllerid"]}

    def _metadata(self, *words: str) -> Any:
        return json.loads(run(self._command("-L", "-J", *words)))

    def offsets(self, topic: str, partition: int) -> list[int]:
        return [self._asked(topic, partition, when) for when in (-2, -1)]

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        offset = self._asked(topic, partition, timestamp_ms)
        return None if offset < 0 else offset

    def _asked(self, topic: str, partition: int, when: int) -> int:
        found = re.search(r"offset (-?\d+)", run(self._command("-Q", "-t", f"{topic}:{partition}:{when}")))
        assert found is not None
        return int(found[1])

    def close(self) -> None:
        for name in list(self._members):
            self.consumer_close(name)


def _start(start: list[Any]) -> str:
    match start:
        case ["earliest"]:
            return "beginning"
        case ["latest"]:
            return "end"
        case ["offset", number]:
            return str(number)
        case _:
            return f"s@{start[1]}"


def _parse(stream: IO[bytes]) -> Wire | None:
    line = stream.readline()
    if not line:
        raise EOFError
    timestamp_ms, partition, offset, key_bytes, value_bytes, topic, *headers = line.decode().rstrip("\n").split(" ", 6)
    key, value = (stream.read(max(0, int(size))) for size in (key_bytes, value_bytes))
    stream.read(1)
    pairs = [pair.partition("=")[::2] for pair in ",".join(headers).split(",") if pair]
    return as_wire(
        key=key if int(key_bytes) >= 0 else None,
        value=value if int(value_bytes) >= 0 else None,
        headers=pairs,
        timestamp_ms=int(timestamp_ms),
        topic=topic,
        partition=int(partition),
        offset=int(offset),
    )


if __name__ == "__main__":
    serve(Kcat)
