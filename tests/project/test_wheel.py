"""The wheel: built, installed outside the clone, and used from there."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ROUND = """
import pathlib, sys, numpy as np, secagg, secagg_native, secagg_protocols
for module in (secagg, secagg_native, secagg_protocols):
    assert pathlib.Path(sys.argv[1]).resolve() not in pathlib.Path(module.__file__).parents, module
roster, identities = secagg.Roster.generate(["north", "south", "east"])
plan = secagg.Plan.recommend(
    roster, length=3, stages=(secagg.Integers(0, 9),), threat="malicious-server",
    colluding=1, max_dropouts=0, min_honest=2,
)
vectors = {name: np.arange(3) for name in roster.names}
print(secagg.aggregate(plan, vectors, identities=identities).sum.tolist())
"""


@pytest.mark.slow
def test_one_round_from_an_installed_wheel(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    packages = {name for name in names if not name.endswith(".dist-info")}
    assert packages == {"secagg", "secagg_native", "secagg_protocols"}
    files = zipfile.ZipFile(wheel).namelist()
    assert {f"{name}/py.typed" for name in packages} <= set(files)
    assert not [name for name in files if "/specs/" in name or "/vectors/" in name]
    # The wheel is installed by pip; its dependencies are borrowed from this environment by a path
    # file, so that the test needs no index.
    home = tmp_path / "env"
    venv.create(home, with_pip=True, symlinks=True)
    subprocess.run(
        [home / "bin" / "python", "-m", "pip", "install", "--no-deps", "--no-index", "-q", wheel],
        cwd=tmp_path,
        check=True,
    )
    (site,) = (home / "lib").glob("python*/site-packages")
    borrowed = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    (site / "zz_borrowed.pth").write_text(f"{borrowed}\n")
    version = subprocess.run(
        [home / "bin" / "secagg", "--version"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert version.stdout.strip()
    done = subprocess.run(
        [home / "bin" / "python", "-c", ROUND, str(ROOT)],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0, 3, 6]"
