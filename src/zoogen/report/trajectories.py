"""Trajectories: the course of each metric over training, one line a phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from zoogen.landscape import METRICS, Metric
from zoogen.phases import PHASES
from zoogen.report.canvas import head_line, place, stem, style, title_of
from zoogen.report.data import PHASE_NAMES, ReportData
from zoogen.report.panels import COLOURS, Panel, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COURSES = (
    Panel("train_loss", "Train loss", "nats", "magnitude"),
    Panel("test_accuracy", "Test accuracy", "%", "percent"),
    Panel("hessian_trace", "Hessian trace (signed)", "nats", "magnitude"),
    Panel("hessian_top", "Top Hessian eigenvalue", "nats", "magnitude"),
    Panel("mode_connectivity", "Mode connectivity", "points of train error", "centred"),
    Panel("cka", "CKA of logits", "similarity, 0 to 1"),
    Panel("weight_norm", "Weight norm", "ℓ2 norm", "magnitude"),
    Panel("layer_rotation", "Mean layer rotation", "cosine distance"),
)
_BANDS = (*PHASES, "unlabelled")  # a zoo without seeds has no phases, but it has courses
_LINES = (*_BANDS, "failed")
_COLUMNS = 4
_WIDTH, _HEIGHT, _ACROSS, _DOWN = 1.95, 1.55, 2.62, 2.2


def bands(table: pd.DataFrame, phases: pd.Series) -> pd.DataFrame:
    """Median and quartiles over the members (or pairs) of each phase, at each snapshot.

    Args:
        table: long: ``member`` (of pairs ``other``, too), ``snapshot``, ``epoch``, ``value``.
        phases: phase of each member. A pair counts where both of its members have one phase.

    Returns:
        Rows of ``phase``, ``snapshot``, ``epoch`` (the median), ``low`` (25 %), ``median``,
        ``high`` (75 %) and ``count`` of the finite values, by growing epoch; none without any.

    Example:
        >>> table = pd.DataFrame({"member": ["a", "b", "c"], "snapshot": "end", "epoch": 9.0,
        ...                       "value": [1.0, 2.0, 4.0]})
        >>> rows = bands(table, pd.Series({"a": "I", "b": "I", "c": "I"}))
        >>> rows[["low", "median", "high", "count"]].iloc[0].tolist()
        [1.5, 2.0, 3.0, 3.0]
    """
    phase = table["member"].map(phases)
    counted = np.isfinite(table["value"])
    if "other" in table:
        counted &= phase == table["other"].map(phases)
    groups = table.assign(phase=phase)[counted].groupby(["phase", "snapshot"])
    value = groups["value"]
    rows = {
        "epoch": groups["epoch"].median(), "low": value.quantile(0.25), "median": value.median(),
        "high": value.quantile(0.75), "count": value.size(),
    }  # fmt: skip
    return pd.DataFrame(rows).reset_index().sort_values("epoch", kind="stable", ignore_index=True)


def trajectories(data: ReportData) -> dict[str, Figure]:
    """Draw the course of every metric that was followed.

    Returns:
        File stem → figure: a panel a metric over the epochs, a line a phase. ``trajectories``
        holds :data:`COURSES`, ``trajectories-further`` all other metrics. Empty where no metric
        was followed.

    Raises:
        ConfigError: if matplotlib is missing.
    """
    figures: dict[str, tuple[Panel, ...]] = {
        stem("trajectories", []): COURSES,
        stem("trajectories", ["further"]): _further(),
    }
    courses = {name: _courses(data, panels) for name, panels in figures.items()}
    with style():
        return {name: _figure(data, found) for name, found in courses.items() if found}


def _further() -> tuple[Panel, ...]:
    """A panel a metric that is not in :data:`COURSES`, in the order of the table."""
    shown = {panel.metric for panel in COURSES} | _COMPLEMENTS
    return tuple(
        Panel(m.name, _words(m.name), m.unit, _scale(m))
        for m in METRICS.values()
        if m.name not in shown
    )


def _words(name: str) -> str:
    """A metric's name as a title.

    Example:
        >>> _words("layer_cka_debiased")
        'Layer CKA debiased'
    """
    words = name.replace("_", " ").replace("cka", "CKA")
    return words[0].upper() + words[1:]


_COMPLEMENTS = {"train_error", "test_error"}  # of the accuracies


def _scale(metric: Metric) -> Literal["linear", "magnitude", "centred"]:
    if metric.high is None:
        return "magnitude"
    return "centred" if metric.low is not None and metric.low < 0 else "linear"


def _courses(data: ReportData, panels: Sequence[Panel]) -> list[tuple[Panel, pd.DataFrame]]:
    """The panels whose metrics were followed, with the lines to draw."""
    phases = data.members["phase"]
    return [
        (panel, rows)
        for panel in panels
        if panel.metric in data.trajectories
        and not (rows := _drawn(bands(data.trajectories[panel.metric], phases))).empty
    ]


def _drawn(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["phase"].isin(_LINES)]


def _figure(data: ReportData, courses: list[tuple[Panel, pd.DataFrame]]) -> Figure:
    from matplotlib.figure import Figure

    lines = -(-len(courses) // _COLUMNS)
    height = 1.2 + lines * _DOWN
    figure = Figure(figsize=(0.2 + _COLUMNS * _ACROSS, height))
    facts = [
        "line: median over the members or pairs of a phase", "band: 25–75 %",
        "phase at the end of training", *_hidden(data.members["phase"]),
    ]  # fmt: skip
    head_line(figure, title_of(data, []), facts)
    for number, (panel, rows) in enumerate(courses):
        line, column = divmod(number, _COLUMNS)
        left, bottom = 0.72 + column * _ACROSS, height - 0.88 - _HEIGHT - line * _DOWN
        axes = place(figure, left, bottom, _WIDTH, _HEIGHT)
        _course(axes, panel, rows)
        _time_axis(axes, rows["epoch"].to_numpy(), _annealing(data))
        if number + _COLUMNS >= len(courses):
            axes.set_xlabel(_time_label(rows["epoch"].to_numpy()))
    _legend(place(figure, 0.15, 0.08, _COLUMNS * _ACROSS, 0.5), data, bool(_annealing(data)))
    return figure


def _hidden(phases: pd.Series) -> list[str]:
    """How many members belong to no line, in words."""
    count = int((~phases.isin(_LINES)).sum())
    return [f"{count} members without a clear phase not drawn"] if count else []


def _course(axes: Axes, panel: Panel, rows: pd.DataFrame) -> None:
    """Draw one metric: lines with bands, on a scale that suits it."""
    factor = 100.0 if panel.scale == "percent" else 1.0
    for name in _LINES:
        line = rows[rows["phase"] == name]
        low, median, high = (line[column] * factor for column in ("low", "median", "high"))
        axes.plot(line["epoch"], median, **_line(name))
        if name in _BANDS:
            axes.fill_between(line["epoch"], low, high, color=_colour(name), alpha=0.2, lw=0)
    axes.set_title(panel.title)
    axes.set_ylabel(panel.unit, labelpad=2)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2, pad=2)
    if panel.scale == "magnitude":
        _signed_log(axes, rows[["low", "median", "high"]].to_numpy())
    if panel.scale == "centred":
        axes.axhline(0, color="black", linewidth=0.6)


def _line(name: str) -> dict[str, Any]:
    """How the line of a phase looks."""
    dashes = {"linestyle": (0, (3, 1.5)), "linewidth": 1.0} if name == "failed" else {}
    return {"color": _colour(name), "linewidth": 1.5, "marker": "o", "markersize": 2.6} | dashes


def _colour(name: str) -> str:
    """Of a phase as in the diagrams; what has none is white there, and a line can't be."""
    return "#808080" if name == "unlabelled" else COLOURS[name]


