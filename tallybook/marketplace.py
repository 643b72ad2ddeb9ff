"""AWS Marketplace over a workspace: buyers register, notices come, what they bought becomes contracts of the catalog.

Enters: a workspace, and clients of boto3 that the settings of [delivery.aws_marketplace] make. Leaves: buyers and notices in the
books, and one file of the catalog, `aws-marketplace.yaml`, that people can read and that nobody need write. Refuses: to import
for a buyer of whom nobody said whose it is, or of whom no start is known; such are told, and all others are imported.

Importing reads all that is bought now, so it does not matter how often it is done, or in which order notices came.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

import yaml

from billing_adapters.aws_marketplace_adapter.adjustments import CAPABILITIES as OF_ADJUSTMENTS
from billing_adapters.aws_marketplace_adapter.adjustments import Adjustment, AdjustmentAdapter, most_adjustable
from billing_adapters.aws_marketplace_adapter.buyers import Buyer, assign, list_buyers, note_start, register
from billing_adapters.aws_marketplace_adapter.clients import make_client
from billing_adapters.aws_marketplace_adapter.entitlement_pages import REGION, read_entitlements, start_of_agreement
from billing_adapters.aws_marketplace_adapter.licence_states import (
    LicenceState,
    handle,
    licence_states,
    list_notices,
    unhandled,
)
from billing_adapters.aws_marketplace_adapter.listening import Listened, believe, listen
from billing_adapters.aws_marketplace_adapter.sns_signatures import SignedTopics
from billing_adapters.errors import QuestionRefused, RegistrationRefused
from billing_adapters.outbox import Outbox
from entitlements.contracts import aws_contracts, licence_tail
from entitlements.errors import BadContract
from metering.durable import write_durably
from metering.numbers import trimmed
from tallybook.books import reading
from tallybook.errors import BadSettings
from tallybook.marketplace_contracts import Bought, are_applied, merged
from tallybook.marketplace_settings import SECTION, MarketplaceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from billing_adapters.adapter import Intent
    from tallybook.workspace import Workspace

ADJUSTMENTS = OF_ADJUSTMENTS.name
FILE = "aws-marketplace.yaml"
HEAD = (
    "# Made of AWS Marketplace's entitlements by `tallybook marketplace import`; what you write here is overwritten.\n"
)


@dataclass(slots=True)
class Imported:
    """What an import did: contracts of the file before and after, and why some were left out. `revision`: of the catalog."""

    contracts: int = 0
    changed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    revision: int | None = None


def options_of(workspace: Workspace) -> tuple[MarketplaceOptions, dict[str, Any]]:
    """Return the options of the section, and what else it says. Raises BadSettings without the section."""
    if SECTION not in workspace.settings.delivery:
        raise BadSettings(f"there is no section [delivery.{SECTION}] in {workspace.layout.settings_file}")
    rest = dict(workspace.settings.delivery[SECTION])
    return MarketplaceOptions.taken_from(rest), rest


def clients_of(workspace: Workspace) -> Callable[[str], Any]:
    """Return what makes boto3's client of a service: metering in the region of the settings, the others in us-east-1."""
    options, rest = options_of(workspace)

    def client(service: str) -> Any:
        region = rest.get("region", REGION) if service in {"meteringmarketplace", "sqs"} else REGION
        return make_client(service, region, options.addresses.get(service, rest.get("address")))

    return client


def register_buyer(workspace: Workspace, token: str, account_id: str | None, tenant_id: str | None = None) -> Buyer:
    """Redeem a registration token; see `billing_adapters.aws_marketplace_adapter.buyers.register`. Idempotent."""
    tenant_id = _tenant_of(workspace, account_id, tenant_id)
    client = clients_of(workspace)("meteringmarketplace")
    return register(workspace.books, client, token, now=workspace.now, account_id=account_id, tenant_id=tenant_id)


def assign_buyer(workspace: Workspace, licence: str, account_id: str, tenant_id: str | None = None) -> Buyer:
    """Say whose a buyer is. Raises RegistrationRefused."""
    tenant_id = _tenant_of(workspace, account_id, tenant_id)
    with workspace.books.begin() as connection:
        return assign(connection, licence_tail(licence), account_id=account_id, tenant_id=tenant_id)


def _tenant_of(workspace: Workspace, account_id: str | None, tenant_id: str | None) -> str | None:
    """Return which tenant of the account uses it: the one named, or the only one. Raises RegistrationRefused."""
    if account_id is None:
        return None
    held = {one.id: one.tenants for one in workspace.catalog_or_empty().accounts}
    if account_id not in held:
        raise RegistrationRefused(
            f"there is no billing account {account_id} in the catalog; add it, and run `tallybook apply`"
        )
    if tenant_id is None:
        return held[account_id][0] if len(held[account_id]) == 1 else None
    if tenant_id not in held[account_id]:
        raise RegistrationRefused(f"billing account {account_id} does not list tenant {tenant_id}")
    return tenant_id


