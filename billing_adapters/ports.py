"""What is published together, and who publishes it: the hand-over of a whole run, such as files.

Enters: a run, which is the invoices of one period with the usage behind them. Leaves: where it arrived.
Refuses: to compute anything about money. A publisher hands on what the books hold, exactly.

What is sent to providers, item by item, is the business of `billing_adapters.adapter`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from billing_adapters.ledger_accounts import LedgerMap
    from metering.periods import WallPeriod
    from rating.invoice import Invoice
    from rating.paper import Paper


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """What is published together: the papers of the invoices of one period, and the usage behind them.

    `usage` has the columns of `billing_adapters.file_adapter.usage_of`: one row per tenant, meter, subscription, billing
    period, price and group. `ledger`: where journal entries are posted. `generator_versions`: what computed it, e.g.
    `{"tallybook": "0.1.0"}`. `earlier`: papers of earlier closes whose entries roll-forwards open with or move by, as they
    stood at the last close of the run. There is no time of publication: the same run is the same files, whenever it is published.
    """

    period: WallPeriod
    close_ids: Sequence[str]
    snapshot_ids: Sequence[str]
    catalog_revisions: Sequence[int]
    papers: Sequence[Paper]
    usage: pa.Table
    ledger: LedgerMap
    generator_versions: Mapping[str, str]
    earlier: Sequence[Paper] = ()

    @property
    def invoices(self) -> list[Invoice]:
        return [paper.invoice for paper in self.papers]


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a published run; `rows` is None for the manifest and the sums."""

    name: str
    format: str
    rows: int | None
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Published:
    """Where a run is. `is_new` is False when it was there already, byte for byte the same."""

    folder: Path
    run_id: str
    is_new: bool
    files: tuple[PublishedFile, ...]


class Publisher(Protocol):
    """Where invoices go. Publishing is idempotent: the same run again changes nothing."""

    @property
    def name(self) -> str:
        """Return the adapter's stable name, such as `files`."""

    def publish(self, run: PublishedRun) -> Published:
        """Hand over a run, whole or not at all. Raises PublicationConflict, PublicationFailed (a retry may help)."""

    def read_back(self, run: PublishedRun) -> Published | None:
        """Return where a run is, after checking every byte of it; None if it never arrived. Raises PublicationDamaged."""
