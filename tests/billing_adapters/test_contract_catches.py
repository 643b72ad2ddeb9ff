"""The contract can fail: adapters with one defect each, and the test that catches it. A suite that passes them is no proof."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from billing_adapters.adapter import Answer, Found, Intent, Item
from billing_adapters.outcomes import Outcome
from billing_adapters.provider_list import ProviderList, provider_table
from billing_adapters.stripe_adapter import StripeAdapter
from billing_adapters.testing.contract import AdapterContract
from tests.billing_adapters.stripe_world import StripeWorld
from tests.billing_adapters.test_adapters_docs import NAMES, ArchiveWorld

Archived = NAMES["ArchiveAdapter"]


class TakesSilenceForYes(Archived):
    def _send(self, item: Item, desk: Any) -> Answer:
        answer = super()._send(item, desk)
        return answer if answer.outcome is not Outcome.UNKNOWN else Answer(Outcome.ACCEPTED)


class TakesSilenceForNever(Archived):
    def _send(self, item: Item, desk: Any) -> Answer:
        answer = super()._send(item, desk)
        return answer if answer.outcome is not Outcome.UNKNOWN else Answer(Outcome.REJECTED_PERMANENT, "no answer")


class TakesThrottlingForNever(Archived):
    def _send(self, item: Item, desk: Any) -> Answer:
        answer = super()._send(item, desk)
        return answer if answer.outcome is not Outcome.RETRY_SAFE else Answer(Outcome.REJECTED_PERMANENT, "busy")


class NewKeyEachTime(Archived):
    counter = 0

    def _send(self, item: Item, desk: Any) -> Answer:
        type(self).counter += 1
        return super()._send(replace(item, natural_key=f"{item.natural_key}-{self.counter}"), desk)


class NeverFinds(Archived):
    """Looks nowhere, and makes up a new document of what may be there."""

    def _find(self, item: Item, desk: Any) -> Found:
        return Found("absent")

    def _send(self, item: Item, desk: Any) -> Answer:
        return super()._send(replace(item, natural_key=item.natural_key + "-again" * item.is_resumed), desk)


class FindsEverything(Archived):
    def _find(self, item: Item, desk: Any) -> Found:
        return Found("same")


class WritesAnotherText(Archived):
    def _send(self, item: Item, desk: Any) -> Answer:
        return super()._send(replace(item, payload=item.payload.replace("49.01", "49.00")), desk)


class PreparesByChance(Archived):
    counter = 0

    def prepare(self, source: object) -> Sequence[Intent]:
        type(self).counter += 1
        return [replace(one, payload=f"{one.payload} {self.counter}") for one in super().prepare(source)]


class SendsExponents(Archived):
    def prepare(self, source: object) -> Sequence[Intent]:
        return [replace(one, payload='{"total":"4.9E+1"}') for one in super().prepare(source)]


class CannotBeRepaired(Archived):
    capabilities = replace(Archived.capabilities, read_back=None, repeat_same="unsafe")


@pytest.mark.parametrize(
    ("defective", "caught_by"),
    [
        (TakesSilenceForYes, "test_a_provider_that_is_away_is_waited_for"),
        (TakesSilenceForNever, "test_a_lost_answer_is_repaired"),
        (TakesThrottlingForNever, "test_throttling_is_waited_out"),
        (NewKeyEachTime, "test_everything_arrives_once_and_again_changes_nothing"),
        (NeverFinds, "test_a_lost_answer_is_repaired"),
        (NeverFinds, "test_a_crash_between_any_two_steps_is_repaired"),
        (NeverFinds, "test_two_deliverers_at_once_are_harmless"),
        (NeverFinds, "test_what_arrived_is_found_by_reading_back"),
        (FindsEverything, "test_a_crash_between_any_two_steps_is_repaired"),
        (WritesAnotherText, "test_everything_arrives_once_and_again_changes_nothing"),
        (PreparesByChance, "test_preparing_is_pure_and_takes_only_what_it_knows"),
        (SendsExponents, "test_no_number_on_the_wire_has_an_exponent"),
        (CannotBeRepaired, "test_capabilities_say_how_it_can_be_repaired"),
    ],
)
def test_a_defect_is_caught(defective: Callable[[Any], Any], caught_by: str) -> None:
    class World(ArchiveWorld):
        def adapter(self) -> Any:
            return defective(self.archive)

    class Suite(AdapterContract):
        def make_world(self) -> World:
            return World()

    with pytest.raises(AssertionError):
        getattr(Suite(), caught_by)()


# --- lists ------------------------------------------------------------------------------------------------------------


def changed(found: ProviderList, name: str, change: Callable[[Any], Any]) -> ProviderList:
    return replace(found, tables={**found.tables, name: change(found.tables[name])})


class LeavesOneOut(StripeAdapter):
    def list_held(self, *span: Any, **more: Any) -> ProviderList:
        found = super().list_held(*span, **more)
        return changed(found, "documents", lambda table: table.slice(1))


class ShowsOneTwice(StripeAdapter):
    def list_held(self, *span: Any, **more: Any) -> ProviderList:
        found = super().list_held(*span, **more)
        return changed(found, "documents", lambda table: pa.concat_tables([table, table.slice(0, 1)]))


class ShowsOtherTotals(StripeAdapter):
    def list_held(self, *span: Any, **more: Any) -> ProviderList:
        found = super().list_held(*span, **more)
        rows = [{**row, "total": row["total"] + 1} for row in found.tables["documents"].to_pylist()]
        return changed(found, "documents", lambda _: provider_table("documents", rows))


class LosesLines(StripeAdapter):
    def list_held(self, *span: Any, **more: Any) -> ProviderList:
        found = super().list_held(*span, **more)
        return changed(found, "lines", lambda table: table.slice(1))


class PaysTooMuch(StripeAdapter):
    def list_held(self, *span: Any, **more: Any) -> ProviderList:
        found = super().list_held(*span, **more)
        rows = [{**row, "paid": row["paid"] + 1} for row in found.tables["payments"].to_pylist()]
        return changed(found, "payments", lambda _: provider_table("payments", rows))


class TellsLessThanItDeclares(StripeAdapter):
    def list_held(self, *span: Any, **more: Any) -> ProviderList:
        found = super().list_held(*span, **more)
        return replace(found, tables={name: table for name, table in found.tables.items() if name != "payments"})


class EndsTooLate(StripeAdapter):
    def list_held(self, start: datetime, end: datetime, **more: Any) -> ProviderList:
        return replace(super().list_held(start, end + timedelta(seconds=1), **more), end=end)


class WritesWhileItLists(StripeAdapter):
    def list_held(self, *span: Any, **more: Any) -> ProviderList:
        found = super().list_held(*span, **more)
        one = self.client.v1.invoices.list().data[0]
        params: Any = {"customer": one.customer, "currency": one.currency, "metadata": one.metadata.to_dict()}
        self.client.v1.invoices.finalize_invoice(self.client.v1.invoices.create(params).id)
        return found


class HurriesOn(StripeAdapter):
    def list_held(self, *span: Any, **more: Any) -> ProviderList:
        return super().list_held(*span, **{**more, "spend": lambda: None})


class GivesOutHalves(StripeAdapter):
    def list_held(self, start: datetime, end: datetime, *, spend: Any, **more: Any) -> ProviderList:
        try:
            return super().list_held(start, end, spend=spend, **more)
        except Exception:  # noqa: BLE001 (that is its defect)
            return ProviderList("stripe", start, end, more["read_at"])


ALL = "test_the_list_shows_what_was_sent_once_and_writes_nothing"


@pytest.mark.parametrize(
    ("defective", "caught_by", "why"),
    [
        (LeavesOneOut, ALL, "is listed 0 times"),
        (ShowsOneTwice, ALL, "is listed 2 times"),
        (ShowsOtherTotals, ALL, "sent was"),
        (LosesLines, ALL, "lines, and"),
        (PaysTooMuch, ALL, "are its total"),
        (TellsLessThanItDeclares, ALL, "declares others"),
        (WritesWhileItLists, ALL, "listing writes nothing"),
        (HurriesOn, ALL, "spend is called"),
        (EndsTooLate, "test_spans_of_the_list_are_half_open_and_add_up", "cut at"),
        (GivesOutHalves, "test_a_list_that_breaks_off_is_no_list", "given out as a whole"),
    ],
)
def test_a_defect_of_a_list_is_caught(defective: type[StripeAdapter], caught_by: str, why: str) -> None:
    class World(StripeWorld):
        def adapter(self) -> StripeAdapter:
            return defective(self.client, self.settings)

    class Suite(AdapterContract):
        def make_world(self) -> World:
            return World()

    with pytest.raises(AssertionError, match=why):
        getattr(Suite(), caught_by)()
