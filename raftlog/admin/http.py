"""HTTP/1.1 as far as three GET pages need it (RFC 9112): pure functions from bytes to requests and from answers to bytes.

A request's head is all that is read; every answer closes the connection, so a body that may follow is never looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

HEAD_BYTES_MAX: Final = 8 * 1024
"""Request line and headers; a browser sends less than 2 KiB."""
_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE: Final = re.compile(rf"({_NAME}) (/[!-~]*) HTTP/1\.([01])")
_HEADER: Final = re.compile(rf"{_NAME}:[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for; ``path`` is without its query."""

    method: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is answered."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


def text(status: HTTPStatus, message: str, *headers: tuple[str, str]) -> Answer:
    """An answer of one line."""
    return Answer(status=status, body=f"{message}\n".encode(), headers=headers)


def parse_head(head: bytes) -> Request | None:
    """The request whose head, up to its empty line, is ``head``; None where that is no HTTP/1 request."""
    lines = head.decode("latin-1").split("\r\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None or not all(_HEADER.fullmatch(line) for line in lines[1:] if line):
        return None
    return Request(method=match[1], path=match[2].partition("?")[0])


def encode(answer: Answer, *, head_only: bool) -> bytes:
    """The answer's bytes; for HEAD the length is that of the body which GET would get."""
    head = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(f"{name}: {value}" for name, value in answer.headers),
    ]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + (b"" if head_only else answer.body)
