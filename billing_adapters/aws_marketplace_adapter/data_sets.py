"""Reports of Commerce Analytics, asked for: AWS writes them into the seller's bucket and says so by SNS.

Enters: the name of a data set, its day, where it goes. Leaves: AWS's id of the request. Refuses: names that the installed
botocore does not know, and to wait: a data set comes later, as `<name>_YYYY-MM-DD.csv`. Asking twice writes the same file
twice, and harms nothing.

Its columns are AWS's to say, so what they mean is settings, never a constant here: `[delivery.aws_marketplace.reports.NAME]` is a
`FeedShape`. Source: reference/providers.md, section 2.7; the parameters are botocore's. AWS answers in us-east-1 only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time
from functools import partial
from typing import TYPE_CHECKING, Any

from billing_adapters.adapter import Answer
from billing_adapters.aws_marketplace_adapter.answers import answered
from billing_adapters.aws_marketplace_adapter.buyers import ADAPTER
from billing_adapters.errors import ProviderAway, QuestionRefused
from billing_adapters.outcomes import Outcome

if TYPE_CHECKING:
    from datetime import date

SERVICE = "marketplacecommerceanalytics"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where AWS writes a data set: a role that it may assume, a bucket, a prefix in it, and the topic that is told."""

    role: str
    bucket: str
    topic: str
    prefix: str = ""


def data_set_names(client: Any) -> list[str]:
    """Return the names of the data sets that the installed botocore knows."""
    shape = client.meta.service_model.operation_model("GenerateDataSet").input_shape
    return sorted(shape.members["dataSetType"].enum)


def request_data_set(client: Any, name: str, day: date, to: Destination) -> str:
    """Ask for a data set of a day; return AWS's id of the request.

    Raises QuestionRefused, ProviderAway (a retry may help), AdapterMisconfigured.
    """
    if name not in (known := data_set_names(client)):
        raise QuestionRefused(f"AWS has no data set {name!r}; there are {', '.join(known)}")
    asked: dict[str, Any] = {
        "dataSetType": name,
        "dataSetPublicationDate": datetime.combine(day, time(), UTC),
        "roleNameArn": to.role,
        "destinationS3BucketName": to.bucket,
        "snsTopicArn": to.topic,
        **({"destinationS3Prefix": to.prefix} if to.prefix else {}),
    }
    answer = answered(ADAPTER, partial(client.generate_data_set, **asked))
    if not isinstance(answer, Answer):
        return str(answer["dataSetRequestId"])
    if answer.outcome in {Outcome.RETRY_SAFE, Outcome.UNKNOWN}:
        raise ProviderAway(f"AWS did not take the request for {name} ({answer.detail}); asking again harms nothing")
    raise QuestionRefused(f"AWS refuses the request for {name}: {answer.detail}")
