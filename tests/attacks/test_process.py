"""No attack sees the truth: what it imports, what it is sent, and what is in its process."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import numpy as np
import pytest

import secagg.attacks
from secagg.attacks import attack as attack_module
from secagg.attacks import catalogue, lab, process
from secagg.attacks.attack import (
    BARRED,
    Attack,
    Evidence,
    Frame,
    Keys,
    Transcript,
    barred,
    decode,
    encode,
)
from secagg.attacks.catalogue import ATTACKS, load_attack, load_scene
from secagg.attacks.columns import COLUMNS
from secagg.attacks.finding import Verdict
from secagg.attacks.process import Bench, Inside, LabError
from secagg_protocols.errors import DecodeError, MisuseError

ROOT = Path(secagg.attacks.__file__).parent
#: Modules of the laboratory itself, which know the truth or drive those that do.
KNOWING = {"arena", "scenes", "adversaries", "report"}
DRIVERS = {"lab", "matrix", "clinical", "columns", "rulebook", "scene", "finding", "statistics"}


def blind() -> list[Path]:
    """The modules that run in an attack's process."""
    return [
        path
        for path in sorted(ROOT.glob("*.py"))
        if path.stem not in DRIVERS and path.stem != "__init__"
    ]


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "secagg.attacks" if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


@pytest.mark.parametrize("path", blind(), ids=lambda path: path.stem)
def test_an_attack_imports_messages_and_primitives_and_no_party(path: Path) -> None:
    names = imported(path)
    lazy = (
        {"secagg.attacks.scene.Scene", "secagg.attacks.scene"}
        if path.stem == "catalogue"
        else set()
    )
    for name in names - lazy:
        parts = name.split(".")
        assert not any(name == b or name.startswith(b + ".") for b in BARRED), name
        if name.startswith("secagg_protocols"):
            assert parts[-1] not in {"Client", "Server", "Holder", "Party"}, name
        if name.startswith("secagg.attacks."):
            assert parts[2] not in KNOWING, name
        assert not name.startswith(("secagg.api", "secagg.sim", "secagg.session")), name


def test_every_row_of_the_catalogue_is_there_once() -> None:
    kinds = [load_attack(name) for name in ATTACKS]
    assert [kind.number for kind in kinds] == list(range(1, 37))
    assert [kind.id for kind in kinds] == list(ATTACKS)
    for kind in kinds:
        for field in ("title", "source", "adversary", "sees", "law", "remedy"):
            assert len(getattr(kind, field)) > 3, (kind.id, field)
        assert isinstance(kind.tests, tuple)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_scene_says_what_it_expects_of_every_protocol(name: str) -> None:
    scene = load_scene(name)
    assert scene.attack is load_attack(name)
    assert set(scene.expected) == set(COLUMNS)
    for expected in scene.expected.values():
        # A column without the attack says why.
        assert isinstance(expected, Verdict) or len(expected) > 20
        assert expected != Verdict.NOT_APPLICABLE
    assert any(isinstance(expected, Verdict) for expected in scene.expected.values())


def test_unknown_names_are_refused_by_rule() -> None:
    for load in (load_attack, load_scene):
        with pytest.raises(MisuseError) as caught:
            load("no-such-attack")
        assert caught.value.rule == "attack-id"


def test_what_travels_comes_back() -> None:
    given = Transcript(
        plan="a plan",
        frames=[Frame(3, "s0", "server", b"\x00\xff")],
        models={2: b"model"},
        public={"n": 4, "names": ["a"]},
        arrays={"x": np.arange(6, dtype=np.int64).reshape(2, 3), "y": np.array([1.5])},
    )
    back = decode(Transcript, encode(given))
    assert (back.plan, back.frames, back.models, back.public) == (
        given.plan,
        given.frames,
        given.models,
        given.public,
    )
    assert back.arrays["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert back.arrays["x"].dtype == np.int64
    back.arrays["x"][0, 0] = 7  # attacks may calculate in place


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", encode(Keys())[:-1], b"\x81\xa1x\x01" * 3])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(Transcript, data)


def test_objects_do_not_travel() -> None:
    with pytest.raises(TypeError):
        encode(Evidence(arrays={"x": np.array([object()])}))
    with pytest.raises(TypeError):
        encode(Transcript(public={"party": object()}))


def test_a_process_of_its_own_gives_the_same_evidence() -> None:
    kind = load_attack("sparse-coordinates")
    given = Transcript(public={"spread": 0.0}, arrays={"sum": np.array([0, 1, 2, 1])})
    with Bench(kind) as bench, Inside(kind) as inside:
        for _ in range(2):
            assert bench.run(given, Keys()).arrays["claimed"].tolist() == [1, 3]
            assert inside.run(given, Keys()).arrays["claimed"].tolist() == [1, 3]


def test_the_process_has_neither_environment_nor_parties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spy in the place of an attack tells what it finds around it."""
    spy = tmp_path / "spy.py"
    spy.write_text(
        "import os, sys\n"
        "from secagg.attacks.attack import Attack, Evidence\n"
        "class Spy(Attack):\n"
        "    id = 'spy'\n"
        "    def run(self, transcript, keys):\n"
        "        note = ' '.join([*os.environ, *os.listdir('.'), *map(str, sys.argv[2:])])\n"
        "        return Evidence(note=note)\n"
    )
    monkeypatch.setenv("SECAGG_TRUTH", "a secret")
    found = _spied(spy, monkeypatch, "")
    # Python itself may set its locale.
    assert set(found.note.split()) <= {"LC_CTYPE", *process.ONE_THREAD}
    with pytest.raises(LabError, match="parties in its process"):
        _spied(spy, monkeypatch, "import secagg_protocols.masked_sum.client")
    with pytest.raises(LabError, match="ZeroDivisionError"):
        _spied(spy, monkeypatch, "Spy.run = lambda *_: 1 / 0")
    with pytest.raises(LabError, match="ended"):
        _spied(spy, monkeypatch, "Spy.run = lambda *_: os._exit(3)")


def _spied(spy: Path, monkeypatch: pytest.MonkeyPatch, extra: str) -> Evidence:
    code = (
        f"import sys; exec(open({str(spy)!r}).read() + {extra!r}); "
        "import secagg.attacks.process as p; p.load_attack = lambda name: Spy; "
        "p.main('spy', sys.stdin.buffer, sys.stdout.buffer)"
    )
    real = process.subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        assert command[1:4] == ["-I", "-m", "secagg.attacks.process"]
        return real([sys.executable, "-I", "-c", code], **options)  # type: ignore[call-overload]

    class Spy(Attack):
        id = "spy"

    with monkeypatch.context() as patch:
        patch.setattr(process.subprocess, "Popen", popen)
        with Bench(Spy) as bench:
            return bench.run(Transcript(), Keys())


def test_bytes_of_which_nothing_can_be_made_are_no_evidence() -> None:
    class Reader(Attack):
        id = "reader"

        def run(self, transcript: Transcript, keys: Keys) -> Evidence:
            raise DecodeError("no frame", rule="frame", sender="server")

    with Inside(Reader) as inside:
        assert inside.run(Transcript(), Keys()).note.startswith("DecodeError")


def test_the_bar_on_modules_sees_packages_and_what_is_in_them() -> None:
    assert barred(dict.fromkeys(["secagg.sim", "secagg.sim.work", "secagg.simple", "os"])) == [
        "secagg.sim",
        "secagg.sim.work",
    ]
    assert attack_module.BARRED and catalogue.ATTACKS and lab.COLUMNS
