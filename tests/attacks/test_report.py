"""The reports: everything is on the page, nothing is loaded, and a real browser shows it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from secagg.attacks import matrix as m
from secagg.attacks.columns import COLUMNS
from secagg.attacks.finding import (
    ControlRun,
    Figure,
    Finding,
    Measure,
    Picture,
    Series,
    Verdict,
)
from secagg.attacks.lab import Cell
from secagg.attacks.report import claims, page, threat_model
from secagg.attacks.report.html import Html, tag
from secagg.attacks.report.pages import anchor
from support.browser import Browser

EVIL = '<script>alert("x")</script> & "quoted"'


def made(*, wrong: bool = False) -> m.Matrix:
    """A run as it could be, with every kind of cell."""
    figure = Figure(
        title="Law",
        x_label="n",
        y_label="rate",
        series=[
            Series(name="measured", x=[1, 2], y=[0.5, 0.25], low=[0.4, 0.2], high=[0.6, 0.3]),
            Series(name="law", x=[1, 2], y=[0.5, 0.25], style="line"),
            Series(name="bars", x=[1, 2], y=[0.1, 0.2], style="bars"),
        ],
    )
    pictures = Figure(
        title="Records",
        pictures=[Picture(label="a", shape=(2, 2), true=[0, 0.5, 1, 0], found=[0, 0.5, 1, 0.1])],
    )
    names = ("prevented", "leaks", "corrupts", "detected", "leaks", "n/a", "prevented")
    cells = []
    for attack in ("share-both", "sratta"):
        for column, name in zip(COLUMNS, names, strict=True):
            finding = Finding(
                verdict=Verdict(name),
                tried=f"tried {EVIL}",
                seen="seen",
                trials=3000,
                stopped_by=("client.step-order",),
                measures=[Measure(name="AUC", value=0.9, low=0.8, high=1.0, predicted=0.91)],
                controls=[ControlRun(overrides=("client.step-order",), trials=3, successes=3)],
                figures=[figure, pictures] if column == "plain" else [],
                parameters={"n": 5},
            )
            na = name == "n/a"
            cells.append(
                Cell(
                    attack=attack,
                    column=column,
                    effort="quick",
                    seed=0,
                    expected=name,
                    verdict=name,
                    reason="there are no masks here" if na else "",
                    finding=None if na else finding,
                    problems=["verdict leaks, expected prevented"]
                    if wrong and column == "sparse"
                    else [],
                )
            )
    rows = [
        m.Row(
            number=number,
            id=attack,
            title=f"Attack {EVIL}" if number == 1 else "Samples from sums",
            source="a paper",
            adversary="server",
            sees="frames",
            tests=("client.step-order",),
            law="a law",
            remedy="a remedy",
        )
        for number, attack in ((1, "share-both"), (13, "sratta"))
    ]
    return m.Matrix(
        format=m.FORMAT,
        made="now",
        commit="abc",
        effort="quick",
        seed=0,
        versions={"secagg": "1"},
        system="a machine",
        seconds=1.0,
        columns=dict(COLUMNS),
        rows=rows,
        cells=cells,
    )


class Reader(HTMLParser):
    """Ids, links, sources and open elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.stack: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []
        self.links += [given["href"]] if given.get("href") else []
        self.sources += [given["src"]] if given.get("src") else []
        if tag not in {"meta", "img", "br", "link"}:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_text_is_escaped_wherever_it_comes_from() -> None:
    text = page(made())
    assert EVIL not in text
    assert "&lt;script&gt;alert" in text
    assert str(tag("p", "<b>", Html("<i></i>"), title='"')) == (
        '<p title="&quot;">&lt;b&gt;<i></i></p>'
    )


def test_the_page_is_whole_and_loads_nothing() -> None:
    text = page(made())
    reader = Reader(text)
    assert reader.stack == []
    assert len(set(reader.ids)) == len(reader.ids)
    for link in reader.links:
        assert link == "data:," or (link.startswith("#") and link[1:] in reader.ids), link
    assert reader.sources and all(s.startswith("data:image/") for s in reader.sources)
    assert "http" not in re.sub(r'content="default-src[^"]*"|http-equiv', "", text)


def test_every_cell_is_in_the_matrix_and_has_its_details() -> None:
    found = made()
    reader = Reader(page(found))
    for cell in found.cells:
        place = f"{cell.attack}.{cell.column}"
        assert place in reader.ids and f"#{place}" in reader.links


def test_a_cell_that_is_not_as_expected_is_said_first() -> None:
    good, bad = page(made()), page(made(wrong=True))
    assert "a leak that was expected is still a leak" in good
    assert "a leak that was expected is still a leak" not in bad
    assert bad.index("did NOT come out as expected") < bad.index("The matrix")
    assert "verdict leaks, expected prevented" in bad


def test_pages_of_the_documentation_lead_to_each_other() -> None:
    found = made(wrong=True)
    model, said = threat_model(found, source="m.json"), claims(found, source="m.json")
    assert "1 NOT as expected" in model or "2 NOT as expected" in model
    heads = {line[4:] for line in model.splitlines() if line.startswith("### ")}
    for row in found.rows:
        assert f"{row.number}. {row.title}" in heads
        assert f"(#{anchor(row)})" in model
        assert f"(threat-model.md#{anchor(row)})" in said
    for title in COLUMNS.values():
        assert f"## {title}" in said


def test_equal_runs_give_equal_pages() -> None:
    assert page(made()) == page(made())


@pytest.fixture(scope="module")
def browser() -> object:
    with Browser() as opened:
        yield opened


@pytest.mark.slow
def test_a_browser_shows_it(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(made()), encoding="utf-8")
    browser.errors.clear()
    browser.open(path)
    assert browser.run("document.querySelectorAll('table.matrix td a').length") == 14
    assert browser.run("document.querySelectorAll('details[open]').length") == 0
    # Every cell opens by its link, and shows what was tried and the figures.
    for cell in made().cells:
        place = f"{cell.attack}.{cell.column}"
        browser.run(f"document.querySelector('table.matrix a[href=\"#{place}\"]').click()")
        browser.wait(f"document.getElementById('{place}').open")
        if cell.finding is not None:
            assert browser.run(f"document.getElementById('{place}').innerText.includes('Tried')")
    images = "[...document.querySelectorAll('#share-both\\\\.plain img')]"
    browser.wait(f"{images}.length == 2 && {images}.every(i => i.complete && i.naturalWidth > 100)")
    colour = "getComputedStyle(document.querySelector('td.is-leaks')).backgroundColor"
    assert browser.run(colour) not in ("rgba(0, 0, 0, 0)", None)
    assert browser.errors == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 390, 768])
def test_it_reads_at_phone_width(browser: Browser, tmp_path: Path, width: int) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(made()), encoding="utf-8")
    browser.open(path, width=width)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("parseFloat(getComputedStyle(document.body).fontSize)") >= 14


@pytest.mark.slow
def test_it_prints_with_all_cells_open(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(made()), encoding="utf-8")
    browser.errors.clear()
    browser.open(path)
    data = browser.pdf()
    assert data.startswith(b"%PDF") and data.count(b"/Type /Page\n") >= 2
    assert browser.run("document.querySelectorAll('details:not([open]):not(.is-na)').length") == 0
    assert browser.errors == []
