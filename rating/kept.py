"""What spans were worth the last time, kept beside the lake, so that rating again costs what changed.

Enters: what `rating.rate` is given, and the data files and snapshot of the evidence. Leaves: the same tables `billing_span`,
`charge` and `worth_line` as it makes, row for row; only the tenants that changed are rated, the others are read.
Refuses: to be needed. Everything here is derived: delete `lake/derived/worth` at any time, in part or whole, and the next
call gives the same lines again; only time is lost. `usage` and `unpriced_usage` hold the tenants that were rated alone.

What a span is worth is a pure function of its tenant's usage and of its terms. Whose usage may differ is said by
metering.changes, by the two snapshots. Whose terms differ is seen by their fingerprints, which are made of the terms
themselves, never of a revision's number: the plan version with its overrides, its meters, the periods, what is due at the
instant of the close, and, where discounts, trials or numbers of units are looked at, the subscription and the account; where
grants say what is included, all that entitles the tenant; where a commitment is one amount over several periods, all terms of
the tenant and of those who share a discount with it, because earlier periods depend on them; where plans refuse what is late,
what is late of the use of the tenant. The
source of the code that rates is part of the version. A tenant is rated whole, with all its spans; a fixed discount of a
billing account ties all tenants of that account together.

Spans are kept under slots, numbers that are never used again. Files of lines and charges are only added; a row whose slot
no kept span has any more is dead, and leaves when the files are put together. Rejected: keeping invoice lines (their
position moves when a neighbour's line comes or goes), and buckets of tenants (each hour something is new in each of them).
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metering.changes import changed_tenants
from metering.derived import Derived
from metering.engine import fetch, read_sql
from metering.questions import register
from metering.usage import Snapshot
from rating.included_from import features_of
from rating.late import limits_of_spans
from rating.phases import plan_keys_of
from rating.pots import sharing_tenants
from rating.rate import overflow_named, rate
from rating.spans import plan_key
from rating.terms import load_terms

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    import duckdb

    from metering.rollups import Rollups
    from rating.plans import Plan
    from rating.spans import BillingSpans, Stretch
    from rating.terms import Terms

MANIFEST = "worth.json"
FORMAT = 1
# As many questions (sets of billing periods) are kept at once.
FOLDERS_MAX = 3
# Files are put together when there are more, or when more than half of their rows are dead.
FILES_MAX = 8
GROWTH = 2


@dataclass(frozen=True, slots=True)
class Evidence:
    """What usage is read from: the data files, the cut of them that counts, and states that were worked out before."""

    files: Sequence[str]
    snapshot: Snapshot
    rollups: Rollups


@dataclass(frozen=True, slots=True)
class _Part:
    """A pair of files of one run, and how many spans are in them."""

    lines: str
    charges: str
    spans: int


def rate_what_changed(
    engine: duckdb.DuckDBPyConnection, terms: Terms, spans: BillingSpans, as_of: datetime, evidence: Evidence
) -> None:
    """Make `charge` and `worth` for the billing spans, as `rating.rate` does, and keep them. Raises AmountOverflow.

    The engine holds the evidence, may read and write below the lake's derived folder, and is for one call. A folder that
    cannot be written or read, or a full disk, only costs the time of rating everything.
    """
    import duckdb

    try:
        _rate_what_changed(engine, terms, spans, as_of, evidence)
    except (OSError, duckdb.IOException):
        kept = "SELECT view_name FROM duckdb_views() WHERE view_name IN ('charge', 'worth_line')"
        for (name,) in engine.execute(kept).fetchall():
            engine.execute(f"DROP VIEW {name}")
        rate(engine, terms, spans, as_of, rollups=evidence.rollups)


def _rate_what_changed(
    engine: duckdb.DuckDBPyConnection, terms: Terms, spans: BillingSpans, as_of: datetime, evidence: Evidence
) -> None:
    derived = Derived(_folder_of(evidence.rollups, spans), MANIFEST, [FORMAT, _version()])
    found = derived.load()
    if found is not None and not all(derived.is_whole(name) for name in _names(found)):
        found = None
    _register_asked(engine, terms, spans, as_of)
    _open_kept(engine, derived, found)
    dirty = _dirty(engine, terms, spans, evidence, found)
    places = [place for place, tenant in enumerate(spans.tenants) if tenant in dirty]
    rate(engine, terms, spans.take(places), as_of, rollups=evidence.rollups)
    with overflow_named(engine):
        first = found["next_slot"] if found else 0
        _register_slots(engine, dirty, places, first)
        kept = [_Part(*part) for part in found["parts"]] if found and len(places) < len(spans) else []
        if places:
            kept.append(_write(engine, derived, "", first, len(places)))
        if len(places) < len(spans):
            # The words and the order of lines are those of all spans.
            load_terms(engine, terms, spans)
            _put_together(engine, derived, kept)
    # The lines are made; that they cannot be kept is no reason to be without them.
    with suppress(OSError, _io_error()):
        if found is not None and not dirty:
            derived.save({**found, "cut": evidence.snapshot.to_json()}, _names(found))
        else:
            _save(engine, derived, evidence.snapshot, kept, first + len(places), len(spans))


def _io_error() -> type[Exception]:
    import duckdb

    return duckdb.IOException


def _dirty(
    engine: duckdb.DuckDBPyConnection,
    terms: Terms,
    spans: BillingSpans,
    evidence: Evidence,
    found: dict[str, Any] | None,
) -> set[str]:
    """Return the tenants whose usage or terms are others than those that were kept, and all who are tied to them."""
    if found is None:
        return set(spans.tenants)
    dirty = set(fetch(engine, read_sql("rating", "kept_dirty"))["tenant_id"].to_pylist())
    dirty |= changed_tenants(evidence.files, Snapshot.from_json(found["cut"]), evidence.snapshot)
    tied: dict[str, set[str]] = {
        account.id: set()
        for account in terms.accounts.values()
        if any(one.amount is not None for one in account.discounts)
    }
    if tied:
        # Also who was of the account when it was kept: what he bore of the discount, others bear now.
        before = fetch(engine, "SELECT DISTINCT tenant_id, account_id FROM kept_span")
        members = zip(before["tenant_id"].to_pylist(), before["account_id"].to_pylist(), strict=True)
        # Also whose periods are over: what they bore of the discount moves what was used before of pots.
        payers = terms.payer_by_tenant()
        ended = ((one.tenant, one.account or payers.get(one.tenant, "")) for one in terms.subscriptions)
        for tenant, account in (*zip(spans.tenants, spans.accounts, strict=True), *members, *ended):
            if account in tied:
                tied[account].add(tenant)
    groups = list(tied.values())
    while reached := [group for group in groups if dirty & group and not group <= dirty]:
        dirty = dirty.union(*reached)
    return dirty


def _register_asked(engine: duckdb.DuckDBPyConnection, terms: Terms, spans: BillingSpans, as_of: datetime) -> None:
    """Make the table asked_span: every span with the fingerprint of its terms."""
    import pyarrow as pa

    prints = [_fingerprint(terms, stretch, as_of) for stretch in spans.stretches]
    looks = {stretch.plan_key: _looks_at_subscription(terms.plans[stretch.plan_key]) for stretch in spans.stretches}
    discounted = {account.id: account for account in terms.accounts.values() if account.discounts}
    texts = pa.array(prints, pa.string()).take(pa.array(spans.stretch, pa.int64()))
    own = terms.special.keys()
    granting = {stretch.plan_key for stretch in spans.stretches if features_of(terms.plans[stretch.plan_key].prices)}
    pooled = {stretch.plan_key for stretch in spans.stretches if terms.plans[stretch.plan_key].pots}
    late = _late_by(terms, spans)
    if own or discounted or granting or pooled or late or any(looks.values()):
        entitled = _entitled_by(terms) if granting else {}
        beside = _beside(terms) if pooled else {}
        subscribed = {one.id: one for one in terms.subscriptions}
        written = []
        for at, text in enumerate(texts.to_pylist()):
            subscription, account = spans.subscriptions[at], spans.accounts[at]
            more = [text]
            if subscription in own or account in discounted or looks[spans.stretches[spans.stretch[at]].plan_key]:
                more.append(subscribed[subscription].model_dump_json(by_alias=True))
            if account in discounted:
                more += [one.model_dump_json(by_alias=True) for one in discounted[account].discounts]
            if spans.stretches[spans.stretch[at]].plan_key in granting:
                more += entitled.get(spans.tenants[at], [])
            if spans.stretches[spans.stretch[at]].plan_key in pooled:
                more += beside[spans.tenants[at]]
            more += late.get(spans.tenants[at], [])
            written.append(_hash(more) if len(more) > 1 else text)
        texts = pa.array(written, pa.string())
    columns = {
        "span_id": pa.array(range(len(spans)), pa.int64()),
        "subscription_id": pa.array(spans.subscriptions, pa.string()),
        "tenant_id": pa.array(spans.tenants, pa.string()),
        "account_id": pa.array(spans.accounts, pa.string()),
        "terms": texts,
    }
    register(engine, "asked_span", pa.table(columns))


def _beside(terms: Terms) -> dict[str, list[str]]:
    """Return all that earlier billing periods of a tenant may depend on, for amounts that are one over several of them.

    That is every subscription, plan and meter of the tenant, and of those whose account shares a fixed discount with it.
    """
    groups, texts = sharing_tenants(terms), dict[str, list[str]]()
    for one in terms.subscriptions:
        held = [plan for key in plan_keys_of(one) if (plan := terms.plan_for(one.id, *key)) is not None]
        meters = sorted({name for plan in held for price in plan.prices for name in price.meters_read})
        models = (one, *held, *(terms.meters[name] for name in meters))
        texts.setdefault(one.tenant, []).extend(model.model_dump_json(by_alias=True) for model in models)
    found = {tenant: _hash(some) for tenant, some in texts.items()}
    return {tenant: [found[other] for other in sorted(groups.get(tenant, {tenant}))] for tenant in found}


def _late_by(terms: Terms, spans: BillingSpans) -> dict[str, list[str]]:
    """Return what of each tenant's use is too late, also in periods that are not rated; nothing where no plan refuses any."""
    found: dict[str, list[str]] = {}
    for limit in limits_of_spans(terms, spans):
        found.setdefault(limit.tenant_id, []).append(str(limit))
    return found


