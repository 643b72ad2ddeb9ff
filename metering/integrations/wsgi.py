"""The tenant of each WSGI request, for Flask, Django, Bottle, Pyramid and any other WSGI application.

Enters: requests, and a resolver that says whose each is. Leaves: the same requests, run with their tenant set, each step of
a streaming body included; one usage event each, if a meter is named. Refuses nothing by itself: a request of which the
resolver says None runs with no tenant, and what needs one inside raises BadEvent `no_tenant`.

A worker thread, or a greenlet, serves many requests in one context, and a body runs after the application returned,
step by step, perhaps in other threads. So the tenant is set for each step and taken back after it; a body that is a list
or the server's own file wrapper has no steps and is passed on as it is, so that servers still see its length or its file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metering.context import Scoped
from metering.integrations.requests import OneRequest, RequestMeter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, MutableMapping

    from metering.integrations.requests import Records

    Environ = MutableMapping[str, Any]
    StartResponse = Callable[..., Callable[[bytes], object]]
    WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]


class TenantMiddleware:
    """Run each request under the tenant that `resolver(environ)` names, and count it if a meter is given.

    `resolver` answers from what *was proved* (a session, a verified token, the host), never from a header that anybody
    can write. It runs with no tenant set; what it raises, the server or an outer middleware answers.

    With `recorder` and `meter`, each request is one event of quantity 1: when the body is complete, closed early because
    the client went away, or when anything raised, whichever is first. Attributes: `status` ("200"; "500" where the handler
    raised before it answered) and `route`, which `route(environ)` reads when the request is counted; without it there is no
    such attribute, because WSGI knows only the path, of which there are as many as there are users. An error of the recorder
    is raised, into the server's log; of a body that is a list it is raised before the answer leaves.

    >>> app.wsgi_app = TenantMiddleware(app.wsgi_app, resolver=tenant_of, recorder=usage, meter="api")    # doctest: +SKIP
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        resolver: Callable[[Environ], str | None],
        recorder: Records | None = None,
        meter: str | None = None,
        route: Callable[[Environ], str | None] | None = None,
    ) -> None:
        self.app = app
        self._resolver = resolver
        self._meter = RequestMeter(recorder, meter, route or _no_route)

    @property
    def requests_without_tenant(self) -> int:
        """How many requests were not counted, because the resolver named nobody or raised. Of this process."""
        return self._meter.without_tenant

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Run the application for one request; what it returns is to be closed, as WSGI has it."""
        scoped = Scoped()
        request = OneRequest(self._meter, environ)

        def start_and_see(status: str, headers: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
            request.status = status[:3]
            return start_response(status, headers, *error)

        with scoped:
            try:
                request.tenant = scoped.become(self._resolver(environ))
                body = self.app(environ, start_and_see)
            except BaseException:
                request.fail()
                raise
            if _is_whole(body, environ):
                try:
                    request.count()
                except BaseException:
                    # The server never sees this body, so it cannot close it.
                    _close(body)
                    raise
                return body
        return _Body(body, scoped, request)


class _Body:
    """A response body, each step of which runs under the tenant of its request."""

    __slots__ = ("_body", "_request", "_scoped", "_steps")

    def __init__(self, body: Iterable[bytes], scoped: Scoped, request: OneRequest) -> None:
        self._body = body
        self._scoped = scoped
        self._request = request
        self._steps: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._scoped:
            try:
                if self._steps is None:
                    self._steps = iter(self._body)
                return next(self._steps)
            except StopIteration:
                self._request.count()
                raise
            except BaseException:
                self._request.fail()
                raise

    def close(self) -> None:
        """End the body, complete or not: WSGI servers call this once for every request."""
        with self._scoped:
            try:
                _close(self._body)
            finally:
                self._request.count()


def _close(body: Iterable[bytes]) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()


def _is_whole(body: Iterable[bytes], environ: Environ) -> bool:
    """Tell a body in which no code of the application runs any more."""
    if type(body) in {list, tuple, bytes}:
        return True
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


def _no_route(_environ: Environ) -> None:
    return None
