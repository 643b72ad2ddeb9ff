"""AWS Marketplace over boto3 and a faithful fake: the contract, windows, bisected batches, identities, a quarter of fractions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import orjson
import pytest
from sqlalchemy import Engine

from billing_adapters.adapter import Intent
from billing_adapters.aws_marketplace_adapter import HourTotal, Licence, MarketplaceAdapter, MarketplaceSettings, make
from billing_adapters.aws_marketplace_adapter.adapter import _judged
from billing_adapters.aws_marketplace_adapter.records import within_limits
from billing_adapters.deliver import Delivered, Deliverer
from billing_adapters.deliveries import Delivery, list_deliveries
from billing_adapters.errors import AdapterMisconfigured
from billing_adapters.outbox import Outbox
from billing_adapters.outcomes import Outcome, Policy
from billing_adapters.testing.aws_marketplace_server import MarketplaceFake, serve
from billing_adapters.testing.contract import AdapterContract, Crashed
from billing_adapters.usage_totals import UsageTotal
from metering.clock import FixedClock, from_us

HOUR = timedelta(hours=1)
SETTINGS = MarketplaceSettings("us-east-1")
# The middle of a month: the contract's own beginning is noon of the 1st, when the month before is closed.
NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)


def licence(number: int = 1, product: str = "prod-1", **more: Any) -> Licence:
    arn = f"arn:aws:license-manager::294406891311:license:l-{number:04}"
    return replace(Licence(product, f"{number:012}", arn), **more)


def hour(quantity: str, *, ago: int = 1, number: int = 1, dimension: str = "tokens", **more: Any) -> HourTotal:
    start = NOON - ago * HOUR
    total = UsageTotal(f"account-{number}", f"sub-{number}", dimension, start, start + HOUR, Decimal(quantity))
    return HourTotal(total, licence(number), **more)


class MarketplaceWorld:
    def __init__(self, settings: MarketplaceSettings = SETTINGS, now: datetime = NOON) -> None:
        self.clock = FixedClock(now)
        self.fake = MarketplaceFake(self.clock)
        self.settings = settings
        self.client = self.fake.client()
        for number in range(1, 41):
            one = licence(number)
            assert one.licence_arn is not None
            assert one.aws_account_id is not None
            self.fake.add_licence(
                one.licence_arn, account=one.aws_account_id, product="prod-1", starts_at=NOON - timedelta(days=90)
            )

    def adapter(self) -> MarketplaceAdapter:
        return MarketplaceAdapter(self.client, self.settings)

    def sources(self) -> Sequence[object]:
        return [
            hour("12.5"),
            hour("0.000001", ago=2),
            hour("7", number=2),
            hour("9999999999.999999", number=3, dimension="bytes"),
        ]

    def fail(self, how: str, times: int = 1) -> None:
        self.fake.fail(how, times)

    def holdings(self) -> dict[str, list[str]]:
        return {f"us-east-1 {who} {name} {at}": [f"{q:f}"] for (who, name, at), q in self.fake.billed.items()}

    def expected(self, intent: Intent) -> str:
        return str(orjson.loads(intent.payload)["record"]["QuantityAsDecimal"])


class TestMarketplace(AdapterContract):
    def make_world(self) -> MarketplaceWorld:
        return MarketplaceWorld()


@pytest.mark.prove
class TestMarketplaceThatLeavesRecords(AdapterContract):
    """Where the suite throttles, AWS leaves every other record; where it is away, AWS answers 500 after it was done."""

    def make_world(self) -> MarketplaceWorld:
        class World(MarketplaceWorld):
            def fail(self, how: str, times: int = 1) -> None:
                self.fake.fail({"throttled": "unprocessed", "away": "error_after"}.get(how, how), times)

        return World()


@pytest.fixture
def engine() -> Engine:
    return AdapterContract().open_books()


def deliver(world: MarketplaceWorld, engine: Engine, *hours: HourTotal, passes: int = 1) -> Delivered:
    adapter = world.adapter()
    wait = lambda seconds: world.clock.advance(timedelta(seconds=seconds))  # noqa: E731
    deliverer = Deliverer(engine, adapter, clock=world.clock, wait=wait, chance=lambda: 0.5)
    deliverer.outbox.enqueue([intent for one in hours for intent in adapter.prepare(one)])
    for turn in range(passes):
        done = deliverer.run()
        if turn < passes - 1:
            world.clock.advance(timedelta(minutes=11))
    return done


def rows(engine: Engine) -> list[Delivery]:
    with engine.connect() as connection:
        return list_deliveries(connection)


# --- what is sent -------------------------------------------------------------------------------------------------------


def test_a_record_is_the_hour_the_licence_and_a_plain_decimal(engine: Engine) -> None:
    world = MarketplaceWorld()
    deliver(world, engine, hour("12.500000000"))
    ((record,),) = [call["UsageRecords"] for call in world.fake.calls]
    assert record == {
        "CustomerAWSAccountId": "000000000001",
        "LicenseArn": "arn:aws:license-manager::294406891311:license:l-0001",
        "Dimension": "tokens",
        "Timestamp": (NOON - HOUR).timestamp(),
        "QuantityAsDecimal": "12.5",
    }
    assert "ProductCode" not in world.fake.calls[0]
    (row,) = rows(engine)
    assert row.provider_id == "record-00000001"


def test_whole_numbers_where_a_dimension_takes_no_others(engine: Engine) -> None:
    world = MarketplaceWorld(MarketplaceSettings("us-east-1", decimals_of={"tokens": 0}))
    deliver(world, engine, hour("12.9"))
    assert [record["Quantity"] for call in world.fake.calls for record in call["UsageRecords"]] == [12]


def test_twenty_five_records_a_call_and_one_product(engine: Engine) -> None:
    world = MarketplaceWorld()
    for number in (31, 32):
        arn = licence(number).licence_arn or ""
        world.fake.add_licence(arn, account=f"{number:012}", product="prod-2", starts_at=NOON - timedelta(days=9))
    others = [replace(hour("1", number=number), licence=licence(number, "prod-2")) for number in (31, 32)]
    deliver(world, engine, *[hour("1", number=number) for number in range(1, 31)], *others)
    assert sorted(len(call["UsageRecords"]) for call in world.fake.calls)[-1] <= 25
    assert {row.state for row in rows(engine)} == {"delivered"}
    assert len(world.fake.billed) == 32


def test_the_timestamp_lies_in_the_licence(engine: Engine) -> None:
    world = MarketplaceWorld()
    started = NOON - timedelta(minutes=20)
    one = licence(40, starts_at=started)
    world.fake.add_licence(one.licence_arn or "", account=f"{40:012}", product="prod-1", starts_at=started)
    deliver(
        world,
        engine,
        replace(hour("5", number=40), licence=one, total=replace(hour("5", number=40).total, start=NOON - HOUR)),
    )
    assert list(world.fake.billed.values()) == [Decimal(5)]


def test_more_tags_than_a_record_has_room_for_are_one_share_without_tags(engine: Engine) -> None:
    many = [({"team": f"t{n:04}"}, Decimal(3000 - n)) for n in range(3000)]
    kept = within_limits([*many, ({}, Decimal(5))])
    assert len(kept) == 2500
    assert kept[:2499] == tuple(many[:2499])
    assert kept[-1] == ({}, sum((weight for _, weight in many[2499:]), Decimal(5)))
    long = [({f"{key}" * 100: f"{n:0256}" for key in "abcde"}, Decimal(1)) for n in range(2000)]
    fitting = within_limits(long)
    assert sum(weight for _, weight in fitting) == 2000
    # AWS takes it whole: nothing is parked for its tags.
    world = MarketplaceWorld()
    deliver(world, engine, hour("100", shares=fitting))
    ((parts),) = world.fake.allocated.values()
    assert sum(Decimal(one["AllocatedUsageQuantityAsDecimal"]) for one in parts) == 100


def test_allocations_add_up_to_what_is_sent(engine: Engine) -> None:
    world = MarketplaceWorld()
    shares = (({"team": "a"}, Decimal(1)), ({"team": "b"}, Decimal(1)), ({}, Decimal(1)))
    deliver(world, engine, hour("10.0000005", shares=shares))
    ((parts),) = world.fake.allocated.values()
    assert [one["AllocatedUsageQuantityAsDecimal"] for one in parts] == ["3.333334", "3.333333", "3.333333"]
    assert [row.state for row in rows(engine)] == ["delivered"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (hour("10000000000"), "more than AWS takes"),
        (hour("1", dimension="x" * 256), "1 to 255 characters"),
        (hour("1", shares=(({"team": "Zürich"}, Decimal(1)),)), "takes no tag"),
        (hour("1", shares=(({f"k{n}": "v" for n in range(6)}, Decimal(1)),)), "up to 5 tags"),
        (hour("1", shares=(({}, Decimal(1)), ({}, Decimal(2)))), "the same tags"),
    ],
)
def test_what_would_spoil_a_batch_is_never_in_one(engine: Engine, source: HourTotal, reason: str) -> None:
    world = MarketplaceWorld()
    deliver(world, engine, source, hour("1", number=2))
    assert len(world.fake.billed) == 1
    (parked,) = [row for row in rows(engine) if row.state == "parked"]
    assert reason in parked.reason


def test_both_styles_of_identity(engine: Engine) -> None:
    world = MarketplaceWorld()
    world.fake.add_customer("code-1", "cust-1", starts_at=NOON - timedelta(days=9))
    legacy = replace(hour("5"), licence=Licence("code-1", customer_identifier="cust-1"))
    deliver(world, engine, legacy, hour("5", number=2))
    assert sorted(call.get("ProductCode", "") for call in world.fake.calls) == ["", "code-1"]
    assert len(world.fake.billed) == 2
    for wrong in ({}, {"licence_arn": "arn"}, {"aws_account_id": "1", "customer_identifier": "c"}):
        with pytest.raises(ValueError, match="a licence is an ARN with an account id"):
            Licence("code-1", **wrong)


def test_a_call_is_under_a_megabyte_as_botocore_writes_it(engine: Engine) -> None:
    world = MarketplaceWorld()
    shares = tuple(({**dict.fromkeys("abcd", "x"), "e": f"{n:03}"}, Decimal(1)) for n in range(215))
    deliver(world, engine, *[hour("100", number=number, shares=shares) for number in range(1, 26)])
    # Nothing was refused and halved: without the spaces of the wire all of them would have seemed to fit.
    assert len(world.fake.calls) == 2
    assert len(world.fake.billed) == 25


def test_a_record_that_is_a_megabyte_by_itself_is_parked(engine: Engine) -> None:
    shares = tuple(({"k" * 100: f"{n:0256}"}, Decimal(1)) for n in range(2500))
    world = MarketplaceWorld()
    deliver(world, engine, hour("2500", shares=shares))
    assert [(row.state, "fewer or shorter tags" in row.reason) for row in rows(engine)] == [("parked", True)]
    assert world.fake.calls == []


def test_an_hour_before_its_licence_is_never_told(engine: Engine) -> None:
    """Its timestamp would lie in another hour, and take that one's place."""
    world = MarketplaceWorld()
    one = licence(1, starts_at=NOON)
    deliver(world, engine, replace(hour("5"), licence=one))
    assert [(row.state, "after this hour" in row.reason) for row in rows(engine)] == [("parked", True)]
    assert world.fake.billed == {}


