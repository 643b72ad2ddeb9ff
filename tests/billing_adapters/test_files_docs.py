"""The page about the files says of every file and column what the code says, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from billing_adapters.file_adapter.columns import ALL_FORMATS
from billing_adapters.file_adapter.shapes import SHAPES, USAGE_DETAIL

ALL = (*SHAPES, USAGE_DETAIL)
PAGE = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")


def test_every_file_and_column_is_explained_as_in_the_code() -> None:
    sections = re.split(r"^### (\w+)\n", PAGE, flags=re.MULTILINE)
    said = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert list(said) == [shape.name for shape in ALL]
    for shape in ALL:
        rows = re.findall(r"^\| `(\w+)` \| ([\w ,]+) \| (.+) \|$", said[shape.name], flags=re.MULTILINE)
        assert rows == [
            (column.name, column.type.replace("_", " ") + (", may be empty" if column.nullable else ""), column.meaning)
            for column in shape.columns
        ], shape.name
        assert shape.grain.lower() in said[shape.name].lower()
        for column, per in shape.control_totals:
            assert f"`{column}` per `{per}`" in said[shape.name]


def test_every_format_is_explained() -> None:
    assert re.findall(r"^\| `\.(\w+)` \|", PAGE, flags=re.MULTILINE) == list(ALL_FORMATS)


def test_a_column_of_one_name_means_one_thing() -> None:
    meanings: dict[str, set[str]] = {}
    for shape in ALL:
        for column in shape.columns:
            assert column.meaning, column.name
            meanings.setdefault(column.name, set()).add(column.type)
    differing = {name for name, types in meanings.items() if len(types) > 1}
    # A register's period is one of days of the calendar, a line's one of instants in its plan's zone.
    assert differing == {"billing_period_start", "billing_period_end"}