def _signed_log(axes: Axes, values: np.ndarray) -> None:
    """A logarithmic axis; linear about zero where values have both signs or are zero."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    sizes = np.abs(values[values != 0])
    if not sizes.size or (values.min() > 0 and sizes.max() < 10 * sizes.min()):
        return
    if values.min() > 0:
        axes.set_yscale("log")
    else:
        floor = 10.0 ** np.floor(np.log10(np.quantile(sizes, 0.1)))
        axes.set_yscale("symlog", linthresh=floor, linscale=0.5)
        axes.axhline(0, color="black", linewidth=0.6)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _first(epochs: np.ndarray) -> float:
    """Where the logarithmic part of the time axis begins; 0 if all of it is linear."""
    later = epochs[epochs > 0]
    return float(later.min()) if later.size and later.max() >= 8 * later.min() else 0.0


def _time_label(epochs: np.ndarray) -> str:
    first = _first(epochs)
    return f"epoch (log scale from {short(first)} on)" if first else "epoch"


def _time_axis(axes: Axes, epochs: np.ndarray, annealing: list[float]) -> None:
    """Epochs from 0 on, with a mark where the learning rate falls."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    first = _first(epochs)
    if first:
        axes.set_xscale("symlog", linthresh=first, linscale=0.4)
        axes.xaxis.set_minor_locator(NullLocator())
    shift = axes.xaxis.get_transform().transform
    times = np.unique(epochs)
    ends = shift(np.array([times[0], times[-1]]))
    axes.xaxis.set_major_locator(FixedLocator(spaced(times, shift(times))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    room = 0.03 * (ends[1] - ends[0]) or 1.0
    axes.set_xlim(
        *axes.xaxis.get_transform().inverted().transform([ends[0] - room, ends[1] + room])
    )
    for epoch in annealing:
        axes.axvline(epoch, color="#808080", linewidth=0.8, linestyle=":", zorder=0.5)


def spaced(values: np.ndarray, places: np.ndarray, least: float = 0.1) -> list[float]:
    """The values whose places lie apart by a share of the whole; first and last among them.

    Example:
        >>> spaced(np.array([0, 1, 50, 99, 100]), np.array([0, 1, 50, 99, 100]))
        [0.0, 50.0, 100.0]
    """
    gap = least * (places[-1] - places[0])
    kept = [0]
    for i in range(1, len(values) - 1):
        if places[i] - places[kept[-1]] >= gap and places[-1] - places[i] >= gap:
            kept.append(i)
    return [float(values[i]) for i in dict.fromkeys([*kept, len(values) - 1])]


def _annealing(data: ReportData) -> list[float]:
    """Epochs of the snapshot ``anneal``; several where cohorts anneal at different times."""
    table = next(iter(data.trajectories.values()))
    epochs = table.loc[table["snapshot"] == "anneal", "epoch"]
    return [float(f"{epoch:.3g}") for epoch in sorted(set(epochs))]


def _legend(axes: Axes, data: ReportData, anneals: bool) -> None:
    """What the lines mean and how many members each has."""
    from matplotlib.lines import Line2D

    counts = data.members["phase"].value_counts()
    entries = [
        Line2D([], [], **_line(name), label=f"{name}  {PHASE_NAMES[name]} ({counts[name]} members)")
        for name in _LINES
        if name in counts
    ]
    if anneals:
        entries.append(Line2D([], [], color="#808080", lw=0.8, ls=":", label="annealing begins"))
    axes.axis("off")
    axes.legend(
        handles=entries, ncols=4, loc="center", frameon=False, handlelength=2.2, columnspacing=1.6
    )
