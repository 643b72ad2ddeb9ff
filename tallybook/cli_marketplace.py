"""The command line of AWS Marketplace: buyers register, notices are taken from their queue, contracts are imported.

Enters: words of an operator, or of the page that buyers come to. Leaves: tables or JSON; exit code 1 where something was left out
or left in the queue. Refuses: a registration token as an argument, which every process of the machine could read; stdin has it.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metering.clock import iso_utc
from metering.numbers import trimmed
from tallybook.cli_shell import DONE, FINDING, JsonOption, err, open_workspace, out, plain_amount, print_json
from tallybook.show import table

if TYPE_CHECKING:
    from tallybook.marketplace import Imported

marketplace = typer.Typer(no_args_is_help=True)
marketplace_app = typer.Typer()
marketplace_app.add_typer(marketplace, name="marketplace", help="AWS Marketplace: buyers, notices, contracts.")

AccountOption = Annotated[str | None, typer.Option("--account", help="Whose: a billing account of the catalog.")]
TenantOption = Annotated[
    str | None, typer.Option("--tenant", help="Which of its tenants uses it; needed where it has several.")
]


@marketplace.command()
def register(account: AccountOption = None, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """Redeem a buyer's registration token (x-amzn-marketplace-token), read from stdin. The same token again changes nothing."""
    from tallybook.marketplace import register_buyer

    token = sys.stdin.read().strip()
    with open_workspace() as workspace:
        buyer = register_buyer(workspace, token, account, tenant)
    _print_buyers([(buyer, None)], as_json=as_json)


@marketplace.command()
def buyers(as_json: JsonOption = False) -> None:
    """Who registered, whose they are, and what AWS told of their licences."""
    from tallybook.marketplace import buyers_and_states

    with open_workspace() as workspace:
        rows = buyers_and_states(workspace)
    _print_buyers(rows, as_json=as_json)


