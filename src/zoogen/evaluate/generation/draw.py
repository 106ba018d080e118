"""Pictures of reports on generators, a panel each: beside held-out members and baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from zoogen.evaluate.generation.conditioning import Conditioned
from zoogen.evaluate.generation.report import Report, over_seeds
from zoogen.evaluate.generation.starts import SCRATCH
from zoogen.report.canvas import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Panel = Callable[["Axes"], None]
Reports = Sequence[Report]

# Okabe & Ito (2008), *Color universal design*, and two of Tol (2021), *Colour schemes*.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933",
)  # fmt: skip
REAL = "#222222"
DASHES = ("--", ":", "-.")
MARKERS = (".", "v", "s", "^", "D", "x", "+", "1")  # of baselines
_DOTS: dict[str, Any] = {"s": 5, "alpha": 0.35, "linewidths": 0}
_START_LINES = {"nearest": "--", SCRATCH: ":"}
_SCALING = {"zu": ("ZU, ideal: 0", 1.0), "novel_yield": ("Yield %, black: held-out", 100.0)}


def panels(reports: Reports) -> list[Panel]:
    """All pictures; what was not measured is left out."""
    every: list[Panel] = [
        partial(of, reports=reports)
        for of in (_accuracies, _plane, _distances, _overlaps, _diversity, _yields, _ensembles)
    ]
    conditioned = [(k, r, c) for k, r in enumerate(reports) for c in r.conditions]
    metrics = dict.fromkeys(found.metric for r in reports for found in r.landscape)
    trained_on = dict.fromkeys(start.data for r in reports for start in r.starts)
    every += [partial(_starts, reports=reports, data=data) for data in trained_on]
    if any(report.scaling for report in reports):
        every += [partial(_scaling, reports=reports, of=of) for of in _SCALING]
    every += [
        partial(_condition, report=r, condition=c, colour=colour_of(k)) for k, r, c in conditioned
    ]
    every += [partial(_landscape, reports=reports, metric=metric) for metric in metrics]
    return every


def colour_of(number: int) -> str:
    """Of a generator, by its place among the reports."""
    return COLOURS[number % len(COLOURS)]


def dash_of(number: int) -> str:
    """Of the line of a baseline, by its place among the curves."""
    return DASHES[number % len(DASHES)]


def marker_of(number: int) -> str:
    """Of the settings of a baseline, by its place among the curves."""
    return MARKERS[number % len(MARKERS)]


def _finite(values: Sequence[float]) -> Float[np.ndarray, " n"]:
    array = np.asarray(values, float)
    return array[np.isfinite(array)]


# ------------------------------------------------------------------------------- good and new
def _accuracies(axes: Axes, reports: Reports) -> None:
    """Every network as a dot, quantiles 10, 50 and 90 % as a bar."""
    rng = np.random.default_rng(0)
    sides = [(reports[0].held_out.accuracy, REAL)]
    sides += [(r.generated.accuracy, colour_of(k)) for k, r in enumerate(reports)]
    for row, (accuracy, colour) in enumerate(sides):
        values = 100 * np.asarray(accuracy)
        axes.scatter(values, row + rng.uniform(-0.3, 0.3, values.size), color=colour, **_DOTS)
        low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
        axes.plot([low, high], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot([middle], [row], "o", color="white", markeredgecolor=colour, markersize=5)
    axes.set_yticks([])  # colours stand in the legend
    axes.invert_yaxis()
    axes.set_title("Accuracy: networks, q10–50–90")
    axes.set_xlabel("test accuracy, %")


def _plane(axes: Axes, reports: Reports) -> None:
    first = reports[0]
    for k, curve in enumerate(first.curves):
        overlap = [point.overlap for point in curve.points]
        accuracy = [100 * point.accuracy for point in curve.points]
        axes.plot(
            overlap, accuracy, color=GREY, linestyle=dash_of(k), marker=marker_of(k), markersize=4,
            linewidth=1,
        )  # fmt: skip
        for point in curve.points if len(curve.points) > 1 else ():
            if math.isfinite(point.overlap):
                at = (point.overlap, 100 * point.accuracy)
                axes.annotate(
                    point.setting, at, xytext=(3, -7), textcoords="offset points", size=6,
                    color=GREY,
                )  # fmt: skip
    real = first.copying.overlap_held_out, 100 * first.real_accuracy.mean
    axes.plot(*real, "*", color=REAL, markersize=11)
    for k, report in enumerate(reports):
        at = report.place.overlap, 100 * report.place.accuracy
        axes.plot(*at, "o", color=colour_of(k), markersize=7, markeredgecolor="white")
    axes.invert_xaxis()
    axes.set_title("Accuracy and novelty: best up right")
    axes.set_xlabel("overlap of wrong predictions with training")
    axes.set_ylabel("mean test accuracy, %")


def _histograms(axes: Axes, reports: Reports, of: str, title: str, words: str) -> None:
    """Held-out members filled, generators as lines; each side has area 1."""
    sides = [_finite(getattr(reports[0].held_out, of))]
    sides += [_finite(getattr(report.generated, of)) for report in reports]
    together = np.concatenate(sides)
    low, high = (together.min(), together.max()) if together.size else (0.0, 1.0)
    bins = np.linspace(low, high if high > low else low + 1, 31)
    for k, values in enumerate(sides):
        kind: dict[str, Any] = {"histtype": "stepfilled", "color": REAL, "alpha": 0.25}
        if k:
            kind = {"histtype": "step", "color": colour_of(k - 1), "linewidth": 1.4}
        if values.size:
            axes.hist(
                values, bins=bins.tolist(), weights=np.full(values.size, 100 / values.size), **kind
            )
    axes.set_title(title)
    axes.set_xlabel(words)
    axes.set_ylabel("% of networks")


def _distances(axes: Axes, reports: Reports) -> None:
    words = "aligned distance ÷ held-out median"
    _histograms(axes, reports, "distance", "Distance to nearest training member", words)
    axes.axvline(reports[0].novelty.gate.distance_ratio, color=GREY, linewidth=0.8, linestyle=":")


def _overlaps(axes: Axes, reports: Reports) -> None:
    words = "largest intersection over union"
    _histograms(axes, reports, "overlap", "Overlap of wrong predictions", words)
    axes.axvline(reports[0].novelty.gate.overlap, color=GREY, linewidth=0.8, linestyle=":")


def _diversity(axes: Axes, reports: Reports) -> None:
    """Ratios to real members about 1, tensor by tensor below."""
    tensors = list(reports[0].diversity.spread_ratio)
    words = ["pair distance", "pair overlap", "rank", *[f"spread {name}" for name in tensors]]
    for k, report in enumerate(reports):
        found = report.diversity
        ratios = [found.distance_ratio, found.overlap_ratio, found.rank_ratio]
        ratios += [found.spread_ratio.get(name, math.nan) for name in tensors]
        axes.plot(ratios, range(len(ratios)), "o", color=colour_of(k), markersize=4, alpha=0.8)
    axes.axvline(1, color=REAL, linewidth=0.8)
    right = max(1.3, axes.get_xlim()[1])
    axes.set_xlim(-0.9 * right, right)  # the left half holds the words
    axes.set_xticks([tick for tick in (0, 0.5, 1, 1.5, 2) if tick <= right])
    axes.axvline(0, color=GREY, linewidth=0.6)
    axes.set_yticks([])
    for row, word in enumerate(words):
        axes.text(-0.87 * right, row, word, size=6, va="center")
    axes.invert_yaxis()
    axes.set_title("Diversity, generated ÷ real")
    axes.set_xlabel("1 is ideal")


def _yields(axes: Axes, reports: Reports) -> None:
    words = ("all three", "distinct", "accurate", "distant", "different")
    width = 0.8 / len(reports)
    for k, report in enumerate(reports):
        found = report.novelty
        gates = found.accurate, found.distant, found.different
        shares = 100 * np.array([found.all, report.distinct.share, *gates])
        axes.bar(np.arange(5) + (k + 0.5) * width - 0.4, shares, width, color=colour_of(k))
    for column, nominal in enumerate((reports[0].novelty.nominal, reports[0].distinct.nominal)):
        axes.plot([column - 0.4, column + 0.4], [100 * nominal] * 2, color=REAL, linewidth=2)
    axes.set_ylim(0, 105)
    axes.set_xticks(range(5), words, size=6)
    axes.set_title("Novelty-gated yield, bar: held-out")
    axes.set_ylabel("% of samples")


def _ensembles(axes: Axes, reports: Reports) -> None:
    for k, report in enumerate(reports):
        for found in report.ensembles:
            if found.source == "real" and k:
                continue
            colour = REAL if found.source == "real" else colour_of(k)
            line = "--" if found.source.startswith("one net") else "-"
            accuracy = 100 * (found.alone + np.array([0, *found.gains]))
            sizes = [1, *found.sizes]
            axes.plot(sizes, accuracy, color=colour, linestyle=line, marker=".", linewidth=1.2)
    axes.set_title("Ensembles, dashed: one net noised")
    axes.set_xlabel("networks in the ensemble")
    axes.set_ylabel("test accuracy, %")


def _starts(axes: Axes, reports: Reports, data: str) -> None:
    """Trained on from samples and from their nearest training members; scratch once."""
    first = next(report for report in reports if report.starts)
    shown = [
        (start, REAL if start.name == SCRATCH else colour_of(k))
        for k, report in enumerate(reports)
        for start in report.starts
        if start.data == data and (start.name != SCRATCH or report is first)
    ]
    for start, colour in shown:
        places = np.arange(len(start.epochs))
        axes.errorbar(
            places, 100 * np.asarray(start.accuracy), 100 * np.asarray(start.deviation),
            color=colour, linestyle=_START_LINES.get(start.name, "-"), marker=".", capsize=2,
            linewidth=1.2,
        )  # fmt: skip
        axes.set_xticks(places, [str(epoch) for epoch in start.epochs])
    axes.set_title(f"Trained on {data}; dashed: nearest, dotted: scratch", size=8)
    axes.set_xlabel("epochs, each point at its best learning rate")
    axes.set_ylabel("test accuracy, %")


def _scaling(axes: Axes, reports: Reports, of: str) -> None:
    """A figure of :class:`SeedResults` from few to many training runs."""
    words, scale = _SCALING[of]
    curves = [(k, report.scaling) for k, report in enumerate(reports) if report.scaling]
    for k, points in curves:
        mean, deviation = scale * np.array([over_seeds(p.by_seed, of) for p in points]).T
        axes.errorbar(
            [point.members for point in points], mean, np.nan_to_num(deviation), color=colour_of(k),
            marker="o", markersize=4, capsize=2, linewidth=1.2,
        )  # fmt: skip
    nominal = {point.members: point.nominal for _, points in curves for point in points}
    members = sorted(nominal)
    real = [scale * nominal[number] if of == "novel_yield" else 0 for number in members]
    axes.plot(members, real, color=REAL, linewidth=1.2)
    axes.set_xscale("log")
    axes.set_title(words)
    axes.set_xlabel("training runs")


def _landscape(axes: Axes, reports: Reports, metric: str) -> None:
    """Held-out members, then each generator in its colour."""
    found = [(k, m) for k, r in enumerate(reports) for m in r.landscape if m.metric == metric]
    sides = [_finite(found[0][1].real), *(_finite(m.generated) for _, m in found)]
    colours = [REAL, *(colour_of(k) for k, _ in found)]
    rng = np.random.default_rng(0)
    for k, (values, colour) in enumerate(zip(sides, colours, strict=True)):
        axes.scatter(k + rng.uniform(-0.25, 0.25, values.size), values, color=colour, **_DOTS)
        if values.size:
            low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
            axes.plot([k, k], [low, high], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot([k], [middle], "o", color="white", markeredgecolor=colour, markersize=5)
    together = np.concatenate(sides)
    if together.size and together.min() > 0 and together.max() > 30 * together.min():
        axes.set_yscale("log")
    axes.set_xlim(-0.6, len(sides) - 0.4)
    axes.set_xticks([])  # colours stand in the legend
    axes.set_title(metric.replace("_", " "))
    axes.set_xlabel("q10–50–90, in the order of the legend", size=7)


# ----------------------------------------------------------------------------- of one generator


def _condition(axes: Axes, report: Report, condition: Conditioned, colour: str) -> None:
    asked, got = np.asarray(condition.requested), np.asarray(condition.achieved)
    if condition.kind == "class":
        names = list(condition.classes)
        counts = np.zeros((len(names), len(names)))
        np.add.at(counts, (asked.astype(int), got.astype(int)), 1)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares.T, origin="lower", cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for i, j in np.ndindex(counts.shape):
            ink = "white" if shares[i, j] > 0.5 else "black"
            axes.text(i, j, f"{counts[i, j]:.0f}", ha="center", va="center", size=7, color=ink)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names, rotation=90, va="center", size=7)
    else:
        axes.scatter(asked, got, color=colour, **_DOTS)
        if asked.size:
            ends = min(asked.min(), got.min()), max(asked.max(), got.max())
            axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=":")
    measure = "agreement" if condition.kind == "class" else "ρ"
    axes.set_title(f"{report.name}: {condition.name}")
    axes.set_xlabel(
        f"requested · {measure} {condition.agreement:.2f}, shuffled ≤ {condition.shuffled_high:.2f}"
    )
    axes.set_ylabel(_achieved(condition))


def _achieved(condition: Conditioned) -> str:
    """How the achieved value came about, and what real members reach by it."""
    if math.isnan(condition.ceiling):
        return "achieved"
    how = "achieved; real:" if condition.by_class else "read from weights, ≤"
    return f"{how} {condition.ceiling:.2f}"
