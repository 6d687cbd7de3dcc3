"""The commands of the frameworks page, run as a consortium would, and a sum over what they make."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from docs.test_docs import ROOT, blocks

from secagg.integrations.folder import PartyFolder
from secagg.integrations.rounds import Rounds
from secagg.integrations.site import Contribution, SiteDesk
from secagg.session import Slot
from secagg_protocols.errors import MisuseError

NAMES = ["north", "south", "east", "west", "centre"]


def run(block: str, folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = subprocess.run(
        ["/bin/sh", "-e", "-c", block],
        cwd=folder,
        env={**os.environ, "PATH": path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.mark.slow
def test_the_folders_of_a_consortium(tmp_path: Path) -> None:
    own, make, take, more = blocks(ROOT / "docs" / "frameworks.md", "sh")
    coordinator = tmp_path / "coordinator"
    coordinator.mkdir()
    homes = {}
    for name in ["server", *NAMES]:
        home = homes[name] = tmp_path / name
        home.mkdir()
        run(own.replace("north", name), home)
        shutil.copy(home / f"{name}.key.pub", coordinator)
    run(make, coordinator)
    run(more, coordinator)
    compared = set()
    for name, home in homes.items():
        for file in ("roster.toml", "plan.toml"):
            shutil.copy(coordinator / file, home)
        said = run(take.replace("north", name), home)
        assert said.count("✓") == 3  # the policy's settings, which the plan meets
        compared.add(said.splitlines()[0])
        shutil.copy(coordinator / "plan-evaluate.toml", home / name)
    assert len(compared) == 1
    assert_a_swapped_key_is_refused(make, coordinator, tmp_path / "swapped", homes["north"])
    for task, length in (("train", 31), ("evaluate", 2)):
        check_a_sum({name: home / name for name, home in homes.items()}, task, length)


def assert_a_swapped_key_is_refused(
    make: str, coordinator: Path, folder: Path, north: Path
) -> None:
    """A coordinator sends north the true roster, and a plan over one with a key of its own."""
    shutil.copytree(coordinator, folder)
    for file in folder.glob("*.toml"):
        file.unlink()
    run("secagg keygen south --out own.key && cp own.key.pub south.key.pub", folder)
    run(make, folder)
    victim = shutil.copytree(north / "north", folder / "north")
    for name in ("plan.toml", "plan-evaluate.toml"):
        shutil.copy(folder / "plan.toml", victim / name)
    for task in ("train", "evaluate"):
        with pytest.raises(MisuseError) as caught:
            PartyFolder(victim).plan(task)
        assert caught.value.rule == "roster-pinned"


def check_a_sum(folders: Mapping[str, Path], task: str, length: int) -> None:
    server = PartyFolder(folders["server"])
    rounds = Rounds(server.plan(task), identity=server.identity, folder=server, task=task)
    vectors = {name: np.full(length, 0.05 * at) for at, name in enumerate(NAMES)}

    def transport(requests: Mapping[str, bytes], _: Slot) -> Iterator[tuple[str, bytes]]:
        for name, request in requests.items():
            part = Contribution(vectors[name], 10 * (1 + NAMES.index(name)), b"model")
            desk = SiteDesk(folders[name])
            yield name, desk.answer(request, lambda _, part=part: part).reply

    found = rounds.run(b"model", transport, last=True)
    assert found.survivors == tuple(NAMES)
    assert found.weight == 150
    mean = np.average(list(vectors.values()), axis=0, weights=[10, 20, 30, 40, 50])
    assert np.abs(found.mean - mean).max() < 1e-4
