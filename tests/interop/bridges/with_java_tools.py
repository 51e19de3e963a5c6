"""The bridge to Apache Kafka's own programs: console and verifiable producer and consumer, and the administration's.

Arguments: the bootstrap address last, before it the class path and the release. Consumers of partitions are console consumers,
members of groups are verifiable consumers, for only those tell their assignments.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from tests.interop.bridges.children import Child, refusal, run
from tests.interop.bridges.face import Absent, Client, Wire, as_wire, unpacked
from tests.interop.bridges.serving import serve

JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
TOOLS = "org.apache.kafka.tools"
ASSIGNORS = {"range": "Range", "roundrobin": "RoundRobin", "sticky": "Sticky", "cooperative-sticky": "CooperativeSticky"}
NULL = "NULL"
CONSOLE = ("print.timestamp", "print.partition", "print.offset", "print.headers", "print.key", "print.value")


class _Member:
    """One consumer's process, and what it says about its partitions."""

    def __init__(self) -> None:
        self.child: list[Child] = []
        self.assigned: set[tuple[str, int]] = set()
        self.assignments = 0

    def event(self, stream: IO[bytes]) -> Wire | None:
        """A line of the verifiable consumer."""
        line = stream.readline()
        if not line:
            raise EOFError
        try:
            event = json.loads(line)
        except ValueError:
            return None
        places = {(one["topic"], one["partition"]) for one in event.get("partitions", ()) if "partition" in one}
        match event.get("name"):
            case "partitions_assigned":
                self.assignments += 1
                self.assigned |= places
            case "partitions_revoked":
                self.assigned -= places
            case "record_data":
                return as_wire(
                    key=_encoded(event["key"]), value=_encoded(event["value"]), headers=None, timestamp_ms=None,
                    topic=event["topic"], partition=event["partition"], offset=event["offset"],
                )  # fmt: skip
        return None


