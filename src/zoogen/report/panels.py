"""Panels: the cells as coloured squares over load and temperature, by phase or by one metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from zoogen.phases import PHASES
from zoogen.report.axes import Grid, boundary_segments, value_text
from zoogen.report.data import PHASE_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008), *Color universal design*: told apart by colour-blind readers too.
COLOURS = {
    "I": "#D55E00", "II": "#E69F00", "III": "#0072B2", "IV-A": "#56B4E9", "IV-B": "#009E73",
    "boundary": "#E8E8E8", "failed": "#4D4D4D", "unlabelled": "#FFFFFF",
}  # fmt: skip
INK = {"I": "white", "III": "white", "IV-B": "white", "failed": "white"}
MARKS = {"boundary": "?", "failed": "×", "unlabelled": "–"}
CERTAIN = 0.9  # cells below this confidence, or without one, carry a dot
DOT: dict[str, Any] = {
    "marker": "o", "markersize": 3.2, "markerfacecolor": "white", "markeredgecolor": "black",
    "markeredgewidth": 0.6, "linestyle": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """How one metric is drawn.

    Attributes:
        metric: column of the cells.
        title: over the panel.
        unit: beside its colour bar.
        scale: ``linear``; ``percent`` (a share, times 100); ``magnitude`` (logarithm of the
            absolute value, with a mark on negative cells; in curves signed, linear about 0);
            ``centred`` (diverging about 0).
    """

    metric: str
    title: str
    unit: str
    scale: Literal["linear", "percent", "magnitude", "centred"] = "linear"


PANELS = (
    Panel("train_loss", "Train loss", "nats, log scale", "magnitude"),
    Panel("train_accuracy", "Train accuracy", "%", "percent"),
    Panel("test_accuracy", "Test accuracy", "%", "percent"),
    Panel("generalisation_gap", "Generalisation gap", "points of accuracy", "percent"),
    Panel("hessian_trace", "Hessian trace", "|trace|, log scale", "magnitude"),
    Panel("hessian_top", "Top Hessian eigenvalue", "|λ|, log scale", "magnitude"),
    Panel("mode_connectivity", "Mode connectivity", "points of train error", "centred"),
    Panel("cka", "CKA of logits", "similarity, 0 to 1"),
    Panel("weight_norm", "Weight norm", "ℓ2 norm, log scale", "magnitude"),
)


def _frame(axes: Axes, grid: Grid, ticks: int) -> None:
    """Limits, ticks (about so many at most) and phase boundaries that all panels share."""
    from matplotlib.collections import LineCollection

    labels = grid.phases()
    rows, columns = labels.shape
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
    axes.patch.set(hatch="xxxx", edgecolor="#D0D0D0")  # shows where nothing was measured
    for axis, (_, values) in ((axes.xaxis, grid.load), (axes.yaxis, grid.temperature)):
        step = -(-len(values) // ticks)
        axis.set_ticks(range(0, len(values), step), [value_text(v) for v in values[::step]])
        axis.set_tick_params(length=2, pad=2)
    if max(len(value_text(v)) for v in grid.load[1]) > 4:
        axes.tick_params(axis="x", labelrotation=45)
    segments: Any = boundary_segments(labels)
    # Black on white: visible on dark and on light cells.
    for colour, width in (("white", 2.2), ("black", 1.1)):
        lines = LineCollection(segments, colors=colour, linewidths=width, capstyle="projecting")
        axes.add_collection(lines, autolim=False)


def label_axes(axes: Axes, grid: Grid, bottom: bool, left: bool) -> None:
    """Name the axes of a panel at the bottom and at the left; others go without numbers."""
    load, temperature = grid.load[0], grid.temperature[0]
    if bottom:
        axes.set_xlabel("\n".join(filter(None, [load.label, load.arrow])))
    if left:
        axes.set_ylabel("\n".join(filter(None, [temperature.arrow, temperature.label])))
    axes.tick_params(labelbottom=bottom, labelleft=left)


def phase_panel(axes: Axes, grid: Grid) -> None:
    """Draw the phase of every cell, with a dot where it is not certain."""
    from matplotlib.patches import Rectangle

    large = max(len(grid.load[1]), len(grid.temperature[1])) > 12
    labels = grid.phases()
    for row, column in np.argwhere(grid.borrowed):
        corner, fill = (column - 0.5, row - 0.5), phase_fill(labels[row, column])
        axes.add_patch(Rectangle(corner, 1, 1, facecolor="white", linewidth=0))
        axes.add_patch(Rectangle(corner, 1, 1, **fill | {"alpha": 0.4, "linewidth": 0}))
    for row, column, phase, confidence in grid.cells[
        ["row", "column", "phase", "confidence"]
    ].itertuples(index=False):
        box = Rectangle((column - 0.5, row - 0.5), 1, 1, **phase_fill(phase))
        axes.add_patch(box)
        if not large:
            mark, ink = MARKS.get(phase, phase), INK.get(phase, "black")
            axes.text(column, row, mark, ha="center", va="center", color=ink, size=8)
        if phase in PHASES and not confidence >= CERTAIN:  # NaN: too few pairs to tell
            axes.plot(column + 0.34, row + 0.32, **DOT)
    axes.set_title("Phase", weight="bold")
    _frame(axes, grid, ticks=12)
    label_axes(axes, grid, bottom=True, left=True)


def phase_fill(phase: str) -> dict[str, Any]:
    """How the square of a phase looks."""
    dark = phase in PHASES or phase == "failed"
    return {
        "facecolor": COLOURS[phase],
        "edgecolor": "white" if dark else "#9A9A9A",
        "hatch": "////" if phase == "boundary" else None,
        "linewidth": 0.4,
    }


def phase_legend(axes: Axes, cells: pd.DataFrame, rule: Sequence[str]) -> None:
    """What the colours mean, how many cells each has, and the rule that gave them."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    counts = cells["phase"].value_counts()
    shown = [name for name in PHASE_NAMES if name in PHASES or name in counts]
    entries: list[Any] = [
        Patch(**phase_fill(name), label=f"{name}  {PHASE_NAMES[name]} ({counts.get(name, 0)})")
        for name in shown
    ]
    entries.append(Line2D([], [], **DOT, label=f"confidence below {CERTAIN:g}, or none"))
    axes.axis("off")
    axes.legend(
        handles=entries, ncols=2, loc="upper left", bbox_to_anchor=(0, 1), frameon=False,
        borderpad=0, borderaxespad=0, handlelength=1.4, handleheight=1.2, columnspacing=1.2,
        title="cells per phase", title_fontsize=8, alignment="left",
    )  # fmt: skip
    axes.text(
        0, 0, "\n".join(rule), transform=axes.transAxes, size=7.5,
        color="#444444", va="bottom", linespacing=1.4,
    )  # fmt: skip


