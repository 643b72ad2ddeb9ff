"""One measured step of rating, in a process of its own: so that its peak memory is its own, and nothing is warm.

    python -m benchmarks.rating_steps STEP LAKE TENANTS [PRICES] [TIERS]

Leaves: one JSON object: seconds (wall), cpu_s (user and system), peak_bytes, and the answer that alternatives must share.
The steps of others say in their docstring what they do not do.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import workload
from metering.changes import changed_tenants
from metering.lake import Lake
from metering.periods import parse_period
from metering.rollups import Rollups
from metering.usage import Selector, Snapshot, Span, load_states, open_evidence

Answer = Any
# Imported before the clock starts, as those of the others are: whoever rates every hour has them at hand.
MODULES = (
    "deltalake", "duckdb", "pyarrow.compute", "pyarrow.parquet", "metering.file_states", "metering.identities", "rating.kept",
    "rating.ledger", "rating.run", "rating.whatif",
)  # fmt: skip


def _lines(lake: Lake, terms: Any) -> Answer:
    from rating.kept import rate_what_changed
    from rating.ledger import booked_nothing
    from rating.rate import subtract_booked
    from rating.terms import billing_spans

    spans = billing_spans(terms, parse_period(workload.MONTH))
    with _opened(lake) as (engine, evidence):
        rate_what_changed(engine, terms, spans, workload.AFTER, evidence)
        subtract_booked(engine, *booked_nothing(), "close")
        return _text(engine.execute("SELECT count(*), sum(amount) FROM invoice_line").fetchone())


def worth(lake: Lake, tenants: int) -> Callable[[], Answer]:
    """Ours: data files to what every tenant's use is worth so far, as alerts and thresholds ask every hour. No paper."""
    from rating.kept import rate_what_changed
    from rating.terms import billing_spans

    terms = workload.company(tenants)

    def run() -> Answer:
        spans = billing_spans(terms, parse_period(workload.MONTH))
        with _opened(lake) as (engine, evidence):
            rate_what_changed(engine, terms, spans, workload.AFTER, evidence)
            per_span = "SELECT span_id, sum(amount) AS amount FROM worth_line GROUP BY span_id"
            return _text(engine.execute(f"SELECT count(*), sum(amount) FROM ({per_span})").fetchone())

    return run


@contextmanager
def _opened(lake: Lake) -> Iterator[tuple[Any, Any]]:
    from rating.kept import Evidence

    files = [file.path for file in lake.data_files()]
    kept = Rollups.of(files, scan_bytes_max=0)
    if kept is None:
        raise RuntimeError(f"{lake.root} is no lake whose states can be kept")
    snapshot = Snapshot.of(lake.cut())
    engine = open_evidence(files, snapshot, folder=str(kept.folder.parent))
    try:
        yield engine, Evidence(files, snapshot, kept)
    finally:
        engine.close()


def _questions(tenants: int) -> tuple[list[Span], list[Selector]]:
    from rating.terms import billing_spans, usage_questions

    terms = workload.company(tenants)
    spans, selectors = usage_questions(terms, billing_spans(terms, parse_period(workload.MONTH)))
    return list(spans), list(selectors)


def states(lake: Lake, tenants: int) -> Callable[[], Answer]:
    """Ours: states per billing period, meter and attributes; with cut, duplicates, voids; kept for the next time.

    Who is asked for, and from when to when, is made out of the terms before the clock starts.
    """
    spans, selectors = _questions(tenants)

    def run() -> Answer:
        with _opened(lake) as (engine, evidence):
            load_states(engine, spans, selectors, rollups=evidence.rollups)
            return _text(engine.execute("SELECT sum(event_count), sum(quantity_sum) FROM usage_state").fetchone())

    return run


def changed(lake: Lake, tenants: int) -> Callable[[], Answer]:
    """Ours: which tenants have usage in the newest segment, and the states of these; all others are as they were."""
    spans, selectors = _questions(tenants)
    cut = lake.cut()
    before = Snapshot.of({name: last - 1 for name, last in cut.items()})

    def run() -> Answer:
        with _opened(lake) as (engine, evidence):
            found = changed_tenants(evidence.files, before, evidence.snapshot)
            load_states(
                engine, [span for span in spans if span.tenant_id in found], selectors, rollups=evidence.rollups
            )
            sums = engine.execute("SELECT sum(event_count), sum(quantity_sum) FROM usage_state").fetchone()
            return _text((len(found), *sums))

    return run


def lines(lake: Lake, tenants: int, prices: int = 10, tiers: int = 4) -> Callable[[], Answer]:
    """Ours: data files to invoice lines, the terms of sale included."""
    terms = workload.company(tenants, workload.some_prices(prices, tiers))
    return lambda: _lines(lake, terms)


