"""What a run, a deadline or a waiver means for one finding: the table of its life, pure.

    found -> open -> acknowledged -> recovered | waived | expired | cleared
                ^---------------------------------------------------'  reopened

Enters: what the books hold of a finding, what the run says of it, whether a waiver covers it, the instant of the run.
Leaves: the steps to append to its history, each with the status and class that hold from then on. Refuses: to read a
clock or a database, and to forget: a step is added, none is changed.

- A finding that its control saw is open until a person or a waiver says otherwise. Seen again after it was cleared, or
  larger than what was recovered, it is open again.
- One that its control did not see, though it ran, is cleared. A control that did not run clears nothing.
- AT_RISK whose `recover_by` has passed is LOST, and the finding expired; TIMING past its date is AT_RISK and stays open.
- A waiver covers until it expires, is ended, or its ceiling is exceeded; then the finding is open again.
Source: the catalogue of controls, sections 1, 4 and 11.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from metering.numbers import exact_sum, trimmed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

Status = Literal["open", "acknowledged", "recovered", "waived", "expired", "cleared"]
Sighting = Literal["seen", "absent", "unknown"]
STATUSES: tuple[Status, ...] = ("open", "acknowledged", "recovered", "waived", "expired", "cleared")
# Statuses in which a run may still conclude something by itself when it does not look at the finding.
LIVING: tuple[Status, ...] = ("open", "acknowledged", "waived", "expired")
# Which statuses a person may decide about, by the verb of the decision, and what the finding is then.
DECISIONS: dict[str, tuple[tuple[Status, ...], Status]] = {
    "acknowledged": (("open",), "acknowledged"),
    "recovered": (("open", "acknowledged", "expired", "cleared"), "recovered"),
    "waived": (("open", "acknowledged", "expired"), "waived"),
    "reopened": (("acknowledged", "recovered", "waived"), "open"),
}
# Steps of amount that raise the severity by one: in units of the currency, whatever it is.
SEVERITY_AMOUNTS = (Decimal(100), Decimal(10_000))
SEVERITIES = ("info", "low", "medium", "high", "critical")
_HOURS_LEFT_FEW = 24
_WEIGHT = {"LOST": 2, "AT_RISK": 2, "OVERBILL": 2, "DATA_QUALITY": 1, "TIMING": 1, "CONCESSION": 0, "INFO": 0}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a run says of a finding, as far as its life depends on it. Quantities and amounts are never negative."""

    control_id: str
    tenant_id: str | None
    meter: str | None
    reason: str
    dedupe_key: str
    period: tuple[object, object]
    control_class: str
    recover_by: datetime | None
    amount_likely: Decimal | None
    amount_high: Decimal | None
    currency: str | None
    quantity_difference: Decimal | None


