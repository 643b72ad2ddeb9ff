"""Letters: what stands on paper is what stands in the books, and no name of a tenant is ever markup."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import pytest

from billing_adapters.file_adapter import publish, read_manifest, verify_published
from billing_adapters.file_adapter.letter import ROWS_MAX, letter, letter_name
from billing_adapters.pages import count, money
from billing_adapters.ports import PublishedRun
from rating.paper import Paper
from tests.billing_adapters.runs import HOSTILE, make_run, papers_for

# Elements that have no end tag.
VOID = frozenset({"meta", "br"})
TEXT_BYTES_MAX = 200_000


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text by the class of the element around it."""

    def __init__(self, content: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[tuple[str, str]] = []
        self.feed(content.decode())
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self._open[-1][1] or self._open[-1][0], " ".join(data.split())))

    def of(self, kind: str) -> list[str]:
        return [text for name, text in self.texts if kind in name.split()]

    @property
    def text(self) -> str:
        return " ".join(text for name, text in self.texts if name != "style")


@pytest.fixture(scope="module")
def run() -> PublishedRun:
    return make_run()


@pytest.fixture(scope="module")
def papers(run: PublishedRun) -> list[Paper]:
    return list(run.papers)


def test_every_amount_of_the_paper_is_on_it(papers: list[Paper]) -> None:
    for paper in papers:
        page = Page(letter(paper))
        assert page.of("amount") == [
            money(line.amount) for line in sorted(paper.invoice.lines, key=lambda x: x.position)
        ]
        assert page.of("sum")[0] == money(paper.payable)
        assert sum(tax for *_, tax in paper.sums_by_tax) == paper.tax
        for amount in (paper.net, *(tax for *_, tax in paper.sums_by_tax), paper.gross, paper.payable):
            assert money(amount) in page.of("num")
        assert paper.invoice.number in page.of("number")
        assert paper.seller is not None
        for text in (
            paper.account.name,
            paper.account.vat_id,
            paper.account.purchase_order,
            paper.seller.name,
            "15 Nov 2026",
        ):
            assert " ".join((text or "").split()) in page.text
        assert "1 \N{EN DASH} 31 Oct 2026" in page.text


def test_no_name_is_markup_and_nothing_is_loaded(papers: list[Paper]) -> None:
    assert "<script>alert(1)</script>" in HOSTILE
    for paper in papers:
        content = letter(paper)
        page = Page(content)
        assert not set(page.tags) & {"script", "img", "link", "iframe", "object", "base", "form", "a", "svg"}
        assert not [
            one for one in page.attributes if one[1].startswith("on") or one[1] in {"href", "src", "style", "action"}
        ]
        assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
        style = re.search(rb"<style>(.*?)</style>", content, re.DOTALL)
        assert style is not None
        assert b"url(" not in style[1]
        assert b"@import" not in style[1]
        assert len(content) < TEXT_BYTES_MAX


def test_a_draft_looks_like_one_and_asks_for_nothing(papers: list[Paper]) -> None:
    (draft,) = papers_for([replace(papers[1].invoice, status="draft", number=None)])
    page = Page(letter(draft))
    assert page.of("watermark") == ["Draft"]
    assert page.of("h1") == ["Pro forma invoice"]
    assert "nothing is owed yet" in page.text
    assert "DE02 1203" not in page.text
    assert "Due" not in page.of("dt")
    assert letter_name(draft) == f"draft-{draft.invoice.invoice_id}.html"
    assert Page(letter(papers[1])).of("watermark") == []


@pytest.mark.parametrize(
    ("kind", "title", "label"),
    [
        ("credit_note", "Credit note", "This credit note corrects"),
        ("supplementary_invoice", "Supplementary invoice", "This supplementary invoice adds to"),
        ("invoice", "Invoice", "With corrections of"),
    ],
)
def test_a_document_that_corrects_names_what_it_corrects(
    papers: list[Paper], kind: str, title: str, label: str
) -> None:
    first = papers[0].invoice
    line = replace(first.lines[0], kind="correction", amount=Decimal("-5.00"))
    (paper,) = papers_for([replace(first, document_type=kind, lines=(line,), prepaid=(), amount_due=first.total)])
    page = Page(letter(paper))
    assert page.of("h1") == [title]
    assert f"{label} =INV-0, INV-00000009" in page.text
    assert page.of("correction") == ["Correction of 1 \N{EN DASH} 31 Oct 2026, found in 1 \N{EN DASH} 31 Oct 2026"]
    assert paper.payable < 0
    assert page.of("sum")[0] == money(-paper.payable)
    assert "Credit in your favour" in page.of("label")


def test_a_very_long_invoice_leaves_out_components_and_no_line(papers: list[Paper]) -> None:
    first = papers[0].invoice
    lines = tuple(
        replace(first.lines[1], line_id=f"line-{at}", position=at, description=f"text {at}") for at in range(ROWS_MAX)
    )
    (paper,) = papers_for([replace(first, lines=lines)])
    page = Page(letter(paper))
    assert [text for text in page.of("text") if text.startswith("text ")] == [f"text {at}" for at in range(ROWS_MAX)]
    assert "left out for length" in page.text
    assert len(letter(paper)) < 3 * TEXT_BYTES_MAX


@pytest.mark.parametrize(
    ("number", "as_money", "as_count"),
    [
        ("1234567.50", "1,234,567.50", "1,234,567.5"),
        ("-0.05", "\N{MINUS SIGN}0.05", "\N{MINUS SIGN}0.05"),
        ("-0.00", "0.00", "0"),
        ("1000", "1,000", "1,000"),
        ("0.000012500000", "0.000012500000", "0.0000125"),
    ],
)
def test_numbers_are_shown_digit_by_digit(number: str, as_money: str, as_count: str) -> None:
    assert (money(Decimal(number)), count(Decimal(number))) == (as_money, as_count)


def test_letters_are_published_beside_the_files_and_verified(tmp_path: Path, run: PublishedRun) -> None:
    folder = publish(tmp_path, run, formats=["html"]).folder
    names = [f"invoices/{paper.invoice.number}.html" for paper in sorted(run.papers, key=letter_name)]
    assert [file["name"] for file in read_manifest(folder)["files"]] == names
    for paper, name in zip(sorted(run.papers, key=letter_name), names, strict=True):
        assert (folder / name).read_bytes() == letter(paper)
    assert [file.name for file in verify_published(folder).files] == ["SHA256SUMS", *names, "manifest.json"]
