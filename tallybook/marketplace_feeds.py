"""AWS's reports for sellers, read over a workspace: whose use it was is known from the buyers of the books.

Enters: files of AWS's. Leaves: files in the shape of a provider's list, ready to be compared with what was sent. Refuses: what
`billing_adapters.aws_marketplace_adapter.feeds` refuses; nothing is written then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from billing_adapters.aws_marketplace_adapter.feeds import SHAPES, documents_of, read_billing, read_usage
from tallybook.errors import BadSettings
from tallybook.marketplace import accounts_of_aws, options_of
from tallybook.marketplace_settings import SECTION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

    from tallybook.workspace import Workspace


def write_lists(
    workspace: Workspace, folder: Path, usage: Sequence[Path], billing: Sequence[Path], shape: str
) -> dict[Path, int]:
    """Write `quantities`, `documents` and `invoiced` as Parquet into a folder; return their rows. Raises ProviderListRefused."""
    import pyarrow.parquet

    shapes = {**SHAPES, **(options_of(workspace)[0].reports if SECTION in workspace.settings.delivery else {})}
    if shape not in shapes:
        raise BadSettings(
            f"a usage report is one of {', '.join(shapes)}, not {shape!r}; "
            f"say what its columns mean in [delivery.{SECTION}.reports.{shape}]"
        )
    lists: dict[str, pa.Table] = {}
    if usage:
        lists["quantities"] = read_usage(usage, accounts_of_aws(workspace), shapes[shape])
    if billing:
        lists["invoiced"] = read_billing(billing)
        lists["documents"] = documents_of(lists["invoiced"])
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, table in lists.items():
        path = folder / f"aws_marketplace_{name}.parquet"
        pyarrow.parquet.write_table(table, path)
        written[path] = table.num_rows
    return written
