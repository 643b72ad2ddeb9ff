"""A faithful fake of AWS Marketplace, one region: in process behind boto3, or an HTTP server on the loopback address.

    fake = MarketplaceFake(FixedClock(now))
    fake.add_licence("arn:aws:license-manager::123456789012:license:l-1", account="111122223333", product="prod-1", starts_at=...)
    client = fake.client()                        # boto3's own client, in process
    with serve(fake) as url: ...                  # boto3.client("meteringmarketplace", endpoint_url=url)

Enters: calls as botocore sends them. Leaves: answers and errors as botocore reads them, or none.
Refuses: what AWS refuses, whole batches because of one record included, and what botocore's own model does not allow.
Source: reference/providers.md, section 2.8.

    BatchMeterUsage    here, hours of licences in `billed`
    MeterUsage         `fake.workloads`, software in the buyer's account (aws_marketplace_workloads)
    ResolveCustomer, GetEntitlements        `fake.buyers` (aws_marketplace_buyers)
    DescribeAgreement, billing adjustments  `fake.agreements` (aws_marketplace_agreements)
    the queue of notices                    `fake.queue` (sqs_queue)

Failures, by `fake.fail` or `fake.fault`: `lost` (done, no answer), `away`, `throttled`, `error` (500, nothing done),
`error_after` (500, done), `unprocessed` (every other record is left).
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from billing_adapters.testing.aws_marketplace_agreements import Agreements
from billing_adapters.testing.aws_marketplace_buyers import Buyers
from billing_adapters.testing.aws_marketplace_records import REQUEST_BYTES_MAX, check_record
from billing_adapters.testing.aws_marketplace_workloads import Workloads
from billing_adapters.testing.aws_refusal import Refused
from billing_adapters.testing.aws_wire import CBOR, JSON, check_model, instant_of, read_request
from billing_adapters.testing.loopback import QuietHandler, serve_handler
from billing_adapters.testing.sqs_queue import Queue
from metering.clock import from_us, iso_utc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from datetime import datetime

    from billing_adapters.testing.aws_wire import Asked
    from metering.clock import Clock


class NoAnswer(ConnectionError):
    """The caller gets no answer."""


@dataclass(frozen=True, slots=True)
class _Licence:
    account: str
    product: str
    starts_at: datetime
    ends_at: datetime | None
    dimensions: frozenset[str]


class MarketplaceFake:
    """One region of one seller. `billed` is what counts: (who, dimension, hour) -> quantity, the first write for ever."""

    def __init__(
        self,
        clock: Clock,
        *,
        region: str = "us-east-1",
        calls_per_s: int | None = None,
        fault: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.region = region
        self.fault = fault
        self.billed: dict[tuple[str, str, str], Decimal] = {}
        self.allocated: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        self.calls: list[dict[str, Any]] = []
        # The data sets of Commerce Analytics that were asked for: whoever tests writes their files.
        self.data_sets: list[dict[str, Any]] = []
        self.is_disabled = False
        self._clock = clock
        self._calls_per_s = calls_per_s
        self._called: deque[int] = deque()
        self._failures: deque[str] = deque()
        self._licences: dict[str, _Licence] = {}
        self._customers: dict[tuple[str, str], _Licence] = {}
        self._records = 0
        self._lock = threading.RLock()
        self.workloads = Workloads(clock, region)
        self.buyers = Buyers(clock, region)
        self.agreements = Agreements(clock)
        self.queue = Queue(clock)
        self._operations: dict[str, Callable[[Asked, str | None], dict[str, Any]]] = {
            "BatchMeterUsage": self._batch_meter_usage,
            "MeterUsage": self.workloads.meter_usage,
            "RegisterUsage": self.workloads.register_usage,
            "ResolveCustomer": self.buyers.resolve_customer,
            "GetEntitlements": self.buyers.get_entitlements,
            "DescribeAgreement": self.agreements.describe_agreement,
            "ListAgreementInvoiceLineItems": self.agreements.list_invoice_lines,
            "BatchCreateBillingAdjustmentRequest": self.agreements.create,
            "GetBillingAdjustmentRequest": self.agreements.get,
            "ListBillingAdjustmentRequests": self.agreements.list,
            "GenerateDataSet": self._generate_data_set,
            "ReceiveMessage": self.queue.receive_message,
            "DeleteMessage": self.queue.delete_message,
        }

    def add_licence(
        self,
        arn: str,
        *,
        account: str,
        product: str,
        starts_at: datetime,
        ends_at: datetime | None = None,
        dimensions: frozenset[str] = frozenset(),
    ) -> None:
        """Let a buyer have a licence. No dimensions: any."""
        self._licences[arn] = _Licence(account, product, starts_at, ends_at, dimensions)

    def add_customer(
        self, product_code: str, who: str, *, starts_at: datetime, ends_at: datetime | None = None
    ) -> None:
        """Let a buyer of the legacy style subscribe; `who` is a customer identifier or an account id."""
        self._customers[product_code, who] = _Licence(who, product_code, starts_at, ends_at, frozenset())

    def fail(self, how: str, times: int = 1) -> None:
        """Make the next calls fail, each in this way."""
        self._failures.extend([how] * times)

    def client(self, service: str = "meteringmarketplace", *, key_id: str = "fake", region: str | None = None) -> Any:
        """Return boto3's own client, talking to this fake in process. `key_id` says who signs, `region` for where."""
        return in_process_client(self, service, key_id, region or self.region)

    def handle(self, headers: Mapping[str, str], body: bytes, path: str = "/") -> tuple[int, bytes, str]:
        """Answer one request: status, body and content type. Raises NoAnswer where the caller gets none.

        Header names are in lower case.
        """
        with self._lock:
            how = self._failures.popleft() if self._failures else self.fault()
            if how == "away":
                raise NoAnswer("the request did not arrive")
            asked = read_request(headers, path, body)
            if asked is None or asked.operation not in self._operations:
                unknown = {"__type": "UnknownOperationException", "message": "the fake has no such operation"}
                return 400, orjson.dumps(unknown), JSON
            try:
                answer = self._answer(asked, len(body), how)
            except Refused as refused:
                said = {"__type": refused.kind, "message": str(refused)}
                return refused.status, asked.answer(said), asked.language
            if how == "lost":
                raise NoAnswer("it was done, and the answer was lost")
            if how == "error_after":
                said = {"__type": "InternalServiceErrorException", "message": "after it was done"}
                return 500, asked.answer(said), asked.language
            return 200, asked.answer(answer), asked.language

    # --- inside -------------------------------------------------------------------------------------------------------

    def _answer(self, asked: Asked, size: int, how: str | None) -> dict[str, Any]:
        if self.is_disabled:
            raise Refused("DisabledApiException", "this API is not enabled in the region")
        if how == "throttled" or self._is_too_fast():
            raise Refused("ThrottlingException", "slow down")
        if how == "error":
            raise Refused("InternalServiceErrorException", "nothing was done", 500)
        self.calls.append(asked.parameters)
        if size >= REQUEST_BYTES_MAX:
            raise Refused("ValidationException", f"a request of {size} bytes; under 1 MB is taken")
        kind = "InvalidParameterException" if asked.operation == "GetEntitlements" else "ValidationException"
        check_model(asked.input_shape, asked.parameters, partial(Refused, kind))
        return self._operations[asked.operation](asked, how)

    def _batch_meter_usage(self, asked: Asked, how: str | None) -> dict[str, Any]:
        request = asked.parameters
        records = request["UsageRecords"]
        for record in records:
            self._check(record, request.get("ProductCode"))
        if "ProductCode" not in request and len({self._licences[one["LicenseArn"]].product for one in records}) > 1:
            raise Refused("InvalidLicenseException", "all licences of a call belong to one product")
        left = records[1::2] if how == "unprocessed" else []
        taken = [one for one in records if one not in left]
        results = [self._take(one, request.get("ProductCode")) for one in taken]
        return {"Results": results, "UnprocessedRecords": left}

    def _generate_data_set(self, asked: Asked, _how: str | None) -> dict[str, Any]:
        self.data_sets.append(asked.parameters)
        return {"dataSetRequestId": f"data-set-{len(self.data_sets)}"}

    def _is_too_fast(self) -> bool:
        now_us = self._clock.now_us()
        while self._called and self._called[0] <= now_us - 1_000_000:
            self._called.popleft()
        self._called.append(now_us)
        return self._calls_per_s is not None and len(self._called) > self._calls_per_s

    def _check(self, record: dict[str, Any], product_code: str | None) -> None:
        """Refuse the whole call for what is wrong with one record."""
        check_record(record, product_code, Refused)
        now, at = from_us(self._clock.now_us()), instant_of(record["Timestamp"])
        cut = now.replace(day=1, hour=6, minute=0, second=0, microsecond=0)
        is_last_month = (at.year, at.month) != (now.year, now.month)
        if now - at >= timedelta(hours=24) or at > now or (is_last_month and now >= cut):
            raise Refused("TimestampOutOfBoundsException", f"{iso_utc(at)} is out of bounds at {iso_utc(now)}")
        licence = self._licence(record, product_code)
        if product_code is None and (licence is None or licence.account != record.get("CustomerAWSAccountId")):
            raise Refused("InvalidLicenseException", f"no licence {record.get('LicenseArn')} of this account")
        if licence is not None:
            if licence.dimensions and record["Dimension"] not in licence.dimensions:
                raise Refused("InvalidUsageDimensionException", f"no dimension {record['Dimension']}")
            if product_code is None and (at < licence.starts_at or (licence.ends_at and at >= licence.ends_at)):
                raise Refused("InvalidLicenseException", "usage outside of the licence's activation")

    def _licence(self, record: dict[str, Any], product_code: str | None) -> _Licence | None:
        if product_code is None:
            return self._licences.get(record["LicenseArn"])
        who = record.get("CustomerIdentifier") or record.get("CustomerAWSAccountId", "")
        return self._customers.get((product_code, who))

    def _take(self, record: dict[str, Any], product_code: str | None) -> dict[str, Any]:
        self._records += 1
        result = {"UsageRecord": record, "MeteringRecordId": f"record-{self._records:08}"}
        licence, now = self._licence(record, product_code), from_us(self._clock.now_us())
        is_over = licence is not None and licence.ends_at is not None and now >= licence.ends_at + timedelta(hours=1)
        if licence is None or now < licence.starts_at or is_over:
            return {"UsageRecord": record, "Status": "CustomerNotSubscribed"}
        # The two styles of identity are two buyers: a test sees an hour that was billed twice.
        who = (
            f"{record.get('LicenseArn')}@{licence.account}"
            if product_code is None
            else f"{product_code}:{licence.account}"
        )
        hour = instant_of(record["Timestamp"]).replace(minute=0, second=0, microsecond=0)
        key = (who, record["Dimension"], iso_utc(hour))
        quantity = Decimal(record.get("QuantityAsDecimal") or record.get("Quantity", 0))
        if self.billed.setdefault(key, quantity) != quantity:
            return {**result, "Status": "DuplicateRecord"}
        self.allocated.setdefault(key, record.get("UsageAllocations", []))
        return {**result, "Status": "Success"}


