"""What a catalog file says of a meter, and the few value types that every catalog model shares.

Enters: texts, as the YAML loader leaves every scalar (never a float). Leaves: a frozen `Meter`; exact `Decimal`s, whole
numbers, booleans and names for the models of the packages above.
Refuses: unknown keys, floats, exponents, blanks and underscores in numbers, booleans other than true and false, names
that no usage event could carry. A refusal is a sentence; several places can be named at once (`refuse`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Final, Literal, NoReturn, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from metering.buckets import bucket_length_us
from metering.errors import BadEvent, BadPeriod
from metering.events import CONTROL_PATTERN, check_name, encode_attributes
from metering.expressions import ExpressionInvalid, read_expression
from metering.measures import BUCKETED, RECURRING, Measure, PerBucket, Rounding

TEXT_CHARACTERS_MAX = 1000
MISTAKES = "catalog_mistakes"
DAYS_MAX = 3650

Place = tuple[str | int, ...]

_PLAIN_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")
_CONTROL = re.compile(CONTROL_PATTERN)
_PLACES = re.compile(r"-?[0-9]{1,2}")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake of a catalog file: where it stands, and a sentence that says what to do. `line` counts from 1."""

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class CatalogModel(BaseModel):
    """One entry of the catalog: frozen, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)


def refuse(mistakes: list[tuple[Place, str]]) -> NoReturn:
    """Raise one validation error that carries each place, relative to the field or model, with its own sentence."""
    sentence = "; ".join(text for _, text in mistakes)
    raise PydanticCustomError(MISTAKES, "{sentence}", {"sentence": sentence, "mistakes": mistakes})


def refuse_at(*place: str | int, message: str) -> NoReturn:
    """Raise one validation error at one place below the field or model."""
    refuse([(place, message)])


def plain_decimal(
    value: object, *, digits: int, places: int, minimum: Decimal | None = None, above: Decimal | None = None
) -> Decimal:
    """Return the exact number that a text like 12 or -0.0000020 writes. Nothing is rounded; no float is on the way.

    Raises ValueError unless it is plain decimal text (or int, or a finite Decimal) of at most `digits` digits before
    and `places` behind the point, not below `minimum` and greater than `above`.
    """
    number = _read_number(value)
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError(f"{value} is not a number that can be multiplied; write plain digits such as 0.05")
    if -exponent > places:
        raise ValueError(
            f"{value} has more than {places} decimals; write at most {places}, nothing is ever rounded here"
        )
    if number.copy_abs() >= Decimal(1).scaleb(digits):
        raise ValueError(f"{value} has more than {digits} digits before the point; write a smaller number")
    if minimum is not None and number < minimum:
        raise ValueError(f"{value} is below {minimum}; write {minimum} or more")
    if above is not None and number <= above:
        raise ValueError(f"{value} is not above {above}; write a number greater than {above}")
    # Minus zero is zero: it must not give the same terms a second spelling.
    return abs(number) if number == 0 else number


def _read_number(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is a {_kind(value)}; write the number as plain decimal text such as 0.05")
    if not _PLAIN_NUMBER.fullmatch(value) or not value.isascii():
        raise ValueError(
            f"{value[:60]!r} is not a plain decimal number; write digits with at most one point, such as 0.000001 "
            "(no exponent, plus sign, blank, underscore or thousands separator)"
        )
    if len(value) > 80:
        raise ValueError(f"a number of {len(value)} characters is too long; write fewer digits")
    return Decimal(value)


def exact(
    digits: int, places: int, *, minimum: Decimal | None = None, above: Decimal | None = None
) -> tuple[Any, Any, Any]:
    """Return the parts of an Annotated exact number: how it is read, how it is written, what editors check."""
    read = partial(plain_decimal, digits=digits, places=places, minimum=minimum, above=above)
    schema = {"type": ["string", "number"], "pattern": rf"^-?[0-9]{{1,{digits}}}(\.[0-9]{{1,{places}}})?$"}
    return (
        BeforeValidator(read),
        PlainSerializer(decimal_text, return_type=str, when_used="json"),
        WithJsonSchema(schema),
    )


def decimal_text(number: Decimal) -> str:
    """Return a Decimal as plain digits with as many decimals as it was written with, never with an exponent."""
    return f"{number:f}"


def _read_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value == "true":
        return True
    if value == "false":
        return False
    raise ValueError(f"{_shown(value)} is not a boolean; write true or false")


def _read_whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not _WHOLE_NUMBER.fullmatch(value) or not value.isascii() or int(value) < 1:
        raise ValueError(f"{_shown(value)} is not a whole number from 1 on; write 1, 2, 3 ...")
    return int(value)


def _read_days(value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()) or int(text) > DAYS_MAX:
        raise ValueError(f"{text[:20]!r} is not a number of days; write a whole number from 0 to {DAYS_MAX}")
    return int(text)


def _read_name(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a {what} name is text, not {_shown(value)}; write a plain identifier")
    try:
        return check_name(value, what)
    except BadEvent as refused:
        raise ValueError(refused.message) from None


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is not text; write one line of text")
    # A folded or literal block of YAML ends with a newline that nobody meant.
    text = unicodedata.normalize("NFC", value).strip()
    if not text or len(text) > TEXT_CHARACTERS_MAX or _CONTROL.search(text.replace("\n", " ")):
        raise ValueError(f"text must have 1 to {TEXT_CHARACTERS_MAX} characters and no control characters")
    return text


def _read_attribute_name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"an attribute name is text, not {_shown(value)}")
    try:
        # The event's own rule decides, so that a declared attribute is always one that an event can carry.
        encode_attributes({value: ""})
    except BadEvent as refused:
        raise ValueError(refused.message) from None
    return value


def read_attribute_value(value: object) -> str:
    """Return the text that an attribute of an event is compared with, in NFC as events keep it. ValueError otherwise."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{_shown(value)} is not an attribute value; write text (quote it if it is null or empty)")
    return unicodedata.normalize("NFC", value)