def _entitled_by(terms: Terms) -> dict[str, list[str]]:
    """Return all that says what each tenant is entitled to: its subscriptions with their plans, and its grants."""
    found: dict[str, list[str]] = {}
    for one in terms.entitling[0]:
        held = [terms.plans[plan_key(*key)] for key in plan_keys_of(one)]
        written = (one, *(entitlement for plan in held for entitlement in plan.entitlements))
        found.setdefault(one.tenant, []).extend(model.model_dump_json(by_alias=True) for model in written)
    for grant in terms.grants:
        found.setdefault(grant.tenant, []).append(grant.model_dump_json(by_alias=True))
    return found


def _fingerprint(terms: Terms, stretch: Stretch, as_of: datetime) -> str:
    """Return what stands for the terms of a stretch, and for what of them is due at an instant."""
    plan = terms.plans[stretch.plan_key]
    meters = sorted({price.meter for price in plan.prices if price.meter is not None})
    period, service = stretch.period, stretch.service
    due = [service.start <= as_of, period.end <= as_of]
    # Parts of a flat amount become due one after the other; so do the earlier periods of what is one amount over several.
    due_at = as_of if _looks_at_subscription(plan) or (plan.pots and as_of < service.start) else None
    times = [period.start, period.end, service.start, service.end, stretch.since]
    return _hash(
        [
            stretch.plan_key, str(stretch.side), *map(str, times), str(due), str(due_at),
            plan.model_dump_json(by_alias=True),
            *(terms.meters[name].model_dump_json(by_alias=True) for name in meters),
        ]
    )  # fmt: skip


