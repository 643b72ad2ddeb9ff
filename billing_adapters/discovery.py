"""Which adapters there are: those of the house and those of other distributions, by one entry point group.

Enters: the name of an adapter and its settings. Leaves: the adapter. Refuses: names that nobody registered.

    [project.entry-points."tallybook.adapters"]
    ours = "our_package.adapter:make"          # called with the section [delivery.ours] of tallybook.toml, as a dict
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from billing_adapters.errors import AdapterMisconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from billing_adapters.adapter import Adapter

GROUP = "tallybook.adapters"


def adapter_names() -> list[str]:
    """Return the names of all adapters that are installed, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def make_adapter(name: str, settings: Mapping[str, Any]) -> Adapter:
    """Return the adapter of a name, made from its settings. Raises AdapterMisconfigured: unknown, or settings not right."""
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        known = ", ".join(sorted(points)) or "none"
        raise AdapterMisconfigured(f"no adapter is called {name!r}; installed are: {known}", adapter=name)
    try:
        adapter: Adapter = points[name].load()(dict(settings))
    except (ImportError, ValueError, KeyError, TypeError) as refused:
        raise AdapterMisconfigured(
            f"adapter {name} cannot be used with its settings [delivery.{name}]: {refused}", adapter=name
        ) from refused
    return adapter
