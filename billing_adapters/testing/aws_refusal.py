"""How a fake of AWS refuses a call: the name of its exception, a sentence, a status."""

from __future__ import annotations


class Refused(Exception):
    """AWS refuses the whole call. `kind` is the name by which boto3 raises it."""

    def __init__(self, kind: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