class JavaTools(Client):
    """kafka-console-producer and its sisters."""

    binary = False
    reads_binary = False
    timestamps = False
    partitions = False
    lasting_producers = False
    empty_values = False

    def __init__(self, address: str, class_path: str, release: str) -> None:
        self._address, self._class_path = address, class_path
        self._old = release.startswith("3.")
        self._producers: dict[str, list[str]] = {}
        self._members: dict[str, _Member] = {}

    def _command(self, program: str, *words: str) -> list[str]:
        return ["java", *JVM, "-cp", self._class_path, program, "--bootstrap-server", self._address, *words]

    def producer_open(self, name: str, **options: Any) -> None:
        acks = options.get("acks", "all")
        properties = {
            "acks": acks,
            "enable.idempotence": "true" if options.get("idempotent") else "false",
            "max.block.ms": "20000",
            "max.request.size": str(options.get("request_bytes_max") or 1_048_576),
            "delivery.timeout.ms": "60000" if options.get("patient") else "20000",
            "request.timeout.ms": "10000",
            "linger.ms": "5",
        }
        # By default it gives up after three tries, which an election may outlast.
        tries = ["--message-send-max-retries", "100" if options.get("patient") else "3"]
        words = [*tries, "--compression-codec", options.get("codec", "none"), "--request-required-acks", acks]
        self._producers[name] = [
            *words,
            *(part for pair in properties.items() for part in ("--producer-property", "=".join(pair))),
        ]

    def producer_send(self, name: str, topic: str, records: list[Wire]) -> list[list[int]]:
        properties = ("parse.key=true", "parse.headers=true", f"null.marker={NULL}", "headers.delimiter=|", "key.separator=|")
        words = [part for one in properties for part in ("--property", one)]
        program = "kafka.tools.ConsoleProducer" if self._old else f"{TOOLS}.ConsoleProducer"
        # It ends with 0 whatever became of the records: only its log tells.
        run(
            self._command(program, "--topic", topic, *words, *self._producers[name]),
            b"".join(map(_line, records)),
            failed="ERROR",
        )
        return [[-1, -1]] * len(records)

    def producer_close(self, name: str) -> None:
        del self._producers[name]

    def consumer_open(self, name: str, **options: Any) -> None:
        member = self._members[name] = _Member()
        if topics := options.get("topics"):
            member.child.append(
                Child(self._command(f"{TOOLS}.VerifiableConsumer", *_membership(topics[0], options)), member.event)
            )
            return
        start = options.get("start") or ["earliest"]
        if start[0] == "time":
            raise Absent("the console consumer cannot begin at a time")
        words = [part for one in CONSOLE for part in ("--property", f"{one}=true")]
        words += ["--property", f"null.literal={NULL}", "--property", "key.separator=|", "--property", "headers.separator=,"]
        words += ["--consumer-property", "max.partition.fetch.bytes=4000000"]
        for topic, partition in options["assign"]:
            where = ["--topic", topic, "--partition", str(partition), "--offset", str(start[-1])]
            command = self._command(f"{TOOLS}.consumer.ConsoleConsumer", *where, *words)
            member.child.append(Child(command, lambda stream, topic=topic: _printed(stream, topic)))  # type: ignore[misc]
            member.assigned.add((topic, partition))

    def consumer_assigned(self, name: str) -> list[list[Any]]:
        return [list(place) for place in sorted(self._members[name].assigned)]

    def consumer_assignments(self, name: str) -> int:
        return self._members[name].assignments

    def consumer_take(self, name: str) -> list[Wire]:
        return [record for child in self._members[name].child for record in child.take()]

    def consumer_close(self, name: str) -> list[Wire]:
        return [record for child in self._members.pop(name).child for record in child.close()]

    def topic_create(self, topic: str, partitions: int, replicas: int, configs: dict[str, str]) -> None:
        words = [part for pair in configs.items() for part in ("--config", "=".join(pair))]
        sizes = ("--partitions", str(partitions), "--replication-factor", str(replicas))
        run(self._command(f"{TOOLS}.TopicCommand", "--create", "--topic", topic, *sizes, *words))

    def topic_delete(self, topic: str) -> None:
        run(self._command(f"{TOOLS}.TopicCommand", "--delete", "--topic", topic))

    def topic_list(self) -> list[str]:
        return run(self._command(f"{TOOLS}.TopicCommand", "--list")).split()

    def topic_describe(self, topic: str) -> list[Wire]:
        rows = []
        said = run(self._command(f"{TOOLS}.TopicCommand", "--describe", "--topic", topic))
        for line in said.splitlines():
            found = re.search(r"Partition: (\d+)\s+Leader: (\S+)\s+Replicas: (\S*)\s+Isr: (\S*)", line)
            if found:
                leader = int(found[2]) if found[2].isdigit() else -1
                rows.append({"partition": int(found[1]), "leader": leader, "replicas": _ids(found[3]), "isr": _ids(found[4])})
        return rows

    def topic_grow(self, topic: str, partitions: int) -> None:
        run(self._command(f"{TOOLS}.TopicCommand", "--alter", "--topic", topic, "--partitions", str(partitions)))

    def config_describe(self, topic: str) -> dict[str, str | None]:
        entity = ("--entity-type", "topics", "--entity-name", topic)
        said = run(self._command("kafka.admin.ConfigCommand", "--describe", "--all", *entity))
        return dict(re.findall(r"^  ([a-z.]+)=(.*?) sensitive=", said, re.MULTILINE))

    def config_alter(self, topic: str, configs: dict[str, str]) -> None:
        entity = ("--entity-type", "topics", "--entity-name", topic)
        wanted = ",".join(f"{name}={value}" for name, value in configs.items())
        run(self._command("kafka.admin.ConfigCommand", "--alter", *entity, "--add-config", wanted))

    def records_delete(self, topic: str, partition: int, offset: int) -> None:
        wanted = {"version": 1, "partitions": [{"topic": topic, "partition": partition, "offset": offset}]}
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "offsets.json"
            path.write_text(json.dumps(wanted))
            run(self._command(f"{TOOLS}.DeleteRecordsCommand", "--offset-json-file", str(path)))

    def offsets(self, topic: str, partition: int) -> list[int]:
        found = [self._asked(topic, partition, when) for when in ("earliest", "latest")]
        return [-1 if offset is None else offset for offset in found]

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        return self._asked(topic, partition, str(timestamp_ms))

    def _asked(self, topic: str, partition: int, when: str) -> int | None:
        where = ("--topic", topic, "--partitions", str(partition), "--time", when)
        found = re.search(r":\d+:(\d+)", run(self._command(f"{TOOLS}.GetOffsetShell", *where)))
        return int(found[1]) if found else None

    def _groups(self, *words: str) -> str:
        said = run(self._command(f"{TOOLS}.consumer.group.ConsumerGroupCommand", *words))
        if "Error:" in said:
            raise refusal(said)
        return said

    def group_list(self) -> list[str]:
        return self._groups("--list").split()

    def group_describe(self, group: str) -> Wire:
        said = self._groups("--describe", "--state", "--group", group)
        found = re.search(rf"^{re.escape(group)}\s+\S+ *\(\d+\)\s+(\S*)\s+(\S+)\s+(\d+)\s*$", said, re.MULTILINE)
        assert found is not None, said
        return {"strategy": found[1], "state": found[2], "members": int(found[3])}

    def group_offsets(self, group: str) -> list[list[Any]]:
        said = self._groups("--describe", "--group", group)
        rows = re.findall(rf"^{re.escape(group)}\s+(\S+)\s+(\d+)\s+(\d+)\s", said, re.MULTILINE)
        return [[topic, int(partition), int(offset), None] for topic, partition, offset in rows]

    def group_set_offsets(self, group: str, offsets: list[list[Any]]) -> None:
        for topic, partition, offset in offsets:
            where = ("--topic", f"{topic}:{partition}", "--to-offset", str(offset))
            self._groups("--reset-offsets", "--execute", "--group", group, *where)

    def group_delete_offsets(self, group: str, topic: str, partition: int) -> None:
        self._groups("--delete-offsets", "--group", group, "--topic", f"{topic}:{partition}")

    def group_delete(self, group: str) -> None:
        self._groups("--delete", "--group", group)

    def cluster_describe(self) -> Wire:
        said = run(self._command("kafka.admin.BrokerApiVersionsCommand" if self._old else f"{TOOLS}.BrokerApiVersionsCommand"))
        return {"brokers": sorted({int(one) for one in re.findall(r"\(id: (\d+) ", said)})}

    def log_dirs(self) -> dict[str, dict[str, int]]:
        said = run(self._command(f"{TOOLS}.LogDirsCommand", "--describe"))
        found = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
        return {
            str(broker["broker"]): {one["partition"]: one["size"] for home in broker["logDirs"] for one in home["partitions"]}
            for broker in found["brokers"]
        }

    def verifiable(self, topic: str, count: int) -> Wire:
        sizes = ("--topic", topic, "--max-messages", str(count))
        said = run(self._command(f"{TOOLS}.VerifiableProducer", *sizes, "--acks", "-1"))
        told = next(event for event in map(json.loads, said.splitlines()) if event["name"] == "tool_data")
        group = ("--group-id", f"{topic}-verifiable", "--reset-policy", "earliest")
        said = run(self._command(f"{TOOLS}.VerifiableConsumer", *sizes, *group))
        events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        consumed = sum(event["count"] for event in events if event["name"] == "records_consumed")
        return {"sent": told["sent"], "acknowledged": told["acked"], "consumed": consumed}

    def close(self) -> None:
        for name in list(self._members):
            self.consumer_close(name)


