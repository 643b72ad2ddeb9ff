"""The catalog files, all into one: what is metered, what it costs, and who is on which plan.

Enters: the folder `catalog/`; every `*.yaml` in it may hold any of the lists. Leaves: a frozen `Catalog`, and from it
the rules that recorders need, and JSON Schemas for editors. `apply_catalog` puts it into the books, `load_revision`
takes it out again.
Refuses: any mistake of any file, all of them at once, each with file, line, path and what to write instead.
Numbers never pass through a float: every scalar stays the text it was written as until a model reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metering.catalog import Mistake
from metering.meters import MeterRule
from rating.errors import CatalogInvalid
from rating.plans import Plan
from tallybook.catalog_checks import Entry, check_together
from tallybook.catalog_entries import MODEL_BY_KIND, MODELS, Catalog, Source, entry_key
from tallybook.catalog_history import Applied, Change, apply_catalog, load_revision
from tallybook.catalog_sentences import mistakes_of, nearest
from tallybook.yaml_nodes import Node, Unreadable, plain, read_nodes

__all__ = [
    "Applied",
    "Catalog",
    "Change",
    "apply_catalog",
    "json_schemas",
    "load_catalog",
    "load_plans",
    "load_revision",
    "meter_rules",
]


def load_catalog(folder: str | Path) -> Catalog:
    """Return the catalog that the files `*.yaml` of a folder say together. Reads only; the same files give the same.

    Raises CatalogInvalid (Terminal) with every mistake of every file; nothing of a catalog with a mistake is used.
    """
    folder = Path(folder)
    read = _Read([], [], set())
    for path in _catalog_files(folder, read.mistakes):
        _read_file(path, f"{folder.name}/{path.name}", read)
    read.mistakes.extend(check_together(read.entries, read.unread))
    if read.mistakes:
        raise CatalogInvalid(sorted(read.mistakes, key=lambda mistake: (mistake.file, mistake.line)))
    sources = {entry_key(one.model): Source(one.file, one.node.line, one.path) for one in read.entries}
    return Catalog.of((entry.model for entry in read.entries), sources=sources)


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read so far, what is wrong with it, and the kinds of which something could not be read."""

    entries: list[Entry]
    mistakes: list[Mistake]
    unread: set[str]


def _catalog_files(folder: Path, mistakes: list[Mistake]) -> list[Path]:
    if not folder.is_dir():
        message = "there is no such folder; run `tallybook init`, or write the catalog as *.yaml files in it"
        mistakes.append(Mistake(folder.name, 0, "", message))
        return []
    # Editors leave hidden files beside the ones they edit.
    names = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in names:
        if path.suffix == ".yml":
            message = f"only *.yaml is read; rename it to {path.stem}.yaml"
            mistakes.append(Mistake(f"{folder.name}/{path.name}", 0, "", message))
    files = [path for path in names if path.suffix == ".yaml"]
    if not files and not mistakes:
        message = "there is no *.yaml file in the folder; write meters, plans, accounts and subscriptions into one"
        mistakes.append(Mistake(folder.name, 0, "", message))
    return files


def _read_file(path: Path, file: str, read: _Read) -> None:
    try:
        node, found = read_nodes(path.read_bytes())
    except Unreadable as refused:
        read.mistakes.append(Mistake(file, refused.line, "", refused.message))
        read.unread.update(MODEL_BY_KIND)
        return
    except OSError as refused:
        message = f"the file cannot be read ({refused.strerror}); check its permissions"
        read.mistakes.append(Mistake(file, 0, "", message))
        read.unread.update(MODEL_BY_KIND)
        return
    read.mistakes.extend(Mistake(file, one.line, "", one.message) for one in found)
    if node is None or node.value is None:
        return
    if not isinstance(node.value, dict):
        message = f"the file must be a mapping of lists; write {', '.join(f'{name}:' for name in MODELS)}"
        read.mistakes.append(Mistake(file, node.line, "", message))
        read.unread.update(MODEL_BY_KIND)
        return
    for name, listed in node.value.items():
        _read_list(name, listed, file, node.key_lines[name], read)


def _read_list(name: str, listed: Node, file: str, line: int, read: _Read) -> None:
    if name not in MODELS:
        read.mistakes.append(Mistake(file, line, name, f"unknown key {name!r}; {nearest(name, list(MODELS))}"))
        read.unread.update(MODEL_BY_KIND)
    elif isinstance(listed.value, list):
        for at, item in enumerate(listed.value):
            _read_entry(name, item, file, f"{name}[{at}]", read)
    elif listed.value is not None:
        read.mistakes.append(Mistake(file, line, name, f"{name} is a list; begin each entry with a dash"))
        read.unread.add(MODELS[name][0])


def _read_entry(name: str, node: Node, file: str, path: str, read: _Read) -> None:
    kind, model = MODELS[name]
    try:
        # By alias only: a subscription's `from` is called so in files, whatever the attribute is called in Python.
        read.entries.append(Entry(model.model_validate(plain(node), by_alias=True, by_name=False), node, file, path))
    except ValidationError as refused:
        schema = model.model_json_schema(by_alias=True)
        read.mistakes.extend(mistakes_of(refused.errors(), node, schema, file=file, path=path))
        read.unread.add(kind)


def load_plans(path: str | Path, known: Catalog) -> tuple[Plan, ...]:
    """Return the plans of one file outside the catalog, such as one for what-if, checked against the catalog's meters.

    Raises CatalogInvalid with every mistake. The file holds `plans` and nothing else; a version may be one of the catalog's.
    """
    path = Path(path)
    read = _Read([], [], set())
    _read_file(path, path.name, read)
    others = [one for one in read.entries if not isinstance(one.model, Plan)]
    read.mistakes.extend(one.mistake("only plans are read from this file; remove the other lists") for one in others)
    if not read.mistakes and not read.entries:
        read.mistakes.append(Mistake(path.name, 0, "", "there is no plan in the file; write at least one under plans"))
    nowhere = Node(0, {})
    declared = [Entry(model, nowhere, "catalog", "") for model in (*known.meters, *known.features)]
    plans = [one for one in read.entries if isinstance(one.model, Plan)]
    read.mistakes.extend(check_together([*declared, *plans], read.unread))
    if read.mistakes:
        raise CatalogInvalid(sorted(read.mistakes, key=lambda mistake: mistake.line))
    return tuple(one.model for one in plans if isinstance(one.model, Plan))


def meter_rules(catalog: Catalog) -> list[MeterRule]:
    """Return what recorders and usage must know of each meter, sorted by name."""
    return [
        MeterRule(
            meter.name, meter.unit, meter.aggregation, meter.unique_attribute, meter.negative_allowed, meter.expression
        )
        for meter in catalog.meters
    ]


def json_schemas() -> dict[str, Any]:
    """Return the JSON Schema of a whole catalog file, for editors that complete and check YAML while one types.

    It knows the keys and their values; what only several entries together can get wrong, `load_catalog` finds.
    """
    definitions: dict[str, Any] = {}
    lists: dict[str, Any] = {}
    for name, (_, model) in MODELS.items():
        schema = model.model_json_schema(by_alias=True)
        definitions.update(schema.pop("$defs", {}))
        definitions[model.__name__] = schema
        lists[name] = {"type": ["array", "null"], "items": {"$ref": f"#/$defs/{model.__name__}"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tallybook catalog file",
        "type": "object",
        "additionalProperties": False,
        "properties": lists,
        "$defs": definitions,
    }
