"""Buyers of AWS Marketplace: registration tokens, notices in any order, what became of licences, entitlements page by page."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.pool import StaticPool

from billing_adapters.aws_marketplace_adapter.buyers import Buyer, assign, list_buyers, register
from billing_adapters.aws_marketplace_adapter.entitlement_pages import read_entitlements, start_of_agreement
from billing_adapters.aws_marketplace_adapter.licence_states import handle, licence_states, list_notices, unhandled
from billing_adapters.aws_marketplace_adapter.listening import listen
from billing_adapters.aws_marketplace_adapter.notices import Notice, read_notice
from billing_adapters.books import marketplace_buyers, marketplace_notices, marketplace_registrations
from billing_adapters.errors import EventRefused, ProviderAway, QuestionRefused, RegistrationRefused
from billing_adapters.testing.aws_marketplace_server import MarketplaceFake
from billing_adapters.testing.sqs_queue import envelope_of_event, envelope_of_sns
from metering.clock import FixedClock, from_us

NOW = datetime(2026, 11, 15, 12, tzinfo=UTC)
ARN = "arn:aws:license-manager::294406891311:license:l-0001"
WHO = {"LicenseArn": ARN, "CustomerAWSAccountId": "111122223333"}
MINUTE = timedelta(minutes=1)


@pytest.fixture
def engine() -> Engine:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    tables = [marketplace_buyers, marketplace_notices, marketplace_registrations]
    marketplace_buyers.metadata.create_all(engine, tables=tables)
    return engine


@pytest.fixture(scope="module")
def clients() -> tuple[FixedClock, MarketplaceFake, dict[str, Any]]:
    clock = FixedClock(NOW)
    fake = MarketplaceFake(clock)
    names = ("meteringmarketplace", "marketplace-entitlement", "marketplace-agreement", "sqs")
    return clock, fake, {name: fake.client(name) for name in names}


# --- registration -------------------------------------------------------------------------------------------------------


def test_a_token_is_redeemed_once_and_is_the_same_buyer_for_ever(engine: Engine, clients: Any) -> None:
    _, fake, made = clients
    token = fake.buyers.give_token("secret-1", product="code-1", agreement_id="agmt-1", **WHO)
    calls = len(fake.calls)
    first = register(engine, made["meteringmarketplace"], token, now=NOW, account_id="acme-inc", tenant_id="acme")
    again = register(engine, made["meteringmarketplace"], token, now=NOW + MINUTE, account_id="acme-inc")
    assert (
        first == again == Buyer("l-0001", "code-1", "111122223333", ARN, None, "agmt-1", "acme-inc", "acme", None, NOW)
    )
    assert len(fake.calls) == calls + 1
    with engine.connect() as connection:
        kept = connection.execute(select(marketplace_registrations)).mappings().all()
    assert "secret-1" not in str(kept)
    # Another token of the same licence: the buyer clicked again.
    other = register(
        engine, made["meteringmarketplace"], fake.buyers.give_token("secret-2", product="code-1", **WHO), now=NOW
    )
    assert other.account_id == "acme-inc"


def test_a_token_that_is_old_used_or_made_up_is_refused_with_its_reason(engine: Engine, clients: Any) -> None:
    clock, fake, made = clients
    for token, reason in (("made-up", "invalid"), ("  ", "invalid")):
        with pytest.raises(RegistrationRefused) as refused:
            register(engine, made["meteringmarketplace"], token, now=NOW)
        assert refused.value.reason == reason
    fake.buyers.give_token("old", product="code-1", **WHO)
    clock.advance(timedelta(hours=4))
    with pytest.raises(RegistrationRefused, match="let the buyer come again") as refused:
        register(engine, made["meteringmarketplace"], "old", now=NOW)
    assert refused.value.reason == "expired"
    # The answer was lost: AWS redeemed it, and nobody knows for whom.
    fake.buyers.give_token("lost", product="code-1", **WHO)
    fake.fail("lost")
    with pytest.raises(ProviderAway):
        register(engine, made["meteringmarketplace"], "lost", now=NOW)
    with pytest.raises(RegistrationRefused, match="expired"):
        register(engine, made["meteringmarketplace"], "lost", now=NOW)
    fake.buyers.give_token("later", product="code-1", **WHO)
    fake.fail("throttled")
    with pytest.raises(ProviderAway):
        register(engine, made["meteringmarketplace"], "later", now=NOW)
    assert register(engine, made["meteringmarketplace"], "later", now=NOW).licence == "l-0001"


def test_a_buyer_is_assigned_later_and_never_moved(engine: Engine, clients: Any) -> None:
    _, fake, made = clients
    token = fake.buyers.give_token("legacy", product="code-2", CustomerIdentifier="cust-9", CustomerAWSAccountId="44")
    assert register(engine, made["meteringmarketplace"], token, now=NOW).licence == "code-2:cust-9"
    with engine.begin() as connection:
        buyer = assign(connection, "code-2:cust-9", account_id="acme-inc", tenant_id="acme")
        assert buyer.as_licence.identity == {"CustomerIdentifier": "cust-9"}
        with pytest.raises(RegistrationRefused, match="a buyer is not moved"):
            assign(connection, "code-2:cust-9", account_id="globex", tenant_id=None)
        with pytest.raises(RegistrationRefused, match="no buyer has licence"):
            assign(connection, "l-nobody", account_id="globex", tenant_id=None)
        assert [one.tenant_id for one in list_buyers(connection)] == ["acme"]


# --- notices ------------------------------------------------------------------------------------------------------------


def told(kind: str, minutes: int, licence: str = "l-0001", notice_id: str = "") -> Notice:
    return Notice(notice_id or f"{kind} {minutes}", kind, NOW + minutes * MINUTE, licence)  # type: ignore[arg-type]


def test_notices_are_read_whatever_brings_them() -> None:
    detail = {"requestId": "r-1", "license": {"arn": ARN.removeprefix("arn:")}, "product": {"code": "code-1", "id": "prod-1"},
              "agreement": {"id": "agmt-1"}}  # fmt: skip
    updated = envelope_of_event("License Updated - Proposer", detail, "e-1", NOW)
    twin = envelope_of_event("License Updated - Manufacturer", detail, "e-2", NOW)
    first, second = read_notice(updated), read_notice(twin)
    assert first is not None
    assert second is not None
    # Seller and vendor at once: one fact, told twice.
    assert first == second
    assert (first.kind, first.licence, first.agreement_id, first.product) == ("may_meter", "l-0001", "agmt-1", "code-1")
    gone = read_notice(envelope_of_event("License Deprovisioned - Proposer", detail, "e-3", NOW))
    assert gone is not None
    assert (gone.kind, gone.notice_id == first.notice_id) == ("ending", False)
    message = {"action": "unsubscribe-pending", "customer-identifier": "cust-9", "product-code": "code-2",
               "isFreeTrialTermPresent": "true"}  # fmt: skip
    legacy = read_notice(envelope_of_sns(message, "m-1", NOW))
    assert legacy is not None
    assert (legacy.kind, legacy.licence, legacy.happened_at) == ("ending", "code-2:cust-9", NOW)
    ended = {
        "agreement": {"id": "agmt-1", "status": "RENEWED", "startTime": "2026-01-01T00:00:00Z"},
        "requestId": "r-2",
    }
    agreement = read_notice(envelope_of_event("Purchase Agreement Ended - Proposer", ended, "e-4", NOW))
    assert agreement is not None
    assert (agreement.kind, agreement.licence) == ("agreement", None)
    assert agreement.starts_at == datetime(2026, 1, 1, tzinfo=UTC)
    for foreign in ('{"source": "aws.ec2"}', "[1]", envelope_of_event("Offer Released", {}, "e", NOW)):
        assert read_notice(foreign) is None
    for wrong in (
        "no json",
        '{"Type": "Notification", "Message": "no json"}',
        '{"action": "subscribe-success", "customer-identifier": "c", "product-code": "p"}',
        envelope_of_event("License Updated - Proposer", {"requestId": "r"}, "e", NOW),
    ):
        with pytest.raises(EventRefused):
            read_notice(wrong)


@pytest.mark.parametrize(
    ("notices", "state", "ends", "final"),
    [
        ([told("may_meter", 0)], "active", None, None),
        ([told("may_meter", 0), told("ending", 10)], "ending", 10, 70),
        ([told("may_meter", 0), told("ending", 10), told("ending", 20)], "ending", 10, 70),
        ([told("may_meter", 0), told("ending", 10), told("ended", 40)], "ended", 10, 40),
        ([told("may_meter", 0), told("ended", 40)], "ended", 40, 40),
        ([told("ending", -90)], "ended", -90, -30),
        # Subscribed again at once: the end was never told, or was.
        ([told("may_meter", 0), told("ending", 10), told("may_meter", 12)], "active", None, None),
        ([told("may_meter", 0), told("ending", 10), told("ended", 11), told("may_meter", 12)], "active", None, None),
        # The agreement of a renewal ends; the licence does not.
        ([told("may_meter", 0), Notice("a", "agreement", NOW + 5 * MINUTE, "l-0001")], "active", None, None),
        ([told("failed", 0)], "failed", None, None),
        # Of one instant the graver word counts.
        ([told("may_meter", 10), told("ending", 10)], "ending", 10, 70),
    ],
)
def test_states_are_made_of_all_notices_in_any_order(
    notices: list[Notice], state: str, ends: int | None, final: int | None
) -> None:
    for order in itertools.permutations(notices):
        found = licence_states([*order, order[0]], now=NOW + 30 * MINUTE)["l-0001"]
        assert found.state == state
        assert found.ends_at == (None if ends is None else NOW + ends * MINUTE)
        assert found.final_until == (None if final is None else NOW + final * MINUTE)


def test_a_licence_that_was_ending_has_ended_when_its_last_hour_is_over() -> None:
    notices = [told("may_meter", 0), told("ending", 10)]
    assert licence_states(notices, now=NOW + 69 * MINUTE)["l-0001"].state == "ending"
    assert licence_states(notices, now=NOW + 70 * MINUTE)["l-0001"].state == "ended"
    shorter = licence_states(notices, now=NOW + 69 * MINUTE, final_window=30 * MINUTE)
    assert shorter["l-0001"].state == "ended"


def test_a_queue_is_taken_once_in_any_order_and_what_cannot_be_read_stays(engine: Engine, clients: Any) -> None:
    clock, fake, made = clients
    now = lambda: from_us(clock.now_us())  # noqa: E731
    bodies = [
        envelope_of_event(
            f"License Updated - {role}", {"requestId": f"r-{n}", "license": {"arn": f"license:l-{n}"}}, "e", now()
        )
        for n in range(12)
        for role in ("Proposer", "Manufacturer")
    ]
    bodies += ["no json at all", '{"source": "aws.ec2"}']
    random.Random(3).shuffle(bodies)
    for body in bodies:
        fake.queue.send(body)
    # The first deletion is lost after it was done, a receive is lost, one is throttled: what stays comes again.
    found = []
    for how in (None, "lost", "throttled"):
        if how:
            fake.fail(how)
        try:
            found.append(listen(engine, made["sqs"], "https://queue", now=now))
        except ProviderAway:
            found.append(None)
        clock.advance(timedelta(seconds=31))
    last = listen(engine, made["sqs"], "https://queue", now=now)
    with engine.begin() as connection:
        assert [one.licence for one in list_notices(connection)] == sorted(
            (f"l-{n}" for n in range(12)), key=lambda name: f"License Updated r-{name[2:]}"
        )
        assert unhandled(connection) == 12
        handle(connection, now(), now())
        assert unhandled(connection) == 0
    assert fake.queue.held == 1
    assert len(last.refused) == 1
    assert sum(one.foreign for one in found if one) == 1


# --- entitlements -------------------------------------------------------------------------------------------------------


def test_all_pages_are_read_empty_ones_too_and_filters_are_aws_s(clients: Any) -> None:
    _, fake, made = clients
    client = made["marketplace-entitlement"]
    fake.buyers.entitlements, fake.buyers.page_size, fake.buyers.empty_pages = [], 3, 2
    for number in range(8):
        arn = f"arn:aws:license-manager::1:license:l-{number % 2}"
        fake.buyers.entitle(
            "code-1", f"d{number}", {"IntegerValue": number}, NOW, LicenseArn=arn, CustomerAWSAccountId="1"
        )
    fake.buyers.entitle("code-1", "old", {"DoubleValue": 0.1}, None, CustomerIdentifier="cust-9")
    found = read_entitlements(client, "code-1")
    assert [one["Dimension"] for one in found] == [*[f"d{n}" for n in range(8)], "old"]
    assert found[-1]["LicenseArn"] == "code-1:cust-9"
    assert found[0]["ExpirationDate"].astimezone(UTC) == NOW
    some = read_entitlements(
        client, "code-1", {"LICENSE_ARN": ["arn:aws:license-manager::1:license:l-1"], "DIMENSION": ["d1", "d3", "d4"]}
    )
    assert [one["Dimension"] for one in some] == ["d1", "d3"]
    assert read_entitlements(client, "nothing") == []
    with pytest.raises(QuestionRefused):
        read_entitlements(client, "code-1", {"CUSTOMER_IDENTIFIER": ["a"], "CUSTOMER_AWS_ACCOUNT_ID": ["1"]})
    fake.fail("throttled")
    with pytest.raises(ProviderAway):
        read_entitlements(client, "code-1")
    fake.buyers.empty_pages = 0


def test_agreements_say_when_they_began(clients: Any) -> None:
    _, fake, made = clients
    fake.agreements.add("agmt-1", starts_at=NOW)
    found = start_of_agreement(made["marketplace-agreement"], "agmt-1")
    assert found is not None
    assert found.astimezone(UTC) == NOW
    assert start_of_agreement(made["marketplace-agreement"], "agmt-none") is None


@pytest.mark.parametrize("change", [{"MaxResults": 26}, {"Filter": {"COLOUR": ["red"]}}])
def test_the_fake_refuses_pages_that_aws_refuses(clients: Any, change: dict[str, Any]) -> None:
    _, _, made = clients
    client = made["marketplace-entitlement"]
    with pytest.raises(client.exceptions.InvalidParameterException):
        client.get_entitlements(ProductCode="code-1", **change)