def in_process_client(fake: MarketplaceFake, service: str, key_id: str, region: str) -> Any:
    """Return boto3's client with a transport that calls the fake."""
    import boto3
    from botocore.awsrequest import AWSResponse
    from botocore.config import Config
    from botocore.exceptions import ConnectionClosedError

    client = boto3.client(
        service,
        region_name=region,
        aws_access_key_id=key_id,
        aws_secret_access_key="fake",  # noqa: S106 (of a fake)
        config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
    )

    def send(request: Any, **_more: Any) -> Any:
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        }
        try:
            status, body, kind = fake.handle(headers, request.body, urlsplit(request.url).path)
        except NoAnswer as lost:
            raise ConnectionClosedError(endpoint_url=request.url, error=lost) from lost
        said = {"x-amzn-requestid": "fake", "content-type": kind, **_protocol(kind)}
        return AWSResponse(request.url, status, said, _Raw(body))

    client.meta.events.register("before-send.*.*", send)
    return client


class _Raw:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *_args: Any, **_more: Any) -> Iterator[bytes]:
        yield self._body


def serve(fake: MarketplaceFake) -> AbstractContextManager[str]:
    """Serve a fake on a free port of the loopback address; give its address."""

    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802 (the name that http.server calls)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            try:
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, answer, kind = fake.handle(headers, body, self.path)
            except NoAnswer:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {"content-type": kind, **_protocol(kind)}.items():
                self.send_header(name, value)
            self.send_header("x-amzn-requestid", "fake")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    return serve_handler(Handler)


def _protocol(kind: str) -> dict[str, str]:
    return {"smithy-protocol": "rpc-v2-cbor"} if kind == CBOR else {}
