"""What an attack is run against, and the laboratory that a scene works in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import ClassVar, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from .attack import Attack, Evidence, Keys, Transcript, encode
from .finding import Finding, Verdict

Effort = Literal["quick", "full"]
Ints = npt.NDArray[np.int64]


class Study:
    """What the sites of a clinical scenario put in: int64[sites, coordinates]."""

    def __init__(self, vectors: Ints) -> None:
        self.vectors = vectors
        #: Whether a scene took them as they are, reduced them into its range, or never asked.
        self.use = "data of its own, not the study's"

    @property
    def counts(self) -> bool:
        """Whether they are counts."""
        return bool((self.vectors >= 0).all())

    def take(self, n: int, length: int, most: int) -> Ints:
        """Vectors of ``n`` sites within 0..most. More sites or coordinates than there are begin
        again at the first; values outside the range are reduced into it."""
        rows = np.resize(self.vectors, (n, self.vectors.shape[1]))
        cut = np.stack([np.resize(row, length) for row in rows])
        reduced: Ints = np.mod(cut, most + 1)
        self.use = "what the study's sites put in"
        if reduced.shape != self.vectors.shape:
            self.use += f", as {n} sites with {length} coordinates each"
        if not np.array_equal(reduced, cut):
            self.use += f", reduced into 0..{most}"
        return reduced


_NO_KEYS: Final = Keys()


class Runner(Protocol):
    """Runs an attack on a transcript."""

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """What the attack makes of it."""


class Lab:
    """One cell: an attack on a protocol, with a seed. Everything seeded follows from it."""

    def __init__(
        self,
        runner: Runner,
        *,
        attack: str,
        column: str,
        effort: Effort = "quick",
        seed: int = 0,
        study: Study | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.effort, self.seed, self.column = effort, seed, column
        self._runner, self._attack = runner, attack
        self.study, self._progress = study, progress
        self._seen = hashlib.sha256()
        #: Transcripts that the attack was given.
        self.given = 0

    @property
    def full(self) -> bool:
        """Whether this is the full run."""
        return self.effort == "full"

    def trials(self, quick: int, full: int) -> int:
        """How often, by effort."""
        return full if self.full else quick

    def digest(self, *label: object) -> bytes:
        """32 bytes that follow from seed, attack, column and label."""
        what = repr((self.seed, self._attack, self.column, *label))
        return hashlib.sha256(what.encode()).digest()

    def rng(self, *label: object) -> np.random.Generator:
        """A generator that follows from seed, attack, column and label."""
        return np.random.Generator(np.random.PCG64(int.from_bytes(self.digest(*label), "little")))

    def attack(self, transcript: Transcript, keys: Keys = _NO_KEYS) -> Evidence:
        """Run the attack on what its adversary has, in the cell's process."""
        self.given += 1
        self._seen.update(hashlib.sha256(encode(transcript)).digest())
        return self._runner.run(transcript, keys)

    def inputs(self, n: int, length: int, most: int, *label: object) -> Ints:
        """Vectors of ``n`` sites, int64[n, length] within 0..most.

        They follow from the seed; in a clinical scenario they are what its sites put in.
        """
        if self.study is not None:
            return self.study.take(n, length, most)
        rng = self.rng("inputs", n, length, most, *label)
        return rng.integers(0, most, size=(n, length), endpoint=True, dtype=np.int64)

    def step(self, done: int, total: int) -> None:
        """Tell how far the cell is."""
        if self._progress is not None:
            self._progress(done, total)

    @property
    def seen(self) -> str:
        """SHA-256 over all transcripts that the attack was given, in hexadecimal."""
        return self._seen.hexdigest()


class Scene:
    """The parties of an attack, its controls, the truth, and the judgement."""

    attack: ClassVar[type[Attack]]
    #: By column: the verdict that is expected, or why the attack does not apply to it.
    expected: ClassVar[Mapping[str, Verdict | str]]

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Run the attack and its controls in one column, and judge what came of it."""
        raise NotImplementedError


__all__ = ["Effort", "Ints", "Lab", "Runner", "Scene", "Study"]
