"""What all objects of the fake Stripe share: ids, lists with cursors, search that lags, events, refusals.

Enters: objects as dicts of JSON values. Leaves: the same, listed newest first. Refuses: ids that are not there, as Stripe does.

An account may hold 100,000 invoices, so nothing is looked for by going through all of a kind: `INDEXED` fields and metadata lead
to candidates, which the objects themselves confirm, because fields change. Ids are in the order in which they were made.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from metering.clock import Clock

API_VERSION = "2026-10-28.endive"
LIST_DEFAULT, LIST_MAX = 10, 100
METADATA_KEYS_MAX, METADATA_KEY_CHARACTERS, METADATA_CHARACTERS = 50, 40, 500

INDEXED = {
    "billing.credit_grant": ("customer",),
    "billing.meter": ("event_name",),
    "credit_note": ("customer", "invoice"),
    "invoice": ("customer", "number"),
}

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
        self._ids: dict[str, list[str]] = {}
        # (kind, field, value) -> ids in order; a field of metadata is `metadata.NAME`.
        self._places: dict[tuple[str, str, str], list[str]] = {}
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
        self._ids.setdefault(kind, []).append(made["id"])
        self.changed(made)
        return made

    def changed(self, one: dict[str, Any]) -> None:
        """Let an object be found by what its indexed fields and its metadata are now."""
        kind = one["object"]
        named = {name: one[name] for name in INDEXED.get(kind, ())}
        named |= {f"metadata.{name}": value for name, value in (one.get("metadata") or {}).items()}
        for name, value in named.items():
            ids = self._places.setdefault((kind, name, str(value)), [])
            at = bisect_left(ids, one["id"])
            if ids[at : at + 1] != [one["id"]]:
                ids.insert(at, one["id"])

    def get(self, kind: str, identity: str) -> dict[str, Any]:
        found = self._kinds.get(kind, {}).get(identity)
        if found is None:
            raise Refused(404, f"No such {kind}: '{identity}'", code="resource_missing", param=kind)
        return found

    def has(self, kind: str, identity: str) -> bool:
        return identity in self._kinds.get(kind, {})

    def remove(self, kind: str, identity: str) -> None:
        del self._kinds[kind][identity]
        ids = self._ids[kind]
        del ids[bisect_left(ids, identity)]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return list(self._kinds.get(kind, {}).values())

    def find(self, kind: str, field: str, value: str) -> list[dict[str, Any]]:
        """Return the objects whose indexed field is this, oldest first."""
        held = self._kinds.get(kind, {})
        places = self._places.get((kind, field, value), [])
        return [held[one] for one in places if one in held and held[one][field] == value]

    def page(self, kind: str, url: str, params: dict[str, Any], *filters: str) -> dict[str, Any]:
        """Return a page of a list: newest first, by cursor, narrowed by equal fields and by `created`."""
        limit = _limit_of(params)
        after = params.get("starting_after")
        if after is not None and not self.has(kind, after):
            raise Refused(400, f"No such cursor: {after}", param="starting_after")
        found = []
        for one in self._newest_first(kind, params, filters, after):
            if _fits(one, params, filters):
                found.append(one)
                if len(found) > limit:
                    break
        return {"object": "list", "url": url, "has_more": len(found) > limit, "data": found[:limit]}

    def _newest_first(
        self, kind: str, params: dict[str, Any], filters: Sequence[str], after: str | None
    ) -> Iterator[dict[str, Any]]:
        """Yield what may fit, from behind the cursor on."""
        ids = self._ids.get(kind, [])
        for name in INDEXED.get(kind, ()):
            if name in filters and params.get(name) is not None:
                ids = self._places.get((kind, name, str(params[name])), [])
                break
        held = self._kinds.get(kind, {})
        end = len(ids) if after is None else bisect_left(ids, after)
        return (held[ids[at]] for at in range(end - 1, -1, -1) if ids[at] in held)

    def cut(self, found: list[dict[str, Any]], url: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return a page of rows that are in order already."""
        limit = _limit_of(params)
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
        held = self._kinds.get(kind, {})
        places = reversed(self._places.get((kind, f"metadata.{name}", value), []))
        there = [held[identity] for identity in places if identity in held]
        rows = [one for one in there if one["created"] <= old and one["metadata"].get(name) == value]
        return {"object": "search_result", "url": url, "has_more": False, "next_page": None, "data": rows[:LIST_MAX]}

    # --- events -------------------------------------------------------------------------------------------------------

    def event(self, kind: str, subject: dict[str, Any]) -> None:
        """Make an event with the object as it is now, to be sent to webhooks."""
        fields = {"type": kind, "data": packed(orjson.dumps({"object": subject})), "api_version": API_VERSION}
        self.unsent.append(self.add("event", "evt", fields))

    def list_events(self, params: dict[str, Any]) -> dict[str, Any]:
        page = self.page("event", "/v1/events", params, "type")
        return {**page, "data": [_unpacked(one) for one in page["data"]]}

    def take_unsent(self) -> list[dict[str, Any]]:
        """Take the events that were not sent yet, oldest first."""
        events, self.unsent = self.unsent, []
        return [_unpacked(one) for one in events]


def packed(text: bytes) -> bytes:
    """Return what is kept for long and seldom read in a sixth of its size. `zlib.decompress` unpacks it."""
    return zlib.compress(text, 1)


def _unpacked(event: dict[str, Any]) -> dict[str, Any]:
    data = event.get("data")
    return {**event, "data": orjson.loads(zlib.decompress(data))} if isinstance(data, bytes) else event


def _limit_of(params: dict[str, Any]) -> int:
    limit = int(params.get("limit", LIST_DEFAULT))
    if not 1 <= limit <= LIST_MAX:
        raise Refused(400, f"limit is 1 to {LIST_MAX}", param="limit")
    return limit


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