def metric_panel(axes: Axes, colours_beside: Axes, grid: Grid, panel: Panel) -> None:
    """Draw a metric over the cells, its colour bar on ``colours_beside``."""
    factor = 100.0 if panel.scale == "percent" else 1.0
    values = grid.layout(panel.metric, np.nan).astype(float) * factor
    # Diverged and collapsed nets would take up the whole scale; they lie beyond its ends.
    trained = np.where(grid.phases() == "failed", np.nan, values)
    norm, colours = _colours(trained if np.isfinite(trained).any() else values, panel.scale)
    shown = np.abs(values) if panel.scale == "magnitude" else values
    rows, columns = values.shape
    mesh = axes.pcolormesh(
        np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(shown), norm=norm, cmap=colours,
    )  # fmt: skip
    bar = axes.figure.colorbar(mesh, cax=colours_beside, extend=_beyond(shown, norm))
    if panel.scale == "magnitude":
        _log_ticks(bar)
    bar.set_label(panel.unit, size=7, labelpad=2)
    bar.ax.tick_params(length=2, pad=1)
    bar.outline.set_linewidth(0.4)
    axes.set_title(panel.title)
    _frame(axes, grid, ticks=8)
    if panel.scale == "magnitude":
        for row, column in np.argwhere((values < 0) & ~grid.borrowed):
            axes.text(column, row, "−", ha="center", va="center", color="white", weight="bold")


def _colours(values: Float[np.ndarray, "row column"], scale: str) -> tuple[Any, str]:
    """Norm and colour map; both maps are perceptually even and safe for colour-blind readers."""
    from matplotlib.colors import CenteredNorm, LogNorm, Normalize

    finite = values[np.isfinite(values)]
    if scale == "centred":
        return CenteredNorm(0, halfrange=max(np.abs(finite).max(), 1e-12)), "PuOr_r"
    if scale == "magnitude" and (finite != 0).any():
        sizes = np.abs(finite[finite != 0])
        return LogNorm(sizes.min(), max(sizes.max(), sizes.min() * 1.01)), "cividis"
    return Normalize(finite.min(), max(finite.max(), finite.min() + 1e-9)), "viridis"


def _log_ticks(bar: Any) -> None:
    """Powers of ten, or 1, 2, 5 where there are fewer than two of them, in short numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decades = np.log10(bar.norm.vmax / bar.norm.vmin)
    bar.locator = LogLocator(subs=(1.0,) if decades >= 2 else (1.0, 2.0, 5.0), numticks=7)
    bar.formatter = FuncFormatter(lambda value, _: short(value))
    bar.update_ticks()
    bar.ax.yaxis.set_minor_formatter(NullFormatter())


def short(value: float) -> str:
    """A tick label of at most six characters.

    Example:
        >>> short(0.0), short(0.02), short(-30), short(1e5), short(2e-12)
        ('0', '0.02', '−30', '1e5', '2e−12')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:g}".replace("-", "−")
    digits, exponent = f"{value:.0e}".split("e")
    return f"{digits}e{int(exponent)}".replace("-", "−")


def _beyond(values: Float[np.ndarray, "row column"], norm: Any) -> str:
    """Which ends of a colour bar are pointed, because cells lie beyond them."""
    low, high = bool(np.nanmin(values) < norm.vmin), bool(np.nanmax(values) > norm.vmax)
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[low, high]
