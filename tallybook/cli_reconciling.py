"""The command line of reconciliation: compare a period, decide about findings, see controls, make a witness of a log.

Enters: words of an operator. Leaves: tables, JSON, files of the report; exit code 0 conserved, 1 a break or something open.
Refuses: decisions without a reason, waivers without somebody else's approval and an end.
"""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metering.clock import iso_utc
from metering.numbers import trimmed
from tallybook.cli_shell import (
    DONE,
    FINDING,
    JsonOption,
    PeriodOption,
    WhoOption,
    WhyOption,
    err,
    open_workspace,
    out,
    plain_amount,
    print_json,
    progress,
)
from tallybook.cli_waivers import ApprovedOption, UntilOption, day_of, waivers_app
from tallybook.show import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from billing_adapters.findings import Finding
    from billing_adapters.reconciliation.report import Report
    from billing_adapters.reconciliation.witness import Witness
    from tallybook.workspace import Workspace

reconciling = typer.Typer()
findings_app = typer.Typer(invoke_without_command=True, no_args_is_help=False)
controls_app = typer.Typer(invoke_without_command=True, no_args_is_help=False)
findings_app.add_typer(
    waivers_app, name="waivers", help="What is not to be chased: by pattern, with a ceiling and an end."
)
reconciling.add_typer(findings_app, name="findings", help="What reconciliation found, and what became of it.")
reconciling.add_typer(controls_app, name="controls", help="What is compared, and what it would need.")

ID_SHOWN = 17
EXAMPLES_SHOWN = 5
LISTED = ("open", "acknowledged", "expired", "waived")
IdsArgument = Annotated[list[str], typer.Argument(help="Findings, by id or the beginning of one.")]
StatusOption = Annotated[
    list[str] | None,
    typer.Option("--status", help="open, acknowledged, recovered, waived, expired, cleared or all; repeatable."),
]


