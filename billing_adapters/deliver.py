"""The deliverer: takes items of the outbox to a provider, one way for all providers.

Enters: an outbox, an adapter, a clock, a way to wait. Leaves: what one run did. Refuses: to write what it has not looked for.

    claim -> (read back, if an earlier attempt may have arrived) -> send -> decide -> finish

A crash between any two is repaired by whoever claims next, because the attempt was a row before its first byte left. An error
of an adapter is no answer: the item is uncertain, and read back. Wrong rights and keys stop the adapter and are raised.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from billing_adapters.adapter import Answer, Found
from billing_adapters.desk import OutboxDesk
from billing_adapters.errors import AdapterMisconfigured, BudgetSpent, LeaseLost
from billing_adapters.outbox import Outbox
from billing_adapters.outcomes import Outcome, Policy, Standing, decide
from metering.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine

    from billing_adapters.adapter import Adapter
    from billing_adapters.outbox import Claim
    from billing_adapters.outcomes import Next
    from metering.clock import Clock

# So many adapter errors in a row, and it is not an item that is broken but the adapter.
ERRORS_IN_A_ROW_MAX = 5
# So many items in a row that got no answer, or were put off, and the provider is away: the others need not be asked now.
IN_VAIN_MAX = 20
CLAIMED_AT_ONCE = 20


@dataclass(slots=True)
class Delivered:
    """What a run did: items by what became of them, outcomes by class, calls made, and what adapters raised.

    `is_away`: it stopped early, because the provider answered nobody.
    """

    states: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    errors: list[Exception] = field(default_factory=list)
    is_budget_spent: bool = False
    is_away: bool = False


class Deliverer:
    """Delivers what is due. `name` tells deliverers apart in the books; `on_step` is told of every step, for tests."""

    def __init__(
        self,
        engine: Engine,
        adapter: Adapter,
        *,
        clock: Clock | None = None,
        name: str = "deliverer",
        policy: Policy | None = None,
        wait: Callable[[float], object] | None = None,
        chance: Callable[[], float] = random.random,
        calls_per_s: int | None = None,
        calls_max: int | None = None,
        on_step: Callable[[str], object] = lambda _step: None,
    ) -> None:
        from time import sleep

        self._adapter = adapter
        self._capabilities = adapter.capabilities
        self.outbox = Outbox(engine, self._capabilities, clock or SystemClock())
        self._name = name
        self._policy = policy or Policy()
        self._chance = chance
        self._on_step = on_step
        rate = calls_per_s or self._capabilities.calls_per_s
        self._desk = OutboxDesk(self.outbox, rate, wait or sleep, calls_max=calls_max)
        self._errors_in_a_row = 0
        self._in_vain = 0

    def run(self, *, limit: int | None = None, on_item: Callable[[int], object] = lambda _items: None) -> Delivered:
        """Deliver what is due now, at most `limit` items, and return what became of it. `on_item` is told of progress.

        Raises AdapterMisconfigured; what was claimed is given back first. What waits stays for the next run.
        """
        done = Delivered()
        left, self._in_vain = limit, 0
        size = max(CLAIMED_AT_ONCE, self._capabilities.batch_items)
        while (left is None or left > 0) and not (done.is_budget_spent or done.is_away):
            self._on_step("claim")
            claims = self.outbox.claim(self._name, size if left is None else min(size, left), self._policy.lease)
            self._on_step("claimed")
            if not claims:
                break
            left = None if left is None else left - len(claims)
            try:
                self._deliver_all(claims, done, on_item)
            except LeaseLost as lost:
                done.errors.append(lost)
            except BudgetSpent:
                done.is_budget_spent = True
            finally:
                done.calls = self._desk.calls
        return done

    def _deliver_all(self, claims: Sequence[Claim], done: Delivered, on_item: Callable[[int], object]) -> None:
        """Deliver claims, a batch at a time; whatever stops that, what was not begun is given back."""
        begun = 0
        try:
            for at in range(0, len(claims), self._capabilities.batch_items):
                batch = claims[at : at + self._capabilities.batch_items]
                begun = at + len(batch)
                self._deliver(batch, done)
                on_item(len(batch))
                if self._in_vain >= IN_VAIN_MAX:
                    done.is_away = True
                    break
            for claim in claims[begun:]:
                self.outbox.release(claim, "not begun: the provider is away")
        except (AdapterMisconfigured, BudgetSpent, LeaseLost) as stopped:
            for claim in claims[begun:]:
                self.outbox.release(claim, f"not begun: {stopped}")
            raise

    def _deliver(self, claims: Sequence[Claim], done: Delivered) -> None:
        """Deliver one batch: look where an earlier attempt may have arrived, and send the rest."""
        self._desk.hold(claims)
        settled: set[str] = set()
        try:
            pairs = self._look(claims, done, settled)
            if pairs:
                self._on_step("send")
                self._send(pairs, done, settled)
        except (AdapterMisconfigured, BudgetSpent, LeaseLost) as stopped:
            # Some of its steps may have been done, so these are looked for before they are written again.
            for claim in claims:
                if claim.item.delivery_id not in settled:
                    self.outbox.release(replace(claim, is_uncertain=True), f"stopped: {stopped}")
            raise

    def _look(self, claims: Sequence[Claim], done: Delivered, settled: set[str]) -> list[tuple[Claim, bool]]:
        """Return what is to be sent, each with whether it is uncertain still; finish what needs no sending."""
        resumed = [claim for claim in claims if claim.is_uncertain]
        found = dict(zip((claim.fence_key for claim in resumed), self._read_back(resumed, done), strict=True))
        pairs = []
        for claim in claims:
            answer, is_uncertain = self._judge(claim, found.get(claim.fence_key))
            if answer is None:
                pairs.append((claim, is_uncertain))
            else:
                self._finish(claim, is_uncertain, answer, done, settled)
        return pairs

    def _read_back(self, claims: Sequence[Claim], done: Delivered) -> Sequence[Found]:
        if not claims or self._capabilities.read_back is None:
            return [Found("unclear", "this provider cannot be asked")] * len(claims)
        try:
            found = self._adapter.read_back([claim.item for claim in claims], self._desk)
        except (AdapterMisconfigured, BudgetSpent, LeaseLost):
            raise
        except Exception as error:  # noqa: BLE001 (told in the books and to the caller; the items are read back again)
            self._count(error, done)
            # Whether it is there is not known, and sending would be writing without having looked.
            return [Found("failed", _said(error))] * len(claims)
        self._on_step("looked")
        return found

    def _judge(self, claim: Claim, found: Found | None) -> tuple[Answer | None, bool]:
        """Return what is settled without sending, None if it is to be sent; and whether the item is uncertain."""
        deadline = claim.item.recover_by
        is_over = deadline is not None and self.outbox.now >= deadline
        state = "absent" if found is None else found.state
        detail = "" if found is None else found.detail
        proof = self._capabilities.read_back
        if found is not None and state == "absent" and not (proof and proof.can_prove_absence):
            state = "unclear"
        if found is not None and state == "same":
            return Answer(Outcome.ALREADY_ACCEPTED_SAME, detail, found.provider_id), False
        if found is not None and state == "other":
            return Answer(Outcome.CONFLICT_OTHER_VALUE, detail, found.provider_id), False
        if state == "absent":
            expired = Answer(Outcome.EXPIRED, "it was not sent in time") if is_over else None
            return expired, False
        if state == "partial" or (state == "unclear" and not is_over and self._may_repeat(claim)):
            return None, True
        return Answer(Outcome.UNKNOWN, detail or "whether it arrived cannot be told"), True

    def _may_repeat(self, claim: Claim) -> bool:
        """Is the identical item under its key harmless? The key is at most as old as the intent."""
        lives = self._capabilities.key_lives
        is_alive = lives is None or self.outbox.now < claim.item.enqueued_at + lives
        return self._capabilities.repeat_same == "safe" and is_alive

    def _send(self, pairs: Sequence[tuple[Claim, bool]], done: Delivered, settled: set[str]) -> None:
        """Send a batch; halve it while all of it is refused because of one."""
        try:
            answers = self._adapter.send([claim.item for claim, _ in pairs], self._desk)
            if len(answers) != len(pairs):
                raise ValueError(f"{self._capabilities.name} gave {len(answers)} answers to {len(pairs)} items")
            self._errors_in_a_row = 0
        except (AdapterMisconfigured, BudgetSpent, LeaseLost):
            raise
        except Exception as error:  # noqa: BLE001 (told in the books and to the caller; the items are read back)
            self._count(error, done)
            answers = [Answer(Outcome.UNKNOWN, _said(error))] * len(pairs)
        self._on_step("sent")
        poisoned = []
        for (claim, is_uncertain), answer in zip(pairs, answers, strict=True):
            following = self._decide(claim, is_uncertain, answer, len(pairs))
            if following.is_split:
                poisoned.append((claim, is_uncertain))
            else:
                self._write(claim, following, answer, done, settled)
        half = (len(poisoned) + 1) // 2
        for part in (poisoned[:half], poisoned[half:]):
            if part:
                self._send(part, done, settled)

    def _finish(self, claim: Claim, is_uncertain: bool, answer: Answer, done: Delivered, settled: set[str]) -> None:
        self._write(claim, self._decide(claim, is_uncertain, answer, 1), answer, done, settled)

    def _decide(self, claim: Claim, is_uncertain: bool, answer: Answer, batch_items: int) -> Next:
        return decide(
            Standing(claim.attempts, is_uncertain, claim.item.recover_by, batch_items),
            answer.outcome,
            answer.detail,
            now=self.outbox.now,
            policy=self._policy,
            chance=self._chance,
            retry_after_s=answer.retry_after_s,
        )

    def _write(self, claim: Claim, following: Next, answer: Answer, done: Delivered, settled: set[str]) -> None:
        is_ours = self.outbox.finish(claim, following, answer)
        self._on_step("finished")
        settled.add(claim.item.delivery_id)
        # An adapter that raises is counted by itself.
        is_in_vain = answer.outcome in {Outcome.UNKNOWN, Outcome.RETRY_SAFE} and not self._errors_in_a_row
        self._in_vain = self._in_vain + 1 if is_in_vain else 0
        done.states[following.state if is_ours else "taken_over"] += 1
        done.outcomes[str(answer.outcome)] += 1

    def _count(self, error: Exception, done: Delivered) -> None:
        done.errors.append(error)
        self._errors_in_a_row += 1
        if self._errors_in_a_row >= ERRORS_IN_A_ROW_MAX:
            raise AdapterMisconfigured(
                f"{self._capabilities.name} failed {self._errors_in_a_row} times in a row, last by {_said(error)}; "
                "nothing is lost: mend the adapter and deliver again",
                adapter=self._capabilities.name,
            ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
