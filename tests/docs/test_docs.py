"""The documentation holds: its Python runs, its links lead somewhere, its commands exist, and the
rule ids that it names are rules."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import secagg
import secagg_protocols
from secagg.cli.app import app
from secagg.session.rules import HOLDER_RULES
from secagg.session.rules import RULES as SESSION_RULES
from secagg_protocols.enrolment import ENROLMENT_RULES
from secagg_protocols.masked_sum.rules import RULES
from secagg_protocols.paillier_sum.rules import RULES as PAILLIER_RULES

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "protocols" / "specs"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *SPECS.rglob("*.md")],
    key=lambda path: path.as_posix(),
)
SOURCES = [Path(secagg.__file__).parent, Path(secagg_protocols.__file__).parent]

ADAPTERS = SOURCES[0] / "integrations"

#: A rule is named as the errors name it: its id in brackets, here within backticks.
RULE = re.compile(r"`\[([a-z]+(?:-[a-z]+)*)\]`")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(page.read_text()) if kind == language]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def with_python() -> list[Path]:
    return [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", with_python(), ids=page_name)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    """All blocks of a page, one after the other, as a reader would type them."""
    script = "\n".join(blocks(page, "python"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_the_pages_that_promise_python_have_some() -> None:
    assert {"README.md", "docs/library.md"} <= {page_name(page) for page in with_python()}


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def links(page: Path) -> list[str]:
    return [link for link in LINK.findall(prose(page)) if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_three_hops_from_the_readme() -> None:
    reached = {ROOT / "README.md"}
    for _ in range(3):
        reached |= {
            (page.parent / link.partition("#")[0]).resolve()
            for page in reached
            if page.suffix == ".md"
            for link in links(page)
            if link.partition("#")[0]
        }
    assert set(PAGES) <= reached


def command_lines() -> list[tuple[str, str]]:
    """(page, command line) of every `secagg` command in a console block."""
    found = []
    for page in PAGES:
        for block in blocks(page, "console"):
            text = block.replace("\\\n", " ")
            for line in text.splitlines():
                if line.startswith("$ "):
                    found.append((page_name(page), line[2:]))
    return found


@pytest.mark.parametrize(("page", "line"), command_lines(), ids=lambda text: str(text)[:60])
def test_commands_and_options_exist(page: str, line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "secagg"
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words, f"{line!r} stops at a group"
        name = words.pop(0)
        assert name in command.commands, f"no command {name!r}"
        command = command.commands[name]
    # Parsing meets unknown options, missing arguments and values of the wrong kind, and runs
    # nothing.
    command.make_context(command.name, words)


def test_every_command_is_documented() -> None:
    def leaves(command: Any, path: tuple[str, ...]) -> list[str]:
        if hasattr(command, "commands"):
            parts = [leaves(sub, (*path, name)) for name, sub in command.commands.items()]
            return list(itertools.chain.from_iterable(parts))
        return [" ".join(path)]

    shown = [line for page, line in command_lines() if page == "docs/cli.md"]
    for command in leaves(typer.main.get_command(app), ("secagg",)):
        assert any(f"{line} ".startswith(f"{command} ") for line in shown), command


def test_a_console_block_shows_only_this_program() -> None:
    assert {line.split()[0] for _, line in command_lines()} == {"secagg"}


def ids_in_the_table() -> set[str]:
    sessions = (*SESSION_RULES, *HOLDER_RULES)
    return {rule.id for rule in (*RULES, *PAILLIER_RULES, *ENROLMENT_RULES, *sessions)}


def ids_in(path: Path) -> set[str]:
    """Ids of rules that a module names."""
    pattern = r'(?:(?:\brule|_RULE)(?:: Final)? ?= ?|\._blame\()"([a-z-]+)"'
    return set(re.findall(pattern, path.read_text()))


def ids_in_the_code() -> set[str]:
    """Ids that errors carry without being in the table; adapters' own are on pages of theirs."""
    found: set[str] = set()
    for root in SOURCES:
        for path in root.rglob("*.py"):
            if path.parent.parent.name == "integrations":
                continue
            found |= ids_in(path)
            if "paillier" in path.parts:
                # What is wrong with a key is found in one place and raised in another.
                kinds = "modulus|exponent|private|key"
                found |= set(re.findall(rf'"((?:{kinds})-[a-z]+)"', path.read_text()))
    return found - ids_in_the_table()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_rules_that_are_named_exist(page: Path) -> None:
    named = set(RULE.findall(prose(page)))
    adapters = {rule for path in ADAPTERS.rglob("*.py") for rule in ids_in(path)}
    assert named <= ids_in_the_table() | ids_in_the_code() | adapters


