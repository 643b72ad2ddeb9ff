"""Where a workspace keeps its files: the one place that knows the names of its folders.

Enters: the root folder. Leaves: paths below it. Refuses: to put the name of a tenant or a meter into a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one workspace.

    tallybook.toml   settings            journal/         segments not yet shipped, one folder per producer
    catalog/         meters, plans ...   lake/            Delta tables: usage_events, segments, dead_letters
    books.sqlite     decisions           out/             what the files adapter publishes
    """

    root: Path

    @classmethod
    def of(cls, root: str | Path) -> Layout:
        return cls(Path(root).absolute())

    @property
    def settings_file(self) -> Path:
        return self.root / "tallybook.toml"

    @property
    def settings_yaml(self) -> Path:
        """The settings as YAML, for who has no tallybook.toml."""
        return self.root / "tallybook.yaml"

    @property
    def catalog(self) -> Path:
        return self.root / "catalog"

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def meters_file(self) -> Path:
        return self.journal / "meters.json"

    @property
    def lake(self) -> Path:
        return self.root / "lake"

    @property
    def books_file(self) -> Path:
        return self.root / "books.sqlite"

    @property
    def out(self) -> Path:
        return self.root / "out"
