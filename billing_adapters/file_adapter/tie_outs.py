"""Tie-outs: totals of different files of a run that must agree, compared where everybody can see it.

Enters: the tables of a run, one after the other. Leaves: one row per comparison and currency, with the difference.
Refuses: to net, to tolerate, and to hide: a difference is a row of the published file, not an error. Sums are exact.

What each compares: lines with the register (net, tax), changes with lines of corrections, components with lines, burns with the
register, the register's payable amounts with what documents and voids post on receivables, settlements with cash and bad debt,
the net of lines with the revenue of the journal (accruals and releases included), roll-forwards with the legs of their role,
debits with credits, the journal with its summary. A run of drafts posts nothing and has no comparisons with the journal and
prepaid balances. Source: finance files, section 1.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from metering.numbers import exact_difference, exact_sum

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from billing_adapters.file_adapter.columns import FileShape

Row = dict[str, Any]
# A total: the file, what is added, what is taken off, and which rows count: columns, each with the values that it may have.
Chosen = tuple[tuple[str, tuple[str, ...]], ...]
Total = tuple[str, str, str | None, Chosen | None]

_REGISTER, _LINES, _JOURNAL = "invoice_register", "invoice_lines", "journal_entries"
# What a run of drafts has nothing of, because drafts book nothing.
_BOOKED = {_JOURNAL, "prepaid_roll_forward"}
CONTROLS: dict[str, tuple[Total, Total]] = {
    "BURNS_REGISTER": (("prepaid_burns", "amount", None, None), (_REGISTER, "amount_prepaid", None, None)),
    "CHANGES_LINES": (
        ("rated_changes", "amount_change", None, None),
        (_LINES, "amount", None, (("kind", ("correction",)),)),
    ),
    "CHARGES_LINES": (("charges", "exact_amount", None, None), (_LINES, "exact_amount", None, None)),
    "DEFERRED_JOURNAL": (
        ("deferred_roll_forward", "of_this_run", None, None),
        (_JOURNAL, "credit", "debit", (("role", ("deferred_revenue",)),)),
    ),
    "DEBITS_CREDITS": ((_JOURNAL, "debit", None, None), (_JOURNAL, "credit", None, None)),
    "JOURNAL_SUMMARY": ((_JOURNAL, "debit", None, None), ("journal_summary", "debit", None, None)),
    "LINES_JOURNAL": ((_LINES, "net_amount", None, None), (_JOURNAL, "credit", "debit", (("role", ("revenue",)),))),
    "LINES_REGISTER_NET": ((_LINES, "net_amount", None, None), (_REGISTER, "amount_net", None, None)),
    "LINES_REGISTER_TAX": ((_LINES, "tax_amount", None, None), (_REGISTER, "amount_tax", None, None)),
    "PREPAID_REGISTER": (
        (_REGISTER, "amount_prepaid", None, None),
        ("prepaid_roll_forward", "used_by_this_run", None, None),
    ),
    "RECEIVABLES_JOURNAL": (
        ("receivables_roll_forward", "of_this_run", None, None),
        (_JOURNAL, "debit", "credit", (("role", ("receivables",)),)),
    ),
    "REGISTER_JOURNAL": (
        (_REGISTER, "amount_payable", None, None),
        (_JOURNAL, "debit", "credit", (("role", ("receivables",)), ("kind", ("document", "void")))),
    ),
    "SETTLEMENTS_JOURNAL": (
        ("settlements", "amount", None, None),
        (_JOURNAL, "debit", "credit", (("role", ("cash", "bad_debt")),)),
    ),
    "UNBILLED_JOURNAL": (
        ("unbilled_roll_forward", "of_this_run", None, None),
        (_JOURNAL, "debit", "credit", (("role", ("unbilled_receivables",)),)),
    ),
}


class TieOuts:
    """The totals of the files seen so far. Files are seen once and let go of; only sums are kept."""

    def __init__(self) -> None:
        self._sums: dict[Total, dict[str, Decimal]] = {}
        self._has_journal = False

    def see(self, shape: FileShape, table: pa.Table) -> None:
        """Add up what the comparisons need of a file."""
        if shape.name == _JOURNAL:
            self._has_journal = table.num_rows > 0
        for total in {total for pair in CONTROLS.values() for total in pair}:
            if total[0] == shape.name:
                self._sums[total] = _sums(table, total)

    def rows(self) -> Iterator[Row]:
        """Yield one row per comparison and currency, zero where one side has none of the currency."""
        for control_id, (one, other) in CONTROLS.items():
            if not self._has_journal and _BOOKED & {one[0], other[0]}:
                continue
            for currency in sorted(self._sums[one].keys() | self._sums[other].keys()):
                first = self._sums[one].get(currency, Decimal(0))
                second = self._sums[other].get(currency, Decimal(0))
                yield {
                    "control_id": control_id,
                    "source_a": _told(one),
                    "total_a": first,
                    "source_b": _told(other),
                    "total_b": second,
                    "difference": exact_difference(first, second),
                    "currency": currency,
                }


def _sums(table: pa.Table, total: Total) -> dict[str, Decimal]:
    _, added, taken_off, chosen = total
    names = [name for name in ("currency", added, taken_off, *(column for column, _ in chosen or ())) if name]
    numbers: dict[str, list[Decimal]] = {}
    for row in (row for batch in table.select(names).to_batches(max_chunksize=16_384) for row in batch.to_pylist()):
        if all(row[column] in values for column, values in chosen or ()):
            parts = numbers.setdefault(row["currency"], [])
            parts.append(row[added])
            if taken_off:
                # A minus sign would round to 28 digits.
                parts.append(row[taken_off].copy_negate())
    return {currency: exact_sum(parts) for currency, parts in numbers.items()}


def _told(total: Total) -> str:
    file, added, taken_off, chosen = total
    of = ", ".join(" or ".join(values) for _, values in chosen or ())
    return f"{file}.{added}{f' - {taken_off}' if taken_off else ''}{f' of {of}' if of else ''}"