@pytest.mark.parametrize(
    ("who", "why"),
    [
        ({"aws_account_id": "acme", "licence_arn": "arn:aws:license-manager::1:license:l-1"}, "digits"),
        ({"aws_account_id": "1", "licence_arn": "l-1"}, "no ARN of a licence"),
        ({"product": "a code", "customer_identifier": "c"}, "no product code"),
    ],
)
def test_identities_that_aws_would_refuse_are_refused_before(who: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Licence(**{"product": "code-1", **who})


# --- what AWS answers ---------------------------------------------------------------------------------------------------


def test_a_spoilt_record_is_found_among_twenty_five_and_the_others_arrive(engine: Engine) -> None:
    world = MarketplaceWorld()
    spoilt = replace(hour("1", number=7), licence=licence(999))
    deliver(world, engine, *[hour("1", number=number) for number in range(1, 25)], spoilt)
    (parked,) = [row for row in rows(engine) if row.state == "parked"]
    assert (parked.outcome, "InvalidLicenseException" in parked.reason) == ("REJECTED_PERMANENT", True)
    assert len(world.fake.billed) == 24
    assert len(world.fake.calls) <= 1 + 2 * 5


@pytest.mark.parametrize(("final", "outcome"), [(None, "REJECTED_PERMANENT"), (NOON + HOUR, "EXPIRED")])
def test_a_licence_that_is_over_takes_nothing_more(engine: Engine, final: datetime | None, outcome: str) -> None:
    world = MarketplaceWorld()
    arn = licence(1).licence_arn or ""
    world.fake.add_licence(
        arn, account=f"{1:012}", product="prod-1", starts_at=NOON - 9 * HOUR, ends_at=NOON - 2 * HOUR
    )
    deliver(world, engine, replace(hour("5"), final_until=final))
    assert [(row.state, row.outcome) for row in rows(engine)] == [("parked", outcome)]


def test_an_answer_is_matched_by_what_was_sent() -> None:
    """AWS may say more of a record than we did."""
    sent = {"CustomerAWSAccountId": "1", "Dimension": "tokens", "Timestamp": 3600, "QuantityAsDecimal": "5"}
    found = {
        **sent,
        "CustomerIdentifier": "c",
        "Timestamp": datetime(1970, 1, 1, 3, tzinfo=timezone(timedelta(hours=2))),
    }
    other = {**found, "Dimension": "calls"}
    answer = {"Results": [{"UsageRecord": one, "Status": status, "MeteringRecordId": status}
                          for one, status in ((other, "DuplicateRecord"), (found, "Success"))]}  # fmt: skip
    assert _judged(answer, {"d": {"record": sent}})["d"].outcome == Outcome.ACCEPTED
    assert _judged({"UnprocessedRecords": [found]}, {"d": {"record": sent}})["d"].outcome == Outcome.RETRY_SAFE
    assert _judged({}, {"d": {"record": sent}})["d"].outcome == Outcome.UNKNOWN


def test_another_quantity_of_an_hour_is_a_conflict_and_nothing_is_summed(engine: Engine) -> None:
    world = MarketplaceWorld()
    deliver(world, AdapterContract().open_books(), hour("5"))
    deliver(world, engine, hour("6"))
    (row,) = rows(engine)
    assert (row.state, row.outcome, row.money) == ("parked", "CONFLICT_OTHER_VALUE", "AT_RISK")
    assert list(world.fake.billed.values()) == [Decimal(5)]


def test_an_activation_that_is_late_is_waited_for_until_the_window_ends(engine: Engine) -> None:
    world = MarketplaceWorld()
    world.fake.add_customer("code-1", "late", starts_at=NOON + 3 * HOUR)
    late = replace(hour("5"), licence=Licence("code-1", customer_identifier="late"))
    never = replace(hour("6"), licence=Licence("code-1", customer_identifier="never"))
    deliver(world, engine, late, never)
    assert {row.outcome for row in rows(engine)} == {"NOT_ENTITLED"}
    for _ in range(30):
        world.clock.advance(HOUR)
        deliver(world, engine)
    found = {row.natural_key.split(":")[1].split()[0]: (row.state, row.outcome, row.money) for row in rows(engine)}
    assert found == {"late": ("delivered", "ACCEPTED", None), "never": ("parked", "EXPIRED", "LOST")}


def test_the_last_hour_of_a_month_has_six_hours(engine: Engine) -> None:
    world = MarketplaceWorld(now=datetime(2026, 12, 1, 5, 59, tzinfo=UTC))
    start = datetime(2026, 11, 30, 23, tzinfo=UTC)
    last = HourTotal(UsageTotal("a", "s", "tokens", start, start + HOUR, Decimal(5)), licence(1))
    (intent,) = world.adapter().prepare(last)
    assert intent.recover_by == datetime(2026, 12, 1, 6, tzinfo=UTC)
    deliver(world, engine, last)
    assert [row.state for row in rows(engine)] == ["delivered"]
    world.clock.advance(timedelta(minutes=1))
    other = replace(last, licence=licence(2))
    deliver(world, engine, other)
    assert sorted(row.outcome or "" for row in rows(engine)) == ["ACCEPTED", "EXPIRED"]


def test_a_disabled_region_stops_delivery(engine: Engine) -> None:
    world = MarketplaceWorld()
    world.fake.is_disabled = True
    with pytest.raises(AdapterMisconfigured, match="DisabledApiException"):
        deliver(world, engine, hour("5"))
    assert [row.state for row in rows(engine)] == ["pending"]


def test_over_http_with_boto3_as_it_is(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "fake")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "fake")
    world = MarketplaceWorld()
    with serve(world.fake) as url:
        adapter = make({"region": "us-east-1", "address": url})
        world.adapter = lambda: adapter  # type: ignore[method-assign]
        for how in ("lost", "throttled", "error", "error_after", "unprocessed", "away"):
            world.fake.fail(how)
        deliver(world, engine, *[hour(f"{number}.25", number=number) for number in range(1, 31)], passes=8)
    assert {row.state for row in rows(engine)} == {"delivered"}
    assert sum(world.fake.billed.values()) == sum(Decimal(n) + Decimal("0.25") for n in range(1, 31))


