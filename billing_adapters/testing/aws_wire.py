"""How AWS services are spoken to: JSON with a target header, or CBOR with the operation in the path; and the model of each call.

Enters: the headers, path and body of a request as botocore makes it. Leaves: the service, its operation, the parameters, and the
bytes of an answer in the same language. Refuses: what botocore's own model of the operation says is out of form, which botocore
itself lets pass: lengths, patterns, enumerations, unknown fields. Source: reference/providers.md, sections 2.1 and 2.8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from struct import pack
from typing import TYPE_CHECKING, Any

import orjson

from metering.clock import from_us, to_us

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

JSON, CBOR = "application/x-amz-json-1.1", "application/cbor"
SERVICES = (
    "meteringmarketplace",
    "marketplace-entitlement",
    "marketplace-agreement",
    "marketplacecommerceanalytics",
    "sqs",
)
_SIGNED = re.compile(r"Credential=([^/]+)/\d{8}/([^/]+)/")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: the operation and its parameters. `key_id` signed it, for `region`."""

    service: str
    operation: str
    parameters: dict[str, Any]
    language: str
    key_id: str
    region: str

    @property
    def input_shape(self) -> Any:
        return _model(self.service).operation_model(self.operation).input_shape

    def answer(self, said: Mapping[str, Any]) -> bytes:
        """Return an answer in the language of the request. Instants are seconds since 1970, in both."""
        if self.language == JSON:
            return orjson.dumps(said, default=_json)
        return _cbor(said)


def read_request(headers: Mapping[str, str], path: str, body: bytes) -> Asked | None:
    """Return what is asked; None where no service of ours knows the operation. Header names are in lower case."""
    signed = _SIGNED.search(headers.get("authorization", ""))
    key_id, region = (signed[1], signed[2]) if signed else ("", "")
    found = re.fullmatch(r"/service/([^/]+)/operation/([^/]+)", path)
    target, operation = (found[1], found[2]) if found else tuple(headers.get("x-amz-target", ".").rsplit(".", 1))
    service = next((name for name in SERVICES if _model(name).metadata["targetPrefix"] == target), None)
    if service is None or operation not in _model(service).operation_names:
        return None
    parameters = _read_cbor(body) if found else orjson.loads(body)
    return Asked(service, operation, parameters, CBOR if found else JSON, key_id, region)


def check_model(shape: Any, value: Any, refused: Callable[[str], Exception], place: str = "") -> None:
    """Refuse what the model of an operation does not allow. Raises what `refused` makes of a sentence."""
    kind, limits = shape.type_name, shape.metadata
    if kind == "structure":
        _check_structure(shape, value, refused, place)
    elif kind == "list":
        _check_size(len(_of(value, list, refused, place)), limits, refused, place)
        for number, one in enumerate(value):
            check_model(shape.member, one, refused, f"{place}[{number}]")
    elif kind == "map":
        for key, one in _of(value, dict, refused, place).items():
            check_model(shape.key, key, refused, f"{place} key")
            check_model(shape.value, one, refused, f"{place}.{key}")
    elif kind == "string":
        _check_size(len(_of(value, str, refused, place)), limits, refused, place)
        if "enum" in limits and value not in limits["enum"]:
            raise refused(f"{place}: {value!r} is not one of {', '.join(limits['enum'])}")
        if "pattern" in limits and not re.fullmatch(limits["pattern"], value):
            raise refused(f"{place}: {value!r} does not match {limits['pattern']}")
    elif kind in {"integer", "long"}:
        if type(value) is not int:
            raise refused(f"{place}: {value!r} is no whole number")
        _check_size(value, limits, refused, place)
    elif kind == "boolean":
        _of(value, bool, refused, place)


def instant_of(value: Any) -> datetime:
    """Return an instant of a request: seconds since 1970, or what CBOR made of them."""
    return value if isinstance(value, datetime) else from_us(int(Decimal(str(value)) * 1_000_000))


def _check_structure(shape: Any, value: Any, refused: Callable[[str], Exception], place: str) -> None:
    _of(value, dict, refused, place)
    unknown = value.keys() - shape.members.keys()
    missing = set(shape.required_members) - value.keys()
    if unknown or missing:
        raise refused(f"{place}: unknown fields {sorted(unknown)}, missing fields {sorted(missing)}")
    for name, one in value.items():
        check_model(shape.members[name], one, refused, f"{place}.{name}")


def _check_size(size: int, limits: Mapping[str, Any], refused: Callable[[str], Exception], place: str) -> None:
    if not limits.get("min", size) <= size <= limits.get("max", size):
        raise refused(f"{place}: {size} is not within {limits.get('min')} and {limits.get('max')}")


def _of(value: Any, kind: type, refused: Callable[[str], Exception], place: str) -> Any:
    if type(value) is not kind:
        raise refused(f"{place}: {value!r} is no {kind.__name__}")
    return value


@cache
def _model(service: str) -> Any:
    import botocore.session

    return botocore.session.get_session().get_service_model(service)


def _json(value: object) -> Any:
    if isinstance(value, datetime):
        return to_us(value) // 1_000_000
    if isinstance(value, Decimal):
        # A Double: a float on AWS's own wire.
        return value.__float__()
    raise TypeError(f"{value!r} has no place in an answer")


def _read_cbor(body: bytes) -> dict[str, Any]:
    from botocore.parsers import RpcV2CBORParser

    parser = RpcV2CBORParser()
    read: dict[str, Any] = parser.parse_data_item(parser.get_peekable_stream_from_bytes(body))
    return read


def _cbor(value: Any) -> bytes:
    """Return a value in CBOR (RFC 8949), as little of it as answers need."""
    if isinstance(value, bool) or value is None:
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, str):
        text = value.encode()
        return _head(3, len(text)) + text
    if isinstance(value, datetime):
        return _head(6, 1) + _cbor(to_us(value.astimezone(UTC)) // 1_000_000)
    if isinstance(value, Decimal):
        return b"\xfb" + pack(">d", value)
    if isinstance(value, dict):
        return _head(5, len(value)) + b"".join(_cbor(key) + _cbor(one) for key, one in value.items())
    return _head(4, len(value)) + b"".join(_cbor(one) for one in value)


def _head(major: int, size: int) -> bytes:
    if size < 24:
        return bytes([major << 5 | size])
    places = next(places for places in (1, 2, 4, 8) if size < 1 << 8 * places)
    return bytes([major << 5 | {1: 24, 2: 25, 4: 26, 8: 27}[places]]) + size.to_bytes(places, "big")
