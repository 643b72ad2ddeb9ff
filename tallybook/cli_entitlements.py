"""The command line's answer to: what may this tenant use, and what is left of it?

Enters: a tenant and an instant. Leaves: a table or JSON, with the grants behind every quota. Refuses: to change anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from metering.clock import iso_utc
from metering.numbers import trimmed
from tallybook.cli_shell import JsonOption, open_workspace, out, print_json
from tallybook.show import grouped, table

if TYPE_CHECKING:
    from datetime import datetime

    from tallybook.entitlements import EntitlementState

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


def _instant(text: str) -> datetime:
    from pydantic import TypeAdapter, ValidationError

    from rating.catalog_times import CatalogTime, When, instant_of

    try:
        when: When = TypeAdapter(CatalogTime).validate_python(text)
    except ValidationError as refused:
        raise typer.BadParameter(refused.errors()[0]["msg"], param_hint="--at") from None
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
