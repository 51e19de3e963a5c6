"""Raft's messages as values, and their two other forms: PySyncObj's dicts and the peers' protobuf.

``Append`` is Raft's AppendEntries, ``Ack`` its answer. Members are ints (``core.configuration``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raftlog.core import configuration
from raftlog.core.entry import Entry, EntryKind, decode
from raftlog.errors import DataLossError, NewerFormatError
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb


@dataclass(slots=True)
class Append:
    """Not frozen, like ``Ack``: one is made for each message, and freezing costs more than a microsecond each."""

    term: int
    prev_index: int
    prev_term: int
    commit_index: int
    entries: list[Entry] = field(default_factory=list)
    probe: int = 0
    round: int = 0
    sleep_epoch: int = 0
    """Not 0: the follower is to sleep where this is all of its log, and committed."""

    @property
    def end_index(self) -> int:
        """The last entry that the message covers."""
        return self.prev_index + len(self.entries)


@dataclass(slots=True)
class Ack:
    term: int
    next_index: int
    success: bool
    reset: bool
    probe: int = 0
    round: int = 0
    damaged: bool = False
    """Something of what the follower holds fails its check."""
    agreed_term: int = 0
    """Of a reset: the term of the entry before ``next_index``, which the follower knows to be committed; 0 if it cannot say."""


@dataclass(frozen=True, slots=True)
class RequestVote:
    term: int
    last_index: int
    last_term: int
    disruptive: bool = False


@dataclass(frozen=True, slots=True)
class Vote:
    term: int


@dataclass(frozen=True, slots=True)
class RequestPreVote:
    term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class PreVote:
    term: int


@dataclass(frozen=True, slots=True)
class StaleTerm:
    term: int


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    term: int


@dataclass(frozen=True, slots=True)
class SnapshotOffer:
    term: int


@dataclass(frozen=True, slots=True)
class Asleep:
    """A follower's answer to an Append that told it to sleep, behind its Ack: it does."""

    term: int
    index: int


Message = Append | Ack | RequestVote | Vote | RequestPreVote | PreVote | StaleTerm | TimeoutNow | SnapshotOffer | Asleep

AFTER_COMMIT = (Ack, Vote, RequestVote, Asleep)
"""What may leave a node only when the transaction of its turn is durable (Raft section 5.1: before answering an RPC)."""


class MalformedMessageError(ValueError):
    """A peer's message contradicts itself; it is dropped."""


def to_pysyncobj(message: Message) -> dict[str, Any]:
    """The dict that PySyncObj's handler takes."""
    match message:
        case Append():
            entries = [(entry, entry.header.index, entry.header.term) for entry in message.entries]
            return {
                "type": "append_entries",
                "term": message.term,
                "commit_index": message.commit_index,
                "prevLogIdx": message.prev_index,
                "prevLogTerm": message.prev_term,
                "entries": entries,
            }
        case Ack():
            return {
                "type": "next_node_idx",
                "next_node_idx": message.next_index,
                "success": message.success,
                "reset": message.reset,
            }
        case RequestVote():
            return {
                "type": "request_vote",
                "term": message.term,
                "last_log_index": message.last_index,
                "last_log_term": message.last_term,
            }
        case Vote():
            return {"type": "response_vote", "term": message.term}
        case TimeoutNow():
            return {"type": "timeout_now", "term": message.term}
        case _:
            raise TypeError(f"PySyncObj knows no {type(message).__name__}")


def from_pysyncobj(message: dict[str, Any], term: int) -> Message:
    """What PySyncObj's dict says. ``term`` is the sender's, which PySyncObj leaves out of acknowledgements.

    Raises:
        TypeError: a kind of message that must never be sent (chunks, pickled snapshots, forwarded commands).
    """
    match message["type"]:
        case "next_node_idx":
            return Ack(term, message["next_node_idx"], message["success"], message["reset"])
        case "request_vote":
            return RequestVote(message["term"], message["last_log_index"], message["last_log_term"])
        case "response_vote":
            return Vote(message["term"])
        case "timeout_now":
            return TimeoutNow(message["term"])
        case "append_entries" if "entries" in message and message["prevLogIdx"] is not None:
            entries = [entry for entry, _, _ in message["entries"]]
            return Append(message["term"], message["prevLogIdx"], message["prevLogTerm"], message["commit_index"], entries)
        case kind:
            raise TypeError(f"PySyncObj's {kind} with {sorted(message)} has no place on the wire")


