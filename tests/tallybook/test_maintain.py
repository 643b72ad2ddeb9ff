"""Upkeep from the command line: counts before and after, nothing the second time, and the same invoices."""

from __future__ import annotations

from pathlib import Path

from tests.tallybook.shop import USAGE, import_text, open_shop
from tests.tallybook.test_cli import ask


def test_maintain_makes_files_few_once_and_invoices_stay(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        head, *rows = USAGE.splitlines()
        for number, row in enumerate(rows):
            # The blank line makes each file another one, also where its row is a retry.
            import_text(workspace, f"usage-{number}.csv", f"{head}\n{row}\n" + "\n" * number)
        import_text(workspace, "other.csv", f"{head}\nacme,tokens,9,2026-10-03T10:00:00Z,a1,output\n")
        workspace.invoice("2026-10", final=True)

    first = ask(tmp_path, "maintain")
    assert first["rewritten"] > 0
    assert first["files_after"] < first["files_before"]
    # Of the key a1 the first counts, the retry says the same, and the last something else: it is kept as a conflict.
    assert (first["duplicates"], first["conflicts"]) == (2, 1)
    second = ask(tmp_path, "maintain")
    assert (second["duplicates"], second["conflicts"]) == (2, 1)
    assert (second["rewritten"], second["deleted"]) == (0, 0)
    assert second["files_after"] == second["files_before"] == first["files_after"]
    assert ask(tmp_path, "verify", "--all")["differing"] == 0
