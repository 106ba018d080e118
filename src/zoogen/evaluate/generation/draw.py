"""One page of pictures: reports on generators beside held-out members and the noise curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from zoogen.evaluate.generation.conditioning import Conditioned
from zoogen.evaluate.generation.report import Landscape, Report
from zoogen.evaluate.generation.table import cost_rows
from zoogen.report.canvas import GREY, head_line, place, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = Callable[["Axes"], None]
Reports = Sequence[Report]

# In inches.
_COLUMNS, _SIDE, _ACROSS, _DOWN = 4, 2.3, 3.1, 3.0
_LEFT, _TOP = 0.75, 1.15
_COST, _UNDER = 0.2, 0.3  # height of a line of the cost table, and of what is around it

# Okabe & Ito (2008), *Color universal design*.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
REAL = "#222222"
DASHES = ("--", ":", "-.")
_DOTS: dict[str, Any] = {"s": 5, "alpha": 0.35, "linewidths": 0}


def page(reports: Reports) -> Figure:
    """All pictures; what was not measured is left out.

    Raises:
        ConfigError: if matplotlib is missing.
    """
    with style():
        from matplotlib.figure import Figure

        panels, costs = _panels(reports), cost_rows(reports)
        rows = math.ceil(len(panels) / _COLUMNS)
        foot = _COST * len(costs) + _UNDER if len(costs) > 1 else 0.0
        width = _LEFT + _COLUMNS * _ACROSS
        height = _TOP + rows * _DOWN + foot
        figure = Figure(figsize=(width, height))
        _head(figure, reports)
        for number, panel in enumerate(panels):
            row, column = divmod(number, _COLUMNS)
            bottom = height - _TOP - row * _DOWN - _SIDE
            panel(place(figure, _LEFT + column * _ACROSS, bottom, _SIDE, _SIDE))
        if foot:
            _cost_table(place(figure, _LEFT, 0.15, width - 2 * _LEFT, foot - _UNDER), costs)
        return figure


def _panels(reports: Reports) -> list[Panel]:
    every: list[Panel] = [
        partial(of, reports=reports)
        for of in (_accuracies, _plane, _distances, _overlaps, _diversity, _yields, _ensembles)
    ]
    conditioned = [(r, c) for r in reports for c in r.conditions]
    measured = [(r, metric) for r in reports for metric in r.landscape]
    every += [partial(_starts, report=r) for r in reports if r.starts]
    every += [partial(_condition, report=r, condition=c) for r, c in conditioned]
    every += [partial(_landscape, report=r, metric=metric) for r, metric in measured]
    return every


def _head(figure: Figure, reports: Reports) -> None:
    from matplotlib.lines import Line2D

    first = reports[0]
    names = ", ".join(report.name for report in reports)
    facts = [
        f"{len(first.held_out.accuracy)} held-out members",
        *(f"{r.name}: {r.samples} samples, {len(r.by_seed)} seeds" for r in reports),
    ]
    head_line(figure, f"Generated weights: {names}", facts)
    handles = [Line2D([], [], color=REAL, label="held-out members", linewidth=2)]
    handles += [
        Line2D([], [], color=_colour(k), label=report.name, linewidth=2)
        for k, report in enumerate(reports)
    ]
    handles += [
        Line2D([], [], color=GREY, linestyle=_dash(k), marker=".", label=f"baseline: {curve.name}")
        for k, curve in enumerate(first.curves)
    ]
    height = figure.get_size_inches()[1]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.01, 1 - 0.55 / height), ncols=8,
        frameon=False, fontsize=8, borderpad=0,
    )  # fmt: skip


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _dash(number: int) -> str:
    return DASHES[number % len(DASHES)]


def _finite(values: Sequence[float]) -> Float[np.ndarray, " n"]:
    array = np.asarray(values, float)
    return array[np.isfinite(array)]


# ------------------------------------------------------------------------------- good and new
def _accuracies(axes: Axes, reports: Reports) -> None:
    """Every network as a dot, quantiles 10, 50 and 90 % as a bar."""
    rng = np.random.default_rng(0)
    sides = [(reports[0].held_out.accuracy, REAL)]
    sides += [(r.generated.accuracy, _colour(k)) for k, r in enumerate(reports)]
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
        axes.plot(overlap, accuracy, color=GREY, linestyle=_dash(k), marker=".", linewidth=1)
        for point in curve.points:
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
        axes.plot(*at, "o", color=_colour(k), markersize=7, markeredgecolor="white")
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
            kind = {"histtype": "step", "color": _colour(k - 1), "linewidth": 1.4}
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
        axes.plot(ratios, range(len(ratios)), "o", color=_colour(k), markersize=4, alpha=0.8)
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
    words = ("all three", "accurate", "distant", "different")
    width = 0.8 / len(reports)
    for k, report in enumerate(reports):
        found = report.novelty
        shares = 100 * np.array([found.all, found.accurate, found.distant, found.different])
        axes.bar(np.arange(4) + (k + 0.5) * width - 0.4, shares, width, color=_colour(k))
    nominal = 100 * reports[0].novelty.nominal
    axes.plot([-0.4, 0.4], [nominal, nominal], color=REAL, linewidth=2)
    axes.set_ylim(0, 105)
    axes.set_xticks(range(4), words)
    axes.set_title("Novelty-gated yield, bar: held-out")
    axes.set_ylabel("% of samples")


def _ensembles(axes: Axes, reports: Reports) -> None:
    for k, report in enumerate(reports):
        for found in report.ensembles:
            if found.source == "real" and k:
                continue
            colour = REAL if found.source == "real" else _colour(k)
            line = "--" if found.source.startswith("one net") else "-"
            accuracy = 100 * (found.alone + np.array([0, *found.gains]))
            sizes = [1, *found.sizes]
            axes.plot(sizes, accuracy, color=colour, linestyle=line, marker=".", linewidth=1.2)
    axes.set_title("Ensembles, dashed: one net noised")
    axes.set_xlabel("networks in the ensemble")
    axes.set_ylabel("test accuracy, %")


# ----------------------------------------------------------------------------- of one generator
def _starts(axes: Axes, report: Report) -> None:
    for k, start in enumerate(report.starts):
        places = np.arange(len(start.epochs))
        axes.errorbar(
            places, 100 * np.asarray(start.accuracy), 100 * np.asarray(start.deviation),
            color=_colour(k), marker=".", capsize=2, linewidth=1.2,
            label=f"{start.name}, rate {start.rate:g}",
        )  # fmt: skip
        axes.set_xticks(places, [str(epoch) for epoch in start.epochs])
    axes.legend(fontsize=6, frameon=False, loc="lower right")
    axes.set_title(f"{report.name}: training from it")
    axes.set_xlabel("epochs")
    axes.set_ylabel("test accuracy, %")


def _condition(axes: Axes, report: Report, condition: Conditioned) -> None:
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
        axes.set_yticks(range(len(names)), names)
    else:
        axes.scatter(asked, got, color=COLOURS[0], **_DOTS)
        if asked.size:
            ends = min(asked.min(), got.min()), max(asked.max(), got.max())
            axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=":")
    measure = "agreement" if condition.kind == "class" else "ρ"
    axes.set_title(f"{report.name}: {condition.name}")
    axes.set_xlabel(
        f"requested · {measure} {condition.agreement:.2f}, shuffled ≤ {condition.shuffled_high:.2f}"
    )
    axes.set_ylabel("achieved")


def _landscape(axes: Axes, report: Report, metric: Landscape) -> None:
    sides = [_finite(metric.real), _finite(metric.generated)]
    axes.boxplot(sides, widths=0.6, showfliers=False, medianprops={"color": COLOURS[1]})
    rng = np.random.default_rng(0)
    for k, (values, colour) in enumerate(zip(sides, (REAL, COLOURS[0]), strict=True)):
        aside = k + 1 + rng.uniform(-0.2, 0.2, values.size)
        axes.scatter(aside, values, color=colour, **_DOTS)
    positive = np.concatenate(sides)
    if positive.size and positive.min() > 0 and positive.max() > 30 * positive.min():
        axes.set_yscale("log")
    axes.set_xticks([1, 2], ["held-out", report.name])
    axes.set_title(metric.metric)


def _cost_table(axes: Axes, rows: list[list[str]]) -> None:
    axes.axis("off")
    axes.set_title("Cost, beside simply training fresh networks", loc="left")
    table = axes.table(rows[1:], colLabels=rows[0], loc="lower left", cellLoc="right")
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for cell in table.get_celld().values():
        cell.set_linewidth(0.3)
