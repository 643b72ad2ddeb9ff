"""Metering around code: a decorator for calls, blocks for durations and for quantities that add up.

Enters: a meter, a tenant, and code that runs. Leaves: one usage event at the end of each call or block. Refuses: to run
what nobody would pay for (the tenant is looked up before the code runs), floats, and generators, whose body runs later.

Durations are whole nanoseconds of a monotonic clock, told in seconds as an exact Decimal with nine digits. What is metered
when the code raises is said by `when`: "success", "error" or "always". Should the journal refuse at the end of code that
raised, both errors are shown, the code's own as the context of the other.
"""

from __future__ import annotations

import functools
import time
from decimal import Context, Decimal
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from metering.context import required_tenant
from metering.events import check_quantity

if TYPE_CHECKING:
    from collections.abc import Callable

    from metering.events import AttributeValue
    from metering.recorder import Recorder
    from metering.series import Quantity

    When = Literal["success", "error", "always"]

# Not the caller's context, whose precision may round.
_EXACT = Context(prec=60)
F = TypeVar("F", bound="Callable[..., Any]")


class Block:
    """A block of code that is one usage event when it ends. Each is for one use; nested blocks are events of their own."""

    __slots__ = ("_attributes", "_key", "_meter", "_recorder", "_tenant", "_when", "returned")

    def __init__(
        self,
        recorder: Recorder,
        meter: str,
        tenant: str | None,
        key: str | None,
        when: When,
        attributes: dict[str, Any],
    ) -> None:
        if when not in {"success", "error", "always"}:
            raise ValueError(f'when is "success", "error" or "always", not {when!r}')
        taken = {"quantity", "event_time", "key", "ack"} & attributes.keys()
        if taken:
            raise TypeError(
                f"{sorted(taken)} cannot be said here: the block is recorded when it ends, as it turned out"
            )
        self._recorder = recorder
        self._meter = meter
        self._tenant = tenant
        self._key = key
        self._when = when
        self._attributes = attributes
        # What the call returned that this block is around; None where it is around no call, or one that raised.
        self.returned: Any = None

    def begin(self) -> None:
        """Check everything but the quantity, before the code runs: what nobody could pay for is not begun."""
        if self._tenant is None:
            self._tenant = required_tenant()
        self._recorder.check(self._meter, self._tenant, self._attributes)

    def end(self, quantity: Quantity, error: object) -> None:
        """Record, unless the code ended in the other way than is metered."""
        if self._when == "always" or (error is None) == (self._when == "success"):
            self._recorder.record(
                self._meter, tenant=self._tenant, quantity=quantity, key=self._key, **self._attributes
            )


class Call(Block):
    """Meters one call, by what it returned."""

    __slots__ = ("_quantity",)

    def __init__(self, *block: Any, quantity: Quantity | Callable[[Any], Quantity]) -> None:
        super().__init__(*block)
        self._quantity = quantity

    def __enter__(self) -> Call:
        self.begin()
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        quantity = self._quantity
        self.end(quantity(self.returned) if callable(quantity) else quantity, error)


class Measure(Block):
    """Meters how long its block took, in seconds, exact to the nanosecond; as a decorator, how long each call takes."""

    __slots__ = ("_began_ns",)

    def __call__(self, call: F) -> F:
        """Return `call` so that each call is a block of its own. Raises TypeError for a key, which is of one event only."""
        if self._key is not None:
            raise TypeError("each call is an event of its own, so a key cannot be said for all of them; use a block")
        recorder, meter, tenant, when, attributes = (
            self._recorder, self._meter, self._tenant, self._when, self._attributes,
        )  # fmt: skip
        return _around(call, lambda: Measure(recorder, meter, tenant, None, when, attributes))

    def __enter__(self) -> Measure:
        self.begin()
        self._began_ns = time.perf_counter_ns()
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        self.end(Decimal(time.perf_counter_ns() - self._began_ns).scaleb(-9, _EXACT), error)


class Tally(Block):
    """Meters the sum of what was added within its block. For one thread. Nothing added is no event."""

    __slots__ = ("quantity",)

    def __enter__(self) -> Tally:
        self.begin()
        self.quantity = Decimal(0)
        return self

    def add(self, quantity: Quantity = 1) -> None:
        """Add units; an exact int, Decimal or text. Raises BadEvent for floats, at once."""
        self.quantity = _EXACT.add(self.quantity, check_quantity(quantity, negative_allowed=True))

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if self.quantity:
            self.end(self.quantity, error)


class Meterings:
    """What a Recorder offers around code. Every method ends in `record`, with its arguments, defaults and errors."""

    __slots__ = ()

    def measure(
        self,
        meter: str,
        /,
        *,
        tenant: str | None = None,
        key: str | None = None,
        when: When = "always",
        **attributes: AttributeValue | None,
    ) -> Measure:
        """Meter the seconds that a block takes: `with usage.measure("build_seconds"):`, as an exact Decimal.

        Also a block that raises took its time: `when` is "always" unless said otherwise. As a decorator of a function or
        coroutine function, `@usage.measure("build_seconds")`, it meters the seconds that each call takes.
        """
        return Measure(cast("Recorder", self), meter, tenant, key, when, attributes)

    def tally(
        self,
        meter: str,
        /,
        *,
        tenant: str | None = None,
        key: str | None = None,
        when: When = "always",
        **attributes: AttributeValue | None,
    ) -> Tally:
        """Meter what adds up within a block, as one event: `with usage.tally("rows") as rows: rows.add(5)`."""
        return Tally(cast("Recorder", self), meter, tenant, key, when, attributes)

    def meter_calls(
        self,
        meter: str,
        /,
        *,
        tenant: str | None = None,
        quantity: Quantity | Callable[[Any], Quantity] = 1,
        when: When = "success",
        **attributes: AttributeValue | None,
    ) -> Callable[[F], F]:
        """Meter each call of a function or coroutine function: `@usage.meter_calls("api_requests")`.

        `quantity` may be a function of what the call returned; of a call that raised it is given None. Raises TypeError
        for generator functions: meter what consumes them, with `tally`.
        """
        recorder = cast("Recorder", self)

        def decorate(call: F) -> F:
            return _around(call, lambda: Call(recorder, meter, tenant, None, when, attributes, quantity=quantity))

        return decorate


def _around(call: F, block: Callable[[], Call | Measure]) -> F:
    """Return `call` so that each call runs within a block of its own, which knows what was returned."""
    if isgeneratorfunction(call) or isasyncgenfunction(call):
        raise TypeError(f"{call!r} is a generator: its body runs in whoever iterates it; meter that, with tally()")

    @functools.wraps(call)
    def run(*args: Any, **kwargs: Any) -> Any:
        with block() as one:
            one.returned = call(*args, **kwargs)
        return one.returned

    @functools.wraps(call)
    async def run_async(*args: Any, **kwargs: Any) -> Any:
        with block() as one:
            one.returned = await call(*args, **kwargs)
        return one.returned

    block()  # A wrong `when` is told where it is written, not at the first call.
    return cast("F", run_async if iscoroutinefunction(call) else run)
