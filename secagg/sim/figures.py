"""Figures of the demonstrations, as PNG (or any suffix that matplotlib writes).

Drawn on a canvas of their own: pyplot and its global state are never touched. matplotlib is loaded
on the first figure. Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secagg.sim.summing import Array
from secagg.sim.survival import Survival
from secagg.sim.training import Training, TrainingReference

if TYPE_CHECKING:
    from secagg.sim.private import PrivateTraining

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def survival_figure(result: Survival, reference: Survival, path: Path) -> None:
    """Survival by sex in days with its band, the pooled curve dashed, and their difference below.

    A curve ends with its last patient at risk. Tables under the days give the number at risk.
    """
    figure = _figure(8.0, 7.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    pairs = zip(result.kaplan_meier.curves, reference.kaplan_meier.curves, strict=True)
    ticks = np.arange(0, 1101, 100)
    labels = [f"{day}" for day in ticks]
    for (ours, pooled), colour in zip(pairs, (BLUE, ORANGE), strict=True):
        end = int(np.flatnonzero(ours.at_risk)[-1]) + 1
        days = np.arange(end)
        name = f"{ours.group}, secure sum (median {ours.median} days)"
        upper.step(days, ours.survival[:end], where="post", color=colour, lw=1.8, label=name)
        band = (ours.lower[:end], ours.upper[:end])
        upper.fill_between(days, *band, step="post", color=colour, alpha=0.15, lw=0)
        dashed = {"color": "black", "lw": 0.9, "ls": (0, (4, 3))}
        label = "pooled patients" if colour == ORANGE else None
        upper.step(days, pooled.survival[:end], where="post", label=label, **dashed)
        difference = ours.survival[:end] - pooled.survival[:end]
        lower.step(days, difference, where="post", color=colour, lw=1.0)
        at_risk = [int(ours.at_risk[day]) for day in ticks]
        labels = [f"{label}\n{count}" for label, count in zip(labels, at_risk, strict=True)]
    test, sites = result.kaplan_meier.log_rank, len(result.kaplan_meier.survivors)
    upper.set_title(
        f"NCCTG lung cancer, {sites} institutions: Kaplan-Meier from summed counts\n"
        f"log-rank p = {test.p_value:.4f}. Every step is a day on which somebody died.",
        fontsize=11,
    )
    upper.set_ylabel("fraction surviving (95 % band)")
    upper.set_ylim(0, 1.02)
    upper.legend(frameon=False)
    largest = max(float(np.abs(line.get_ydata()).max()) for line in lower.lines)
    scale = max(largest, 1e-15) * 1.3
    lower.set_ylim(-scale, scale)
    lower.set_ylabel("secure − pooled")
    groups = ", then ".join(curve.group for curve in result.kaplan_meier.curves)
    lower.set_xticks(ticks, labels)
    lower.set_xlim(0, 1100)
    lower.set_xlabel(f"days since enrolment (below: {groups} still at risk)")
    for axes in (upper, lower):
        _plain(axes)
    _save(figure, path)


def forest_figure(result: Survival, reference: Survival, path: Path) -> None:
    """Cox hazard ratios with 95 % intervals, secure beside pooled, on a logarithmic axis."""
    figure = _figure(8.0, 3.6)
    axes = figure.subplots()
    cox = result.cox
    rows = np.arange(len(cox.names))[::-1]
    for fit, colour, marker, shift, name in (
        (cox, BLUE, "o", 0.12, "secure sum of gradients and Hessians"),
        (reference.cox, "black", "s", -0.12, "pooled patients (lifelines, strata)"),
    ):
        ratio, low, high = fit.hazard_ratios().T
        axes.errorbar(
            ratio, rows + shift, xerr=[ratio - low, high - ratio], fmt=marker, color=colour,
            capsize=3, ms=6, lw=1.4, label=name,
        )  # fmt: skip
    for row, (ratio, low, high) in zip(rows, cox.hazard_ratios(), strict=True):
        text = f"{ratio:.2f} ({low:.2f} to {high:.2f})"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center")
    axes.axvline(1.0, color=GREY, lw=1.0, ls=":")
    axes.set_xscale("log")
    ticks = [0.4, 0.5, 0.7, 1.0, 1.4, 2.0, 2.5]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(rows, cox.names)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("hazard ratio of death (below 1: lives longer), 95 % interval")
    axes.set_title(
        f"Cox regression stratified by {len(cox.survivors)} institutions, {cox.rounds} secure sums",
        fontsize=11,
    )
    _plain(axes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    _save(figure, path)


def training_figure(result: Training, reference: TrainingReference, path: Path) -> None:
    """AUC on the held-out set per round, secure, plain and centralised; below, who took part."""
    figure = _figure(8.0, 5.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    numbers = [entry.number for entry in result.rounds]
    secure = [entry.auc for entry in result.rounds]
    upper.plot(numbers, secure, color=BLUE, marker="o", lw=1.8, ms=7, label="secure averaging")
    upper.plot(
        numbers, reference.plain, color=ORANGE, marker="x", ls="--", lw=1.2, ms=6,
        label=f"plain averaging (largest difference {reference.gap:.1g})",
    )  # fmt: skip
    label = f"centralised logistic regression ({reference.centralised:.4f})"
    upper.axhline(reference.centralised, color=GREEN, ls=":", lw=1.8, label=label)
    upper.set_ylabel("AUC on held-out tumours")
    upper.set_title(
        f"Wisconsin breast cancer: federated logistic regression, {len(numbers)} rounds",
        fontsize=11,
    )
    upper.legend(frameon=False, loc="lower right")
    sites = [len(entry.survivors) for entry in result.rounds]
    bars = lower.bar(numbers, sites, color=BLUE, alpha=0.5, width=0.6)
    lower.bar_label(bars, fontsize=9)
    lower.set_ylim(0, max(sites) * 1.3)
    lower.set_ylabel("sites in the sum")
    lower.set_xlabel("round")
    from matplotlib.ticker import MaxNLocator

    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (upper, lower):
        _plain(axes)
    _save(figure, path)


def private_figure(results: Sequence[PrivateTraining], path: Path) -> None:
    """AUC and log loss per round at each epsilon against no noise; below, epsilon spent.

    Without noise is a curve for each set of survivors that there was, dashed.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(8.0, 8.0)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 2])
    upper, middle, lower = panels
    plain = {tuple(entry.survivors for entry in r.rounds): r for r in results}
    for place, result in enumerate(plain.values()):
        numbers = [entry.number for entry in result.rounds]
        dashed = {"color": "black", "lw": 1.2, "ls": (0, (4, 3)), "marker": ".", "zorder": 3}
        name = None if place else "no noise"
        upper.plot(numbers, [e.auc_without for e in result.rounds], label=name, **dashed)
        middle.plot(numbers, [e.loss_without for e in result.rounds], **dashed)
    colours = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
    for place, result in enumerate(results):
        numbers = [entry.number for entry in result.rounds]
        look = {"color": colours[place % len(colours)], "marker": "o", "lw": 1.6, "ms": 5}
        name = rf"$\varepsilon$ = {result.epsilon:g} (last AUC {result.auc:.3f})"
        upper.plot(numbers, [entry.auc for entry in result.rounds], label=name, **look)
        middle.plot(numbers, [entry.loss for entry in result.rounds], **look)
        lower.plot(numbers, [entry.epsilon_spent for entry in result.rounds], **look)
        lower.axhline(result.epsilon, color=look["color"], ls=":", lw=1.2)
    first = results[0]
    sites = sorted({len(entry.survivors) for r in results for entry in r.rounds})
    among = f"{sites[0]}" if len(sites) == 1 else f"{sites[0]} to {sites[-1]}"
    upper.set_title(
        f"Wisconsin breast cancer with noise: {among} sites in a sum, clip {first.clip:g}, "
        rf"$\delta$ = {first.delta:g}" + f"\n{first.mechanism}, {first.adjacency}, "
        f"against the {first.adversary}",
        fontsize=11,
    )
    upper.set_ylabel("AUC on held-out tumours")
    upper.legend(frameon=False, loc="lower right")
    middle.set_ylabel("log loss")
    middle.set_ylim(bottom=0)
    lower.set_ylabel(r"$\varepsilon$ spent (dotted: budget)")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("round")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels:
        _plain(axes)
    _save(figure, path)


