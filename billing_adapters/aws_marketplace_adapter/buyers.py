"""Who bought at AWS Marketplace: a registration token becomes a buyer of the books, and a buyer becomes one of ours.

Enters: the token that a buyer brings from AWS (`x-amzn-marketplace-token`), and whose billing account it is. Leaves: a row of
`marketplace_buyers`. Refuses: what AWS refuses (RegistrationRefused: expired or invalid, so the buyer must come again); to take
an account id of AWS from anybody but AWS; and to move a buyer from one of our accounts to another.
Source: reference/providers.md, section 2.4.

A token is redeemed once at AWS and its answer kept, so the same token again is the same buyer without a call. Who dies between
AWS's answer and the row has lost the token: AWS calls it expired, and the buyer comes again from AWS's page.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from billing_adapters.adapter import Answer
from billing_adapters.aws_marketplace_adapter.adapter import CAPABILITIES
from billing_adapters.aws_marketplace_adapter.answers import answered
from billing_adapters.aws_marketplace_adapter.hours import Licence
from billing_adapters.books import marketplace_buyers, marketplace_registrations
from billing_adapters.errors import ProviderAway, RegistrationRefused
from billing_adapters.outcomes import Outcome
from entitlements.contracts import licence_tail
from metering.books import insertion

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy import Connection, Engine

ADAPTER = CAPABILITIES.name
_REFUSED = {"InvalidTokenException": "invalid", "ExpiredTokenException": "expired"}


@dataclass(frozen=True, slots=True)
class Buyer:
    """A licence of an AWS account, or (older products) a customer of a product. `licence` names it, see `licence_of`."""

    licence: str
    product: str
    aws_account_id: str | None
    licence_arn: str | None
    customer_identifier: str | None
    agreement_id: str | None
    account_id: str | None
    tenant_id: str | None
    starts_at: datetime | None
    registered_at: datetime

    @property
    def as_licence(self) -> Licence:
        """Return whom AWS bills. A legacy buyer is told by its customer identifier, of which there is one."""
        if self.licence_arn is not None:
            return Licence(self.product, self.aws_account_id, self.licence_arn, starts_at=self.starts_at)
        if self.customer_identifier is not None:
            return Licence(self.product, customer_identifier=self.customer_identifier, starts_at=self.starts_at)
        return Licence(self.product, self.aws_account_id, starts_at=self.starts_at)


def licence_of(product: str, licence_arn: str | None, who: str | None) -> str:
    """Return our name of a licence: the `l-...` tail of its ARN, or `PRODUCT:CUSTOMER` where there are no licences."""
    return licence_tail(licence_arn) if licence_arn else f"{product}:{who}"


def register(
    engine: Engine,
    client: Any,
    token: str,
    *,
    now: datetime,
    account_id: str | None = None,
    tenant_id: str | None = None,
) -> Buyer:
    """Redeem a registration token and keep who it is; the same token again changes nothing and asks nobody.

    `account_id` and `tenant_id` are ours; left out, they are said later by `assign`. Raises RegistrationRefused (Terminal),
    ProviderAway (Retryable: nothing was redeemed, or the answer was lost), AdapterMisconfigured.
    """
    digest = hashlib.sha256(token.encode()).hexdigest()
    with engine.connect() as connection:
        known = connection.scalar(
            select(marketplace_registrations.c.licence).where(
                marketplace_registrations.c.adapter == ADAPTER, marketplace_registrations.c.token_hash == digest
            )
        )
        found = None if known is None else read_buyer(connection, known)
    buyer = found or _resolved(client, token, now)
    with engine.begin() as connection:
        kept = _keep(connection, buyer)
        row = {"adapter": ADAPTER, "token_hash": digest, "licence": kept.licence, "redeemed_at": now}
        connection.execute(insertion(connection, marketplace_registrations).values(row).on_conflict_do_nothing())
        if account_id is None:
            return kept
        return assign(connection, kept.licence, account_id=account_id, tenant_id=tenant_id)


def assign(connection: Connection, licence: str, *, account_id: str, tenant_id: str | None) -> Buyer:
    """Say whose buyer it is. Again with the same account: nothing changes but the tenant. Raises RegistrationRefused."""
    buyer = read_buyer(connection, licence)
    if buyer is None:
        raise RegistrationRefused(f"no buyer has licence {licence}; `tallybook marketplace buyers` lists them")
    if buyer.account_id not in {None, account_id}:
        raise RegistrationRefused(
            f"licence {licence} is billing account {buyer.account_id}, not {account_id}; a buyer is not moved, because hours "
            "were told for it: end its contracts and let the buyer subscribe again"
        )
    mine = (marketplace_buyers.c.adapter == ADAPTER) & (marketplace_buyers.c.licence == licence)
    chosen = replace(buyer, account_id=account_id, tenant_id=tenant_id or buyer.tenant_id)
    connection.execute(
        update(marketplace_buyers).where(mine).values(account_id=chosen.account_id, tenant_id=chosen.tenant_id)
    )
    return chosen


def note_start(connection: Connection, licence: str, starts_at: datetime) -> None:
    """Keep when a licence's agreement began, unless that is known."""
    mine = (marketplace_buyers.c.adapter == ADAPTER) & (marketplace_buyers.c.licence == licence)
    unknown = marketplace_buyers.c.starts_at.is_(None)
    connection.execute(update(marketplace_buyers).where(mine, unknown).values(starts_at=starts_at))