def to_wire(group: int, sender: int, recipient: int, message: Message) -> pb.RaftMessage:
    """The protobuf form; an Append's entries travel as payloads beside it."""
    body: dict[str, Any]
    match message:
        case Append(term, prev_index, prev_term, commit_index, entries, probe, round_, sleep_epoch):
            append = pb.AppendEntries(
                term=term,
                prev_index=prev_index,
                prev_term=prev_term,
                commit_index=commit_index,
                entry_count=len(entries),
                probe=probe,
                round=round_,
                sleep_epoch=sleep_epoch,
            )
            body = {"append_entries": append}
        case Ack(term, next_index, success, reset, probe, round_):
            ack = pb.AppendAck(term=term, next_index=next_index, success=success, reset=reset, probe=probe, round=round_)
            if message.damaged:
                ack.damaged = True
            if message.agreed_term:
                ack.agreed_term = message.agreed_term
            body = {"append_ack": ack}
        case RequestVote(term, last_index, last_term, disruptive):
            ask = pb.RequestVote(term=term, last_index=last_index, last_term=last_term, disruptive=disruptive)
            body = {"request_vote": ask}
        case Vote(term):
            body = {"vote": pb.Vote(term=term)}
        case RequestPreVote(term, last_index, last_term):
            body = {"request_pre_vote": pb.RequestVote(term=term, last_index=last_index, last_term=last_term)}
        case PreVote(term):
            body = {"pre_vote": pb.Vote(term=term)}
        case StaleTerm(term):
            body = {"stale_term": pb.StaleTerm(term=term)}
        case TimeoutNow(term):
            body = {"timeout_now": pb.TimeoutNow(term=term)}
        case Asleep(term, index):
            body = {"asleep": pb.Asleep(term=term, index=index)}
        case SnapshotOffer(term):
            body = {"snapshot_offer": pb.SnapshotOffer(term=term)}
    return pb.RaftMessage(group=group, sender=sender, recipient=recipient, **body)


def from_wire(wire: pb.RaftMessage, payloads: list[bytes]) -> Message:
    """Decode and check a peer's message; ``payloads`` are those that belong to it.

    Raises:
        MalformedMessageError: it is of no known kind, or its entries are damaged, of another group, or not in a row.
    """
    kind = wire.WhichOneof("body")
    if kind is None:
        raise MalformedMessageError(f"message for group {wire.group} is of no kind that this version knows")
    if kind == "append_entries":
        body = wire.append_entries
        entries = _checked_entries(wire.group, body.prev_index, payloads)
        return Append(
            body.term, body.prev_index, body.prev_term, body.commit_index, entries, body.probe, body.round, body.sleep_epoch
        )
    return _SMALL[kind](getattr(wire, kind))


_SMALL: dict[str, Callable[[Any], Message]] = {
    "append_ack": lambda m: Ack(m.term, m.next_index, m.success, m.reset, m.probe, m.round, m.damaged, m.agreed_term),
    "request_vote": lambda m: RequestVote(m.term, m.last_index, m.last_term, m.disruptive),
    "request_pre_vote": lambda m: RequestPreVote(m.term, m.last_index, m.last_term),
    "vote": lambda m: Vote(m.term),
    "pre_vote": lambda m: PreVote(m.term),
    "stale_term": lambda m: StaleTerm(m.term),
    "timeout_now": lambda m: TimeoutNow(m.term),
    "asleep": lambda m: Asleep(m.term, m.index),
    "snapshot_offer": lambda m: SnapshotOffer(m.term),
}


def _checked_entries(group: int, prev_index: int, payloads: list[bytes]) -> list[Entry]:
    entries = []
    for index, data in enumerate(payloads, prev_index + 1):
        try:
            entry = decode(data)
        except DataLossError as error:
            raise MalformedMessageError(f"entry {index} of group {group} was damaged on the way: {error}") from error
        except NewerFormatError as error:
            raise MalformedMessageError(f"entry {index} of group {group} cannot be read: {error}") from error
        if entry.header.group != group or entry.header.index != index:
            raise MalformedMessageError(f"expected entry {index} of group {group}, got {entry!r}")
        if entry.header.kind is EntryKind.CONFIGURATION:
            _check_configuration(entry)
        entries.append(entry)
    return entries


def _check_configuration(entry: Entry) -> None:
    """What the log is to obey at once must be readable before it is in there."""
    try:
        known = configuration.decode(bytes(entry.payload))
    except (DataLossError, NewerFormatError) as error:
        raise MalformedMessageError(str(error)) from error
    if not known.voters:
        raise MalformedMessageError(f"{entry!r} has no voters")
