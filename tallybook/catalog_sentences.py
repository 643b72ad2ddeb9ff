"""From what pydantic says to a sentence at a line: what is wrong, where it stands, what to write instead.

Enters: the errors of one entry, the node of its YAML text, the JSON Schema of its model. Leaves: mistakes.
Refuses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from metering.catalog import MISTAKES, Mistake, Place
from tallybook.yaml_nodes import Node

_SHAPES = {
    "tuple_type": "a list: write [a, b], or one entry per line after a dash",
    "list_type": "a list: write [a, b], or one entry per line after a dash",
    "dict_type": "a mapping: write key: value",
    "model_type": "a mapping: write key: value",
    "model_attributes_type": "a mapping: write key: value",
    "string_type": "text: write one word or sentence",
}


def mistakes_of(
    errors: Sequence[Mapping[str, Any]], node: Node, schema: Mapping[str, Any], *, file: str, path: str
) -> Iterator[Mistake]:
    """Give every mistake of one entry, in the order of the file."""
    for error in errors:
        for place, message in _places(error, schema):
            line, full = locate(node, place, path)
            yield Mistake(file, line, full, message)


def _places(error: Mapping[str, Any], schema: Mapping[str, Any]) -> list[tuple[Place, str]]:
    loc: Place = error["loc"]
    if error["type"] == MISTAKES:
        return [(loc + tuple(place), message) for place, message in error["ctx"]["mistakes"]]
    return [(loc, _sentence(error, schema))]


def _sentence(error: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    kind, loc, given = error["type"], error["loc"], error["input"]
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "missing":
        wanted = schema_at(schema, loc).get("description", "it has no default")
        return f"{loc[-1]} is missing; write {loc[-1]}: {wanted}"
    if kind == "extra_forbidden":
        known = list(schema_at(schema, loc[:-1]).get("properties", {}))
        return f"unknown key {loc[-1]!r}; {nearest(str(loc[-1]), known)}"
    if kind == "literal_error":
        choices = [str(choice) for choice in schema_at(schema, loc).get("enum", [])]
        return f"{given!r} is not known here; {nearest(str(given), choices)}"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        tags = list(schema_at(schema, loc).get("discriminator", {}).get("mapping", {}))
        if kind == "union_tag_not_found":
            return f"type is missing; write type: {' or '.join(tags)}"
        return f"{error['ctx']['tag']!r} is no type of price; {nearest(str(error['ctx']['tag']), tags)}"
    if kind in _SHAPES:
        return f"{_shown(given)} cannot stand here; this is {_SHAPES[kind]}"
    return str(error["msg"])


def nearest(word: str, known: Sequence[str]) -> str:
    """Return what to write instead of an unknown word: the nearest known one, or all of them."""
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"write one of: {', '.join(known)}" if known else "remove it"


def locate(node: Node, place: Place, path: str) -> tuple[int, str]:
    """Return the line and the full path of a place below a node. Steps that the file does not have keep the last line."""
    line = node.line
    at: Node | None = node
    for step in place:
        value = at.value if at else None
        if isinstance(step, int):
            path += f"[{step}]"
            at = value[step] if isinstance(value, list) and step < len(value) else None
            line = at.line if at else line
        elif isinstance(value, dict) and at is not None and step in value:
            path += f".{step}"
            line, at = at.key_lines[step], value[step]
        elif not _is_type_tag(value, step):
            path += f".{step}"
            at = None
    return line, path


def _is_type_tag(value: object, step: str) -> bool:
    # The place of an error inside a price names the price's type, which is no key of the file.
    return isinstance(value, dict) and "type" in value and value["type"].value == step


def schema_at(schema: Mapping[str, Any], place: Place) -> Mapping[str, Any]:
    """Return the part of a JSON Schema that describes a place; empty where it says nothing."""
    definitions = schema.get("$defs", {})
    at = schema
    for step in place:
        at = _resolved(at, definitions)
        tags = at.get("discriminator", {}).get("mapping", {})
        if isinstance(step, int):
            at = at.get("items", {})
        elif step in tags:
            at = {"$ref": tags[step]}
        else:
            at = at.get("properties", {}).get(step, {})
    return _resolved(at, definitions)


def _resolved(at: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    described = {key: at[key] for key in ("description",) if key in at}
    if "$ref" in at:
        at = {**definitions[at["$ref"].rsplit("/", 1)[-1]], **described}
    if "anyOf" in at:
        options = [option for option in at["anyOf"] if option.get("type") != "null"]
        at = {**_resolved(options[0], definitions), **described}
    return at


def _shown(given: object) -> str:
    if given is None:
        return "nothing (or null)"
    if isinstance(given, list | tuple):
        return "a list"
    return "a mapping" if isinstance(given, dict) else repr(str(given)[:60])
