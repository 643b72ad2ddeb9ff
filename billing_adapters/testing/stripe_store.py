"""What all objects of the fake Stripe share: ids, lists with cursors, search that lags, events, refusals.

Enters: objects as dicts of JSON values. Leaves: the same, listed newest first. Refuses: ids that are not there, as Stripe does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from metering.clock import Clock

LIST_DEFAULT, LIST_MAX = 10, 100
METADATA_KEYS_MAX, METADATA_KEY_CHARACTERS, METADATA_CHARACTERS = 50, 40, 500

Route = tuple[re.Pattern[str], str, "Callable[..., Any]"]


class Refused(Exception):
    """Stripe says no: an HTTP status, a message, its code, and the parameter that it is about."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


class Store:
    """The objects of one account by kind, in the order in which they were made."""

    def __init__(self, clock: Clock, *, search_lag_s: int) -> None:
        self._clock = clock
        self._search_lag_s = search_lag_s
        self._counter = 0
        self._kinds: dict[str, dict[str, dict[str, Any]]] = {}
        self.unsent: list[dict[str, Any]] = []
        self.idempotency_key = ""

    @property
    def now_us(self) -> int:
        return self._clock.now_us()

    @property
    def now_s(self) -> int:
        return self.now_us // 1_000_000

    def new_id(self, prefix: str) -> str:
        self._counter += 1
        return f"{prefix}_{self._counter:014}"

    def request_id(self) -> str:
        return f"req_{self._counter:014}"

    def add(self, kind: str, prefix: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Keep a new object and return it, with id, kind and time."""
        made = {"id": self.new_id(prefix), "object": kind, "created": self.now_s, "livemode": False, **fields}
        self._kinds.setdefault(kind, {})[made["id"]] = made
        return made

    def get(self, kind: str, identity: str) -> dict[str, Any]:
        found = self._kinds.get(kind, {}).get(identity)
        if found is None:
            raise Refused(404, f"No such {kind}: '{identity}'", code="resource_missing", param=kind)
        return found

    def remove(self, kind: str, identity: str) -> None:
        del self._kinds[kind][identity]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return list(self._kinds.get(kind, {}).values())

    def page(self, kind: str, url: str, params: dict[str, Any], *filters: str) -> dict[str, Any]:
        """Return a page of a list: newest first, by cursor, narrowed by equal fields and by `created`."""
        found = [one for one in reversed(self.all(kind)) if _fits(one, params, filters)]
        return self.cut(found, url, params)

    def cut(self, found: list[dict[str, Any]], url: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return a page of rows that are in order already."""
        limit = int(params.get("limit", LIST_DEFAULT))
        if not 1 <= limit <= LIST_MAX:
            raise Refused(400, f"limit is 1 to {LIST_MAX}", param="limit")
        after = params.get("starting_after")
        if after is not None:
            places = [at for at, one in enumerate(found) if one["id"] == after]
            if not places:
                raise Refused(400, f"No such cursor: {after}", param="starting_after")
            found = found[places[0] + 1 :]
        return {"object": "list", "url": url, "has_more": len(found) > limit, "data": found[:limit]}

    def search(self, kind: str, url: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return what `metadata['key']:'value'` finds, of what is old enough to be in the index."""
        found = re.fullmatch(r"metadata\[['\"](.+?)['\"]\]:['\"](.*?)['\"]", str(params.get("query", "")))
        if found is None:
            raise Refused(400, "the fake searches by metadata['key']:'value'", param="query")
        name, value = found.groups()
        old = self.now_s - self._search_lag_s
        rows = [one for one in reversed(self.all(kind)) if one["created"] <= old and one["metadata"].get(name) == value]
        return {"object": "search_result", "url": url, "has_more": False, "next_page": None, "data": rows[:LIST_MAX]}

    def event(self, kind: str, subject: dict[str, Any]) -> None:
        """Make an event with the object as it is now, to be sent to webhooks."""
        import copy

        fields = {"type": kind, "data": {"object": copy.deepcopy(subject)}, "api_version": "2026-10-28.endive"}
        self.unsent.append(self.add("event", "evt", fields))


def check_metadata(metadata: Any) -> dict[str, str]:
    """Return metadata, or refuse it: 50 keys of 40 characters, values of 500."""
    found = dict(metadata or {})
    if len(found) > METADATA_KEYS_MAX:
        raise Refused(400, f"metadata has up to {METADATA_KEYS_MAX} keys", param="metadata")
    for name, value in found.items():
        if len(name) > METADATA_KEY_CHARACTERS or len(value) > METADATA_CHARACTERS:
            raise Refused(400, f"metadata {name} is too long", param="metadata")
    return found


def routes(*pairs: tuple[str, str, Callable[..., Any]]) -> list[Route]:
    """Return routes: a pattern of the path, a method, and what answers it."""
    return [(re.compile(pattern), verb, act) for verb, pattern, act in pairs]


def _fits(one: dict[str, Any], params: dict[str, Any], filters: tuple[str, ...]) -> bool:
    created = params.get("created")
    if isinstance(created, dict):
        bounds = {"gte": one["created"] >= int(created.get("gte", one["created"])),
                  "gt": one["created"] > int(created.get("gt", one["created"] - 1)),
                  "lte": one["created"] <= int(created.get("lte", one["created"])),
                  "lt": one["created"] < int(created.get("lt", one["created"] + 1))}  # fmt: skip
        if not all(bounds.values()):
            return False
    return all(params.get(name) in {None, one.get(name)} for name in filters)
