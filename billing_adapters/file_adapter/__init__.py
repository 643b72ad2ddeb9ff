"""Files: published runs for finance (shapes.py has the columns), and documents one by one in a folder (folder.py)."""

from __future__ import annotations

from billing_adapters.file_adapter.folder import FileAdapter, make
from billing_adapters.file_adapter.publication import publish, read_manifest, verify_published
from billing_adapters.file_adapter.tables import usage_of

__all__ = ["FileAdapter", "make", "publish", "read_manifest", "usage_of", "verify_published"]
