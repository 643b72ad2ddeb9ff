"""A quantity that is worked out from the attributes of an event: `ceil(duration_ms / 1000) * memory_gb`.

Enters: the text of an expression; the attributes of one event. Leaves: an exact quantity, rounded once, half away from zero,
to nine decimals. Refuses: what is no number, division by zero, names that the event does not have: as BadExpression, and the
event becomes a dead letter. Source: price models, section 1.11.

    expression = term (("+" | "-") term)*        term = factor (("*" | "/") factor)*
    factor     = "-" factor | number | name | function "(" expression ("," expression)* ")" | "(" expression ")"

Functions: ceil(x), ceil(x, places), floor, round (half away from zero), least(x, ...), greatest(x, ...), concat(x, ...), which
joins texts. Numbers are plain decimals; all arithmetic is in rationals. It is a small language on purpose: no text of a catalog
is ever run by Python or SQL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any

from metering.errors import BadEvent
from metering.numbers import exact_arithmetic, trimmed

PLACES = 9
_DEPTH_MAX = 50
_TEXT_MAX = 1000
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]{1,29}(?:\.[0-9]{1,29})?)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>[-+*/(),]))"
)
_PLAIN = re.compile(r"-?[0-9]{1,29}(?:\.[0-9]{1,29})?")
Value = Fraction | str
Attributes = Mapping[str, Any]
Node = Callable[[Attributes], Value]


class ExpressionInvalid(ValueError):
    """The text is no expression. The message says where, and what was expected."""


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression, read once. `names` are the attributes that it needs."""

    text: str
    names: tuple[str, ...]
    node: Node

    def quantity_of(self, attributes: Attributes) -> Decimal:
        """Return the quantity of an event with these attributes. Raises BadEvent where there is none."""
        steps = _half_away(_number(self.node(attributes)) * 10**PLACES)
        if abs(steps) >= 10**38:
            raise BadEvent("bad_expression", f"{self.text} is beyond 29 digits")
        return _of_steps(steps)


@cache
def read_expression(text: str) -> Expression:
    """Return the expression that a text writes. Raises ExpressionInvalid."""
    if len(text) > _TEXT_MAX:
        raise ExpressionInvalid(f"an expression has at most {_TEXT_MAX} characters, this one {len(text)}")
    reader = _Reader(text)
    node = reader.sum_of(0)
    if reader.kind:
        raise ExpressionInvalid(f"there is no sign before {reader.word!r} at character {reader.start + 1}")
    return Expression(text, tuple(dict.fromkeys(reader.names)), node)


