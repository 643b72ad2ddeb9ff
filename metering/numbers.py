"""Decimals as text, the same everywhere: no exponent, no minus zero.

Enters: a finite Decimal. Leaves: plain digits. Refuses: to round; every digit that counts stays.
"""

from __future__ import annotations

from decimal import Decimal


def plain(number: Decimal) -> str:
    """Return a decimal without exponent and with the places it was written with; `-0.00` as `0.00`."""
    return f"{number if number else abs(number):f}"


def trimmed(number: Decimal) -> str:
    """Return a decimal without exponent and without zeros that say nothing: 1.500 -> 1.5, 100 -> 100, 0E-9 -> 0."""
    text = plain(number)
    return text.rstrip("0").rstrip(".") if "." in text else text