def preview(lake: Lake, tenants: int) -> Callable[[], Answer]:
    """Ours: the invoice lines of one tenant."""
    from rating.ledger import booked_nothing
    from rating.rate import subtract_booked
    from rating.run import rated_spans
    from rating.terms import billing_spans

    name = workload.tenant_names(tenants)[tenants // 2]
    whole = workload.company(tenants)
    terms = type(whole)(
        whole.meters, whole.plans, whole.accounts, [one for one in whole.subscriptions if one.tenant == name]
    )
    spans = billing_spans(terms, parse_period(workload.MONTH))

    def run() -> Answer:
        with rated_spans(
            [file.path for file in lake.data_files()],
            Snapshot.of(lake.cut()),
            terms,
            spans,
            workload.AFTER,
            tenants={name},
        ) as engine:
            subtract_booked(engine, *booked_nothing(), "close")
            return _text(engine.execute("SELECT count(*), sum(amount) FROM invoice_line").fetchone())

    return run


def whatif_year(lake: Lake, tenants: int) -> Callable[[], Answer]:
    """Ours: a year of history under its own plan and under another one, both rated, compared per tenant."""
    from rating.whatif import change_of, whatif_over

    terms = workload.company(tenants)
    plan = terms.plans["pro/1"]
    dearer = [
        one.model_copy(update={"unit_price": one.unit_price * 2}) if one.type == "unit" else one for one in plan.prices
    ]
    change = change_of(terms, [plan.model_copy(update={"version": 2, "prices": tuple(dearer)})])
    files = [file.path for file in lake.data_files()]

    def run() -> Answer:
        found = whatif_over(files, Snapshot.of(lake.cut()), change, parse_period(workload.YEAR))
        plans = found.plans.to_pylist()
        return _text([found.tenants.num_rows, *(row[name] for row in plans for name in ("old_amount", "new_amount"))])

    return run


def terms_only(_lake: Lake, tenants: int) -> Callable[[], Answer]:
    """Ours: subscriptions priced without any event: billing periods, usage of zero, charges, worth."""
    from metering.engine import open_engine
    from metering.events import usage_event_schema
    from metering.usage import load_events
    from rating.rate import rate
    from rating.terms import billing_spans

    terms = workload.company(tenants)

    def run() -> Answer:
        engine = open_engine()
        try:
            load_events(engine, usage_event_schema().empty_table())
            rate(engine, terms, billing_spans(terms, parse_period(workload.MONTH)), workload.AFTER)
            return _text(engine.execute("SELECT count(*), sum(amount) FROM worth").fetchone())
        finally:
            engine.close()

    return run


def clickhouse(lake: Lake, _tenants: int) -> Callable[[], Answer]:
    """ClickHouse in this process (chdb): group by; no cut, no duplicates, no voids, no periods, no filters."""
    from chdb import session

    there = session.Session()
    source = f"file('{lake.root}/usage_events/event_date=*/*.parquet', Parquet)"
    query = (
        "SELECT sum(n), sum(q), max(m) FROM (SELECT tenant_id, meter, attributes, count() AS n, sum(quantity) AS q,"
        f" max(quantity) AS m FROM {source} GROUP BY tenant_id, meter, attributes)"
    )
    return lambda: _text(str(there.query(query, "CSV")).strip().split(",")[:2])


def polars(lake: Lake, _tenants: int) -> Callable[[], Answer]:
    """polars: group by; no cut, no duplicates, no voids, no periods, no filters."""
    import polars as pl

    files = [file.path for file in lake.data_files()]
    column = pl.col("quantity")

    def run() -> Answer:
        found = (
            pl.scan_parquet(files)
            .group_by("tenant_id", "meter", "attributes")
            .agg(pl.len().alias("n"), column.sum(), column.max().alias("m"))
            .collect()
        )
        return _text((found["n"].sum(), found["quantity"].sum()))

    return run


STEPS = {
    step.__name__: step
    for step in (states, changed, worth, lines, preview, whatif_year, terms_only, clickhouse, polars)
}


def _text(values: Any) -> list[str]:
    return [str(value).removesuffix(".000000000") for value in values]


def main() -> int:
    name, folder, *numbers = sys.argv[1:]
    for module in MODULES:
        import_module(module)
    # The first array of a process has pyarrow import pandas, where that is installed.
    import_module("pyarrow").array([0])
    run = STEPS[name](Lake(Path(folder)), *(int(number) for number in numbers))
    begun, used = time.perf_counter(), _cpu_s()
    answer = run()
    result = {"seconds": time.perf_counter() - begun, "cpu_s": _cpu_s() - used, "answer": answer}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({**result, "peak_bytes": peak}))
    return 0


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
