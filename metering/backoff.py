"""How long to wait after a failure: a random part of a time that doubles, up to a cap.

Enters: how many attempts failed in a row. Leaves: seconds. Refuses: to make many who failed together try together again;
the whole time is drawn (full jitter), not a part added to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Past this many doublings every cap is reached.
_DOUBLINGS_MAX = 40


def full_jitter_s(failures: int, chance: Callable[[], float], *, base_s: float, cap_s: float) -> float:
    """Return how long to wait after so many failures in a row (from 1). `chance` draws from [0, 1)."""
    return chance() * min(cap_s, base_s * 2.0 ** min(failures - 1, _DOUBLINGS_MAX))