def test_the_specification_names_every_rule_of_the_parties() -> None:
    wire = prose(SPECS / "wire.md")
    for page, rules in (("masked_sum.md", RULES), ("paillier_sum.md", PAILLIER_RULES)):
        wanted = {rule.id for rule in rules if rule.party != "plan"}
        assert wanted <= set(RULE.findall(wire + prose(SPECS / page))), page


def test_the_specification_lists_every_refusal_outside_the_table() -> None:
    section = ""
    for page in SPECS.glob("*.md"):
        text = page.read_text()
        section += text.partition("## Refusals outside the table")[2].partition("\n## ")[0]
    # Commands and simulations have refusals of their own; they are no part of the protocol.
    local = {"file", "options", "output-file", "simulation"}
    # Low-order keys are in the table at the server and refused by the key agreement at sites.
    assert set(RULE.findall(section)) == (ids_in_the_code() - local) | {"low-order"}


@pytest.mark.parametrize("name", ["flower", "substra", "flare", "declearn"])
def test_an_adapters_page_lists_its_rules(name: str) -> None:
    """All that nothing below the adapter has, and none that is not there."""
    modules = list((ADAPTERS / name).rglob("*.py"))
    own = {rule for path in modules for rule in ids_in(path)}
    for path in modules:
        own |= set(re.findall(r'\[([a-z]+(?:-[a-z]+)*)\]"', path.read_text()))  # within a text
    known = ids_in_the_table() | ids_in_the_code()
    page = prose(ROOT / "docs" / "integrations" / f"{name}.md")
    listed = set(re.findall(r"^\| `([a-z-]+)`", page.partition("\n## Rules\n")[2], re.MULTILINE))
    assert own - known <= listed
    assert listed <= own | known


def test_the_frameworks_page_lists_the_rules_of_all_adapters() -> None:
    """All that the core of the integrations refuses by, and none that is not there."""
    core = {rule for path in ADAPTERS.glob("*.py") for rule in ids_in(path)}
    shared = {rule for path in ADAPTERS.rglob("*.py") for rule in ids_in(path)}
    page = prose(ROOT / "docs" / "frameworks.md").partition("\n## Rules\n")[2]
    named = " ".join(re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE))
    listed = set(re.findall(r"`([a-z-]+)`", re.sub(r"`[A-Z]\w+`", "", named)))
    assert core <= listed
    assert listed <= shared | ids_in_the_table() | ids_in_the_code()


def test_labels_of_the_code_are_those_of_the_specification() -> None:
    """Every domain-separating label that protocol code hashes is in a specification."""
    text = "".join(page.read_text() for page in SPECS.glob("*.md"))
    labels: set[str] = set()
    shared = (path for root in SOURCES[1:] for path in root.rglob("*.py"))
    for path in (*shared, *(SOURCES[0] / "session").glob("*.py")):
        if path.name != "plain_sum.py":
            labels |= set(re.findall(r'b"(secagg [a-z ]+ v1)[ "]', path.read_text()))
    # Sealed dumps are local to a party and not specified.
    labels.discard("secagg identity v1")
    assert len(labels) >= 15
    for label in labels:
        assert f'"{label}' in text, label


def test_the_readme_has_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert set(re.findall(r"\bmake \w+", text)) == {"make demo", "make test"}


def test_the_library_example_has_ten_lines() -> None:
    (block,) = blocks(ROOT / "README.md", "python")
    assert len(block.splitlines()) <= 10


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"^    make (\w+)|`make (\w+)`", page.read_text(), re.MULTILINE))
        assert {a or b for a, b in named} <= targets, page_name(page)


def test_no_machine_paths_or_odd_signs() -> None:
    for page in PAGES:
        text = page.read_text()
        assert not re.search(r"(?<![\w.])/(home|work|root|Users|tmp)/", text), page_name(page)
        assert not re.search("[\U0001f000-\U0001faff\u2600-\u27bf]", text), page_name(page)