def _looks_at_subscription(plan: Plan) -> bool:
    """Return whether what a span of the plan is worth may depend on its subscription: a trial, units, days, discounts."""
    by_days = plan.proration != "instants"
    flats = [price for price in plan.prices if price.type == "flat"]
    return bool(plan.discounts) or by_days or any(flat.per_unit_of or flat.trial_days for flat in flats)


def _open_kept(engine: duckdb.DuckDBPyConnection, derived: Derived, found: dict[str, Any] | None) -> None:
    """Make `kept_match`: the spans asked for beside the kept ones of the same terms."""
    if found is None:
        engine.execute(read_sql("rating", "kept_none"))
    else:
        engine.read_parquet(str(derived.folder / found["spans"])).create_view("kept_span", replace=True)
    engine.execute(read_sql("rating", "kept_match"))


def _register_slots(engine: duckdb.DuckDBPyConnection, dirty: set[str], places: Sequence[int], first: int) -> None:
    import pyarrow as pa

    register(engine, "dirty_tenant", pa.table({"tenant_id": pa.array(sorted(dirty), pa.string())}))
    slots = pa.array(range(first, first + len(places)), pa.int64())
    register(engine, "fresh_span", pa.table({"span_id": pa.array(places, pa.int64()), "slot": slots}))
    engine.execute(read_sql("rating", "kept_slot"))


