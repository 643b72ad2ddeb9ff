"""What is published together: a whole run, which is the invoices of one period with the usage behind them.

Enters: nothing. Leaves: the shape of a run and of what became of it. Refuses: to compute anything about money;
what is published is what the books hold, exactly.

What is sent to providers, item by item, is the business of `billing_adapters.adapter`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import pyarrow as pa

    from billing_adapters.ledger_accounts import LedgerMap
    from billing_adapters.prepaid_balances import PrepaidLeg
    from billing_adapters.receivables import Leg, PostedSettlement
    from metering.periods import WallPeriod
    from rating.invoice import Invoice
    from rating.paper import Paper

    # Opens the rows of every usage event of a run, some at a time, in the order of the file; see file_adapter/usage_detail.
    UsageDetail = Callable[[], AbstractContextManager[Iterable[pa.Table]]]


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """What is published together: the papers of the invoices of one period, and the usage behind them.

    `usage` has the columns of `billing_adapters.file_adapter.usage_of`: one row per tenant, meter, subscription, billing
    period, price and group. `ledger`: where journal entries are posted. `generator_versions`: what computed it, e.g.
    `{"tallybook": "0.1.0"}`. `earlier`: papers of earlier closes whose entries roll-forwards open with or move by, as they
    stood at the last close of the run. `settlements`: payments, refunds and write-offs between its closes and those before;
    `owed`: the legs on receivables of earlier documents and settlements; `prepaid`: those of prepaid balances. There is no time
    of publication: the same run is the same files, whenever it is published.
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
    settlements: Sequence[PostedSettlement] = ()
    owed: Sequence[Leg] = ()
    prepaid: Sequence[PrepaidLeg] = ()
    usage_detail: UsageDetail | None = None

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
