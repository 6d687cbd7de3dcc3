"""What a secure sum costs under Flower: the order of the measurement, and its table."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from secagg.bench import frameworks, machine, peers

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results" / "frameworks.json"


def made(plain: list[float], ours: list[float], peer: list[float], **more: object):
    """A run of one length."""
    rows = [
        frameworks.Row(
            variant=variant,
            length=10,
            exchanges=1,
            messages=10,
            to_site=1000,
            from_site=2000,
            seconds=seconds,
            cold=None,
        )
        for variant, seconds in zip(
            ("plain", "semi-honest", "secaggplus"), (plain, ours, peer), strict=True
        )
    ]
    run = frameworks.load(COMMITTED)
    return msgspec.structs.replace(run, rows=rows, **more)


def cells(run: frameworks.Run) -> list[list[str]]:
    """The rows of the table of a run of one length."""
    lines = [line for line in frameworks.section(run).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_ratios_are_of_rounds_side_by_side() -> None:
    """A machine that is three times as slow for a while changes seconds and no ratio."""
    run = made([1.0, 3.0, 1.0, 3.0], [4.0, 12.0, 4.0, 12.0], [2.0, 6.0, 2.0, 6.0])
    heads, _, plain, ours, peer = cells(run)
    to_plain, to_peer = heads.index("to no protection"), heads.index("to SecAgg+")
    assert [row[to_plain] for row in (plain, ours, peer)] == [
        "",
        "4.00 (4.00 to 4.00)",
        "2.00 (2.00 to 2.00)",
    ]
    assert [row[to_peer] for row in (plain, ours, peer)] == ["", "2.00 (2.00 to 2.00)", ""]
    assert ours[heads.index("seconds a round")] == "8.00 (4.00 to 12.0)"
    assert ours[heads.index("beyond no protection")] == "6.00 s"


def test_the_text_says_in_which_order_the_variants_ran() -> None:
    times = ([1.0, 2.0],) * 3
    assert "ran one after another." in frameworks.section(made(*times, turns=0))
    assert "ran in 5 turns." in frameworks.section(made(*times, turns=5))


def test_a_busy_machine_is_named() -> None:
    times = ([1.0, 2.0],) * 3
    where = frameworks.load(COMMITTED).machine
    quiet = msgspec.structs.replace(where, load=[0.1, 0.1, 0.1], cores=2)
    loud = msgspec.structs.replace(where, load=[4.0, 0.1, 0.1], cores=2)
    assert "Beware" not in frameworks.section(made(*times, machine=quiet))
    assert "a load of 4 on 2 cores" in frameworks.section(made(*times, machine=loud))


def test_variants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant has a part of each turn, and the seconds stay in the order of the turns."""
    order = []

    def timed(variant: str, length: int, rounds: int) -> tuple[list[float], list[float]]:
        turn = order.count((variant, length))
        order.append((variant, length))
        cold = [] if variant == frameworks.PEER else [turn + 0.5]
        return cold, [float(turn)] * rounds

    def counted(variant: str, length: int) -> frameworks.Row:
        row = frameworks.load(COMMITTED).rows[0]
        return msgspec.structs.replace(row, variant=variant, length=length)

    monkeypatch.setattr(frameworks, "_timed", timed)
    monkeypatch.setattr(frameworks, "_counted", counted)
    rows = list(frameworks.measure([10, 20], rounds=12))
    turn = list(frameworks.VARIANTS)
    assert [variant for variant, length in order if length == 10] == turn * frameworks.TURNS
    assert [length for _, length in order] == [10] * 20 + [20] * 20
    assert [(row.variant, row.length) for row in rows] == [(v, d) for d in (10, 20) for v in turn]
    for row in rows:
        assert row.seconds == sorted(row.seconds)
        assert len(row.seconds) == 12
        assert set(row.seconds) == set(map(float, range(frameworks.TURNS)))
        assert row.cold == (None if row.variant == frameworks.PEER else 2.5)
    # Fewer rounds than turns: one round in each.
    assert [len(row.seconds) for row in frameworks.measure([10], rounds=3)] == [3] * 4


@pytest.mark.slow
@pytest.mark.skipif(bool(peers.missing("flwr")), reason=peers.missing("flwr"))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_measurement(tmp_path: Path) -> None:
    said: list[str] = []
    out = tmp_path / "frameworks.json"
    frameworks.main(["--length", "100", "--rounds", "2", "--out", str(out)], say=said.append)
    run = frameworks.load(out)
    assert (run.turns, run.flower) == (2, machine.installed("flwr"))
    assert [row.variant for row in run.rows] == list(frameworks.VARIANTS)
    assert [row.exchanges for row in run.rows] == [1, 2, 3, 4]
    assert [row.messages for row in run.rows] == [10, 20, 30, 40]
    for row in run.rows:
        assert len(row.seconds) == 2
        assert min(row.seconds) > 0
    assert said[-1] == frameworks.section(run)


def test_quartiles_need_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        frameworks.main(["--rounds", "1", "--out", str(tmp_path / "out.json")])
    assert "--rounds must be 2 or more" in capsys.readouterr().err
