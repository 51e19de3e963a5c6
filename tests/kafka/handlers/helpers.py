"""Calls of single handlers: a request as the codec would read it, an answer as an independent codec reads it."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from raftlog.broker.group_port import GroupBroker
from raftlog.kafka import codec
from raftlog.kafka.budget import AnswerBudget
from raftlog.kafka.dispatch import HANDLERS
from raftlog.kafka.handlers.call import Call, Door
from raftlog.kafka.handlers.refused import RefusedBatches
from raftlog.kafka.handlers.topic_cache import TopicCache
from raftlog.kafka.port import KafkaOptions
from raftlog.kafka.schemas import Field
from raftlog.kafka.wire.api import APIS
from raftlog.kafka.wire.header import RequestHeader
from raftlog.kafka.wire.primitives import Writer
from tests.gateway.fake_moves import FakeMoves
from tests.kafka.door import Figures, KafkaFakeBroker
from tests.kafka.oracle import decode_with_kio, entity


def versions(key: int) -> range:
    """The versions that are served."""
    return range(APIS[key].served_min, APIS[key].version_max + 1)


class Handlers:
    """Handlers over the fake broker with topic ``t`` of three partitions."""

    def __init__(self, groups: GroupBroker | None = None, **options: Any) -> None:
        self.broker = KafkaFakeBroker()
        self.broker.add_topic("t", 3)
        self.figures = Figures()
        self.moves = FakeMoves()
        self.door = Door(
            broker=self.broker,
            groups=groups,
            moves=self.moves,
            options=KafkaOptions(**{"listen": {}, "data_dir": "/d", **options}),
            metrics=self.figures,
            topics=TopicCache(),
            answers=AnswerBudget(1 << 30),
            refused=RefusedBatches(lambda: 0.0),
        )

    async def ask(self, key: int, version: int | None = None, /, *, listener: str = "default", **fields: Any) -> Any:
        """Answer a request of these fields, in the newest version where none is given."""
        api = APIS[key]
        version = api.version_max if version is None else version
        header = RequestHeader(key, version, 1, "client", api)
        call = Call(door=self.door, header=header, listener=listener, client_host="10.0.0.1")
        answer: Mapping[str, Any] = await HANDLERS[key](call, _request(codec.request(key).fields, fields))
        writer = Writer()
        codec.encode_answer(key, version, answer, writer)
        return decode_with_kio(entity(api, version, "Response"), b"".join(writer.finish()))


def _request(fields: tuple[Field, ...], given: Mapping[str, Any]) -> SimpleNamespace:
    """A request with the defaults of what was not given; items of arrays may be dicts."""
    assert given.keys() <= {field.name for field in fields}, given
    made = {field.name: field.default for field in fields} | dict(given)
    for field in fields:
        if field.kind == "struct" and made[field.name] is not None:
            made[field.name] = [_request(field.fields, one) for one in made[field.name]]
    return SimpleNamespace(**made)