@marketplace.command()
def assign(
    licence: Annotated[str, typer.Argument(help="The licence, as `buyers` shows it.")],
    account: Annotated[str, typer.Option("--account", help="Whose: a billing account of the catalog.")],
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whose buyer a licence is. A buyer is never moved to another account."""
    from tallybook.marketplace import assign_buyer

    with open_workspace() as workspace:
        buyer = assign_buyer(workspace, licence, account, tenant)
    _print_buyers([(buyer, None)], as_json=as_json)


@marketplace.command("import")
def import_contracts(
    no_apply: Annotated[
        bool, typer.Option("--no-apply", help="Only write the file; `tallybook apply` follows.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Read what buyers bought into catalog/aws-marketplace.yaml, and apply it. As often as you like."""
    from tallybook.marketplace import import_entitlements

    with open_workspace() as workspace:
        done = import_entitlements(workspace, applies=not no_apply)
    if as_json:
        print_json(_imported(done))
    _say(done)
    raise typer.Exit(FINDING if done.left_out else DONE)


@marketplace.command()
def listen(
    wait: Annotated[int, typer.Option("--wait", min=0, max=20, help="Seconds to wait for a first message.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Take the notices of the queue, and import anew where they ask for it. Run it by cron; it may be killed anywhere."""
    from tallybook.marketplace import listen_once

    with open_workspace() as workspace:
        taken, done = listen_once(workspace, wait_s=wait)
    if as_json:
        counts = {name: getattr(taken, name) for name in ("new", "known", "foreign", "refused")}
        print_json({**counts, "imported": None if done is None else _imported(done)})
    err.print(f"{taken.new:,} notices are new, {taken.known:,} were known.", highlight=False)
    for sentence in taken.refused:
        err.print(f"left in the queue: {sentence}", markup=False, highlight=False)
    if done is not None:
        _say(done)
    raise typer.Exit(FINDING if taken.refused or (done and done.left_out) else DONE)


@marketplace.command()
def carried(as_json: JsonOption = False) -> None:
    """What AWS was told of every contract, and what is carried. Exit code 1: too much was told, and no hour will lower it."""
    from tallybook.carried_hours import carried_hours

    with open_workspace() as workspace:
        rows = carried_hours(workspace)
    if as_json:
        print_json({"carried": [{name: _plain(getattr(one, name)) for name in one.__slots__} for one in rows]})
    else:
        numbers = ("ledger", "accepted", "waiting", "parked", "carried")
        columns = [
            ("contract", "left"),
            ("licence", "left"),
            ("dimension", "left"),
            *((name, "right") for name in numbers),
        ]
        lines = [
            (one.contract_id, one.licence, one.dimension, *(trimmed(getattr(one, name)) for name in numbers))
            for one in rows
        ]
        out.print(table("", columns, lines))
        for one in rows:
            if one.is_overmetered:
                said = f"{one.contract_id}: {trimmed(-one.carried)} {one.dimension} too many were told; ask for an adjustment."
                err.print(said, markup=False, highlight=False)
    raise typer.Exit(FINDING if any(one.is_overmetered for one in rows) else DONE)


@marketplace.command()
def adjust(
    agreement: Annotated[str, typer.Option("--agreement", help="The agreement at AWS.")],
    invoice: Annotated[str, typer.Option("--invoice", help="The invoice of AWS's that is to be lowered.")],
    amount: Annotated[str, typer.Option("--amount", help="By how much, before tax, in plain decimals.")],
    currency: Annotated[str, typer.Option("--currency", help="The invoice's.")],
    why: Annotated[str, typer.Option("--why", help="For the buyer and AWS; it stays in the books.")],
    reason: Annotated[str, typer.Option("--reason", help="AWS's own word for it.")] = "INCORRECT_METERING",
    name: Annotated[
        str | None, typer.Option("--id", help="Tells two requests of one amount apart; the same one again is one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask AWS to lower an invoice, because too much was metered. `tallybook deliver` sends it; the same again changes nothing."""
    from billing_adapters.aws_marketplace_adapter import Adjustment
    from tallybook.marketplace import account_of_agreement
    from tallybook.marketplace import adjust as ask

    exact = plain_amount(amount, "--amount")
    with open_workspace() as workspace:
        account = account_of_agreement(workspace, agreement)
        wanted = Adjustment(name or trimmed(exact), account, agreement, invoice, exact, currency, reason, why)
        intent, is_new = ask(workspace, wanted)
    if as_json:
        print_json({"natural_key": intent.natural_key, "amount": amount, "currency": currency, "is_new": is_new})
    said = "It waits to be sent: `tallybook deliver`." if is_new else "It was asked for already."
    err.print(said, highlight=False)


@marketplace.command()
def feeds(
    folder: Annotated[Path, typer.Option("--out", help="The folder of the lists that are written.")],
    usage: Annotated[list[Path] | None, typer.Option("--usage", help="A usage report; may be repeated.")] = None,
    shape: Annotated[
        str, typer.Option("--shape", help="Which report: daily_usage, subscribed_usage, or one of the settings.")
    ] = "daily_usage",
    billing: Annotated[list[Path] | None, typer.Option("--billing", help="A billing event feed; repeatable.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Read AWS's reports for sellers into lists of what a provider has: quantities by day, documents, and money by part."""
    from tallybook.marketplace_feeds import write_lists

    with open_workspace() as workspace:
        written = write_lists(workspace, folder, usage or (), billing or (), shape)
    rows = [(path.name, f"{count:,}") for path, count in written.items()]
    if as_json:
        print_json({"files": {str(path): count for path, count in written.items()}})
        return
    out.print(table("", [("list", "left"), ("rows", "right")], rows))


@marketplace.command("request-report")
def request_report(
    name: Annotated[str, typer.Argument(help="A data set, such as daily_business_usage_by_instance_type.")],
    day: Annotated[datetime, typer.Option("--day", formats=["%Y-%m-%d"], help="Its day (UTC).")],
    role: Annotated[str, typer.Option("--role", help="The role that AWS writes as, by ARN.")],
    bucket: Annotated[str, typer.Option("--bucket", help="The bucket that it is written to.")],
    topic: Annotated[str, typer.Option("--topic", help="The SNS topic that is told, by ARN.")],
    prefix: Annotated[str, typer.Option("--prefix", help="Where in the bucket.")] = "",
) -> None:
    """Ask AWS for a report of Commerce Analytics: it comes later, as a CSV file in the bucket, which `feeds` reads."""
    from billing_adapters.aws_marketplace_adapter.data_sets import SERVICE, Destination, request_data_set
    from tallybook.marketplace import clients_of

    with open_workspace() as workspace:
        client = clients_of(workspace)(SERVICE)
        request = request_data_set(client, name, day.date(), Destination(role, bucket, topic, prefix))
    out.print(f"asked for: {name} of {day:%Y-%m-%d}, request {request}", highlight=False)


def _say(done: Imported) -> None:
    applied = "" if done.revision is None else f"; revision {done.revision} of the catalog"
    err.print(f"{done.contracts:,} contracts, {len(done.changed):,} of them new or changed{applied}.", highlight=False)
    for sentence in done.left_out:
        err.print(f"left out: {sentence}", markup=False, highlight=False)


def _imported(done: Imported) -> dict[str, Any]:
    return {name: getattr(done, name) for name in done.__slots__}


def _print_buyers(rows: list[tuple[Any, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"buyers": [_document(buyer, state) for buyer, state in rows]})
        return
    columns = ("licence", "product", "AWS account", "billing account", "tenant", "licence is", "until")
    lines = [
        (
            buyer.licence,
            buyer.product,
            buyer.aws_account_id or "",
            buyer.account_id or "nobody's yet",
            buyer.tenant_id or "",
            "" if state is None else state.state,
            "" if state is None or state.final_until is None else iso_utc(state.final_until),
        )
        for buyer, state in rows
    ]
    out.print(table("", [(name, "left") for name in columns], lines))


def _document(buyer: Any, state: Any) -> dict[str, Any]:
    document = {name: _plain(getattr(buyer, name)) for name in buyer.__slots__}
    if state is not None:
        document["state"] = {name: _plain(getattr(state, name)) for name in state.__slots__ if name != "licence"}
    return document


def _plain(value: Any) -> Any:
    if hasattr(value, "astimezone"):
        return iso_utc(value)
    return trimmed(value) if hasattr(value, "is_finite") else value
