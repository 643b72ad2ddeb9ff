"""The tenant of the work that is running now: said once at the door, known to every meter inside.

Enters: a tenant's name, from who knows it (a middleware's resolver, a job). Leaves: that name, for `record()` and `bind()`
that were not given one. Refuses: names that break the rules of events (BadEvent `bad_tenant`), to guess when there is none
(BadEvent `no_tenant`), and blocks that end in another context than they began in.

The tenant is one ContextVar. What is known of who inherits it: asyncio tasks and `asyncio.to_thread` do; threads, pools and
`run_in_executor` do not, and where Python is built or told to let threads inherit, a worker of a pool keeps the tenant of
whoever happened to start it, which is worse. So whatever crosses into a thread goes through `carry`, which says the tenant of
the moment it was called, also when that is nobody. Nothing here reads headers, baggage or attributes: those are the
caller's own words, and a caller must not choose who pays.

Rejected: to carry the whole context (one Context cannot be entered by two threads at once, and what else is in it is not
ours), and to remember tenants per task or thread in a table (a table outlives what it describes).
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from metering.errors import BadEvent
from metering.events import check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future
    from contextvars import Token

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

# Ours: OpenTelemetry's conventions have no name for it.
SPAN_ATTRIBUTE = "tenant.id"

_tenant: ContextVar[str | None] = ContextVar("tallybook_tenant", default=None)


def current_tenant() -> str | None:
    """Return the tenant of the work that is running now, or None when nobody said one."""
    return _tenant.get()


def required_tenant() -> str:
    """Return the tenant of the work that is running now. Raises BadEvent `no_tenant`; it is never guessed."""
    name = _tenant.get()
    if name is None:
        raise BadEvent(
            "no_tenant",
            'no tenant is set here, so nobody would pay; name it (tenant="acme"), or work inside `with tenant("acme"):` or '
            "behind the tenant middleware, and hand work to threads and executors through carry()",
        )
    return name


class tenant:  # noqa: N801 - it reads as the statement that it is: with tenant("acme"):
    """Say whose work the block is: `with tenant("acme"):`. Blocks nest; each restores what was before it.

    `tenant(None)` says that it is nobody's, so that whatever was said outside does not reach in. The name is checked here,
    once: BadEvent `bad_tenant`. The current OpenTelemetry span, if any, gets the attribute `tenant.id` unless it has it.

    One object is one block: entering it again before it ended is a RuntimeError. So is ending it in another context, which
    is what becomes of a generator that yields inside the block and is driven from elsewhere; see docs/context.md.

    >>> with tenant("acme"):
    ...     current_tenant()
    'acme'
    """

    __slots__ = ("_name", "_token")

    def __init__(self, name: str | None) -> None:
        self._name = None if name is None else check_name(name, "tenant")
        self._token: Token[str | None] | None = None

    @staticmethod
    def current() -> str | None:
        """Return the tenant of the work that is running now, or None. The same as `current_tenant()`."""
        return _tenant.get()

    def __enter__(self) -> str | None:
        if self._token is not None:
            raise RuntimeError("this tenant block is entered already; write `with tenant(...):` anew for each block")
        self._token = _tenant.set(self._name)
        mark_span()
        return self._name

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        token, self._token = self._token, None
        if token is None:
            raise RuntimeError("this tenant block was not entered; write `with tenant(...):`")
        try:
            _tenant.reset(token)
        except ValueError:
            # An abandoned coroutine is closed by whoever finds it; the context that it worked in is gone already.
            if kind is not None and issubclass(kind, GeneratorExit):
                return
            raise RuntimeError(
                f"the block of tenant {self._name!r} ended in another context than it began in, so usage recorded after a "
                "`yield` inside it may carry another tenant; take `yield` out of the block, or bind the meter before it"
            ) from None


def mark_span() -> None:
    """Put the current tenant on the current OpenTelemetry span as `tenant.id`, unless the span has one already.

    So a request's span keeps the tenant of the request, whatever blocks for other tenants nest inside it. Does nothing where
    OpenTelemetry is not loaded, where there is no tenant and where the span is not recorded.
    """
    # Looked up, never imported: an application without OpenTelemetry pays for one look into a dictionary.
    trace = sys.modules.get("opentelemetry.trace")
    name = _tenant.get()
    if trace is None or name is None:
        return
    # The module may be there without its names, while another thread is still importing it.
    get_current_span = getattr(trace, "get_current_span", None)
    if get_current_span is not None:
        span = get_current_span()
        # Only the spans of an SDK can be read; those of the API alone take an attribute and forget it.
        if SPAN_ATTRIBUTE not in (getattr(span, "attributes", None) or ()):
            span.set_attribute(SPAN_ATTRIBUTE, name)


class _Carried(Generic[P, R]):
    """A callable and the tenant that it is to run under. A class, so that process pools can pickle it."""

    __slots__ = ("_call", "_name")

    def __init__(self, call: Callable[P, R], name: str | None) -> None:
        self._call = call
        self._name = name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if iscoroutinefunction(self._call):
            return self._run_async(*args, **kwargs)  # type: ignore[return-value]
        with tenant(self._name):
            return self._call(*args, **kwargs)

    async def _run_async(self, *args: Any, **kwargs: Any) -> Any:
        with tenant(self._name):
            return await self._call(*args, **kwargs)  # type: ignore[misc]


def carry(call: Callable[P, R]) -> Callable[P, R]:
    """Return `call` so that it runs under the tenant of now, wherever and however often it is called.

    For threads, pools, callbacks and queues: `pool.submit(carry(work), 1)`, `Thread(target=carry(work))`. When no tenant is
    set now, none is set there either, whatever the worker did before. Not a decorator: at import time the tenant of now is
    nobody. Coroutine functions run under it to their end. Raises TypeError for generator functions, whose body runs later.
    """
    if isgeneratorfunction(call) or isasyncgenfunction(call):
        raise TypeError(
            f"{call!r} is a generator: its body runs in whoever iterates it; carry() what consumes it instead"
        )
    return _Carried(call, _tenant.get())


class TenantExecutor:
    """An executor whose work runs under the tenant of who submitted it: `TenantExecutor(ThreadPoolExecutor(8))`.

    Takes any executor of concurrent.futures, also for `loop.run_in_executor`. Ending it ends the executor inside.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run `call` in the executor under the tenant of now."""
        return self._executor.submit(carry(call), *args, **kwargs)

    def map(
        self, call: Callable[..., R], *columns: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[R]:
        """Run `call` on each row of the columns under the tenant of now, the results in order."""
        return self._executor.map(carry(call), *columns, timeout=timeout, chunksize=chunksize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the executor inside."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)

    def __enter__(self) -> TenantExecutor:
        self._executor.__enter__()
        return self

    def __exit__(self, *exception: Any) -> bool | None:
        return self._executor.__exit__(*exception)


class Scoped:
    """The tenant of one piece of work that runs in several steps, for middleware. Not for applications.

    `with scoped:` is one step; steps may run in different threads and contexts, one after the other. What a step sets and
    leaves set is there again in the next one, and nothing of it is there outside of a step.
    """

    __slots__ = ("_name", "_token")

    def __init__(self) -> None:
        # At first explicitly nobody: what an earlier request left behind in this context must not be seen by a resolver.
        self._name: str | None = None
        self._token: Token[str | None] | None = None

    def become(self, name: str | None) -> str | None:
        """Say whose work it is, within a step. Return the name in its canonical form. Raises BadEvent `bad_tenant`."""
        checked = None if name is None else check_name(name, "tenant")
        _tenant.set(checked)
        mark_span()
        return checked

    def __enter__(self) -> None:
        self._token = _tenant.set(self._name)

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        token, self._token = self._token, None
        self._name = _tenant.get()
        if token is not None:
            try:
                _tenant.reset(token)
            except ValueError:
                # Closed by whoever found it abandoned: there is nothing of ours in this context.
                if kind is None or not issubclass(kind, GeneratorExit):
                    raise
