"""The errors of billing_adapters, drawn as a tree.

    BillingAdaptersError
    ├── AdapterMisconfigured Terminal  rights, keys, addresses or names of an adapter are wrong; its items wait, unharmed
    ├── BudgetSpent          Retryable this run made as many calls as it may; the next one goes on
    ├── DeliveryNotOpen      Terminal  no such delivery, or none that a person may retry or waive
    ├── EventRefused         Terminal  an event of a provider that is not signed by it, or not for now
    ├── FindingNotOpen       Terminal  no such finding, or one in a status in which this cannot be decided
    ├── LeaseLost            Retryable another deliverer took an item over; what is there is found by reading back
    ├── PaymentConflict      Terminal  a payment whose id is booked with other figures
    ├── ProviderAway         Retryable a provider did not answer a question of ours, or not to the end; nothing was kept
    ├── ProviderListRefused  Terminal  an imported list of a provider has not the columns, numbers or instants it must have
    ├── PublicationConflict  Terminal   the folder of a run is there already and holds something else
    ├── PublicationDamaged   Terminal   files of a published run are not what its manifest says
    ├── PublicationFailed    Retryable  the files could not be written just now; no reader sees a part of them
    ├── QuestionRefused      Terminal  a provider refuses what it is asked, so asking again is in vain
    ├── RegistrationRefused  Terminal  a buyer of a marketplace that it does not vouch for, or that is somebody else's
    └── TotalOverflow        Terminal   a total of the conservation statement does not fit the exact decimals

Every error has a stable `code`, typed attributes, and one of two markers of `metering.errors`: `Retryable` (the same
call may succeed later) or `Terminal` (it never will; change something first). A difference that reconciliation finds is
not an error: it is a finding, and the verdict of the statement.
"""

from __future__ import annotations

from metering.errors import CodedError, Retryable, Terminal


class BillingAdaptersError(CodedError):
    """The root of what billing_adapters raises."""

    code = "billing_adapters_error"


class AdapterMisconfigured(BillingAdaptersError, Terminal):
    """An adapter cannot work as it is set up. Nothing is said about any item; their deadlines go on, so correct it now."""

    code = "adapter_misconfigured"


class BudgetSpent(BillingAdaptersError, Retryable):
    """This run made as many calls as its budget allows. What was begun is finished by the next run."""

    code = "budget_spent"


class DeliveryNotOpen(BillingAdaptersError, Terminal):
    """There is no such delivery, or it is in a state in which nobody needs to decide. `tallybook deliveries` lists them."""

    code = "delivery_not_open"


class EventRefused(BillingAdaptersError, Terminal):
    """What came to a webhook is not from the provider, or was signed too long ago or in the future. Nothing was changed."""

    code = "event_refused"


class FindingNotOpen(BillingAdaptersError, Terminal):
    """There is no such finding, or its status allows no such decision. `tallybook findings` lists them."""

    code = "finding_not_open"


class LeaseLost(BillingAdaptersError, Retryable):
    """A deliverer was away for longer than its lease and somebody else took over. It stops; nothing is written twice."""

    code = "lease_lost"


class PaymentConflict(BillingAdaptersError, Terminal):
    """A payment that is reported under an id which is booked with other figures. Nothing was booked; what is booked stays."""

    code = "payment_conflict"


class ProviderAway(BillingAdaptersError, Retryable):
    """A provider did not answer a question of ours, or not to the end. There is no half a list: nothing was kept, ask again."""

    code = "provider_away"


class ProviderListRefused(BillingAdaptersError, Terminal):
    """A file is not a provider's list. The message names file, row and column; correct it and import it again."""

    code = "provider_list_refused"


class PublicationConflict(BillingAdaptersError, Terminal):
    """The folder that this run must be published as holds other bytes. Nothing was changed; move it away and publish again."""

    code = "publication_conflict"


class ReportEarly(BillingAdaptersError, Retryable):
    """A provider's report names deliveries that are under way still. What it says is kept; it must be taken again later."""

    code = "report_early"


class PublicationDamaged(BillingAdaptersError, Terminal):
    """A published run does not verify. `differences` lists every file that is missing, extra or changed."""

    code = "publication_damaged"

    def __init__(self, message: str, differences: tuple[str, ...], **details: object) -> None:
        super().__init__(message, **details)
        self.differences = differences


class PublicationFailed(BillingAdaptersError, Retryable):
    """The files could not be written: no room, no right, a failing disk. Nothing was published; publish again."""

    code = "publication_failed"


class QuestionRefused(BillingAdaptersError, Terminal):
    """A provider refuses what it is asked: a wrong product, filter or id. Nothing was changed; ask something else."""

    code = "question_refused"


class RegistrationRefused(BillingAdaptersError, Terminal):
    """A registration at a marketplace is refused. `reason`: expired or invalid, for the buyer's token; else by ourselves."""

    code = "registration_refused"

    def __init__(self, message: str, reason: str = "refused", **details: object) -> None:
        super().__init__(message, **details)
        self.reason = reason


class TotalOverflow(BillingAdaptersError, Terminal):
    """A total does not fit decimal(38, 9); look for a quantity in the wrong unit."""

    code = "total_overflow"