def buyers_and_states(workspace: Workspace) -> list[tuple[Buyer, LicenceState | None]]:
    """Return every buyer with what AWS told of its licence, None for nothing."""
    options, _ = options_of(workspace)
    with reading(workspace.books) as connection:
        buyers, notices = list_buyers(connection), list_notices(connection)
    states = licence_states(notices, now=workspace.now, final_window=options.final_window)
    return [(one, states.get(one.licence)) for one in buyers]


def listen_once(workspace: Workspace, *, wait_s: int = 0) -> tuple[Listened, Imported | None]:
    """Take what the queue holds, and import anew where it asks for that; None: it did not. Idempotent, also after a crash."""
    options, _ = options_of(workspace)
    if options.queue is None:
        raise BadSettings(f'[delivery.{SECTION}] names no queue: queue = "https://sqs..."')
    client = clients_of(workspace)("sqs")
    check = SignedTopics(options.topics).check if options.topics else believe
    done = listen(workspace.books, client, options.queue, now=lambda: workspace.now, wait_s=wait_s, check=check)
    with reading(workspace.books) as connection:
        waiting = unhandled(connection)
    return done, import_entitlements(workspace) if waiting else None


def import_entitlements(workspace: Workspace, *, applies: bool = True) -> Imported:
    """Read all that is bought into `catalog/aws-marketplace.yaml`, and apply the catalog where it differs. Idempotent.

    Where the catalog would refuse the file, the old one is put back, and the error is raised: nothing is half applied.
    """
    options, _ = options_of(workspace)
    client, began = clients_of(workspace), workspace.now
    buyers = {one.licence: (one, state) for one, state in buyers_and_states(workspace)}
    products = sorted({*options.products, *(one.product for one, _ in buyers.values())})
    entries = [one for product in products for one in read_entitlements(client("marketplace-entitlement"), product)]
    bought, left_out = _bought(workspace, entries, buyers, options, client)
    path = workspace.layout.catalog / FILE
    old = path.read_text(encoding="utf-8") if path.exists() else None
    held = (yaml.safe_load(old) or {}).get("contracts") or [] if old else []
    by_hand = {
        (licence_tail(one.licence), one.dimension)
        for one in workspace.catalog_or_empty().contracts
        if one.id not in {entry["id"] for entry in held}
    }
    there = {(licence_tail(entry["LicenseArn"]), entry["Dimension"]) for entry in entries}
    subscribed, unsaid = _subscribed(workspace, there, buyers, options, client)
    bought, left_out = [*bought, *subscribed], sorted({*left_out, *unsaid})
    there |= {(one.licence, one.dimension) for one in subscribed}
    gone = {(entry["licence"], entry["dimension"]) for entry in held if entry["licence"] in buyers} - there
    kept = merged(held, [one for one in bought if (one.licence, one.dimension) not in by_hand], gone, began)
    made = HEAD + yaml.safe_dump({"contracts": kept}, sort_keys=False, allow_unicode=True)
    done = Imported(len(kept), _changed(held, kept), tuple(left_out))
    if kept != held:
        write_durably(path, made.encode())
    # What was written need not be applied: the import may have been killed between the two.
    if applies and not are_applied(kept, workspace.catalog_or_empty().contracts):
        done.revision = _apply(workspace, old)
    with workspace.books.begin() as connection:
        if not left_out:
            handle(connection, began, workspace.now)
    return done


def _apply(workspace: Workspace, old: str | None) -> int:
    path = workspace.layout.catalog / FILE
    try:
        return workspace.apply().revision
    except Exception:
        if old is None:
            path.unlink()
        else:
            write_durably(path, old.encode())
        raise


def _subscribed(
    workspace: Workspace,
    there: AbstractSet[tuple[str, str]],
    buyers: Mapping[str, tuple[Buyer, LicenceState | None]],
    options: MarketplaceOptions,
    client: Callable[[str], Any],
) -> tuple[list[Bought], set[str]]:
    """Return contracts that include nothing, of buyers of products that bill everything; and why some have none yet."""
    entries = [
        {
            "LicenseArn": licence,
            "Dimension": dimension,
            "Value": {"IntegerValue": 0},
            **({"ExpirationDate": state.ends_at} if state is not None and state.ends_at is not None else {}),
        }
        for licence, (buyer, state) in buyers.items()
        for dimension in options.subscribed.get(buyer.product, ())
        if (licence, dimension) not in there
    ]
    found, left_out = _bought(workspace, entries, buyers, options, client)
    return found, set(left_out)


