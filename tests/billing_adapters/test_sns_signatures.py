"""Signatures of SNS: by a key and a certificate of our own, made here; nothing is asked of AWS."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.x509.oid import NameOID
from sqlalchemy import Engine

from billing_adapters.aws_marketplace_adapter.licence_states import list_notices
from billing_adapters.aws_marketplace_adapter.listening import listen
from billing_adapters.aws_marketplace_adapter.sns_signatures import SignedTopics, fetch_certificate, signed_text
from billing_adapters.errors import EventRefused
from billing_adapters.testing.aws_marketplace_server import MarketplaceFake
from billing_adapters.testing.loopback import QuietHandler
from billing_adapters.testing.sqs_queue import envelope_of_event, envelope_of_sns
from metering.clock import FixedClock
from tallybook.books import metadata

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)
TOPIC = "arn:aws:sns:us-east-1:287250355862:aws-mp-subscription-notification-code-1"
ADDRESS = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem"
MESSAGE = {"action": "subscribe-success", "customer-identifier": "cust-9", "product-code": "code-1"}
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate(key: Key) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = (
        made.serial_number(1).not_valid_before(NOW - timedelta(days=3650)).not_valid_after(NOW + timedelta(days=3650))
    )
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return made.sign(key, hashes.SHA256())


def pem(key: Key) -> bytes:
    return certificate(key).public_bytes(serialization.Encoding.PEM)


def signed(key: rsa.RSAPrivateKey, *, version: str = "2", **more: Any) -> dict[str, Any]:
    body = {**orjson.loads(envelope_of_sns(MESSAGE, "m-1", NOW)), "SigningCertURL": ADDRESS, **more}
    body["SignatureVersion"] = version
    hashed = hashes.SHA1() if version == "1" else hashes.SHA256()
    return {**body, "Signature": base64.b64encode(key.sign(signed_text(body), PKCS1v15(), hashed)).decode()}


def check(body: Any, fetch: Callable[[str], bytes]) -> None:
    SignedTopics([TOPIC], fetch=fetch).check(orjson.dumps(body).decode())


def test_both_versions_are_believed_with_and_without_a_subject(key: rsa.RSAPrivateKey) -> None:
    fetched: list[str] = []

    def fetch(address: str) -> bytes:
        fetched.append(address)
        return pem(key)

    topics = SignedTopics([TOPIC], fetch=fetch)
    for version in ("1", "2"):
        for more in (
            {},
            {"Subject": "of it"},
            {"Type": "SubscriptionConfirmation", "SubscribeURL": "https://x", "Token": "t"},
        ):
            topics.check(orjson.dumps(signed(key, version=version, **more)).decode())
    # A certificate is fetched once.
    assert fetched == [ADDRESS]


@pytest.mark.parametrize(
    "change",
    [{"Message": '{"action": "unsubscribe-success"}'}, {"MessageId": "m-2"}, {"Subject": "added"},
     {"Timestamp": "2026-11-03T12:00:00Z"}, {"Type": "UnsubscribeConfirmation", "SubscribeURL": "u", "Token": "t"},
     {"Signature": "of-a-fake"}, {"Signature": None}, {"SignatureVersion": "1"}],
)  # fmt: skip
def test_what_was_changed_on_the_way_is_refused(key: rsa.RSAPrivateKey, change: dict[str, Any]) -> None:
    with pytest.raises(EventRefused, match="not signed by AWS"):
        check({**signed(key), **change}, lambda _: pem(key))


def test_what_lacks_a_part_or_is_of_another_kind_is_refused(key: rsa.RSAPrivateKey) -> None:
    for change, why in (
        ({"Timestamp": None}, "has no Timestamp"),
        ({"SignatureVersion": "3"}, "version '3' is not known"),
        ({"TopicArn": f"{TOPIC}0"}, "which the settings do not name"),
    ):
        with pytest.raises(EventRefused, match=why):
            check({**signed(key), **change}, lambda _: pem(key))
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for content, why in (
        (pem(other), "not signed by AWS"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "no RSA key"),
        (b"no certificate", "not signed by AWS"),
    ):
        with pytest.raises(EventRefused, match=why):
            check(signed(key), lambda _, content=content: content)  # type: ignore[misc]


@pytest.mark.parametrize(
    "address",
    [
        ADDRESS.replace("https", "http"), ADDRESS.replace(".com/", ".com.evil.example/"), ADDRESS.replace("sns.", "s3."),
        ADDRESS.replace("//", "//user@"), ADDRESS.replace(".com/", ".com:444/"), ADDRESS.replace("sns.us-east-1", "sns"),
        "https://evil.example/sns.us-east-1.amazonaws.com/a.pem", f"{ADDRESS}?to=x", ADDRESS.replace("Simple", "a/../"),
        ADDRESS.replace("us-east-1", "us-east-1.evil"), f"{ADDRESS}\n", "",
    ],
)  # fmt: skip
def test_no_certificate_is_fetched_from_elsewhere(key: rsa.RSAPrivateKey, address: str) -> None:
    fetched: list[str] = []
    with pytest.raises(EventRefused, match=r"not at https://sns\.REGION"):
        check(signed(key, SigningCertURL=address), lambda one: fetched.append(one) or pem(key))  # type: ignore[func-returns-value]
    assert fetched == []


def test_what_is_not_signed_stays_in_the_queue(books: Engine, key: rsa.RSAPrivateKey) -> None:
    metadata.create_all(books)
    clock = FixedClock(NOW)
    fake = MarketplaceFake(clock)
    event = envelope_of_event("Purchase Agreement Created", {"requestId": "r-1"}, "e-1", NOW)
    for body in (orjson.dumps(signed(key)).decode(), envelope_of_sns(MESSAGE, "m-2", NOW), event, "no json"):
        fake.queue.send(body)
    topics = SignedTopics([TOPIC], fetch=lambda _: pem(key))
    client = fake.client("sqs")
    done = listen(books, client, "https://sqs.us-east-1.amazonaws.com/1/q", now=lambda: NOW, check=topics.check)
    assert (done.new, fake.queue.held, len(done.refused)) == (2, 2, 2)
    with books.connect() as connection:
        assert sorted(one.notice_id for one in list_notices(connection)) == [
            "Purchase Agreement Created r-1",
            "sns m-1",
        ]


# --- fetching -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, key: rsa.RSAPrivateKey) -> Iterator[tuple[str, ssl.SSLContext]]:
    """Serve over TLS of our own; give the address and a context that believes it."""
    from billing_adapters.testing.loopback import serve_handler_over_tls

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            status, content = {"/a.pem": (200, pem(key)), "/long.pem": (200, b"x" * 70_000)}.get(self.path, (302, b""))
            self.send_response(status)
            self.send_header("location", "/a.pem")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "all.pem").write_bytes(pem(key) + private)
    (tmp_path / "own.pem").write_bytes(pem(key))
    with serve_handler_over_tls(Handler, tmp_path / "all.pem") as address:
        yield address, ssl.create_default_context(cafile=tmp_path / "own.pem")


def test_a_certificate_is_fetched_without_redirects_and_only_from_who_is_believed(
    server: tuple[str, ssl.SSLContext], key: rsa.RSAPrivateKey
) -> None:
    address, context = server
    assert fetch_certificate(f"{address}/a.pem", context=context) == pem(key)
    for path, why in (("/moved.pem", "answered 302"), ("/long.pem", "which is no certificate")):
        with pytest.raises(EventRefused, match=why):
            fetch_certificate(f"{address}{path}", context=context)
    with pytest.raises(EventRefused, match="could not be fetched"):
        fetch_certificate(f"{address}/a.pem")
