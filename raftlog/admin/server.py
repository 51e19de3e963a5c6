"""The admin server: ``/livez``, ``/readyz`` and ``/metrics`` over HTTP, and ``/`` that lists them."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from raftlog.admin.http import HEAD_BYTES_MAX, Answer, Request, encode, parse_head, text
from raftlog.errors import AddressInUseError, ConfigError

_log = logging.getLogger(__name__)

REQUEST_S_MAX: Final = 10.0
"""From connecting to having taken the answer; a scraper needs milliseconds."""
CONNECTIONS_MAX: Final = 64
"""Connections at the same time; one more is closed at once."""
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_INDEX: Final = "raftlog\n\n/livez    the process answers\n/readyz   the node can serve\n/metrics  figures for Prometheus"


class AdminServer:
    """One node's admin port.

    Args:
        host, port: where to listen; port 0 takes a free one.
        ready: None where the node can serve, otherwise why it cannot.
        metrics: the page for Prometheus, in its text format.
    """

    def __init__(self, host: str, port: int, *, ready: Callable[[], str | None], metrics: Callable[[], bytes]) -> None:
        self._host = host
        self._port = port
        self._ready = ready
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """``host:port`` that is listened on, once started."""
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            AddressInUseError: another process listens there.
            ConfigError: the address cannot be listened on.
        """
        where = f"{self._host}:{self._port}"
        try:
            self._server = await asyncio.start_server(self._connected, self._host, self._port, limit=HEAD_BYTES_MAX)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUseError(
                    f"cannot listen on {where} for admin: the port is in use; stop its owner, or choose another"
                ) from error
            raise ConfigError(f"cannot listen on {where} for admin: {error.strerror}; give an address of this machine") from error
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port, and cut the connections that are left."""
        if self._server is None:
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        await self._server.wait_closed()
        self._server = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) <= CONNECTIONS_MAX:
                async with asyncio.timeout(REQUEST_S_MAX):
                    await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side left, or dawdled, or we stop
        except Exception:
            _log.exception("unexpected error on the admin port")
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            request, answer = None, text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is too long")
        else:
            request = parse_head(head)
            answer = self._answer(request)
        writer.write(encode(answer, head_only=request is not None and request.method == "HEAD"))
        await writer.drain()
        writer.write_eof()

    def _answer(self, request: Request | None) -> Answer:
        if request is None:
            return text(HTTPStatus.BAD_REQUEST, "this is not an HTTP/1.1 request")
        page = {"/": _index, "/livez": _live, "/readyz": self._readiness, "/metrics": self._figures}.get(request.path)
        if page is None:
            return text(HTTPStatus.NOT_FOUND, "there is no such page; try one of /livez, /readyz, /metrics")
        if request.method not in ("GET", "HEAD"):
            return text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered", ("Allow", "GET, HEAD"))
        return page()

    def _readiness(self) -> Answer:
        reason = self._ready()
        return text(HTTPStatus.OK, "ready") if reason is None else text(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {reason}")

    def _figures(self) -> Answer:
        try:
            return Answer(status=HTTPStatus.OK, body=self._metrics(), content_type=METRICS_TYPE)
        except Exception:
            _log.exception("the metrics page failed")
            return text(HTTPStatus.INTERNAL_SERVER_ERROR, "the figures could not be gathered; the node's log says why")


def _live() -> Answer:
    return text(HTTPStatus.OK, "alive")


def _index() -> Answer:
    return text(HTTPStatus.OK, _INDEX)
