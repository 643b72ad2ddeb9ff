"""The command line about entitlements: what a tenant may use, who reached a threshold, what a provider's contracts include.

Enters: words of an operator. Leaves: tables or JSON. Refuses: to compute anything, and to change anything but alerts.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metering.clock import from_us, iso_utc
from metering.numbers import trimmed
from tallybook.cli_shell import DONE, FINDING, JsonOption, err, open_workspace, out, print_json
from tallybook.show import grouped, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rating.entitled_use import EntitlementState

FAILURES_SHOWN = 5
entitlements = typer.Typer()


@entitlements.command("entitlements")
def show_entitlements(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose.")],
    at: Annotated[
        str | None, typer.Option("--at", help="A date (midnight UTC) or an instant with its offset; else now.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a tenant may use: features, quotas, what is left of each grant, and when quotas start anew."""
    from tallybook.entitlements import Entitlements

    instant = None if at is None else _instant(at)
    with open_workspace() as workspace:
        found = Entitlements(workspace, instant, tenant=tenant)
        states = found.states()
    if as_json:
        rows = [_document(state) for state in states]
        print_json({"tenant": tenant, "at": iso_utc(found.at), "entitlements": rows})
    elif not states:
        out.print(f"Nothing entitles {tenant} to anything at {iso_utc(found.at)}.", markup=False)
    else:
        out.print(_table(states))
        grants = [(state.entitled.entitlement.feature, one) for state in states for one in state.grants]
        if grants:
            out.print(_grants(grants))


@entitlements.command("alerts")
def show_alerts(as_json: JsonOption = False) -> None:
    """Raise what the alert rules of the catalog reach now, once per crossing, and post it to the webhook. For cron."""
    with open_workspace() as workspace:
        done = workspace.alerts()
    if as_json:
        print_json(
            {
                "raised": [one.as_dict() for one in done.raised],
                "delivered": done.delivered,
                "failures": [str(failure) for failure in done.failures],
                "pending": done.pending,
            }
        )
    else:
        columns = [
            ("tenant", "left"),
            ("feature", "left"),
            ("threshold", "left"),
            ("level", "right"),
            ("since", "left"),
        ]
        rows = [
            (one.tenant, one.feature, one.threshold, grouped(one.level), iso_utc(one.window_start))
            for one in done.raised
        ]
        out.print(table("", columns, rows))
        err.print(
            f"{len(done.raised):,} raised, {done.delivered:,} delivered, {done.pending:,} wait to be delivered.",
            highlight=False,
        )
        for failure in done.failures[:FAILURES_SHOWN]:
            err.print(str(failure), markup=False, highlight=False)
    raise typer.Exit(FINDING if done.failures else DONE)


