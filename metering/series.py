"""Series: a meter, a tenant and a set of attributes that passed every check, and the memory of those that did.

Enters: what a caller says, and the meters' rules that were published. Leaves: canonical text, as the journal carries it.
Refuses: names, attributes and meters that break a rule (BadEvent, UnknownMeter). Memory is bounded: past `CHECKED_MAX`
series the memory begins anew, so that attributes of high cardinality cost time, never memory.
"""

from __future__ import annotations

import contextlib
from decimal import Context, Decimal
from typing import TYPE_CHECKING, NamedTuple

from metering.corrections import join_correction
from metering.errors import UnknownMeter
from metering.events import check_name, check_quantity, encode_attributes
from metering.journal_format import NANO, WHOLE, WHOLE_MAX, WIDE_DETAILED
from metering.meters import MeterRule, load_rules

if TYPE_CHECKING:
    from pathlib import Path

    from metering.events import AttributeValue

    Quantity = int | Decimal | str
    Attributes = dict[str, AttributeValue | None]

CHECKED_MAX = 10_000
_NANO = 10**9
_EXACT = Context(prec=60)


class Series(NamedTuple):
    """A meter, tenant and set of attributes that passed every check.

    `text` is their canonical form in the journal; `seen_as` what they may be looked up by, if equality is enough.
    """

    text: bytes
    negative_allowed: bool
    seen_as: tuple[object, ...] | None


class SeriesBook:
    """Checks series against the rules of the catalog that was applied last, and remembers those that passed."""

    def __init__(self, meters_file: Path) -> None:
        # Replaced, never emptied: bound meters see by it that what they know may be stale.
        self.known: dict[tuple[object, ...], Series] = {}
        self.rules: dict[str, MeterRule] | None = None
        self._meters_file = meters_file
        self._rules_mtime_ns: int | None = None

    def check(self, meter: str, tenant: str, attributes: Attributes) -> Series:
        """Return the series of these. Raises BadEvent, UnknownMeter."""
        with contextlib.suppress(KeyError, TypeError):
            return self.known[meter, tenant, *attributes.items()]
        # Looked up by equality only where equal means the same: 1 == True == Decimal("1.0") are three attributes.
        is_text = isinstance(meter, str) and isinstance(tenant, str)
        is_text = is_text and all(value is None or isinstance(value, str) for value in attributes.values())
        seen_as = (meter, tenant, *attributes.items()) if is_text else None
        found = self._checked(meter, tenant, attributes, None)._replace(seen_as=seen_as)
        if seen_as is not None:
            if len(self.known) >= CHECKED_MAX:
                self.known = {}
            self.known[seen_as] = found
        return found

    def check_correction(self, meter: str, tenant: str, attributes: Attributes, correction: str) -> Series:
        """Return the series of one event that voids or replaces another. Never remembered: each names another event."""
        return self._checked(meter, tenant, attributes, correction)

    def load_rules(self) -> None:
        """Read the rules again if a catalog was applied since the last look."""
        try:
            mtime = self._meters_file.stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            mtime = None
        if mtime != self._rules_mtime_ns:
            self.rules = load_rules(self._meters_file)
            self._rules_mtime_ns = mtime
            self.known = {}

    def _checked(self, meter: str, tenant: str, attributes: Attributes, correction: str | None) -> Series:
        self.load_rules()
        name = check_name(meter, "meter")
        rule = None
        if self.rules is not None:
            rule = self.rules.get(name)
            if rule is None:
                raise UnknownMeter(
                    f"meter {name!r} is not in the catalog that was applied; add it and apply, or correct the name",
                    meter=name,
                )
        encoded = encode_attributes(attributes)
        if correction is not None:
            encoded = join_correction(encoded, correction)
        text = "\n".join((name, check_name(tenant, "tenant"), encoded or "")).encode()
        return Series(text, rule is not None and rule.negative_allowed, None)


def encode_quantity(quantity: Quantity, *, negative_allowed: bool) -> tuple[int, int, str | None]:
    """Return kind, 64-bit number and wide text of a quantity. Raises BadEvent."""
    if type(quantity) is int and 0 <= quantity <= WHOLE_MAX:
        return WHOLE, quantity, None
    return split_quantity(check_quantity(quantity, negative_allowed=negative_allowed))


def split_quantity(exact: Decimal) -> tuple[int, int, str | None]:
    """Return kind, 64-bit number and wide text of a checked quantity: whole units or 10^-9 where they fit, else text."""
    scaled = int(exact.scaleb(9, _EXACT))
    whole, rest = divmod(scaled, _NANO)
    if not rest and -WHOLE_MAX <= whole <= WHOLE_MAX:
        return WHOLE, whole, None
    if -WHOLE_MAX <= scaled <= WHOLE_MAX:
        return NANO, scaled, None
    return WIDE_DETAILED, 0, str(scaled)