def test_lost_answers_are_no_failure_of_the_adapter(engine: Engine) -> None:
    """However many come in a row: they say nothing about it, and stop nothing."""
    world = MarketplaceWorld()
    world.fake.fail("lost", 8)
    for number in range(1, 9):
        done = deliver(world, engine, hour("1", number=number))
        assert done.errors == []
        world.clock.advance(timedelta(minutes=5))
    deliver(world, engine, passes=3)
    assert {row.state for row in rows(engine)} == {"delivered"}


def test_zeros_are_told_only_if_wanted(engine: Engine) -> None:
    assert MarketplaceWorld().adapter().prepare(hour("0")) == []
    world = MarketplaceWorld(MarketplaceSettings("us-east-1", sends_zeros=True))
    deliver(world, engine, hour("0"))
    assert list(world.fake.billed.values()) == [Decimal(0)]


def test_the_fake_sees_the_double_billing_of_two_styles() -> None:
    fake = MarketplaceFake(FixedClock(NOON))
    fake.add_licence("arn:aws:x::1:l-1", account="1", product="code-1", starts_at=NOON - timedelta(days=9))
    fake.add_customer("code-1", "1", starts_at=NOON - timedelta(days=9))
    record = {"Timestamp": NOON - HOUR, "Dimension": "tokens", "CustomerAWSAccountId": "1", "Quantity": 5}
    client = fake.client()
    client.batch_meter_usage(UsageRecords=[{**record, "LicenseArn": "arn:aws:x::1:l-1"}])
    client.batch_meter_usage(UsageRecords=[record], ProductCode="code-1")
    again = client.batch_meter_usage(UsageRecords=[{**record, "Quantity": 5}], ProductCode="code-1")
    assert again["Results"][0]["Status"] == "Success"
    assert len(fake.billed) == 2


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"QuantityAsDecimal": "1.1234567"}, "ValidationException"),
        ({"QuantityAsDecimal": "1", "Quantity": 1}, "ValidationException"),
        ({"QuantityAsDecimal": "01"}, "ValidationException"),
        ({"Timestamp": NOON + HOUR}, "TimestampOutOfBoundsException"),
        ({"Timestamp": NOON - 24 * HOUR}, "TimestampOutOfBoundsException"),
        ({"CustomerAWSAccountId": "2"}, "InvalidLicenseException"),
        ({"UsageAllocations": [{"AllocatedUsageQuantityAsDecimal": "2"}]}, "InvalidUsageAllocationsException"),
    ],
)
def test_the_fake_refuses_what_aws_refuses(change: dict[str, Any], kind: str) -> None:
    fake = MarketplaceFake(FixedClock(NOON), calls_per_s=10)
    fake.add_licence("arn:aws:x::1:l-1", account="1", product="p", starts_at=NOON - timedelta(days=9))
    record = {"Timestamp": NOON - HOUR, "Dimension": "tokens", "CustomerAWSAccountId": "1",
              "LicenseArn": "arn:aws:x::1:l-1", "QuantityAsDecimal": "1", **change}  # fmt: skip
    client = fake.client()
    with pytest.raises(client.exceptions.ClientError, match=kind):
        client.batch_meter_usage(UsageRecords=[record])
    assert fake.billed == {}