class _Reader:
    """Reads tokens from the left; each method reads one rule of the grammar and returns how to work it out."""

    def __init__(self, text: str) -> None:
        self._text, self._end = text, 0
        self.names: list[str] = []
        self.kind, self.word, self.start = "", "", 0
        self._next()

    def _next(self) -> str:
        word, found = self.word, _TOKEN.match(self._text, self._end)
        if found is None:
            if rest := self._text[self._end :].strip():
                raise ExpressionInvalid(f"nobody knows {rest[:20]!r}; write numbers, attributes, + - * / and functions")
            self.kind = self.word = ""
            self.start = len(self._text)
        else:
            self.kind, self.word, self.start = str(found.lastgroup), found[found.lastgroup or 0], found.start()
            self._end = found.end()
        return word

    def _expect(self, sign: str) -> None:
        if self.word != sign:
            raise ExpressionInvalid(f"{sign!r} is missing at character {self.start + 1}")
        self._next()

    def sum_of(self, depth: int) -> Node:
        if depth > _DEPTH_MAX:
            raise ExpressionInvalid(f"it is nested more than {_DEPTH_MAX} deep")
        left = self._product(depth)
        while self.kind == "sign" and self.word in "+-":
            left = _two(self._next(), left, self._product(depth))
        return left

    def _product(self, depth: int) -> Node:
        left = self._factor(depth)
        while self.kind == "sign" and self.word in "*/":
            left = _two(self._next(), left, self._factor(depth))
        return left

    def _factor(self, depth: int) -> Node:
        kind, word = self.kind, self.word
        if kind == "sign" and word == "-":
            self._next()
            inner = self._factor(depth + 1) if depth < _DEPTH_MAX else self.sum_of(depth + 1)
            return lambda attributes: -_number(inner(attributes))
        if kind == "sign" and word == "(":
            self._next()
            inside = self.sum_of(depth + 1)
            self._expect(")")
            return inside
        if kind == "number":
            value = Fraction(self._next())
            return lambda _: value
        if kind != "name":
            raise ExpressionInvalid(f"a number, an attribute or ( is missing at character {self.start + 1}")
        self._next()
        if self.word == "(":
            return self._call(word, depth)
        self.names.append(word)
        return lambda attributes: _value(word, attributes)

    def _call(self, name: str, depth: int) -> Node:
        if name not in _FUNCTIONS:
            raise ExpressionInvalid(f"nobody knows the function {name!r}; write one of {', '.join(_FUNCTIONS)}")
        self._next()
        given = [self.sum_of(depth + 1)]
        while self.word == ",":
            self._next()
            given.append(self.sum_of(depth + 1))
        self._expect(")")
        function, most = _FUNCTIONS[name]
        if len(given) > most:
            raise ExpressionInvalid(f"{name} takes at most {most} values, and has {len(given)}")
        return lambda attributes: function([one(attributes) for one in given])


def _two(sign: str, left: Node, right: Node) -> Node:
    def work_out(attributes: Attributes) -> Value:
        one, other = _number(left(attributes)), _number(right(attributes))
        if sign == "/":
            if not other:
                raise BadEvent("bad_expression", "it divides by zero")
            return one / other
        return one + other if sign == "+" else one - other if sign == "-" else one * other

    return work_out


def _value(name: str, attributes: Attributes) -> Value:
    value = attributes.get(name)
    if value is None or isinstance(value, bool | dict | list):
        raise BadEvent("bad_expression", f"the event has no value of {name!r} to work with")
    return str(value)


def _number(value: Value) -> Fraction:
    if isinstance(value, Fraction):
        return value
    if not _PLAIN.fullmatch(value):
        raise BadEvent("bad_expression", f"{value[:40]!r} is no plain decimal number")
    return Fraction(value)


def _half_away(value: Fraction) -> int:
    size = math.floor(abs(value) + Fraction(1, 2))
    return size if value >= 0 else -size


def _of_steps(steps: int) -> Decimal:
    """Return so many steps of the last place, with all their digits: decimals by themselves keep 28."""
    with exact_arithmetic():
        return Decimal(steps).scaleb(-PLACES)


def _to_places(rounded: Callable[[Fraction], int]) -> Callable[[list[Value]], Value]:
    def work_out(given: list[Value]) -> Value:
        places = _number(given[1]) if len(given) > 1 else Fraction(0)
        if places.denominator != 1 or abs(places) > 29:
            raise BadEvent("bad_expression", f"{places} is no number of decimals")
        step = Fraction(10) ** int(places)
        return rounded(_number(given[0]) * step) / step

    return work_out


def _text(value: Value) -> str:
    if isinstance(value, str):
        return value
    if value.denominator == 1:
        return str(value.numerator)
    return trimmed(_of_steps(_half_away(value * 10**PLACES)))


_FUNCTIONS: Mapping[str, tuple[Callable[[list[Value]], Value], int]] = {
    "ceil": (_to_places(math.ceil), 2),
    "floor": (_to_places(math.floor), 2),
    "round": (_to_places(_half_away), 2),
    "least": (lambda given: min(_number(one) for one in given), 99),
    "greatest": (lambda given: max(_number(one) for one in given), 99),
    "concat": (lambda given: "".join(_text(one) for one in given), 99),
}
