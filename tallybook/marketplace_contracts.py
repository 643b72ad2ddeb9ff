"""What AWS says is bought now, merged into the contracts of before: terms that change, end, and begin anew.

Enters: the entries of the file as they are, and all that is bought at an instant. Leaves: the entries as they are to be. Refuses:
to rewrite a term that is over, and to forget one: what was included then is what usage was netted against. Pure.

AWS tells a state, never a change, and its expiry is the earliest end. So: a term that is still running takes the new quantity and
expiry; one whose end has passed is followed by a new term from that end on; one that AWS does not know any more ends now.
Merging the same again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from metering.clock import iso_utc
from metering.numbers import trimmed
from rating.grants import ProviderContract

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet
    from decimal import Decimal

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bought:
    """An entitlement as AWS has it now. `starts_at` is of its agreement, `ends_at` its expiry (None: open)."""

    licence: str
    dimension: str
    product: str
    tenant: str
    meter: str
    included: Decimal
    starts_at: datetime
    ends_at: datetime | None

    def entry(self, starts_at: datetime) -> Entry:
        """Return the entry of the catalog of a term that began at `starts_at`."""
        return {
            "id": f"{self.licence}-{self.dimension}-{starts_at:%Y%m%dT%H%M%S}",
            "tenant": self.tenant,
            "licence": self.licence,
            "dimension": self.dimension,
            "meter": self.meter,
            "included": trimmed(self.included),
            "from": iso_utc(starts_at),
            **({} if self.ends_at is None else {"to": iso_utc(self.ends_at)}),
        }


def merged(
    held: Sequence[Entry], bought: Sequence[Bought], gone: AbstractSet[tuple[str, str]], now: datetime
) -> list[Entry]:
    """Return the entries after reading all that is bought at `now`, by licence, dimension and time.

    `gone`: the (licence, dimension) that AWS was asked about and does not have any more.
    """
    by_key: dict[tuple[str, str], list[Entry]] = {}
    for entry in held:
        by_key.setdefault((entry["licence"], entry["dimension"]), []).append(dict(entry))
    there = {(one.licence, one.dimension): one for one in bought}
    for key, one in there.items():
        terms = by_key.setdefault(key, [])
        last = max(terms, key=_start, default=None)
        if last is None:
            terms.append(one.entry(one.starts_at))
        elif (end := _end(last)) is not None and end <= now:
            if one.ends_at is None or one.ends_at > max(end, now):
                terms.append(one.entry(max(end, one.starts_at)))
        else:
            terms[terms.index(last)] = {**one.entry(_start(last)), "id": last["id"]}
    for key in gone & by_key.keys():
        for at, entry in enumerate(by_key[key]):
            end = _end(entry)
            if _start(entry) < now and (end is None or end > now):
                by_key[key][at] = {**entry, "to": iso_utc(now)}
    return [entry for key in sorted(by_key) for entry in sorted(by_key[key], key=_start)]


def are_applied(entries: Sequence[Entry], contracts: Sequence[ProviderContract]) -> bool:
    """Return whether the contracts of the applied catalog say of each entry what it says."""
    applied = {one.id: one for one in contracts}
    return all(applied.get(entry["id"]) == ProviderContract.model_validate(entry) for entry in entries)


def _start(entry: Entry) -> datetime:
    return datetime.fromisoformat(entry["from"])


def _end(entry: Entry) -> datetime | None:
    return datetime.fromisoformat(entry["to"]) if "to" in entry else None
