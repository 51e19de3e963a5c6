r"""Patterns of topic names: a small regular expression language that always matches in time linear in the name.

Python's ``re`` backtracks: one unlucky pattern would hold up a node for hours. Here a pattern becomes an automaton without
backtracking (Thompson 1968, "Regular Expression Search Algorithm"): all ways to match are followed at once. Understood are
literals, ``.``, ``[a-z]``, ``[^a-z]``, ``(…)``, ``(?:…)``, ``|``, ``*``, ``+``, ``?``, and ``\`` before a sign, or as ``\d`` and
``\w``. A name matches as a whole, so ``^`` may only begin a pattern and ``$`` only end it, where they change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from raftlog.errors import InvalidRequestError

PATTERN_CHARS_MAX: Final = 250
"""A little more than the longest name; with it the automaton has some 500 states, and a name takes milliseconds at worst."""
_DEPTH_MAX: Final = 50
"""Parentheses within parentheses: the parser calls itself."""

_Accepts = Callable[[str], bool]
_CLASSES: Final[dict[str, _Accepts]] = {"d": str.isdecimal, "w": lambda sign: sign.isalnum() or sign == "_"}


@dataclass(slots=True, eq=False)
class _State:
    """Either passes over one sign that it accepts, or, accepting none, leads on at once."""

    accepts: _Accepts | None = None
    outs: list[_State] = field(default_factory=list)


_Fragment = tuple[_State, _State]
"""Entry and exit; the exit leads nowhere yet."""


class TopicPattern:
    """A compiled pattern.

    Raises:
        InvalidRequestError: it is empty, too long, or not in the language; the message says where.
    """

    def __init__(self, pattern: str) -> None:
        if not 0 < len(pattern) <= PATTERN_CHARS_MAX:
            raise InvalidRequestError(f"a topic pattern has 1 to {PATTERN_CHARS_MAX} characters, not {len(pattern)}")
        self._entry, self._exit = _Parser(pattern).parse()

    def matches(self, name: str) -> bool:
        """Whether the whole name matches."""
        states = _reached([self._entry])
        for sign in name:
            states = _reached([out for state in states if state.accepts and state.accepts(sign) for out in state.outs])
            if not states:
                return False
        return self._exit in states


def _reached(states: list[_State]) -> set[_State]:
    """These states, and those that they lead to without a sign."""
    found: set[_State] = set()
    waiting = states
    while waiting:
        state = waiting.pop()
        if state not in found:
            found.add(state)
            if state.accepts is None:
                waiting.extend(state.outs)
    return found


class _Parser:
    """By recursive descent: alternatives of sequences of repeated items."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 1 if pattern.startswith("^") else 0
        escapes = len(pattern[:-1]) - len(pattern[:-1].rstrip("\\"))
        self._stop = len(pattern) - 1 if pattern.endswith("$") and escapes % 2 == 0 else len(pattern)
        self._depth = 0

    def parse(self) -> _Fragment:
        fragment = self._alternatives()
        if self._at < self._stop:
            raise self._wrong("this closes nothing")
        return fragment

    def _wrong(self, why: str) -> InvalidRequestError:
        shown = self._pattern if len(self._pattern) <= 60 else self._pattern[:60] + "…"
        return InvalidRequestError(f"topic pattern {shown!r}, character {self._at + 1}: {why}")

    def _peek(self) -> str:
        return self._pattern[self._at] if self._at < self._stop else ""

    def _next(self) -> str:
        sign = self._peek()
        if not sign:
            raise self._wrong("the pattern ends too early")
        self._at += 1
        return sign

    def _alternatives(self) -> _Fragment:
        entry, end = _State(), _State()
        while True:
            first, last = self._sequence()
            entry.outs.append(first)
            last.outs.append(end)
            if self._peek() != "|":
                return entry, end
            self._at += 1

    def _sequence(self) -> _Fragment:
        entry = last = _State()
        while (sign := self._peek()) and sign not in "|)":
            first, end = self._repeated()
            last.outs.append(first)
            last = end
        return entry, last

    def _repeated(self) -> _Fragment:
        first, last = self._item()
        while (sign := self._peek()) and sign in "*+?":
            self._at += 1
            entry, end = _State(outs=[first]), _State()
            last.outs.append(end)
            if sign in "*+":
                last.outs.append(first)
            if sign in "*?":
                entry.outs.append(end)
            first, last = entry, end
        return first, last

    def _item(self) -> _Fragment:
        sign = self._next()
        if sign == "(":
            return self._group()
        if sign in "*+?":
            raise self._wrong(f"{sign} repeats nothing")
        if sign in "{}^$":
            raise self._wrong(f"{sign} has no meaning here; write \\{sign} for the sign itself")
        return _passing(self._accepts_for(sign))

    def _group(self) -> _Fragment:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise self._wrong(f"more than {_DEPTH_MAX} parentheses within each other")
        if self._pattern.startswith("?:", self._at):
            self._at += 2
        fragment = self._alternatives()
        if self._next() != ")":
            raise self._wrong("a ) is missing")
        self._depth -= 1
        return fragment

    def _accepts_for(self, sign: str) -> _Accepts:
        if sign == ".":
            return lambda _: True
        if sign == "[":
            return self._set()
        if sign == "\\":
            return self._escaped()
        return sign.__eq__

    def _escaped(self) -> _Accepts:
        sign = self._next()
        if sign in _CLASSES:
            return _CLASSES[sign]
        if sign.isalnum():
            raise self._wrong(f"\\{sign} is not understood; there are \\d and \\w, and \\ before a sign")
        return sign.__eq__

    def _set(self) -> _Accepts:
        negated = self._peek() == "^"
        self._at += negated
        parts: list[_Accepts] = []
        while (sign := self._next()) != "]" or not parts:
            low = sign
            if sign == "\\":
                parts.append(self._escaped())
                continue
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                parts.append(_between(low, self._next()))
            else:
                parts.append(low.__eq__)
        return lambda tried: any(part(tried) for part in parts) is not negated


def _passing(accepts: _Accepts) -> _Fragment:
    end = _State()
    return _State(accepts=accepts, outs=[end]), end


def _between(low: str, high: str) -> _Accepts:
    return lambda sign: low <= sign <= high
