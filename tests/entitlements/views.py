"""Views for tests: one tenant, a few features, and a source that can be away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from entitlements.decisions import BILLIONTHS
from entitlements.features import Entitlement
from entitlements.view import Figures, Fold, Held, Rule, View

RESETS_AT = datetime(2026, 2, 1, tzinfo=UTC)
QUOTA = {"feature": "tokens", "type": "metered", "meter": "tokens", "quota": "10"}


def rule_of(fold: Fold = "adds", **keys: Any) -> Rule:
    """Return the rule of a metered entitlement, its figures in the first place."""
    return Rule.of(Entitlement.model_validate({**QUOTA, **keys}), "plan pro/1", fold=fold, place=0)


def figures(limit: int | None, used: int = 0) -> Figures:
    left = 0 if limit is None else limit - used
    return Figures(None if limit is None else limit * BILLIONTHS, used * BILLIONTHS, left * BILLIONTHS, RESETS_AT)


def view_of(rule: Rule, numbers: Figures | None = None, cut: Mapping[str, int] | None = None) -> View:
    held = Held({rule.feature: rule}, (numbers or figures(10),), frozenset({"soon"}))
    return View({"acme": held}, cut or {})


def static_view() -> View:
    said = [
        {"feature": "sso", "type": "boolean"},
        {"feature": "beta", "type": "boolean", "enabled": "false"},
        {"feature": "seats", "type": "static", "value": "25", "value_type": "integer"},
        {"feature": "vault", "type": "boolean", "on_outage": "closed"},
    ]
    rules = [Rule.of(Entitlement.model_validate(one), "plan pro/1") for one in said]
    return View({"acme": Held({rule.feature: rule for rule in rules})})


class Shelf:
    """A source that gives what is put on it, and is away while that is None."""

    def __init__(self, view: View | None) -> None:
        self.view = view

    def read(self) -> View:
        if self.view is None:
            raise ConnectionError("the books are away")
        return self.view

    def move(self, cut: Mapping[str, int], numbers: Figures) -> None:
        """Say that the lake moved on: another cut, other figures."""
        if self.view is not None:
            held = replace(self.view.tenants["acme"], figures=(numbers,))
            self.view = View({"acme": held}, cut)
