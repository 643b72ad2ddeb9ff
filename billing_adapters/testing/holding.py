"""What a contract holds to be so, or says in a sentence that it is not."""

from __future__ import annotations


def hold(condition: object, sentence: str) -> None:
    """Raise AssertionError with the sentence unless the condition holds."""
    if not condition:
        raise AssertionError(sentence)