def unique(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values as they are; refuse each one that stands twice, at its place."""
    # Not a search of all before it: an account may list a hundred thousand tenants.
    first = {value: at for at, value in reversed(list(enumerate(values)))}
    repeated = [(at, value) for at, value in enumerate(values) if first[value] < at]
    if repeated:
        refuse([((at,), f"{value!r} stands here twice; remove one") for at, value in repeated])
    return values


def name_of(what: str) -> tuple[Any, Any]:
    """Return the parts of an Annotated name: 1 to 128 bytes of plain text, in NFC, as a usage event could carry it."""
    reader: Callable[[object], str] = partial(_read_name, what=what)
    return BeforeValidator(reader), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 128})


def _kind(value: object) -> str:
    return {"list": "list", "dict": "mapping", "NoneType": "null"}.get(type(value).__name__, type(value).__name__)


def _shown(value: object) -> str:
    return repr(value[:60]) if isinstance(value, str) else f"a {_kind(value)}"


Boolean = Annotated[bool, BeforeValidator(_read_boolean), WithJsonSchema({"type": "boolean"})]
Days = Annotated[
    int, BeforeValidator(_read_days), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": DAYS_MAX})
]
Whole = Annotated[int, BeforeValidator(_read_whole), WithJsonSchema({"type": "integer", "minimum": 1})]
Text = Annotated[str, BeforeValidator(_read_text), WithJsonSchema({"type": "string", "maxLength": TEXT_CHARACTERS_MAX})]
AttributeName = Annotated[str, BeforeValidator(_read_attribute_name)]
MeterName = Annotated[str, *name_of("meter")]

Aggregation = Literal[
    "count",
    "sum",
    "max",
    "min",
    "first",
    "last",
    "average",
    "unique_count",
    "time_weighted_sum",
    "percentile",
]
UNIQUE_COUNT: Final = "unique_count"
OVER_TIME: Final = "time_weighted_sum"
PERCENTILE: Final = "percentile"


def _read_places(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not _PLACES.fullmatch(value) or not -18 <= int(value) <= 9:
        raise ValueError(f"{_shown(value)} is not a number of places; write -18 to 9, such as 2, 0 or -3 for thousands")
    return int(value)


def _read_length(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"the length of a bucket is text such as 5m or hour, not {_shown(value)}")
    try:
        bucket_length_us(value)
    except BadPeriod as refused:
        raise ValueError(refused.message) from None
    return value


Places = Annotated[
    int, BeforeValidator(_read_places), WithJsonSchema({"type": "integer", "minimum": -18, "maximum": 9})
]
BucketLength = Annotated[
    str,
    BeforeValidator(_read_length),
    WithJsonSchema({"type": "string", "pattern": "^(hour|day|week|month|[1-9][0-9]{0,5}[smh])$"}),
]
Percent = Annotated[Decimal, *exact(digits=3, places=9, above=Decimal(0))]


class MeterRounding(CatalogModel):
    """The meter's own rounding of the quantity of a period, never of one event."""

    mode: Literal["round", "ceil", "floor"] = Field(description="half away from zero, up, or down")
    places: Places = Field(default=0, description="decimals that are kept; -3 keeps thousands")


class MeterBuckets(CatalogModel):
    """The inner step of an aggregation in two steps: the value of each bucket of time."""

    length: BucketLength = Field(
        description="hour, day, week or month in the plan's time zone, or a fixed length such as 5m"
    )
    value: Literal["count", "sum", "max", "min", "last", "unique_count"] = Field(
        default="sum", description="how the events of a bucket become its value"
    )
    empty: Literal["zero", "skipped"] | None = Field(
        default=None, description="what a bucket without an event is: zero, or nothing; a percentile takes zero"
    )


class Meter(CatalogModel):
    """What is counted and how. The quantity of a period is the aggregation of its usage events, in `unit`s."""

    name: MeterName = Field(description="the name that usage events carry")
    unit: Text = Field(default="unit", description="what one unit is called on paper")
    aggregation: Aggregation = Field(default="sum", description="how the events of a period become one quantity")
    attributes: Annotated[tuple[AttributeName, ...], AfterValidator(unique)] = Field(
        default=(), description="attributes that prices may filter or group by"
    )
    unique_attribute: AttributeName | None = Field(
        default=None, description="unique_count only: the attribute whose distinct values are counted"
    )
    operation_attribute: AttributeName | None = Field(
        default=None, description="unique_count only: the attribute that says remove where an event takes a value out"
    )
    events: Literal["delta", "level"] | None = Field(
        default=None, description="time_weighted_sum only: an event changes the level (delta), or sets it (level)"
    )
    per: Literal["hour", "day", "second"] | None = Field(
        default=None, description="time_weighted_sum only: unit-hours and the like instead of the mean of the period"
    )
    percentile: Percent | None = Field(default=None, description="percentile only: which one, such as 95")
    per_bucket: MeterBuckets | None = Field(
        default=None, description="aggregate buckets of time first, then their values"
    )
    carry: Literal["period_only", "recurring"] = Field(
        default="period_only", description="whether a period begins with what history left"
    )
    prorate: Literal["day"] | None = Field(
        default=None, description="recurring sum and unique_count only: count each by the share of its days"
    )
    rounding: MeterRounding | None = Field(
        default=None, alias="round", description="round the quantity of a period before it is priced"
    )
    negative_allowed: Boolean = Field(default=False, description="whether an event may take quantity away")
    expression: Text | None = Field(
        default=None, description="works the quantity of an event out of its attributes: ceil(ms / 1000) * memory_gb"
    )
    description: Text | None = Field(default=None, description="a sentence for the reader")

    @model_validator(mode="after")
    def _check_expression(self) -> Self:
        if self.expression is None:
            return self
        try:
            names = read_expression(self.expression).names
        except ExpressionInvalid as refused:
            refuse_at("expression", message=str(refused))
        unknown = [name for name in names if self.attributes and name not in self.attributes]
        if unknown:
            listed = ", ".join(self.attributes)
            refuse_at("expression", message=f"{unknown[0]!r} is not one of the declared attributes ({listed})")
        return self

    @property
    def measure(self) -> Measure:
        """Return how the events become a quantity, as metering.usage asks for it."""
        inner, rule = self.per_bucket, self.rounding
        empty = "zero" if self.aggregation == PERCENTILE else "skipped"
        return Measure(
            operation_attribute=self.operation_attribute,
            events=self.events or "delta",
            per=self.per,
            percentile=self.percentile,
            per_bucket=None if inner is None else PerBucket(inner.length, inner.value, inner.empty or empty),
            carry=self.carry,
            prorate=self.prorate,
            rounding=None if rule is None else Rounding(rule.mode, rule.places),
        )

    @model_validator(mode="after")
    def _check_unique_attribute(self) -> Self:
        counts_values = UNIQUE_COUNT in (self.aggregation, self.per_bucket and self.per_bucket.value)
        if not counts_values and self.unique_attribute is not None:
            refuse_at(
                "unique_attribute",
                message=f"only unique_count counts distinct values, and the aggregation is {self.aggregation}; "
                "remove the key or write aggregation: unique_count",
            )
        if counts_values and self.unique_attribute is None:
            if len(self.attributes) != 1:
                refuse_at(
                    message="unique_count must know which attribute it counts; write unique_attribute: <attribute> "
                    "(it may be left out when exactly one attribute is declared)"
                )
            self.__dict__["unique_attribute"] = self.attributes[0]
        for key, name in (
            ("unique_attribute", self.unique_attribute),
            ("operation_attribute", self.operation_attribute),
        ):
            if name and self.attributes and name not in self.attributes:
                refuse_at(
                    key,
                    message=f"{name!r} is not one of the declared attributes "
                    f"({', '.join(self.attributes)}); declare it there or correct the name",
                )
        return self

    @model_validator(mode="after")
    def _check_measure(self) -> Self:
        """Refuse keys that the aggregation does not look at: silence would be an amount that nobody meant."""
        mistakes: list[tuple[Place, str]] = [
            ((key,), message) for key, refused, message in _measure_rules(self) if refused
        ]
        if mistakes:
            refuse(mistakes)
        return self


def _measure_rules(meter: Meter) -> list[tuple[str, bool, str]]:
    """Return (key, whether it is refused, what to do) of every rule between the keys of a meter."""
    kind, inner = meter.aggregation, meter.per_bucket
    recurring = meter.carry == "recurring"
    other = f"and the aggregation is {kind}; remove the key"
    return [
        ("operation_attribute", bool(meter.operation_attribute) and kind != UNIQUE_COUNT,
         f"only unique_count adds and removes values, {other} or write aggregation: unique_count"),
        ("operation_attribute", bool(meter.operation_attribute) and meter.operation_attribute == meter.unique_attribute,
         "one attribute cannot be both the value that is counted and what is done with it; name two"),
        ("events", bool(meter.events) and kind != OVER_TIME,
         f"only time_weighted_sum knows levels, {other} or write aggregation: time_weighted_sum"),
        ("per", bool(meter.per) and kind != OVER_TIME,
         f"only time_weighted_sum adds up over time, {other} or write aggregation: time_weighted_sum"),
        ("percentile", kind == PERCENTILE and meter.percentile is None,
         "a percentile must say which; write percentile: 95"),
        ("percentile", kind != PERCENTILE and meter.percentile is not None,
         f"only percentile has one, {other} or write aggregation: percentile"),
        ("percentile", meter.percentile is not None and meter.percentile > 100,
         "there is nothing above the 100th percentile; write a number up to 100"),
        ("per_bucket", kind == PERCENTILE and inner is None,
         "a percentile is taken over buckets of time; write per_bucket: {length: 5m, value: sum}"),
        ("per_bucket", inner is not None and kind not in BUCKETED,
         f"the values of buckets become one by {', '.join(BUCKETED)}, not by {kind}; write one of these as the aggregation"),
        ("carry", recurring and kind not in RECURRING,
         f"{kind} leaves nothing to carry into the next period; only {', '.join(RECURRING)} can be recurring"),
        ("carry", recurring and inner is not None,
         "buckets of time hold no history; remove carry, or remove per_bucket"),
        ("prorate", bool(meter.prorate) and not (recurring and kind in ("sum", UNIQUE_COUNT)),
         "only a recurring sum or unique_count is prorated by days; write carry: recurring, or remove the key"),
    ]  # fmt: skip
