"""Documents one by one in a folder that another system reads: a provider like any other, delivered to by the outbox.

Enters: final and void documents, a folder. Leaves: one JSON file per document, such as `INV-00000001.json`, and beside it
`INV-00000001.void.json` once it is void. Refuses: to overwrite. A file gets its name when all of its bytes are on
the disk, by a link that fails where the name is taken, so of two who deliver at once one finds the other's file.

What the folder holds can be listed (`list_held`), so that it is reconciled as Stripe is: a file that was changed, deleted or made
by hand is a break. A file's time of change is when it was handed over; whoever reads the files leaves them where they are.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson

from billing_adapters.adapter import Answer, Capabilities, Document, Found, Intent, Listing, Numbers, ReadBack
from billing_adapters.errors import AdapterMisconfigured, ProviderAway
from billing_adapters.file_adapter.folder_list import listed
from billing_adapters.outcomes import Outcome
from billing_adapters.provider_list import DOCUMENTS, LINES, ProviderList, provider_table
from metering.clock import SystemClock, from_us, iso_utc
from metering.durable import TEMPORARY_PREFIX, fsync_path, write_durably
from metering.numbers import plain
from rating.invoice import as_json, content_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from billing_adapters.adapter import Desk, Item
    from billing_adapters.provider_list import Asked
    from metering.clock import Clock
    from rating.tax import TaxedInvoice

CAPABILITIES = Capabilities(
    name="files",
    kinds=("invoice", "credit_note", "void"),
    grain="invoice",
    natural_key=("invoice_id",),
    numbers=Numbers("decimal_text"),
    zero="sent",
    repeat_same="safe",
    repeat_other="refused",
    read_back=ReadBack(can_prove_absence=True),
    downwards=("credit note", "void"),
    upwards=("supplementary invoice",),
    calls_per_s=1000,
    listing=Listing((DOCUMENTS, LINES)),
)
VOID = ".void.json"
# The disk says that it took nothing, and may take it later.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EBUSY, errno.EAGAIN}
# The folder cannot be written as it is mounted.
_WRONG = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EOPNOTSUPP, errno.ELOOP, errno.ENAMETOOLONG}


@dataclass(frozen=True, slots=True)
class FileAdapter:
    """Delivers documents into a folder, which must be there. `link` gives a file its name; tests have it fail."""

    folder: Path
    clock: Clock = field(default_factory=SystemClock)
    link: Callable[[Path, Path], None] = os.link

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def prepare(self, source: object) -> Sequence[Intent]:
        """Return the one file of a `Document`; none of a draft, nor of anything else."""
        if not isinstance(source, Document) or source.invoice.status == "draft" or source.invoice.number is None:
            return []
        return [_void(source) if source.invoice.status == "void" else _document(source)]

    def send(self, items: Sequence[Item], desk: Desk) -> Sequence[Answer]:
        return [self._send(item, desk) for item in items]

    def read_back(self, items: Sequence[Item], desk: Desk) -> Sequence[Found]:
        return [self._look(item, desk) for item in items]

    def list_held(
        self, start: datetime, end: datetime, *, asked: Sequence[Asked], spend: Callable[[], object], read_at: datetime
    ) -> ProviderList:
        """Return every document that was handed over in `[start, end)`, whoever put it there. Raises also ProviderListRefused."""
        self._require()
        documents, lines = [], []
        spend()
        try:
            there = sorted(one for one in self.folder.glob("*.json") if not one.name.startswith("."))
            voids = {one.name.removesuffix(VOID) for one in there if one.name.endswith(VOID)}
            for path in there:
                handed_at = from_us(path.stat().st_mtime_ns // 1000)
                if path.name.endswith(VOID) or not start <= handed_at < end:
                    continue
                spend()
                row, own = listed(path)
                status = "void" if path.stem in voids else "final"
                documents.append({**row, "status": status, "created_at": handed_at})
                lines += own
        except OSError as away:
            raise ProviderAway(
                f"{self.folder} could not be read to its end ({away}); read it again", adapter=CAPABILITIES.name
            ) from away
        tables = {DOCUMENTS: provider_table(DOCUMENTS, documents), LINES: provider_table(LINES, lines)}
        return ProviderList(CAPABILITIES.name, start, end, read_at, tables)

    def _require(self) -> None:
        if not self.folder.is_dir():
            raise AdapterMisconfigured(
                f"the folder {self.folder} is not there: mount it, make it, or correct `folder` in [delivery.files]",
                adapter=CAPABILITIES.name,
            )

    def _send(self, item: Item, desk: Desk) -> Answer:
        desk.spend()
        self._require()
        name, text = _split(item.payload)
        path = self.folder / name
        document = name.replace(VOID, ".json")
        if item.kind == "void" and not (self.folder / document).exists():
            return Answer(Outcome.ACCEPTED, "it was never handed over, so there is nothing to void")
        try:
            self._put(path, text)
        except FileExistsError:
            is_same = path.read_bytes() == text
            fsync_path(self.folder)
            outcome = Outcome.ALREADY_ACCEPTED_SAME if is_same else Outcome.CONFLICT_OTHER_VALUE
            return Answer(outcome, "" if is_same else f"{path} holds something else; it was left as it is", document)
        except OSError as refused:
            if refused.errno in _WRONG:
                said = f"{self.folder} cannot be written: {refused}; give the right to, or name another `folder`"
                raise AdapterMisconfigured(said, adapter=CAPABILITIES.name) from refused
            return Answer(Outcome.RETRY_SAFE if refused.errno in _FULL else Outcome.UNKNOWN, str(refused))
        return Answer(Outcome.ACCEPTED, provider_id=document)

    def _put(self, path: Path, text: bytes) -> None:
        """Give a whole, durable file its name unless that is taken. Raises FileExistsError, OSError."""
        draft = path.with_name(f"{TEMPORARY_PREFIX}{uuid4().hex}")
        try:
            write_durably(draft, text)
            at_ns = self.clock.now_us() * 1000
            os.utime(draft, ns=(at_ns, at_ns))
            self.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        fsync_path(self.folder)

    def _look(self, item: Item, desk: Desk) -> Found:
        desk.spend()
        self._require()
        name, text = _split(item.payload)
        path = self.folder / name
        try:
            there = path.read_bytes()
            # Whoever gave it its name may have died before the folder was on the disk.
            fsync_path(self.folder)
        except FileNotFoundError:
            return Found("absent")
        except OSError as away:
            return Found("failed", str(away))
        if there != text:
            return Found("other", f"{path} holds something else")
        return Found("same", "", name.replace(VOID, ".json"))


def make(settings: Mapping[str, Any]) -> FileAdapter:
    """Return the adapter of the section [delivery.files]. ValueError for a folder that is not said as a whole path."""
    folder = Path(settings["folder"]).expanduser()
    if unknown := sorted(settings.keys() - {"folder"}):
        raise ValueError(f"there is no setting {unknown[0]}; `folder` is the only one beside `from`")
    if not folder.is_absolute():
        raise ValueError(f"folder is a whole path, such as /srv/erp/invoices, not {settings['folder']}")
    return FileAdapter(folder)


def _document(source: Document) -> Intent:
    invoice = source.invoice
    is_note = invoice.document_type == "credit_note"
    # Whoever works out what the next credit note lowers reads the invoice from behind the colon.
    lowered = f":{source.lowers[0].invoice_id if source.lowers else ''}" if is_note else ""
    intent = Intent(
        kind="credit_note" if is_note else "invoice",
        natural_key=f"{invoice.invoice_id}{lowered}",
        payload="",
        account_id=invoice.account_id,
        subject=invoice.invoice_id,
        content=content_hash(invoice),
        lane=invoice.invoice_id,
        rank="1",
        amount=source.payable,
        currency=invoice.currency,
    )
    # What it becomes later is said by the file beside it, not by this one.
    plain_fields = {name: value for name, value in as_json(invoice).items() if name != "status"}
    body = {
        **plain_fields,
        "document_type": invoice.document_type,
        "account_name": source.account_name or invoice.account_id,
        "amount_payable": plain(source.payable),
        "content_hash": intent.content,
        "delivery_id": intent.delivery_id(CAPABILITIES.name),
        "lowers": [
            {"amount": plain(one.amount), "invoice_id": one.invoice_id, "number": one.number} for one in source.lowers
        ],
        "taxed": None if source.taxed is None else _taxes(source.taxed),
    }
    return replace(intent, payload=_payload(source, ".json", body))


def _taxes(taxed: TaxedInvoice) -> dict[str, Any]:
    """Return what is net and what is tax, of the document and of each line, in the order of its lines."""
    lines = [
        {
            "line_id": line.line_id,
            "net": plain(line.net),
            "tax": plain(line.tax),
            "taxes": [
                {"name": rate.name, "percent": plain(rate.percent), "amount": plain(part)} for rate, part in line.taxes
            ],
        }
        for line in taxed.lines
    ]
    parts = {"net": taxed.net, "tax": taxed.tax, "gross": taxed.gross}
    return {**{name: plain(amount) for name, amount in parts.items()}, "lines": lines}


def _void(source: Document) -> Intent:
    invoice, voided = source.invoice, source.voided
    body: dict[str, Any] = {"invoice_id": invoice.invoice_id, "number": invoice.number}
    if voided is not None:
        body |= {"voided_at": iso_utc(voided.voided_at), "reason": voided.reason}
    return Intent(
        kind="void",
        natural_key=invoice.invoice_id,
        payload=_payload(source, VOID, body),
        account_id=invoice.account_id,
        subject=invoice.invoice_id,
        lane=invoice.invoice_id,
        rank="2",
    )


def _payload(source: Document, suffix: str, body: Mapping[str, Any]) -> str:
    """Return the name of the file, and after a line break the file."""
    text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    return f"{source.invoice.number}{suffix}\n{text}"


def _split(payload: str) -> tuple[str, bytes]:
    name, _, text = payload.partition("\n")
    return name, text.encode()
