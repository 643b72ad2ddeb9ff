"""What AWS says when it refuses a call, or does not answer: the same for all services of its Marketplace.

Enters: a call of boto3. Leaves: its answer, or what its failure means for the items of the call. Refuses: to call silence
anything but UNKNOWN; and wrong rights, regions and credentials, which say nothing about an item (AdapterMisconfigured).
Source: reference/providers.md, sections 2.1, 2.3, 2.5 and 10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from billing_adapters.adapter import Answer
from billing_adapters.errors import AdapterMisconfigured
from billing_adapters.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_THROTTLED = frozenset({"ThrottlingException", "TooManyRequestsException", "Throttling"})
_MISCONFIGURED = frozenset(
    {
        "AccessDeniedException",
        "DisabledApiException",
        "ExpiredTokenException",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidEndpointRegionException",
        "InvalidRegionException",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "OptInRequired",
        "RequestExpired",
        "UnauthorizedException",
        "UnrecognizedClientException",
    }
)
_OF_ONE: Mapping[str, Outcome] = {
    "TimestampOutOfBoundsException": Outcome.EXPIRED,
    "CustomerNotEntitledException": Outcome.NOT_ENTITLED,
    "DuplicateRequestException": Outcome.CONFLICT_OTHER_VALUE,
    "IdempotencyConflictException": Outcome.CONFLICT_OTHER_VALUE,
    "ConflictException": Outcome.UNKNOWN,
}


def answered(adapter: str, call: Callable[[], Mapping[str, Any]], items: int = 1) -> Mapping[str, Any] | Answer:
    """Return what a call answers, or what its failure means for each of its items. Raises AdapterMisconfigured."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    try:
        return call()
    except exceptions.ClientError as error:
        return refused(adapter, error, items)
    except exceptions.ParamValidationError as error:
        # The SDK itself would not send it.
        outcome = Outcome.BATCH_POISONED if items > 1 else Outcome.REJECTED_PERMANENT
        return Answer(outcome, f"{type(error).__name__}: {error}")
    except (
        exceptions.CredentialRetrievalError,
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
    ) as error:
        raise AdapterMisconfigured(f"there are no credentials for AWS: {error}", adapter=adapter) from error
    except (exceptions.HTTPClientError, exceptions.ConnectionError, ResponseParserError) as error:
        return Answer(Outcome.UNKNOWN, f"{type(error).__name__}: {error}")


def refused(adapter: str, error: Any, items: int) -> Answer:
    """Return what a refusal of a whole call means for each item of it. Raises AdapterMisconfigured."""
    said = error.response.get("ResponseMetadata", {})
    code, status = error.response.get("Error", {}).get("Code", ""), said.get("HTTPStatusCode", 0)
    if code in _MISCONFIGURED or status in {401, 403}:
        raise AdapterMisconfigured(
            f"AWS refuses us ({code}): {error}; nothing is lost yet, but hours expire: see their `recover_by`",
            adapter=adapter,
        ) from error
    if code in _THROTTLED or status == 429:
        outcome = Outcome.RETRY_SAFE
    elif status >= 500 or code in {"InternalServiceErrorException", "InternalServerException"}:
        outcome = Outcome.UNKNOWN
    elif items > 1:
        # AWS names some that refuse a whole batch; whatever else it refuses whole is looked for in the same way.
        outcome = Outcome.BATCH_POISONED
    else:
        outcome = _OF_ONE.get(code, Outcome.REJECTED_PERMANENT)
    return Answer(outcome, str(error), code=code, request_id=said.get("RequestId"))
