"""Orthogonal matching pursuit: vectors as sums of few known ones, many vectors at a time.

Pati, Rezaiifar and Krishnaprasad, Asilomar 1993. Sets that were found are then made as small as
the tolerance allows, since a greedy choice may have taken what is not needed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def decompose(
    targets: Floats, atoms: Floats, *, tolerance: float, most: int = 8
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Write each target as a sum of at most ``most`` atoms.

    targets: float64[targets, length]; atoms: float64[atoms, length]; tolerance: norm of what may
    be left of a target. Gives float64[targets, atoms], zero for an atom that is not needed, and
    for each target whether it is explained; the coefficients of the others are zero.
    """
    count = len(targets)
    coefficients = np.zeros((count, len(atoms)))
    explained = np.zeros(count, dtype=bool)
    if not len(atoms) or not count:
        return coefficients, explained
    lengths = np.linalg.norm(atoms, axis=1)
    unit = atoms / lengths[:, None]
    gram = unit @ unit.T
    open_ = np.arange(count)
    left = targets.copy()
    chosen = np.zeros((count, 0), dtype=np.int64)
    for _ in range(min(most, len(atoms))):
        score = np.abs(left @ unit.T)
        np.put_along_axis(score, chosen, -1.0, axis=1)
        chosen = np.concatenate([chosen, score.argmax(axis=1)[:, None]], axis=1)
        found, left = _fit(targets[open_], unit, gram, chosen)
        done = np.linalg.norm(left, axis=1) <= tolerance
        for row in np.flatnonzero(done):
            least, values = _least(targets[open_[row]], atoms, chosen[row], found[row], tolerance)
            coefficients[open_[row], least] = values
        explained[open_[done]] = True
        open_, left, chosen = open_[~done], left[~done], chosen[~done]
        if not len(open_):
            break
    return coefficients, explained


def _fit(
    targets: Floats, unit: Floats, gram: Floats, chosen: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Least squares of each target on its own atoms, and what is left."""
    matrix = gram[chosen[:, :, None], chosen[:, None, :]]
    # Atoms that depend on each other would make the system singular.
    matrix = matrix + 1e-13 * np.eye(chosen.shape[1])
    basis = unit[chosen]
    found = np.zeros(chosen.shape)
    left = targets.copy()
    # The second pass removes what the squared condition cost the first.
    for _ in range(2):
        right = np.einsum("nkd,nd->nk", basis, left)
        found += np.linalg.solve(matrix, right[:, :, None])[:, :, 0]
        left = targets - np.einsum("nk,nkd->nd", found, basis)
    return found, left


def _least(
    target: Floats,
    atoms: Floats,
    chosen: npt.NDArray[np.int64],
    found: Floats,
    tolerance: float,
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Leave out atoms, smallest part first, as long as the rest still explains the target."""
    kept = chosen[np.argsort(-np.abs(found))]
    values: Floats = np.linalg.lstsq(atoms[kept].T, target, rcond=None)[0].astype(np.float64)
    while len(kept) > 1:
        fewer = np.delete(kept, np.abs(values * np.linalg.norm(atoms[kept], axis=1)).argmin())
        other: Floats = np.linalg.lstsq(atoms[fewer].T, target, rcond=None)[0].astype(np.float64)
        if np.linalg.norm(target - other @ atoms[fewer]) > tolerance:
            break
        kept, values = fewer, other
    return kept, values


__all__ = ["decompose"]
