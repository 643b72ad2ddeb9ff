"""What the pages that people read have in common: the invoice letter and the reconciliation report.

Enters: a package that holds a template and its style beside each other, values to fill in. Leaves: a template that renders
the same text for the same values; days, amounts and quantities for the eye. Refuses: values that were not given, text that is
not escaped.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from metering.numbers import plain, trimmed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import date
    from decimal import Decimal

    from jinja2 import Template

# Not strftime: the month's name would follow the locale of whoever publishes.
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def day_in_words(day: date) -> str:
    """Return a day as 5 Oct 2026. Of an instant, the day it has in its own zone."""
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def money(amount: Decimal) -> str:
    """Return an amount for the eye: commas between thousands, a minus sign, the places it was rounded to."""
    return _with_commas(plain(amount))


def count(number: Decimal) -> str:
    """Return a quantity or a unit price for the eye: commas between thousands, every digit that says something."""
    return _with_commas(trimmed(number))


def _with_commas(text: str) -> str:
    whole, point, places = text.lstrip("-").partition(".")
    sign = "\N{MINUS SIGN}" if text.startswith("-") else ""
    return f"{sign}{int(whole):,}{point}{places}"


def page_template(package: str, name: str, filters: Mapping[str, Callable[..., Any]]) -> Template:
    """Return the template `name.html.jinja` of a package, with the style `name.css` beside it as `style`.

    A value that the template asks for and does not get raises jinja2.UndefinedError. Making a template costs more than
    rendering it: keep it.
    """
    import jinja2
    from markupsafe import Markup

    here = resources.files(package)
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters
    # Our own file, and the only text that is not escaped.
    style = Markup(here.joinpath(f"{name}.css").read_text(encoding="utf-8"))  # noqa: S704
    return environment.from_string(here.joinpath(f"{name}.html.jinja").read_text(encoding="utf-8"), {"style": style})