def histogram_figure(
    words: Array, values: Array, path: Path, *, bits: int = 64, site: str = "one site"
) -> None:
    """What the server saw of one site, beside the truth that it did not see.

    words: unsigned integers below 2^bits, the masked vector; values: the same coordinates before
    masking. The dashed line is the count that uniform words give in each bin.
    """
    figure = _figure(9.0, 3.8)
    left, right = figure.subplots(1, 2)
    # A power of two divides 2^bits, so that every bin holds as many words.
    bins = 2 ** int(np.log2(np.clip(words.size // 40, 8, 64)))
    scaled = words.astype(np.float64) / 2.0**bits
    left.hist(scaled, bins=bins, range=(0.0, 1.0), color=BLUE, alpha=0.75)
    left.axhline(words.size / bins, color="black", ls="--", lw=1.0, label="uniform")
    left.set_xlim(0, 1)
    left.set_xlabel(rf"masked word, as a fraction of $2^{{{bits}}}$")
    left.set_title(f"What the server saw of {site}", fontsize=11)
    left.legend(frameon=True, framealpha=0.9, loc="lower right")
    true = values.astype(np.float64)
    whole = bool(np.issubdtype(values.dtype, np.integer) and np.ptp(true) <= 20)
    edges = np.arange(true.min() - 0.5, true.max() + 1.0) if whole else bins
    heights, _, bars = right.hist(true, bins=edges, color=ORANGE, alpha=0.85, rwidth=0.9)
    if whole:
        right.set_xticks(np.arange(true.min(), true.max() + 1.0))
        right.bar_label(bars, fmt="{:,.0f}", fontsize=9)
    if heights.max() > 50:
        # Most counts are zero; on a linear axis the few others could not be seen.
        right.set_yscale("log")
        right.set_ylim(0.5, heights.max() * 3)
        right.yaxis.set_major_formatter("{x:,.0f}")
    right.set_xlabel("true value")
    right.set_title("What it did not see: the true values", fontsize=11)
    left.set_ylabel("coordinates")
    right.set_ylabel("coordinates")
    for axes in (left, right):
        _plain(axes)
    _save(figure, path)