def read_buyer(connection: Connection, licence: str) -> Buyer | None:
    """Return the buyer of a licence, None for none."""
    return next((one for one in list_buyers(connection) if one.licence == licence), None)


def list_buyers(connection: Connection) -> list[Buyer]:
    """Return all buyers, by licence."""
    columns = (marketplace_buyers.c[name] for name in Buyer.__slots__)
    query = select(*columns).where(marketplace_buyers.c.adapter == ADAPTER).order_by(marketplace_buyers.c.licence)
    return [Buyer(*row) for row in connection.execute(query)]


def _keep(connection: Connection, buyer: Buyer) -> Buyer:
    """Insert a buyer unless its licence is known; return the one that is kept, with what AWS says of it now."""
    row = {"adapter": ADAPTER, **{name: getattr(buyer, name) for name in Buyer.__slots__}}
    connection.execute(insertion(connection, marketplace_buyers).values(row).on_conflict_do_nothing())
    kept = read_buyer(connection, buyer.licence)
    return kept or buyer


def _resolved(client: Any, token: str, now: datetime) -> Buyer:
    if not token.strip():
        raise RegistrationRefused(
            "there is no registration token; it is the form field x-amzn-marketplace-token", reason="invalid"
        )
    said = answered(ADAPTER, lambda: _resolve(client, token))
    if isinstance(said, Answer):
        if said.outcome in {Outcome.RETRY_SAFE, Outcome.UNKNOWN}:
            raise ProviderAway(f"AWS did not resolve the buyer ({said.detail}); try the same token again")
        raise RegistrationRefused(f"AWS refuses the registration token: {said.detail}", reason="invalid")
    return buyer_of(said, now)


def _resolve(client: Any, token: str) -> Mapping[str, Any]:
    import botocore.exceptions

    try:
        answer: Mapping[str, Any] = client.resolve_customer(RegistrationToken=token)
    except botocore.exceptions.ClientError as error:
        # Here `ExpiredTokenException` is about the buyer's token; elsewhere it is about our own credentials.
        reason = _REFUSED.get(error.response.get("Error", {}).get("Code", ""))
        if reason is None:
            raise
        raise RegistrationRefused(
            f"the registration token is {reason}: it lives for some hours and is redeemed once; let the buyer come again from "
            "AWS Marketplace (Set up your account)",
            reason=reason,
        ) from error
    return answer


def buyer_of(answer: Mapping[str, Any], now: datetime) -> Buyer:
    """Return the buyer that ResolveCustomer answers. Raises RegistrationRefused for an answer that names nobody."""
    arn, account = answer.get("LicenseArn") or None, answer.get("CustomerAWSAccountId") or None
    customer, product = answer.get("CustomerIdentifier") or None, answer.get("ProductCode")
    if not product or not (customer or account) or (arn and not account):
        raise RegistrationRefused(
            f"AWS resolved a buyer without product or account: {sorted(answer)}", reason="invalid"
        )
    return Buyer(
        licence=licence_of(product, arn, customer or account),
        product=product,
        aws_account_id=account,
        licence_arn=arn,
        customer_identifier=customer,
        agreement_id=(answer.get("Metadata") or {}).get("AgreementId"),
        account_id=None,
        tenant_id=None,
        starts_at=None,
        registered_at=now,
    )