@reconciling.command()
def reconcile(
    period: PeriodOption,
    witness: Annotated[
        Path | None,
        typer.Option("--witness", help="How often somebody else saw meters used: CSV, JSON lines, Parquet."),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as one page.")] = None,
    xlsx: Annotated[Path | None, typer.Option("--xlsx", help="Write the report as a workbook.")] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write findings and controls as CSV into this folder.")
    ] = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", help="The same as Parquet.")] = None,
    floor: Annotated[
        str | None, typer.Option("--floor", help="Findings likely worth less are not told one by one.")
    ] = None,
    who: WhoOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare everything with everything for a period, keep what was found, and say it: the verdict, what is lost, at
    risk and over-billed, and what to do."""
    from billing_adapters.reconciliation.report_json import report_json
    from billing_adapters.reconciliation.report_terminal import report_table

    seen = None if witness is None else _read_witness(witness)
    least = None if floor is None else plain_amount(floor, "--floor")
    with open_workspace() as workspace, progress("reconciling") as _:
        report = workspace.report(period, witness=seen, preparer=who or getpass.getuser(), floor=least)
    _write_files(report, html, xlsx, csv, parquet)
    if as_json:
        print_json(report_json(report))
    else:
        out.print(report_table(report))
    raise typer.Exit(DONE if report.statement.is_conserved else FINDING)


def _write_files(report: Report, html: Path | None, xlsx: Path | None, csv: Path | None, parquet: Path | None) -> None:
    from billing_adapters.reconciliation.report_files import write_report_workbook, write_tables, write_whole
    from billing_adapters.reconciliation.report_page import report_page

    written = []
    if html is not None:
        write_whole(html, lambda file: file.write(report_page(report)))
        written.append(html)
    if xlsx is not None:
        write_whole(xlsx, lambda file: write_report_workbook(report, file))
        written.append(xlsx)
    for folder, name in ((csv, "csv"), (parquet, "parquet")):
        if folder is not None:
            write_tables(report, folder, name)
            written.append(folder)
    for path in written:
        err.print(f"Written: {path}", highlight=False, soft_wrap=True)


# --- witnesses --------------------------------------------------------------------------------------------------------


@reconciling.command()
def witness(
    log: Annotated[Path, typer.Argument(help="An access log in the common or combined format; .gz too.")],
    meter: Annotated[str, typer.Option("--meter", help="The meter that its requests are uses of.")],
    to: Annotated[Path, typer.Option("--out", help="The CSV file to write, for `reconcile --witness`.")],
    tenant: Annotated[
        str, typer.Option("--tenant", help="Where the tenant stands: client, user, path:N or query:NAME.")
    ] = "client",
    tenants: Annotated[
        Path | None, typer.Option("--tenants", help="CSV of name,tenant_id: who is who; others are not understood.")
    ] = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", help="Statuses that are billable, such as 2xx or 304; repeatable.")
    ] = None,
    path: Annotated[
        list[str] | None, typer.Option("--path", help="Beginnings of paths that are billable; repeatable.")
    ] = None,
    measure: Annotated[str, typer.Option("--count", help="requests, or bytes answered.")] = "requests",
    as_json: JsonOption = False,
) -> None:
    """Count an access log by tenant and hour: an independent witness of what was metered."""
    from billing_adapters.reconciliation.witness import AccessLogRule, read_access_log, write_witness

    try:
        rule = AccessLogRule(
            meter,
            tenant,
            _names(tenants),
            tuple(status or ("2xx",)),
            tuple(path or ()),
            measure,  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    seen = read_access_log(log, rule)
    write_witness(seen, to)
    if as_json:
        print_json({"file": str(to), **_counts(seen), "examples": dict(seen.examples)})
        return
    out.print(f"{seen.counted:,} of {seen.rows:,} lines counted, {seen.left_out:,} left out by the rule: {to}")
    _say_not_understood(seen)


def _names(path: Path | None) -> dict[str, str] | None:
    import csv as reader

    if path is None:
        return None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(reader.reader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read ({error}); it is a CSV file of name,tenant_id") from error
    if not rows or rows[0] != ["name", "tenant_id"] or any(len(row) != 2 for row in rows if row):
        raise typer.BadParameter(f"{path} has other columns; write a header name,tenant_id and two cells a line")
    return {row[0]: row[1] for row in rows[1:] if row}


def _read_witness(path: Path) -> Witness:
    from billing_adapters.reconciliation.witness import read_witness

    seen = read_witness(path)
    _say_not_understood(seen)
    return seen


def _counts(seen: Witness) -> dict[str, Any]:
    rows = {"rows": seen.rows, "counted": seen.counted, "left_out": seen.left_out}
    return {**rows, "not_understood": dict(seen.not_understood)}


def _say_not_understood(seen: Witness) -> None:
    for reason, count in list(seen.not_understood.items())[:EXAMPLES_SHOWN]:
        err.print(f"{count:,} not understood ({reason}); first {seen.examples[reason]}", markup=False, highlight=False)


# --- findings ---------------------------------------------------------------------------------------------------------


@findings_app.callback()
def list_all(
    context: typer.Context,
    period: Annotated[str | None, typer.Option("--period", "-p", help="Only of this period.")] = None,
    status: StatusOption = None,
    control: Annotated[str | None, typer.Option("--control", help="Only of this control.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What was found and is not settled, the soonest deadline first. --status all shows everything."""
    if context.invoked_subcommand is None:
        _list(period, status, control, as_json=as_json)


@findings_app.command(name="list")
def list_too(
    period: Annotated[str | None, typer.Option("--period", "-p", help="Only of this period.")] = None,
    status: StatusOption = None,
    control: Annotated[str | None, typer.Option("--control", help="Only of this control.")] = None,
    as_json: JsonOption = False,
) -> None:
    """The same as `tallybook findings`."""
    _list(period, status, control, as_json=as_json)


@findings_app.command()
def show(ids: IdsArgument, as_json: JsonOption = False) -> None:
    """Findings with everything that is known of them, and their history."""
    with open_workspace() as workspace:
        found = [_one(workspace, given) for given in ids]
    if as_json:
        print_json({"findings": [_json(one) for one in found]})
        return
    for one in found:
        said = [
            (name, value) for name, value in _json(one).items() if value not in (None, "", [], ()) and name != "history"
        ]
        out.print(table("", [("", "left"), ("", "left")], said))
        columns = [("when", "left"), ("what", "left"), ("by", "left"), ("why", "left")]
        out.print(table("", columns, [(iso_utc(e.at), e.verb, e.by, e.why) for e in one.history]))


@findings_app.command()
def acknowledge(ids: IdsArgument, why: WhyOption, who: WhoOption = None, as_json: JsonOption = False) -> None:
    """Say that somebody works on it."""
    _decide("acknowledge", ids, why, who, as_json=as_json)


@findings_app.command()
def recover(
    ids: IdsArgument,
    why: WhyOption,
    amount: Annotated[
        str | None, typer.Option("--amount", help="How much; without it, all it is likely worth.")
    ] = None,
    who: WhoOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that the money was recovered. What is found beyond that opens it again."""
    words = {} if amount is None else {"amount": plain_amount(amount, "--amount")}
    _decide("recover", ids, why, who, as_json=as_json, **words)


@findings_app.command()
def waive(
    ids: IdsArgument,
    why: WhyOption,
    until: UntilOption,
    approved_by: ApprovedOption,
    amount_max: Annotated[
        str | None, typer.Option("--amount-max", help="Its ceiling; without it, what the finding is worth now.")
    ] = None,
    who: WhoOption = None,
    as_json: JsonOption = False,
) -> None:
    """Do not chase it, until a day and up to a ceiling."""
    ceiling = {} if amount_max is None else {"amount_max": plain_amount(amount_max, "--amount-max")}
    _decide("waive", ids, why, who, as_json=as_json, approved_by=approved_by, expires_at=day_of(until), **ceiling)


@findings_app.command()
def reopen(ids: IdsArgument, why: WhyOption, who: WhoOption = None, as_json: JsonOption = False) -> None:
    """Open it again. A waiver ends with it, for all that it covers."""
    _decide("reopen", ids, why, who, as_json=as_json)


def _list(period: str | None, status: Sequence[str] | None, control: str | None, *, as_json: bool) -> None:
    from billing_adapters.finding_life import STATUSES
    from billing_adapters.findings import list_findings
    from metering.periods import parse_period
    from tallybook.books import reading

    wanted = STATUSES if "all" in (status or ()) else status or LISTED
    wrong = sorted(set(wanted) - set(STATUSES))
    if wrong:
        raise typer.BadParameter(f"a status is {', '.join(STATUSES)} or all, not {', '.join(wrong)}")
    wall = parse_period(period) if period else None
    days = None if wall is None else (wall.start.date(), wall.end.date())
    with open_workspace() as workspace, reading(workspace.books) as connection:
        found = list_findings(connection, period=days, statuses=wanted, control_id=control, with_history=as_json)
    if as_json:
        print_json({"findings": [_json(one) for one in found]})
    elif found:
        out.print(_table(found))
    else:
        err.print("None. `tallybook reconcile` looks for them.", highlight=False)
    raise typer.Exit(FINDING if any(one.status in {"open", "acknowledged", "expired"} for one in found) else DONE)


def _decide(verb: str, ids: Sequence[str], why: str, who: str | None, *, as_json: bool, **words: Any) -> None:
    from billing_adapters import finding_decisions

    decide = getattr(finding_decisions, verb)
    with open_workspace() as workspace:
        chosen = [_one(workspace, given) for given in ids]
        try:
            with workspace.deciding() as connection:
                said = {"who": who or getpass.getuser(), "why": why, "now": workspace.now, **words}
                decided = [decide(connection, one.finding_id, **said) for one in chosen]
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    if as_json:
        print_json({"findings": [_json(one) for one in decided]})
    else:
        out.print(_table(decided))


def _one(workspace: Workspace, given: str) -> Finding:
    from billing_adapters.errors import FindingNotOpen
    from billing_adapters.findings import list_findings
    from tallybook.books import reading

    with reading(workspace.books) as connection:
        found = list_findings(connection, prefix=given, with_history=True)
    if len(found) != 1:
        raise FindingNotOpen(f"{len(found)} findings begin with {given}; `tallybook findings --status all` lists them")
    return found[0]


def _json(one: Finding) -> dict[str, Any]:
    from billing_adapters.reconciliation.report_json import plain

    return plain(one)


def _table(found: Sequence[Finding]) -> Any:
    columns = [("finding", "left"), ("control", "left"), ("of", "left"), ("class", "left"), ("status", "left"),
               ("units", "right"), ("likely", "right"), ("until", "left"), ("acts", "left")]  # fmt: skip
    rows = [
        (
            one.finding_id[:ID_SHOWN],
            one.control_id,
            " ".join(part for part in (one.tenant_id or one.account_id or one.subject, one.meter) if part) or "?",
            one.finding_class,
            one.status,
            "" if one.quantity_difference is None else trimmed(one.quantity_difference),
            _worth(one),
            "" if one.recover_by is None else iso_utc(one.recover_by),
            one.owner,
        )
        for one in found
    ]
    return table("", columns, rows)


def _worth(one: Finding) -> str:
    from billing_adapters.reconciliation.report_page import shown

    if one.amount_likely is None or one.currency is None:
        return ""
    return f"{shown(one.amount_likely, one.currency)} {one.currency}"


# --- controls ---------------------------------------------------------------------------------------------------------


@controls_app.callback()
def list_controls(context: typer.Context, as_json: JsonOption = False) -> None:
    """Every control, ours and those of the workspace's `controls/`: what it compares, and how it ran last."""
    if context.invoked_subcommand is not None:
        return
    from billing_adapters.reconciliation.controls import all_controls
    from tallybook.reconciling import CONTROLS_FOLDER

    with open_workspace() as workspace:
        controls, refused = all_controls(workspace.layout.root / CONTROLS_FOLDER, workspace.settings.controls)
        last = _last_runs(workspace)
    rows = [
        {
            "control_id": one.control_id,
            "version": one.version,
            "is_ours": one.is_ours,
            "point": one.point,
            "class": one.finding_class,
            "owner": one.owner,
            "cadence": one.cadence,
            "compares": one.compares,
            "catches": one.catches,
            "needs": [need.name for need in one.needs],
            **last.get(one.control_id, {"result": None, "explanation": "", "as_of": None}),
        }
        for one in controls
    ]
    if as_json:
        wrong = [{"control_id": one.control_id, "reason": one.reason} for one in refused]
        print_json({"controls": rows, "refused": wrong})
        return
    columns = [("control", "left"), ("point", "left"), ("class", "left"), ("acts", "left"), ("last run", "left"),
               ("compares", "left")]  # fmt: skip
    lines = [
        (
            one["control_id"] + ("" if one["is_ours"] else " (yours)"), one["point"], one["class"], one["owner"],
            _ran(one), one["compares"],
        )
        for one in rows
    ]  # fmt: skip
    out.print(table("", columns, lines))
    for bad in refused:
        err.print(f"{bad.control_id} cannot run: {bad.reason}", markup=False, highlight=False)
    raise typer.Exit(FINDING if refused else DONE)


@controls_app.command()
def runs(
    period: Annotated[str | None, typer.Option("--period", "-p", help="Only of this period.")] = None,
    as_json: JsonOption = False,
) -> None:
    """The reconciliations that were made, newest first, and who reviewed them."""
    from billing_adapters.findings import list_runs
    from billing_adapters.reconciliation.report_json import plain
    from metering.periods import parse_period
    from tallybook.books import reading

    wall = parse_period(period) if period else None
    days = None if wall is None else (wall.start.date(), wall.end.date())
    with open_workspace() as workspace, reading(workspace.books) as connection:
        found = list_runs(connection, days)
    if as_json:
        print_json({"runs": [plain(one) for one in found]})
        return
    columns = [("run", "left"), ("period", "left"), ("as of", "left"), ("verdict", "left"), ("prepared by", "left"),
               ("reviewed by", "left")]  # fmt: skip
    lines = [
        (
            one.run_id, f"{one.period_start} to {one.period_end}", iso_utc(one.as_of), one.verdict, one.preparer,
            one.reviewer or "",
        )
        for one in found
    ]  # fmt: skip
    out.print(table("", columns, lines))


@controls_app.command()
def review(
    run_id: Annotated[str, typer.Argument(help="A reconciliation, by id or the beginning of one.")],
    who: WhoOption = None,
) -> None:
    """Sign a reconciliation off. Whoever prepared it cannot."""
    from billing_adapters.finding_decisions import review_run

    with open_workspace() as workspace:
        try:
            with workspace.deciding() as connection:
                run = review_run(connection, run_id, who=who or getpass.getuser(), now=workspace.now)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    out.print(f"{run.run_id} was reviewed by {run.reviewer}.", highlight=False)


def _last_runs(workspace: Workspace) -> dict[str, dict[str, Any]]:
    from sqlalchemy import select

    from billing_adapters.books import control_runs
    from billing_adapters.findings import list_runs
    from tallybook.books import reading

    with reading(workspace.books) as connection:
        newest = list_runs(connection)[:1]
        if not newest:
            return {}
        query = select(control_runs.c.control_id, control_runs.c.result, control_runs.c.explanation).where(
            control_runs.c.run_id == newest[0].run_id
        )
        return {
            row.control_id: {"result": row.result, "explanation": row.explanation, "as_of": iso_utc(newest[0].as_of)}
            for row in connection.execute(query)
        }


def _ran(one: dict[str, Any]) -> str:
    if one["result"] is None:
        return "never"
    return f"{one['result'].replace('_', ' ')}: {one['explanation']}" if one["explanation"] else str(one["result"])
