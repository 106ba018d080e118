"""Cuts: what decides the phase, along one row and one column of the diagram, with error bars."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from zoogen.phases import PHASES
from zoogen.report.axes import Axis, Grid, value_text
from zoogen.report.canvas import GREY, facets_of, head_line, place, stem, style, title_of
from zoogen.report.data import PHASE_NAMES, ReportData
from zoogen.report.panels import CERTAIN, DOT, INK, MARKS, Panel, phase_fill, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORDER_PARAMETERS = (
    Panel("train_error", "Train error", "%, log scale from 1 on", "magnitude"),
    Panel("mode_connectivity", "Mode connectivity", "points of train error"),
    Panel("cka", "CKA of logits", "similarity, 0 to 1"),
)
_WIDTH, _HEIGHT, _STRIP, _ACROSS, _DOWN = 3.6, 1.35, 0.32, 4.45, 1.5


def mean_and_error(table: pd.DataFrame) -> pd.DataFrame:
    """Mean of each cell and its standard error, by leaving out one seed after the other.

    A seed takes all of its pairs with it: pairs that share a member are not independent. For
    metrics of single members this is the ordinary standard error of the mean.

    Args:
        table: rows of ``cell``, ``member`` (of pairs ``other``, too), ``value``.

    Returns:
        ``mean`` and ``error`` of the finite values, indexed by cell; the error is NaN where
        leaving out a seed leaves nothing.

    Reference:
        Efron & Stein, 1981, *The jackknife estimate of variance*.

    Example:
        >>> table = pd.DataFrame({"cell": "x", "member": ["a", "b"], "value": [1.0, 3.0]})
        >>> mean_and_error(table).loc["x"].tolist()
        [2.0, 1.0]
    """
    finite = table[np.isfinite(table["value"])]
    rows = {cell: (part["value"].mean(), _jackknife(part)) for cell, part in finite.groupby("cell")}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "error"])


def _jackknife(part: pd.DataFrame) -> float:
    owners = part[["member", *part.columns.intersection(["other"])]].to_numpy()
    values, seeds = part["value"].to_numpy(), pd.unique(owners.ravel())
    kept = [(owners != seed).all(axis=1) for seed in seeds]
    if not all(mask.any() for mask in kept):
        return float("nan")
    means = np.array([values[mask].mean() for mask in kept])
    return float(np.sqrt((len(seeds) - 1) * means.var()))


@dataclass(frozen=True, eq=False)
class Cut:
    """Cells along one axis of a grid.

    Attributes:
        axis: the one along which the cells lie.
        values: all values of that axis.
        across: the other axis.
        at: its value.
        cells: rows of the grid's cells, with their ``place`` among ``values``.
    """

    axis: Axis
    values: list[Any]
    across: Axis
    at: Any
    cells: pd.DataFrame


def cuts_of(grid: Grid) -> tuple[Cut, Cut]:
    """The cut along the load at one temperature, and the other way round.

    Of all rows (columns) the one that crosses most boundaries of phases; of equal ones that
    with most cells, as a refined grid has rows of few cells, then that nearest the middle.
    """
    (load, across), (temperature, up) = grid.load, grid.temperature
    row = _telling(grid.cells, "row", "column", len(up))
    column = _telling(grid.cells, "column", "row", len(across))
    level = grid.cells[grid.cells["row"] == row].rename(columns={"column": "place"})
    upright = grid.cells[grid.cells["column"] == column].rename(columns={"row": "place"})
    return (
        Cut(load, across, temperature, up[row], level.sort_values("place")),
        Cut(temperature, up, load, across[column], upright.sort_values("place")),
    )


def _telling(cells: pd.DataFrame, across: str, along: str, size: int) -> int:
    """The row (or column) whose cells tell most; see :func:`cuts_of`."""

    def rank(place: int) -> tuple[int, int, int]:
        line = cells[cells[across] == place].sort_values(along)["phase"].tolist()
        known = [phase for phase in line if phase in (*PHASES, "boundary")]
        changes = sum(one != other for one, other in pairwise(known))
        return (-changes, -len(line), abs(place - size // 2))

    return min(range(size), key=rank)


def cuts(data: ReportData) -> dict[str, Figure]:
    """Draw one figure per combination of the facets' values.

    Returns:
        File stem → figure: order parameters along the load (left) and the temperature (right),
        under a strip of phases. Empty where the zoo names no load or no temperature, or none of
        :data:`ORDER_PARAMETERS` was measured.

    Raises:
        ConfigError: if matplotlib is missing, or cells of one facet share a place.
    """
    load, temperature = data.load, data.temperature
    measured = _measured(data)
    if load is None or temperature is None or not measured:
        return {}
    with style():
        return {
            stem("cut", words): _figure(
                data, words, cuts_of(Grid.of(cells, load, temperature)), measured
            )
            for words, cells in facets_of(data)
        }


def _measured(data: ReportData) -> list[tuple[Panel, pd.DataFrame]]:
    """Order parameters with their values at the end of training."""
    tables = []
    for panel in ORDER_PARAMETERS:
        table = data.trajectories.get(panel.metric)
        if table is not None:
            last = table["epoch"] == table.groupby("cell")["epoch"].transform("max")
            tables.append((panel, table[last]))
    return [(panel, table) for panel, table in tables if np.isfinite(table["value"]).any()]


def _figure(
    data: ReportData,
    facet: list[str],
    both: tuple[Cut, Cut],
    measured: list[tuple[Panel, pd.DataFrame]],
) -> Figure:
    from matplotlib.figure import Figure

    height = 2.45 + len(measured) * _DOWN
    figure = Figure(figsize=(0.45 + 2 * _ACROSS, height))
    facts = ["mean ± standard error over seeds", data.snapshot, "dashed: thresholds of the rule"]
    head_line(figure, title_of(data, facet), facts)
    rows: list[list[Axes]] = [[] for _ in measured]
    for number, cut in enumerate(both):
        left, top = 0.8 + number * _ACROSS, height - 0.85
        strip = place(figure, left, top - _STRIP, _WIDTH, _STRIP)
        _strip(strip, cut)
        for line, (panel, table) in enumerate(measured):
            bottom = top - _STRIP - 0.12 - _HEIGHT - line * _DOWN
            axes = place(figure, left, bottom, _WIDTH, _HEIGHT)
            _points(axes, cut, table)
            _rule(axes, panel, data)
            _name_places(axes, cut, shown=line == len(measured) - 1)
            rows[line].append(axes)
    for axes_of_row, (panel, _) in zip(rows, measured, strict=True):
        _same_scale(axes_of_row, panel)
    _legend(place(figure, 0.15, 0.08, 2 * _ACROSS, 0.42), both)
    return figure


def _same_scale(row: list[Axes], panel: Panel) -> None:
    """Give both panels of a row one scale, named at the left."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    limits = np.array([axes.get_ylim() for axes in row])
    row[0].set_ylabel(f"{panel.title}\n({panel.unit})")
    for axes in row:
        axes.locator_params(axis="y", nbins=5)
        axes.set_ylim(limits.min(), limits.max())
        axes.yaxis.set_label_coords(-0.115, 0.5)
        if panel.scale == "magnitude":
            axes.set_yscale("symlog", linthresh=1, linscale=0.6)
            axes.set_ylim(-0.25, 150)  # percent, with room for a mark at 100
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            axes.yaxis.set_minor_locator(NullLocator())


