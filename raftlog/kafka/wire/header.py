"""The header of requests and answers (versions 0 to 2; KIP-482)."""

from __future__ import annotations

from typing import NamedTuple

from raftlog.kafka.wire.api import APIS, Api, ApiKey
from raftlog.kafka.wire.primitives import Reader, Writer


class RequestHeader(NamedTuple):
    """A request's header; ``api`` is None for a key that is not known here."""

    key: int
    version: int
    correlation_id: int
    client_id: str
    api: Api | None

    @property
    def is_served(self) -> bool:
        """Whether requests of this version are answered."""
        return self.api is not None and self.api.serves(self.version)

    @property
    def flexible(self) -> bool:
        """Whether the version has compact types and tagged fields."""
        return self.api is not None and self.version >= self.api.flexible_from


def read_header(reader: Reader) -> RequestHeader:
    """Read a request's header; the body follows it.

    The client id keeps its old form in header version 2. A request that is not served is read no further than its
    correlation id, for what follows it is not known.

    Raises:
        MalformedRequestError: it is cut off.
    """
    key, version, correlation_id = reader.int16(), reader.int16(), reader.int32()
    api = APIS.get(key)
    header = RequestHeader(key, version, correlation_id, "", api)
    if not header.is_served:
        return header
    client_id = reader.nullable_string(compact=False) or ""
    reader.skip_tags_if(header.flexible)
    return header._replace(client_id=client_id)


def begin_answer(header: RequestHeader) -> Writer:
    """A writer that has the answer's header. That of ApiVersions is always version 0, for the client cannot know better."""
    writer = Writer()
    writer.int32(header.correlation_id)
    writer.tags_if(header.flexible and header.key != ApiKey.API_VERSIONS)
    return writer
