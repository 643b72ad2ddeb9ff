"""A name that is both a column of a source and an alias of the same SELECT, and is read there without its table.

DuckDB then takes the column, whatever the author meant: `coalesce(before.quantity, 0) AS tiers_from, tiers_end - tiers_from`
subtracts the column `tiers_from` where there is one. That has cost an overbilling. Whoever means the column writes its table
before it, whoever means the alias gives it a name of its own.

Enters: an engine in which a statement is about to run, and the statement. Leaves: the names it reads so. How: the alias is
given another name, and the SELECT is bound again, alone. What still binds has read a column.
Refuses to guess: a SELECT that does not bind alone (a correlated subquery) is passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

PACKAGES = ("metering", "entitlements", "rating", "billing_adapters")
ROOT = Path(__file__).parents[1]
RENAMED = "no_column_has_this_name"
# What stands before the query in a statement that is not one.
_BEFORE = re.compile(
    r"\s*(CREATE\s+OR\s+REPLACE\s+(TABLE|VIEW)\s+\w+\s+AS|INSERT\s+INTO\s+\w+(\s+BY\s+NAME)?|COPY\s+\()", re.IGNORECASE
)
_FROM_QUERY = re.compile(r"\bFROM\s*\(", re.IGNORECASE)
_PARAMETER = re.compile(r"\$\w+")
_CLAUSES = ("where_clause", "group_expressions", "having", "qualify")

Json = Any


class AliasWatch:
    """Looks at each statement of the packages once, when it first runs with the tables that it then has."""

    def __init__(self) -> None:
        files = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.sql")))
        self.unseen = {path.read_text(encoding="utf-8"): path.name for path in files}

    @contextmanager
    def on_every_engine(self) -> Iterator[None]:
        """Watch all engines of this process."""
        kind = duckdb.DuckDBPyConnection
        before = {name: getattr(kind, name) for name in ("execute", "sql")}
        for name, ask in before.items():
            setattr(kind, name, self._watching(ask))
        try:
            yield
        finally:
            for name, ask in before.items():
                setattr(kind, name, ask)

    def _watching(self, ask: Any) -> Any:
        def watched(engine: duckdb.DuckDBPyConnection, statement: Any, *values: Any, **named: Any) -> Any:
            file = self.unseen.pop(statement, None) if isinstance(statement, str) else None
            if file is not None:
                # A cursor: what the engine has half read stays as it is.
                read = shadowed(engine.cursor(), statement)
                assert not read, f"{file} reads {read}, which are columns and aliases of one SELECT; write their table"
            return ask(engine, statement, *values, **named)

        return watched


def shadowed(engine: duckdb.DuckDBPyConnection, statement: str) -> list[str]:
    """Return the names that are read for an alias, or seem to be, and are a column."""
    found = []
    for query in _queries(re.sub(r"--[^\n]*", "", statement)):
        tree = json.loads(engine.execute("SELECT json_serialize_sql($1)", [query]).fetchone()[0])  # type: ignore[index]
        if tree["error"]:
            continue
        found += [
            node["select_list"][place]["alias"]
            for node, tables in _selects(tree["statements"][0]["node"], [])
            for place in _read_again(node)
            if _binds(engine, node, tables) and _binds(engine, _renamed(node, place), tables)
        ]
    return found


def _queries(statement: str) -> list[str]:
    """Return the queries of a statement: itself, what it creates or inserts, or those that an UPDATE reads from."""
    if not re.match(r"\s*(UPDATE|DELETE)\b", statement, re.IGNORECASE):
        return [_BEFORE.sub("", statement, count=1)]
    return [_until_closed(statement, found.end()) for found in _FROM_QUERY.finditer(statement)]


def _until_closed(text: str, start: int) -> str:
    depth = 1
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return text[start:at]
    return text[start:]


def _selects(tree: Json, tables: list[Json]) -> Iterator[tuple[Json, list[Json]]]:
    """Yield every SELECT, with the named queries before it and around it."""
    if isinstance(tree, dict):
        if "cte_map" in tree:
            for named in tree["cte_map"]["map"]:
                yield from _selects(named["value"]["query_node"], tables)
                tables = [*tables, named]
        if tree.get("type") == "SELECT_NODE":
            yield tree, tables
        for name, part in tree.items():
            if name != "cte_map":
                yield from _selects(part, tables)
    elif isinstance(tree, list):
        for part in tree:
            yield from _selects(part, tables)


def _read_again(node: Json) -> list[int]:
    """Return the places of the aliases that another part of the SELECT reads without a table."""
    places = {
        item["alias"]: place
        for place, item in enumerate(node["select_list"])
        if item.get("alias") and _names(item) != item["alias"]
    }
    read = {name for clause in _CLAUSES for name in _bare(node.get(clause))}
    found = {places[name] for name in read if name in places}
    for place, item in enumerate(node["select_list"]):
        found |= {places[name] for name in _bare(item) if places.get(name, place) != place}
    return sorted(found)


def _names(item: Json) -> str | None:
    """Return the column that an item is, nothing else done to it."""
    return item["column_names"][-1] if item.get("class") == "COLUMN_REF" else None


def _bare(tree: Json) -> Iterator[str]:
    """Yield the names that are read without a table, but in queries of their own."""
    if isinstance(tree, dict):
        if tree.get("class") == "COLUMN_REF":
            if len(tree["column_names"]) == 1:
                yield tree["column_names"][0]
            return
        for name, part in tree.items():
            if name != "subquery":
                yield from _bare(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from _bare(part)


def _renamed(node: Json, place: int) -> Json:
    changed = json.loads(json.dumps(node))
    changed["select_list"][place]["alias"] = RENAMED
    return changed


def _binds(engine: duckdb.DuckDBPyConnection, node: Json, tables: list[Json]) -> bool:
    """Return whether a SELECT binds alone, without its order."""
    alone = {**node, "modifiers": [], "cte_map": {"map": tables}}
    tree = json.dumps({"error": False, "statements": [{"node": alone, "named_param_map": []}]})
    try:
        text = engine.execute("SELECT json_deserialize_sql($1::JSON)", [tree]).fetchone()[0]  # type: ignore[index]
        engine.execute(f"DESCRIBE {_PARAMETER.sub('NULL', text)}").fetchall()
    except duckdb.Error:
        return False
    return True
