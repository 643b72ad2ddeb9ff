"""The files adapter: documents, lines, charges and usage as CSV, JSON lines, Parquet and XLSX. See shapes.py for the columns."""

from __future__ import annotations

from billing_adapters.file_adapter.publication import FileAdapter, publish, read_manifest, verify_published
from billing_adapters.file_adapter.tables import usage_of

__all__ = ["FileAdapter", "publish", "read_manifest", "usage_of", "verify_published"]