@dataclass(frozen=True, slots=True)
class Standing:
    """What the books hold of a finding before a run."""

    status: Status
    finding_class: str
    facts: Facts
    waiver_id: str | None = None
    settled_amount: Decimal | None = None
    settled_quantity: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Waiver:
    """Findings that are not to be chased: which, why, up to how much together, until when, by whom, approved by whom.

    Null of `tenant_id`, `meter`, `reason` and `dedupe_key` means any. The ceiling holds for all findings of one period
    together: their `amount_high` in `currency`, or their quantity where no amount is known.
    """

    waiver_id: str
    control_id: str
    tenant_id: str | None
    meter: str | None
    reason: str | None
    dedupe_key: str | None
    why: str
    amount_max: Decimal | None
    currency: str | None
    quantity_max: Decimal | None
    created_by: str
    approved_by: str
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None
    ended_by: str | None = None
    ended_why: str | None = None

    def is_about(self, facts: Facts) -> bool:
        """Return whether a finding is one of those that the waiver names."""
        return self.control_id == facts.control_id and all(
            wanted is None or wanted == there
            for wanted, there in (
                (self.tenant_id, facts.tenant_id),
                (self.meter, facts.meter),
                (self.reason, facts.reason),
                (self.dedupe_key, facts.dedupe_key),
            )
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a finding's history; `by` and `run_id` are added by the books."""

    verb: str
    status: Status
    finding_class: str
    why: str


@dataclass(frozen=True, slots=True)
class Cover:
    """Whether a waiver covers a finding now; where none does, why the one that did no longer does."""

    waiver_id: str | None = None
    why: str = ""


def class_at(control_class: str, recover_by: datetime | None, now: datetime) -> str:
    """Return the class that holds now: what was at risk until a date that has passed is lost."""
    if recover_by is None or recover_by > now:
        return control_class
    return {"AT_RISK": "LOST", "TIMING": "AT_RISK"}.get(control_class, control_class)


def steps(held: Standing | None, facts: Facts, sighting: Sighting, cover: Cover, now: datetime) -> list[Step]:
    """Return the steps that a run adds to a finding's history; none where nothing changed.

    `facts` are those of the run where it saw the finding, else those that are held. Pure.
    """
    finding_class = class_at(facts.control_class, facts.recover_by, now)
    made: list[Step] = []
    if held is None:
        made.append(Step("found", "open", finding_class, ""))
    elif sighting == "absent":
        if held.status not in LIVING:
            return []
        return [Step("cleared", "cleared", finding_class, "its control ran and no longer finds it")]
    elif sighting == "seen":
        made += _seen_again(held, facts, finding_class)
    status = made[-1].status if made else _status(held)
    made += _waived(status, finding_class, cover)
    status = made[-1].status if made else status
    made += expired(status, facts.control_class, finding_class)
    if not made and held is not None and held.finding_class != finding_class:
        made.append(Step("changed", status, finding_class, f"{held.finding_class} became {finding_class}"))
    return made


def _status(held: Standing | None) -> Status:
    return "open" if held is None else held.status


def _seen_again(held: Standing, facts: Facts, finding_class: str) -> list[Step]:
    if held.status == "cleared":
        return [Step("reopened", "open", finding_class, "found again")]
    if held.status == "recovered":
        if _is_more(facts, held):
            return [Step("reopened", "open", finding_class, "it is more than what was recovered")]
        return []
    before, after = _size(held.facts), _size(facts)
    return [Step("changed", held.status, finding_class, f"{before} became {after}")] if before != after else []


def _waived(status: Status, finding_class: str, cover: Cover) -> list[Step]:
    if status == "waived" and cover.waiver_id is None:
        return [Step("reopened", "open", finding_class, cover.why)]
    if status in {"open", "acknowledged", "expired"} and cover.waiver_id is not None:
        return [Step("waived", "waived", finding_class, f"covered by {cover.waiver_id}")]
    return []


def expired(status: Status, control_class: str, finding_class: str) -> list[Step]:
    """Return the step of a finding whose deadline passed while it was open, or moved after it had expired."""
    if status in {"open", "acknowledged"} and (control_class, finding_class) == ("AT_RISK", "LOST"):
        return [Step("expired", "expired", finding_class, "the date until which it could be recovered has passed")]
    if status == "expired" and finding_class != "LOST":
        return [Step("reopened", "open", finding_class, "it can be recovered again: its deadline moved")]
    return []


def _is_more(facts: Facts, held: Standing) -> bool:
    if facts.amount_likely is not None and held.settled_amount is not None:
        return facts.amount_likely > held.settled_amount or facts.currency != held.facts.currency
    if facts.quantity_difference is not None and held.settled_quantity is not None:
        return facts.quantity_difference > held.settled_quantity
    # Nothing says how much was recovered: only something that can be measured now is more.
    return facts.amount_likely is not None


def _size(facts: Facts) -> str:
    quantity = None if facts.quantity_difference is None else f"{trimmed(facts.quantity_difference)} units"
    amount = None if facts.amount_likely is None else f"{trimmed(facts.amount_likely)} {facts.currency}"
    return ", ".join(part for part in (quantity, amount) if part) or "no figure"


def covers(waivers: Sequence[Waiver], living: dict[str, tuple[Facts, str | None]], now: datetime) -> dict[str, Cover]:
    """Return for each finding the waiver that covers it, or why the one it has no longer does.

    `living`: facts and present waiver by finding id. Waivers are asked in the order of their making; the first that
    covers is taken. A ceiling is compared with all that a waiver names in one period, whoever else may cover a part of it.
    """
    answers = {finding_id: Cover(None, "its waiver is not in force") for finding_id in living}
    for waiver in sorted(waivers, key=lambda one: (one.created_at, one.waiver_id), reverse=True):
        named = {finding_id: facts for finding_id, (facts, _) in living.items() if waiver.is_about(facts)}
        periods = {facts.period for facts in named.values()}
        refusals = {
            period: _refusal(waiver, [facts for facts in named.values() if facts.period == period], now)
            for period in periods
        }
        for finding_id, facts in named.items():
            refusal = refusals[facts.period]
            if not refusal:
                answers[finding_id] = Cover(waiver.waiver_id)
            elif living[finding_id][1] == waiver.waiver_id and answers[finding_id].waiver_id is None:
                answers[finding_id] = Cover(None, refusal)
    return answers


def _refusal(waiver: Waiver, named: list[Facts], now: datetime) -> str:
    """Return why a waiver does not cover these findings of one period; nothing where it does."""
    if waiver.ended_at is not None and waiver.ended_at <= now:
        return f"{waiver.waiver_id} was ended by {waiver.ended_by}: {waiver.ended_why}"
    if waiver.expires_at <= now:
        return f"{waiver.waiver_id} has expired"
    amounts = [facts.amount_high or facts.amount_likely for facts in named]
    known = [amount for amount in amounts if amount is not None]
    if known and (waiver.amount_max is None or any(_is_other(facts, waiver) for facts in named)):
        return f"{waiver.waiver_id} has no ceiling in this currency"
    if known and exact_sum(known) > (waiver.amount_max or Decimal(0)):
        return f"{waiver.waiver_id} covers {trimmed(waiver.amount_max or Decimal(0))} {waiver.currency}, this is more"
    quantities = [facts.quantity_difference or Decimal(0) for facts in named if facts.amount_likely is None]
    if any(quantities) and (waiver.quantity_max is None or exact_sum(quantities) > waiver.quantity_max):
        return f"{waiver.waiver_id} does not cover so many units"
    return ""


def _is_other(facts: Facts, waiver: Waiver) -> bool:
    return facts.amount_likely is not None and facts.currency != waiver.currency


def severity_of(finding_class: str, amount: Decimal | None, recover_by: datetime | None, now: datetime) -> str:
    """Return info, low, medium, high or critical: by class, likely amount, and whether less than a day is left."""
    weight = _WEIGHT.get(finding_class, 0)
    if not weight:
        return SEVERITIES[min(weight, 1)]
    larger = sum((amount or Decimal(0)) >= step for step in SEVERITY_AMOUNTS)
    is_urgent = recover_by is not None and 0 < (recover_by - now).total_seconds() < _HOURS_LEFT_FEW * 3600
    return SEVERITIES[min(weight - 1 + larger + (2 if is_urgent else 0) + 1, len(SEVERITIES) - 1)]


def totals_by_status(statuses: Iterable[Status]) -> dict[Status, int]:
    """Return how many findings there are of each status; they add up to all."""
    counted = dict.fromkeys(STATUSES, 0)
    for status in statuses:
        counted[status] += 1
    return counted
