"""What controls may read: each table of the engine by name, with its grain, its columns and what tells its age.

Enters: tables that a caller gives (documents of the books, a witness). Leaves: an engine in which every input is a table or
a view under one name. Refuses: a table whose columns are not those declared here; an input that is not there is absent, and
says what would make it possible.

Two kinds. Tables of evidence and terms are made here from the lake and the catalog (`derived`): their content is fixed by
the snapshot and the catalog. Tables of documents are given, and have the columns that are declared. Quantities are units
of the meter, DECIMAL(38, 9); amounts are money of the row's currency, DECIMAL(38, 21); instants are UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing_adapters.provider_list import PARTS
from billing_adapters.reconciliation.tables import refuse_floats
from metering.usage import register
from rating.tables import kinds

if TYPE_CHECKING:
    from collections.abc import Mapping

    import duckdb
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Input:
    """One table that controls read.

    `newest` is the column whose greatest instant tells how old the table is. `remedy` is there where a workspace may do
    without: it says what makes the table exist. Without a remedy a table that nobody gives is empty.
    """

    name: str
    grain: str
    columns: Mapping[str, str] | None = None
    newest: str | None = None
    remedy: str | None = None

    @property
    def is_derived(self) -> bool:
        return self.columns is None


_LINE_COLUMNS: Final = {
    "line_id": "text", "invoice_id": "text", "position": "int", "kind": "text", "tenant_id": "text",
    "subscription_id": "text", "plan": "text", "plan_version": "int", "price_id": "text", "price_type": "text",
    "meter": "text", "group_key": "text", "currency": "text", "period_start": "instant", "period_end": "instant",
    "service_start": "instant", "service_end": "instant", "quantity": "exact", "exact_amount": "exact", "amount": "exact",
}  # fmt: skip

_DERIVED: Final = (
    Input("counted_event", "one row per usage event that counts: stored, no duplicate, not corrected, not refused as late"),
    Input("stored_event", "one row per usage event in the data files"),
    Input("stored_once", "one row per distinct usage event in the data files"),
    Input("duplicate", "one row per usage event that says again what another one said first"),
    Input("late_usage", "one row per usage event that its plan refuses as too late"),
    Input("segment_trailer", "one row per (producer, segment): what its producer promised"),
    Input("snapshot_cut", "one row per producer: the last segment that counts"),
    Input("in_flight_total", "one row per (producer, segment, tenant, meter, UTC date) of what is in the journal"),
    Input("promised", "one row per (producer, segment, tenant, meter): rows and quantity that trailers promise"),
    Input("held", "one row per (producer, segment, tenant, meter): rows and quantity that the lake holds"),
    Input("segment_gap", "one row per place where the trailers of a producer do not join up"),
    Input("break_of_segment", "one row per (producer, segment, tenant, meter) that differs between promised and held"),
    Input("dead_lettered", "one row per refused row of the period"),
    Input("dead_letter_row", "one row per refused row"),
    Input("known_tenant", "one row per tenant that an account lists or a subscription names"),
    Input("known_meter", "one row per meter of the catalog"),
    Input("service_span", "one row per (subscription, plan version) that runs in the period, cut to its UTC dates"),
    Input("priced", "one row per (tenant, meter, attributes, service span) that some price selects"),
    Input("billing_span", "one row per billing span that is rated: a subscription in a billing period of the period"),
    Input("price", "one row per price of a plan that is rated"),
    Input("price_tier", "one row per tier of a price of a plan that is rated"),
    Input("charge", "one row per component: what billing spans are worth now, exact"),
    Input("worth", "one row per line: what billing spans are worth now, rounded once"),
    Input("booked", "one row per line key of final invoices, for billing periods of the period"),
    Input("booked_line", "one row per line key: what final invoices booked, all together"),
    Input("booked_charge", "one row per component key: what final invoices booked, all together"),
    Input("booked_charge_row", "one row per booking of a component by a final invoice"),
    Input("currency_unit", "one row per currency of ISO 4217: its smallest unit"),
    Input("minimum", "one row per billing span and what it owes at least"),
    Input("adjust_scope", "one row per (scope, price): which prices a minimum, a maximum or a discount covers"),
    Input("plan_term", "one row per plan version of the catalog"),
    Input("plan_tier", "one row per tier of every unit, graduated and volume price of the catalog"),
    Input("subscription_term", "one row per (subscription, plan version): when it holds"),
    Input("account_term", "one row per billing account"),
    Input("account_tenant", "one row per tenant that an account lists"),
    Input("discount_term", "one row per (subscription, discount that may lower it)"),
    Input("override_term", "one row per (subscription, price whose terms it overrides)"),
    Input("balance_term", "one row per prepaid balance"),
    Input("unpriced_usage", "one row per (span, price, cell) that a price takes and has no amount for"),
    Input("frozen_span", "one row per billing span whose plan leaves its invoices as they are"),
    Input("entitled_use", "one row per (tenant, feature, meter): use beyond grants in the period"),
    Input("document_held", "one row per document at a provider that belongs to the period"),
    Input("document_match", "one row per (document, currency) of the period: ours and a provider's, and what differs"),
    Input("quantity_match", "one row per (account, name at the provider, window): sent and held, and what differs"),
    Input("control_run", "one row per control: how it ran just now; read by a control that runs after all others"),
)  # fmt: skip

_NO_ADAPTER: Final = "deliver by an adapter: add a section [delivery.NAME] to the settings"
_NO_ROLLUPS: Final = (
    "nothing to do: a lake of this size has no rollups, and every invoice reads the usage events themselves"
)
_NO_AUTHORITY: Final = (
    "say what may be given away, and who may approve more: add the section [discount_authority] to the settings"
)
_NO_CLOSE: Final = "close the period (`tallybook invoice PERIOD --final`): its close writes down whose the usage is"
_NO_LIST: Final = "read what a provider has (`tallybook provider read NAME`), or import its export"

_GIVEN: Final = (
    Input(
        "final_invoice",
        "one row per final document: invoice, credit note or supplementary invoice",
        {
            "invoice_id": "text", "number": "text", "close_id": "text", "document_type": "text", "account_id": "text",
            "currency": "text", "period_start": "instant", "period_end": "instant", "issued_at": "instant",
            "total": "exact", "amount_due": "exact",
        },
        "issued_at",
    ),
    Input("final_line", "one row per line of a final document", _LINE_COLUMNS),
    Input(
        "booked_document",
        "one row per final or void document of the period; tax is all its tax, tax_on_top what is added to the amount due",
        {
            "invoice_id": "text", "number": "text", "document_type": "text", "account_id": "text", "currency": "text",
            "status": "text", "issued_at": "instant", "total": "exact", "amount_due": "exact", "tax": "exact",
            "tax_on_top": "exact",
        },
        "issued_at",
    ),
    Input(
        "document_line",
        "one row per line of such a document",
        {"invoice_id": "text", "exact_amount": "exact", "amount": "exact"},
    ),
    Input("document_charge", "one row per charge of such a document", {"invoice_id": "text", "exact_amount": "exact"}),
    Input(
        "document_burn",
        "one row per payment of such a document by a prepaid balance",
        {"invoice_id": "text", "amount": "exact"},
    ),
    Input(
        "delivering_adapter",
        "one row per adapter that delivers documents, and from which issue on",
        {"adapter": "text", "delivers_from": "instant"},
        None,
        _NO_ADAPTER,
    ),
    Input(
        "sent_document",
        "one row per delivery of an invoice, credit note or void",
        {
            **dict.fromkeys(("adapter", "kind", "delivery_id", "document_id", "invoice_id", "account_id", "currency"), "text"),
            "number": "text", "booked": "amount", "sent": "amount", "bucket": "text", "outcome": "text", "reason": "text",
            "is_uncertain": "bool", "provider_id": "text", "attempts": "int", "issued_at": "instant",
            "enqueued_at": "instant", "ended_at": "instant", "recover_by": "instant",
        },
        "enqueued_at",
        _NO_ADAPTER,
    ),
    Input(
        "sent_quantity",
        "one row per delivery of usage: a series, a window, a content",
        {
            **dict.fromkeys(("adapter", "kind", "delivery_id", "account_id", "subscription_id"), "text"),
            **dict.fromkeys(("tenant_id", "meter", "name"), "text"),
            "start": "instant", "revision": "int", "quantity": "amount", "bucket": "text", "outcome": "text", "reason": "text",
            "is_uncertain": "bool", "is_refused_later": "bool", "provider_id": "text", "attempts": "int",
            "enqueued_at": "instant", "ended_at": "instant", "recover_by": "instant",
        },
        "enqueued_at",
        _NO_ADAPTER,
    ),
    Input(
        "ledger_quantity",
        "one row per (adapter, subscription, name at the provider): what was used of it until a window's end, exactly",
        {
            **dict.fromkeys(("adapter", "subscription_id", "name", "tenant_id", "account_id", "meter"), "text"),
            "until": "instant", "quantity": "amount", "unit_size": "amount",
        },
        "until",
        "tell a provider usage: add licences or meters to its section [delivery.NAME]",
    ),
    Input(
        "provider_document",
        "one row per invoice or credit note at a provider",
        {
            **dict.fromkeys(("adapter", "kind", "provider_id", "delivery_id", "invoice_id", "number", "lowers"), "text"),
            "currency": "text", "net": "amount", "tax": "amount", "total": "amount", "status": "text", "reason": "text",
            "created_at": "instant",
        },
        "created_at",
        _NO_LIST,
    ),
    Input(
        "provider_payment",
        "one row per document at a provider: what became of its money",
        {
            **dict.fromkeys(("adapter", "kind", "provider_id", "status", "currency"), "text"),
            **dict.fromkeys(("total", *PARTS, "fee"), "amount"),
            "due_at": "instant",
        },
        None,
        _NO_LIST,
    ),
    Input(
        "payment_read",
        "one row per invoice whose payment a webhook told: as it was read last",
        {"adapter": "text", "provider_id": "text", "invoice_id": "text", "paid": "amount", "open": "amount"},
    ),
    Input(
        "provider_quantity",
        "one row per (account, name, window) that a provider has",
        {"adapter": "text", "account_id": "text", "name": "text", "start": "instant", "end": "instant", "quantity": "amount"},
        "start",
        _NO_LIST,
    ),
    Input(
        "balance_burn",
        "one row per line that a prepaid balance paid of, all final documents; negative: given back",
        {
            "invoice_id": "text", "balance_id": "text", "amount": "exact", "currency": "text", "account_id": "text",
            "price_id": "text", "service_start": "instant", "service_end": "instant", "issued_at": "instant",
        },
        "issued_at",
    ),
    Input(
        "discount_given",
        "one row per booking of a discount of limited periods: what it took off, negative: given back",
        {
            **dict.fromkeys(("tenant_id", "account_id", "subscription_id", "discount_id", "currency"), "text"),
            "period_start": "instant", "amount": "exact",
        },
    ),
    Input(
        "discount_authority",
        "one row per (who approves, limit): the most percent, or of a currency the most money; '' is everybody, without approval",
        {"approver": "text", "currency": "text", "percent_max": "ratio", "amount_max": "exact"},
        None,
        _NO_AUTHORITY,
    ),
    Input(
        "override_given",
        "one row per (subscription, price it overrides, billing period): what it is worth, and what the plan itself asks for it",
        {
            **dict.fromkeys(("tenant_id", "account_id", "subscription_id", "price_id", "currency"), "text"),
            "period_start": "instant", "plan_amount": "amount", "amount": "amount",
        },
    ),
    Input(
        "period_close",
        "one row per close whose invoices are final; bounds are local times written as if they were UTC",
        {
            "close_id": "text", "position": "int", "period_start": "instant", "period_end": "instant", "as_of": "instant",
            "is_complete": "bool", "is_newest_catalog": "bool",
        },
        "as_of",
    ),
    Input(
        "control_point",
        "one row per control point of the closes of the period, of voids and of deliveries of their documents: what they wrote"
        " down as they acted; position is the place of a close or a void among all",
        {
            **dict.fromkeys(("point", "batch_id", "previous_batch_id", "adapter", "account_id", "tenant_id"), "text"),
            **dict.fromkeys(("meter", "reason", "currency"), "text"),
            "position": "int", "event_count": "int", "quantity": "quantity", "amount": "exact",
        },
    ),
    Input(
        "attributed_close",
        "one row: the close that saw the end of the period, if it wrote down whose the usage is",
        {"close_id": "text", "position": "int"},
        None,
        _NO_CLOSE,
    ),
    Input(
        "stored_at_close",
        "one row per (tenant, meter): usage events of the period that the lake holds now of the cut of that close",
        {"tenant_id": "text", "meter": "text", "rows": "int", "quantity": "quantity"},
        None,
        _NO_CLOSE,
    ),
    Input(
        "close_document",
        "one row per document of the closes of the period, void ones among them, as the books have it now",
        {
            **dict.fromkeys(("close_id", "invoice_id", "account_id", "currency", "document_type"), "text"),
            "amount_due": "exact",
        },
    ),
    Input(
        "close_cut",
        "one row per (close, producer): the last segment that the close took",
        {"close_id": "text", "producer_id": "text", "last_segment": "int"},
    ),
    Input(
        "rollup_total",
        "one row per (tenant, meter): what rollups hold of the months of the period",
        {"tenant_id": "text", "meter": "text", "rows": "int", "quantity": "quantity"},
        None,
        _NO_ROLLUPS,
    ),
    Input(
        "rollup_source_total",
        "one row per (tenant, meter): the same, counted in the usage events that rollups were made of",
        {"tenant_id": "text", "meter": "text", "rows": "int", "quantity": "quantity"},
        None,
        _NO_ROLLUPS,
    ),
    Input(
        "list_price",
        "one row per meter for which the workspace states the price of a unit",
        {"meter": "text", "currency": "text", "unit_price": "price"},
    ),
    Input(
        "accept_window",
        "one row per (tenant, adapter that bills by its usage): how long after it was used the provider takes it",
        {"tenant_id": "text", "adapter": "text", "oldest_s": "int"},
        None,
        "let a provider bill by usage: write contracts of AWS Marketplace or meters of Stripe",
    ),
    Input(
        "witness",
        "one row per (tenant, meter, start of a bucket): how often somebody else saw it used",
        {"tenant_id": "text", "meter": "text", "bucket_start": "instant", "count": "quantity"},
        "bucket_start",
        "give a witness: a table or file of tenant_id, meter, bucket_start and count, such as an access log",
    ),
)  # fmt: skip

# What equations of documents read, and what needs a provider's list.
DOCUMENT_INPUTS: Final = ("booked_document", "document_line", "document_charge", "document_burn")
OF_LISTS: Final = {
    "document_held": "provider_document",
    "document_match": "provider_document",
    "quantity_match": "provider_quantity",
}

INPUTS: Final = {one.name: one for one in (*_DERIVED, *_GIVEN)}


def schema_of(name: str) -> pa.Schema:
    """Return the columns of a table that a caller gives. A column is null only where the row has no such thing."""
    import pyarrow as pa

    columns = INPUTS[name].columns
    if columns is None:
        raise KeyError(f"{name} is derived; nobody gives it")
    return pa.schema([pa.field(column, kinds()[kind]) for column, kind in columns.items()])


def register_given(engine: duckdb.DuckDBPyConnection, given: Mapping[str, pa.Table]) -> dict[str, str]:
    """Make every given table of the engine, the others empty. Return the absent ones with what would make each possible.

    Columns are cast exactly; a table with other columns raises ValueError with what is missing, one with floats names them.
    """
    unknown = sorted(set(given) - {one.name for one in _GIVEN})
    if unknown:
        raise ValueError(f"nobody reads {', '.join(unknown)}; inputs are {', '.join(one.name for one in _GIVEN)}")
    absent = {}
    for one in _GIVEN:
        schema = schema_of(one.name)
        table = given.get(one.name)
        if table is None and one.remedy is not None:
            absent[one.name] = one.remedy
        if table is None:
            table = schema.empty_table()
        missing = [column for column in schema.names if column not in table.schema.names]
        if missing:
            raise ValueError(f"{one.name} has no column {', '.join(missing)}; it is {one.grain}")
        chosen = table.select(schema.names)
        try:
            refuse_floats(chosen)
        except ValueError as error:
            raise ValueError(f"{one.name}: {error}") from error
        register(engine, one.name, chosen.cast(schema))
    return absent | {name: absent[of] for name, of in OF_LISTS.items() if of in absent}