def test_ten_calls_a_second_and_no_more() -> None:
    client = MarketplaceFake(FixedClock(NOON), calls_per_s=10).client()
    for _ in range(10):
        client.batch_meter_usage(UsageRecords=[])
    with pytest.raises(client.exceptions.ThrottlingException):
        client.batch_meter_usage(UsageRecords=[])


# --- a quarter of fractions ---------------------------------------------------------------------------------------------


def quarter(begin: datetime, days: int, seed: int) -> None:
    """Tell AWS every hour of some days of fractional use, with outages, deaths and two deliverers at once; compare both sides.

    For every licence: what AWS billed plus what is carried is the ledger, exactly; each hour is there once; nothing expired.
    """
    chance = random.Random(seed)
    clock, world, engine = FixedClock(begin), MarketplaceWorld(), AdapterContract().open_books()
    fake = world.fake = MarketplaceFake(clock)
    storm = {"until": begin, "how": "away"}
    fake.fault = lambda: (
        storm["how"]
        if clock_now(clock) < storm["until"]
        else chance.choice(["lost", "unprocessed", None, None, None, None])
    )
    for number in (1, 2):
        fake.add_licence(licence(number).licence_arn or "", account=f"{number:012}", product="prod-1", starts_at=begin)
    adapter = MarketplaceAdapter(fake.client(), MarketplaceSettings("us-east-1", decimals_of={"tokens": 6, "calls": 0}))
    outbox = Outbox(engine, adapter.capabilities, clock)
    ledger: dict[str, Decimal] = {}

    def run(*, may_die: bool, depth: int = 0) -> None:
        """One deliverer: it may die at any step, or stand still while another one does its work."""

        def step(where: str) -> None:
            if may_die and chance.random() < 0.01:
                raise Crashed(where)
            if may_die and depth == 0 and chance.random() < 0.01:
                clock.advance(timedelta(minutes=chance.choice((1, 11))))
                run(may_die=True, depth=1)

        deliverer = Deliverer(
            engine, adapter, clock=clock, chance=lambda: 0.5, policy=Policy(cap_s=600.0), on_step=step,
            wait=lambda seconds: clock.advance(timedelta(seconds=seconds)),
        )  # fmt: skip
        with suppress(Crashed):
            deliverer.run()

    for at in range(days * 24):
        start = begin + at * HOUR
        clock.advance(max(start + HOUR - clock_now(clock), timedelta(0)))
        if chance.random() < 0.02:
            # Shorter than the six hours that the last hour of a month has.
            storm.update(
                until=clock_now(clock) + timedelta(hours=chance.randint(1, 4)),
                how=chance.choice(["away", "error_after"]),
            )
        totals = [
            UsageTotal(
                f"account-{number}",
                f"sub-{number}",
                name,
                start,
                start + HOUR,
                Decimal(chance.randint(-40_000, 10**9)).scaleb(-9),
            )
            for number in (1, 2)
            for name in ("tokens", "calls")
        ]
        sent = outbox.sent([one.series for one in totals])
        hours = [
            HourTotal(replace(one, before=ledger.get(one.series, Decimal(0)), sent=sent[one.series]), licence(number))
            for one, number in zip(totals, (1, 1, 2, 2), strict=True)
        ]
        outbox.enqueue([intent for one in hours for intent in adapter.prepare(one)])
        for one in totals:
            ledger[one.series] = ledger.get(one.series, Decimal(0)) + one.quantity
        run(may_die=True)
    for _ in range(20):
        clock.advance(timedelta(minutes=15))
        run(may_die=False)
    found = rows(engine)
    assert {row.state for row in found} == {"delivered"}, [row.reason for row in found if row.state != "delivered"]
    for number in (1, 2):
        for name, decimals in (("tokens", 6), ("calls", 0)):
            billed = [q for (who, what, _), q in fake.billed.items() if what == name and who.endswith(f"{number:012}")]
            carried = ledger[f"sub-{number} {name}"] - sum(billed)
            assert 0 <= carried < Decimal(1).scaleb(-decimals)
    assert len(fake.billed) == len(found)
    assert sum(fake.billed.values()) == sum(outbox.sent(list(ledger)).values())


def clock_now(clock: FixedClock) -> datetime:
    return from_us(clock.now_us())


def test_some_days_of_fractions_add_up_over_the_end_of_a_month() -> None:
    quarter(datetime(2026, 8, 29, tzinfo=UTC), 5, seed=1)


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(4))
def test_a_quarter_of_fractions_adds_up(seed: int) -> None:
    quarter(datetime(2026, 8, 20, tzinfo=UTC), 92, seed=100 + seed)
