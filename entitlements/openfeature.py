"""Entitlements as feature flags: a provider for the OpenFeature SDK. Import it only where `openfeature-sdk` is installed.

Enters: flag keys (features) and evaluation contexts, whose targeting key is the tenant. Leaves: flag values with the
reason of the decision as metadata. Refuses: a context without a tenant, and to make a float of an exact number unasked.

    boolean   may the tenant use it (quantity 1)         integer   the static value, or what is left in whole units
    string    the static text, or the reason             float     the static value; inexact, for display only
    object    the whole decision, quantities as text     track()   consume: the event name is the feature
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import AbstractProvider, Metadata

from metering.context import current_tenant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from openfeature.evaluation_context import EvaluationContext
    from openfeature.flag_evaluation import FlagValueType
    from openfeature.track import TrackingEventDetails

    from entitlements.checker import Checker
    from entitlements.decisions import Decision

_REASONS = {
    "switched_off": Reason.DISABLED,
    "no_entitlement": Reason.DEFAULT,
    "not_effective": Reason.DEFAULT,
    "books_away_open": Reason.STALE,
    "books_away_closed": Reason.STALE,
}


class EntitlementProvider(AbstractProvider):
    """Resolve flags from a checker. The tenant is the targeting key, else that of the running work.

    A feature to which nothing entitles resolves to the default that the caller gave, with reason DEFAULT.

    >>> openfeature.api.set_provider(EntitlementProvider(entitled))             # doctest: +SKIP
    """

    def __init__(self, checker: Checker) -> None:
        super().__init__()
        self._checker = checker

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        self._checker.start()

    def get_metadata(self) -> Metadata:
        return Metadata(name="tallybook")

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        decision = self._ask(flag_key, evaluation_context)
        if decision is None:
            return _no_tenant(default_value)
        if _is_unknown(decision):
            return _details(default_value, decision)
        if isinstance(decision.value, bool) and decision.allowed:
            return _details(decision.value, decision)
        return _details(decision.allowed, decision)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        decision = self._ask(flag_key, evaluation_context)
        if decision is None:
            return _no_tenant(default_value)
        if _is_unknown(decision):
            return _details(default_value, decision)
        value = decision.as_dict()["value"]
        return _details(decision.reason if value is None else str(value), decision)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        decision = self._ask(flag_key, evaluation_context)
        if decision is None:
            return _no_tenant(default_value)
        if _is_unknown(decision):
            return _details(default_value, decision)
        number = decision.remaining if decision.value is None else decision.value
        if isinstance(number, bool) or not isinstance(number, int | Decimal):
            return _mismatch(default_value, decision)
        # Down: what is left in part is not a whole unit that could be used.
        return _details(int(number), decision)

    def resolve_float_details(
        self,
        flag_key: str,
        default_value: float,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[float]:
        decision = self._ask(flag_key, evaluation_context)
        if decision is None:
            return _no_tenant(default_value)
        if _is_unknown(decision):
            return _details(default_value, decision)
        number = decision.value
        if isinstance(number, bool) or not isinstance(number, int | Decimal):
            return _mismatch(default_value, decision)
        # The SDK asked for a float; nothing here counts with it.
        return _details(number.__float__(), decision)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        decision = self._ask(flag_key, evaluation_context)
        if decision is None:
            return _no_tenant(default_value)
        whole: Any = default_value if _is_unknown(decision) else decision.as_dict()
        return _details(whole, decision)

    def track(
        self,
        tracking_event_name: str,
        evaluation_context: EvaluationContext | None = None,
        tracking_event_details: TrackingEventDetails | None = None,
    ) -> None:
        """Consume the feature that the event names: its attribute `quantity` (int, or exact text), else 1.

        The `value` of OpenFeature is a float and is not read. Raises what `Checker.consume` raises.
        """
        tenant = _tenant_of(evaluation_context)
        if tenant is None:
            raise ValueError("no tenant: give the evaluation context a targeting_key")
        said = {} if tracking_event_details is None else dict(tracking_event_details.attributes)
        quantity = said.pop("quantity", 1)
        exact = quantity if isinstance(quantity, int) else Decimal(str(quantity))
        self._checker.consume(tenant, tracking_event_name, exact)

    def _ask(self, feature: str, context: EvaluationContext | None) -> Decision | None:
        tenant = _tenant_of(context)
        return None if tenant is None else self._checker.check(tenant, feature)


def _tenant_of(context: EvaluationContext | None) -> str | None:
    key = None if context is None else context.targeting_key
    return key or current_tenant()


def _is_unknown(decision: Decision) -> bool:
    return decision.reason in {"no_entitlement", "not_effective"}


def _details(value: Any, decision: Decision) -> FlagResolutionDetails[Any]:
    metadata: dict[str, Any] = {"reason": decision.reason}
    if decision.resets_at is not None:
        metadata["resets_at"] = decision.resets_at.isoformat()
    return FlagResolutionDetails(
        value,
        reason=_REASONS.get(decision.reason, Reason.TARGETING_MATCH),
        variant=decision.source,
        flag_metadata=metadata,
    )


def _no_tenant(default: Any) -> FlagResolutionDetails[Any]:
    said = "no tenant: give the evaluation context a targeting_key, or work inside `with tenant(...)`"
    return FlagResolutionDetails(default, ErrorCode.TARGETING_KEY_MISSING, said, Reason.ERROR)


def _mismatch(default: Any, decision: Decision) -> FlagResolutionDetails[Any]:
    said = f"feature {decision.feature!r} has no number; ask for another type"
    return FlagResolutionDetails(default, ErrorCode.TYPE_MISMATCH, said, Reason.ERROR)
