"""The shapes of Stripe's requests, taken from the SDK that is installed: what its typed parameters refuse is refused.

Enters: the raw parameters of a request, as nested texts (forms) or JSON. Leaves: typed values. Refuses: unknown names, missing
ones, words that are not listed, texts where numbers belong, and any number with a float's point or an exponent, which the SDK
itself would let through.
Source: reference/providers.md, section 9 (contract check from the installed SDK).
"""

from __future__ import annotations

import re
import typing
from decimal import Decimal
from functools import cache
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl

import typing_extensions
from pydantic import ConfigDict, TypeAdapter, ValidationError

# Options of the SDK that are inherited by every class of parameters, and are headers on the wire.
_OPTIONS = frozenset(import_module("stripe._request_options").RequestOptions.__annotations__)
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")
_DECIMAL = re.compile(r"-?(0|[1-9]\d*)(\.\d{1,12})?")
_OPEN_WORDS = re.compile(r"(Literal\[[^\]]*\])\s*\|\s*str")


class ShapeRefused(Exception):
    """A request that Stripe's own typed parameters refuse. `param` is where, as the form names it."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


def parse_form(text: str) -> dict[str, Any]:
    """Return a form as nested dicts and lists of texts: `lines[0][amount]=5` is `{"lines": [{"amount": "5"}]}`."""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        keys = re.findall(r"[^\[\]]+", name)
        at = root
        for key in keys[:-1]:
            at = at.setdefault(key, {})
        at[keys[-1]] = value
    return {name: _listed(value) for name, value in root.items()}


def check_shape(module: str, name: str, raw: dict[str, Any]) -> dict[str, Any]:
    """Return the typed values of a request. Raises ShapeRefused."""
    for option in _OPTIONS & raw.keys():
        raise ShapeRefused(option, f"Received unknown parameter: {option}")
    try:
        typed: dict[str, Any] = _adapter(module, name).validate_python(raw)
    except ValidationError as refused:
        first = refused.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ShapeRefused(place, f"Invalid request: {place}: {first['msg']}") from refused
    _check_numbers(raw, typed, "")
    return typed


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _listed(one) for key, one in value.items()}
    if inner and all(key.isdigit() for key in inner):
        return [inner[key] for key in sorted(inner, key=int)]
    return inner


def _check_numbers(raw: Any, typed: Any, place: str) -> None:
    """Refuse numbers that are not plain digits on the wire; a float of JSON is never plain."""
    if isinstance(typed, dict):
        for key, value in typed.items():
            _check_numbers(raw[key], value, f"{place}[{key}]" if place else str(key))
    elif isinstance(typed, list):
        for at, value in enumerate(typed):
            _check_numbers(raw[at], value, f"{place}[{at}]")
    elif isinstance(typed, int) and not isinstance(typed, bool):
        if not _WHOLE.fullmatch(str(raw)):
            raise ShapeRefused(place, f"Invalid integer: {raw}")
    elif isinstance(typed, Decimal) and not (isinstance(raw, str) and _DECIMAL.fullmatch(raw)):
        raise ShapeRefused(place, f"Invalid decimal: {raw}")


@cache
def _adapter(module: str, name: str) -> TypeAdapter[Any]:
    from stripe._stripe_object import UntypedStripeObject

    parameters = import_module(f"stripe.params.{module}")
    for one in vars(parameters).values():
        if isinstance(one, type) and "Params" in one.__name__:
            one.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # type: ignore[attr-defined]
            one.__annotations__ = {key: _closed(kind) for key, kind in one.__annotations__.items()}
    names = {
        **vars(typing),
        **vars(typing_extensions),
        **vars(import_module("stripe._request_options")),
        **vars(parameters),
        "UntypedStripeObject": UntypedStripeObject,
        "Decimal": Decimal,
        "StripeContext": object,
        "RequestorOptions": object,
    }
    adapter: TypeAdapter[Any] = TypeAdapter(getattr(parameters, name))
    adapter.rebuild(force=True, _types_namespace=names)
    return adapter


def _closed(kind: Any) -> Any:
    """Return an annotation without the `|str` that the SDK adds to lists of words: it lets any word pass, Stripe does not."""
    if isinstance(kind, typing.ForwardRef):
        words = _OPEN_WORDS.fullmatch(kind.__forward_arg__)
        return kind if words is None else typing.ForwardRef(words[1])
    origin = typing_extensions.get_origin(kind)
    if origin in {typing_extensions.NotRequired, typing.NotRequired}:
        (inner,) = typing_extensions.get_args(kind)
        return typing.NotRequired[_closed(inner)]
    return kind