def _membership(topic: str, options: dict[str, Any]) -> list[str]:
    words = [
        "--topic",
        topic,
        "--group-id",
        options["group"],
        "--verbose",
        "--reset-policy",
        "earliest",
        "--session-timeout",
        "10000",
    ]
    if strategy := options.get("strategy"):
        words += ["--assignment-strategy", f"org.apache.kafka.clients.consumer.{ASSIGNORS[strategy]}Assignor"]
    if instance := options.get("instance"):
        words += ["--group-instance-id", instance]
    return words


def _line(record: Wire) -> bytes:
    headers = ",".join(f"{name}:{_decoded(value)}" for name, value in record.get("h") or []) or NULL
    return f"{headers}|{_decoded(record['k'])}|{_decoded(record['v'])}\n".encode()


def _decoded(text: str | None) -> str:
    data = unpacked(text)
    return NULL if data is None else data.decode()


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _printed(stream: IO[bytes], topic: str) -> Wire | None:
    """A line of the console consumer: time, partition, offset, headers, key, value."""
    line = stream.readline()
    if not line:
        raise EOFError
    parts = line.decode(errors="replace").rstrip("\n").split("|", 5)
    if len(parts) != 6:
        return None
    time, partition, offset, headers, key, value = parts
    pairs = [pair.partition(":")[::2] for pair in headers.split(",") if ":" in pair]
    return as_wire(
        key=None if key == NULL else key.encode(),
        value=None if value == NULL else value.encode(),
        headers=pairs,
        timestamp_ms=int(time.rpartition(":")[2]),
        topic=topic,
        partition=int(partition.rpartition(":")[2]),
        offset=int(offset.rpartition(":")[2]),
    )


def _ids(text: str) -> list[int]:
    return [int(one) for one in text.split(",") if one]


if __name__ == "__main__":
    CLASS_PATH, RELEASE = sys.argv[1:3]
    del sys.argv[1:3]
    serve(lambda address: JavaTools(address, CLASS_PATH, RELEASE))