def _bought(
    workspace: Workspace,
    entries: list[dict[str, Any]],
    buyers: Mapping[str, tuple[Buyer, LicenceState | None]],
    options: MarketplaceOptions,
    client: Callable[[str], Any],
) -> tuple[list[Bought], list[str]]:
    """Return what can be imported, and sentences about what cannot yet."""
    found: list[Bought] = []
    left_out: set[str] = set()
    meters = {one.name for one in workspace.catalog_or_empty().meters}
    for entry in entries:
        licence = licence_tail(entry["LicenseArn"])
        buyer, state = buyers.get(licence, (None, None))
        if buyer is None or buyer.tenant_id is None:
            what = "did not register" if buyer is None else "belongs to no tenant yet"
            left_out.add(f"licence {licence} {what}: `tallybook marketplace buyers`")
            continue
        starts_at = buyer.starts_at or _start(workspace, buyer, client) or (state.starts_at if state else None)
        if starts_at is None:
            left_out.add(f"the start of licence {licence} is not known; no notice and no agreement says it")
            continue
        try:
            contracts = aws_contracts([entry], starts_at=starts_at.astimezone(UTC))
        except BadContract as refused:
            left_out.add(str(refused))
            continue
        for one in contracts:
            meter = options.meters.get(one.dimension, one.dimension)
            if meter not in meters:
                left_out.add(f"dimension {one.dimension} has no meter: say which in [delivery.{SECTION}.dimensions]")
            elif one.ends_at is not None and one.ends_at <= starts_at:
                left_out.add(f"{one.dimension} of licence {licence} ended {one.ends_at} before it began {starts_at}")
            else:
                found.append(
                    Bought(
                        licence,
                        one.dimension,
                        buyer.product,
                        buyer.tenant_id,
                        meter,
                        one.included,
                        starts_at,
                        one.ends_at,
                    )
                )
    return found, sorted(left_out)


def _start(workspace: Workspace, buyer: Buyer, client: Callable[[str], Any]) -> Any:
    """Return when a buyer's agreement began, and keep it."""
    if buyer.agreement_id is None:
        return None
    starts_at = start_of_agreement(client("marketplace-agreement"), buyer.agreement_id)
    if starts_at is not None:
        with workspace.books.begin() as connection:
            note_start(connection, buyer.licence, starts_at.astimezone(UTC))
    return starts_at


def _changed(held: list[dict[str, Any]], kept: list[dict[str, Any]]) -> tuple[str, ...]:
    before = {entry["id"]: entry for entry in held}
    return tuple(entry["id"] for entry in kept if before.get(entry["id"]) != entry)


# --- money that AWS invoiced --------------------------------------------------------------------------------------------


def adjust(workspace: Workspace, wanted: Adjustment) -> tuple[Intent, bool]:
    """Put a billing adjustment request into the outbox, if AWS can lower the invoice by so much; (it, whether it is new).

    Idempotent by the request's id. It is sent by `tallybook deliver`. Raises QuestionRefused, ProviderAway, AdapterMisconfigured.
    """
    client = make_client("marketplace-agreement", REGION, _adjustments_address(workspace))
    most, currency = most_adjustable(client, wanted.agreement_id, wanted.invoice_id)
    (intent,) = AdjustmentAdapter(client).prepare(wanted)
    outbox = Outbox(workspace.books, AdjustmentAdapter(client).capabilities, workspace.clock)
    is_new = bool(outbox.missing([intent]))
    if currency != wanted.currency or (is_new and wanted.amount > most):
        raise QuestionRefused(
            f"AWS can lower invoice {wanted.invoice_id} by {trimmed(most)} {currency} at most, "
            f"not by {trimmed(wanted.amount)} {wanted.currency}"
        )
    if intent.refusal is not None:
        raise QuestionRefused(intent.refusal)
    outbox.enqueue([intent])
    return intent, is_new


def account_of_agreement(workspace: Workspace, agreement_id: str) -> str:
    """Return which billing account an agreement is, as its buyer registered; the agreement's own id where nobody did."""
    return accounts_of_aws(workspace).get(agreement_id, agreement_id)


def accounts_of_aws(workspace: Workspace) -> dict[str, str]:
    """Return our billing account by AWS's agreement, and by its account where that is one buyer's alone."""
    with reading(workspace.books) as connection:
        buyers = [one for one in list_buyers(connection) if one.account_id is not None]
    found: dict[str, str] = {}
    for name in ("aws_account_id", "agreement_id"):
        of_ref: dict[str, set[str]] = {}
        for one in buyers:
            of_ref.setdefault(getattr(one, name) or "", set()).add(one.account_id or "")
        found.update({ref: accounts.pop() for ref, accounts in of_ref.items() if ref and len(accounts) == 1})
    return found


def _adjustments_address(workspace: Workspace) -> str | None:
    if ADJUSTMENTS not in workspace.settings.delivery:
        raise BadSettings(f"there is no section [delivery.{ADJUSTMENTS}] in {workspace.layout.settings_file}")
    address: str | None = workspace.settings.delivery[ADJUSTMENTS].get("address")
    return address