def _write(engine: duckdb.DuckDBPyConnection, derived: Derived, which: str, first: int, spans: int) -> _Part:
    names = []
    for table in ("worth_line", "charge"):
        temporary = derived.temporary()
        rows = f"SELECT span_id + {first} AS slot, * EXCLUDE (span_id) FROM {which}{table}"
        engine.execute(f"COPY ({rows}) TO '{_quoted(temporary)}' (FORMAT parquet, COMPRESSION lz4)")
        names.append(derived.adopt(temporary, ".parquet"))
    return _Part(names[0], names[1], spans)


def _put_together(engine: duckdb.DuckDBPyConnection, derived: Derived, kept: Sequence[_Part]) -> None:
    """Make `worth_line` and `charge` of all spans from the files of the parts, in place of those of the tenants rated now."""
    for table, names in (("worth_line", [part.lines for part in kept]), ("charge", [part.charges for part in kept])):
        engine.read_parquet([str(derived.folder / name) for name in names]).create_view(f"kept_{table}", replace=True)
        engine.execute(f"DROP TABLE {table}")
        engine.execute(read_sql("rating", f"kept_{table}"))


def _save(
    engine: duckdb.DuckDBPyConnection,
    derived: Derived,
    snapshot: Snapshot,
    kept: list[_Part],
    next_slot: int,
    spans: int,
) -> None:
    if len(kept) > FILES_MAX or sum(part.spans for part in kept) > GROWTH * max(spans, 1):
        for table in ("worth_line", "charge"):
            engine.execute(f"CREATE OR REPLACE VIEW live_{table} AS SELECT span_slot.slot AS span_id, live.* EXCLUDE (span_id)"
                           f" FROM {table} AS live JOIN span_slot USING (span_id)")  # fmt: skip
        kept = [_write(engine, derived, "live_", 0, spans)]
    temporary = derived.temporary()
    engine.execute(
        f"COPY ({read_sql('rating', 'kept_span')}) TO '{_quoted(temporary)}' (FORMAT parquet, COMPRESSION lz4)"
    )
    manifest = {
        "cut": snapshot.to_json(),
        "next_slot": next_slot,
        "spans": derived.adopt(temporary, ".parquet"),
        "parts": [[part.lines, part.charges, part.spans] for part in kept],
    }
    derived.save(manifest, _names(manifest))
    _forget_old(derived.folder)


def _names(manifest: dict[str, Any]) -> set[str]:
    return {manifest["spans"], *(name for part in manifest["parts"] for name in part[:2])}


def _folder_of(rollups: Rollups, spans: BillingSpans) -> Path:
    """Return the folder of a question: the set of billing periods that are rated. Creates it."""
    periods = sorted({str(stretch.period) for stretch in spans.stretches})
    folder = rollups.folder.parent / "worth" / _hash(periods)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _forget_old(folder: Path) -> None:
    others = [other for other in folder.parent.iterdir() if other.is_dir() and other != folder]
    others.sort(key=lambda other: other.stat().st_mtime, reverse=True)
    for old in others[FOLDERS_MAX - 1 :]:
        shutil.rmtree(old, ignore_errors=True)


@cache
def _version() -> str:
    """Return what stands for the code: the sources of all that usage and rating are worked out by, and the engine."""
    import duckdb

    texts = [duckdb.__version__]
    for package in ("metering", "entitlements", "rating"):
        root = resources.files(package)
        for folder in (root, root.joinpath("sql")):
            for file in sorted(folder.iterdir(), key=lambda one: one.name):
                if file.name.endswith((".py", ".sql")):
                    texts += [file.name, file.read_text(encoding="utf-8")]
    return _hash(texts)


def _hash(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