@entitlements.command("contracts")
def show_contracts(
    aws: Annotated[
        Path | None,
        typer.Option("--aws", help="A file of GetEntitlements: print it as entries of the catalog instead."),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Only this tenant's; with --aws, whose they are.")
    ] = None,
    starts: Annotated[
        str | None, typer.Option("--from", help="With --aws: when the agreement begins; the answer does not say it.")
    ] = None,
    meters: Annotated[
        list[str] | None, typer.Option("--meter", help="With --aws: DIMENSION=METER where the two have other names.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What was used of the contracts that a provider sold, what is left, and the net per licence, dimension and term."""
    if aws is not None:
        _print_entries(aws, tenant, starts, meters or ())
        return
    with open_workspace() as workspace:
        states = [one for one in workspace.contracts() if tenant is None or one.tenant == tenant]
    if as_json:
        print_json({"contracts": [one.to_json() for one in states]})
        return
    columns = [("licence", "left"), ("dimension", "left"), ("from", "left"), ("to", "left"), ("tenant", "left")]
    rows = [
        (
            one.contract.licence,
            one.contract.dimension,
            iso_utc(one.contract.starts_at),
            "" if one.contract.ends_at is None else iso_utc(one.contract.ends_at),
            one.tenant,
            "no contract" if one.contract_id is None else grouped(one.contract.included),
            grouped(one.used),
            grouped(one.net),
            grouped(one.remaining),
        )
        for one in states
    ]
    out.print(table("", [*columns, *((name, "right") for name in ("included", "used", "net", "left"))], rows))


def _print_entries(aws: Path, tenant: str | None, starts: str | None, meters: Sequence[str]) -> None:
    import json

    import yaml

    from tallybook.contracting import entries_of_aws

    if tenant is None or starts is None:
        raise typer.BadParameter("with --aws, say whose contracts they are (--tenant) and when they begin (--from)")
    named = dict(one.split("=", 1) for one in meters if "=" in one)
    if len(named) != len(meters):
        raise typer.BadParameter("write DIMENSION=METER", param_hint="--meter")
    try:
        # The digits of a Double as they are in the file: the text of a number, never a float.
        document = json.loads(aws.read_bytes(), parse_float=Decimal)
    except (OSError, ValueError) as refused:
        raise typer.BadParameter(f"{aws} cannot be read as JSON ({refused})", param_hint="--aws") from None
    entries = entries_of_aws(
        _with_times(document.get("Entitlements", [])), tenant=tenant, starts_at=_instant(starts, "--from"), meters=named
    )
    out.print(
        yaml.safe_dump({"contracts": entries}, sort_keys=False), markup=False, highlight=False, soft_wrap=True, end=""
    )


def _with_times(entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the entries with their expiry as an instant, which JSON has as text or as seconds since 1970."""
    for entry in entries:
        expires = entry.get("ExpirationDate")
        if isinstance(expires, str):
            yield {**entry, "ExpirationDate": datetime.fromisoformat(expires).astimezone(UTC)}
        elif expires is not None:
            yield {**entry, "ExpirationDate": from_us(int(expires * 1_000_000))}
        else:
            yield entry


def _instant(text: str, option: str = "--at") -> datetime:
    from pydantic import TypeAdapter, ValidationError

    from rating.catalog_times import CatalogTime, When, instant_of

    try:
        when: When = TypeAdapter(CatalogTime).validate_python(text)
    except ValidationError as refused:
        raise typer.BadParameter(refused.errors()[0]["msg"], param_hint=option) from None
    return instant_of(when, "UTC")


def _document(state: EntitlementState) -> dict[str, Any]:
    entitlement, decision = state.entitled.entitlement, state.decision
    document = {**decision.as_dict(), "type": entitlement.type}
    del document["tenant"]
    if entitlement.type != "metered":
        return document
    grants = [
        {
            "id": one.grant.id,
            "amount": trimmed(one.grant.amount),
            "balance": trimmed(one.balance),
            "priority": one.grant.priority,
            "effective": iso_utc(one.grant.effective_at),
            "expires": None if one.grant.expires_at is None else iso_utc(one.grant.expires_at),
            "voided": None if one.grant.voided_at is None else iso_utc(one.grant.voided_at),
        }
        for one in state.grants
    ]
    segments = [
        {
            "start": iso_utc(one.start),
            "end": iso_utc(one.end),
            "is_reset": one.is_reset,
            "usage": trimmed(one.usage),
            "burned": {name: trimmed(burned) for name, burned in one.burned.items()},
            "balances": {name: trimmed(balance) for name, balance in one.balances_at_end.items()},
            "overage": trimmed(one.overage),
        }
        for one in state.segments
    ]
    meter = {"meter": entitlement.meter, "measured_from": iso_utc(state.entitled.measured_from)}
    return {**document, **meter, "grants": grants, "segments": segments}


def _table(states: list[EntitlementState]) -> Any:
    columns = [("feature", "left"), ("may use", "left"), ("limit", "right"), ("used", "right"), ("left", "right")]
    rows = []
    for state in states:
        decision, is_metered = state.decision, state.entitled.entitlement.type == "metered"
        limit = "unlimited" if is_metered else decision.as_dict()["value"] or ""
        rows.append(
            (
                decision.feature,
                f"{'yes' if decision.allowed else 'no'}, {decision.reason.replace('_', ' ')}",
                limit if decision.limit is None else grouped(decision.limit),
                grouped(decision.used) if is_metered else "",
                "" if decision.remaining is None else grouped(decision.remaining),
                "" if decision.resets_at is None else iso_utc(decision.resets_at),
                decision.source or "",
            )
        )
    return table("", [*columns, ("starts anew", "left"), ("from", "left")], rows)


def _grants(grants: list[tuple[str, Any]]) -> Any:
    columns = [("grants of", "left"), ("grant", "left"), ("amount", "right"), ("left", "right"), ("priority", "right")]
    rows = [
        (
            feature,
            one.grant.id,
            grouped(one.grant.amount),
            grouped(one.balance),
            one.grant.priority,
            iso_utc(one.grant.effective_at),
            "" if one.grant.expires_at is None else iso_utc(one.grant.expires_at),
        )
        for feature, one in grants
    ]
    return table("", [*columns, ("effective", "left"), ("expires", "left")], rows)