def _legend(axes: Axes, both: tuple[Cut, Cut]) -> None:
    """What the phases are, and the mark of those that are not certain."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    found = {phase for cut in both for phase in cut.cells["phase"]}
    entries: list[Any] = [
        Patch(**phase_fill(name), label=f"{name}  {PHASE_NAMES[name]}")
        for name in PHASE_NAMES
        if name in found
    ]
    entries.append(Line2D([], [], **DOT, label=f"confidence below {CERTAIN:g}, or none"))
    axes.axis("off")
    axes.legend(handles=entries, ncols=4, loc="center", frameon=False, handlelength=1.4)


def _strip(axes: Axes, cut: Cut) -> None:
    """Draw the phase of every cell along a cut."""
    from matplotlib.patches import Rectangle

    columns = cut.cells[["place", "phase", "confidence"]]
    for spot, phase, confidence in columns.itertuples(index=False):
        axes.add_patch(Rectangle((spot - 0.5, 0), 1, 1, **phase_fill(phase)))
        if len(cut.values) <= 12:
            mark, ink = MARKS.get(phase, phase), INK.get(phase, "black")
            axes.text(spot, 0.48, mark, ha="center", va="center", color=ink, size=8)
        if phase in PHASES and not confidence >= CERTAIN:
            axes.plot(spot + 0.38, 0.76, **DOT)
    axes.set(xlim=(-0.5, len(cut.values) - 0.5), ylim=(0, 1), xticks=[], yticks=[])
    axes.set_title(f"along {cut.axis.name} at {cut.across.name} {value_text(cut.at)}")


def _points(axes: Axes, cut: Cut, table: pd.DataFrame) -> None:
    """Draw means with error bars, coloured by phase."""
    along = table[table["cell"].isin(cut.cells.index)]
    found = cut.cells.join(mean_and_error(along), how="inner").sort_values("place")
    axes.plot(found["place"], found["mean"], color="#A0A0A0", linewidth=0.9, zorder=2)
    for _, cell in found.iterrows():
        fill = phase_fill(cell["phase"])["facecolor"]
        axes.errorbar(
            cell["place"], cell["mean"], yerr=cell["error"], fmt="o", markersize=5,
            markerfacecolor=fill, markeredgecolor="black", markeredgewidth=0.6,
            ecolor="black", elinewidth=0.9, capsize=2.5, capthick=0.9, zorder=3,
        )  # fmt: skip
    _changes(axes, cut)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.5)
    axes.set_axisbelow(True)


def _changes(axes: Axes, cut: Cut) -> None:
    """Lines between neighbours of different phases."""
    spots, phases = cut.cells["place"].to_numpy(), cut.cells["phase"].to_numpy()
    for i in np.flatnonzero((phases[1:] != phases[:-1]) & (np.diff(spots) == 1)):
        axes.axvline(spots[i] + 0.5, color="black", linewidth=0.7, zorder=1)


def _rule(axes: Axes, panel: Panel, data: ReportData) -> None:
    for name, value in data.thresholds.items():
        if name.startswith(panel.metric):
            axes.axhline(value, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1.5)


def _name_places(axes: Axes, cut: Cut, shown: bool) -> None:
    """Ticks at the cells; values and the name of the axis below the last panel only."""
    step = -(-len(cut.values) // 12)
    texts = [value_text(value) for value in cut.values[::step]]
    axes.set_xlim(-0.5, len(cut.values) - 0.5)
    axes.set_xticks(range(0, len(cut.values), step), texts)
    axes.tick_params(length=2, pad=2, labelbottom=shown)
    if len(texts) * max(map(len, texts)) > 60:
        axes.tick_params(axis="x", labelrotation=45)
    if shown:
        axes.set_xlabel("\n".join(filter(None, [cut.axis.label, cut.axis.arrow])))
