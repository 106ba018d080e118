"""Phase diagrams: a figure of panels over load and temperature, one per facet, as PNG and SVG."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from zoogen.errors import ConfigError
from zoogen.report.axes import Grid
from zoogen.report.data import ReportData
from zoogen.report.panels import PANELS, label_axes, metric_panel, phase_legend, phase_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.6,
}


def phase_diagrams(data: ReportData) -> dict[str, Figure]:
    """Draw one figure per combination of the facets' values.

    Returns:
        File stem → figure: a large panel of phases beside one panel per metric of
        :data:`PANELS` that was measured, all over load (horizontal) and temperature.
        Empty where the zoo names no load or no temperature.

    Raises:
        ConfigError: if matplotlib is missing, or cells of one facet share a place.
    """
    load, temperature = data.load, data.temperature
    if load is None or temperature is None:
        return {}
    try:
        import matplotlib
    except ImportError:
        raise ConfigError(
            "phase diagram: matplotlib is missing; install it with `pip install 'zoogen[plot]'`"
        ) from None
    with matplotlib.rc_context(_STYLE):
        return {
            "-".join(["phase_diagram", *map(_slug, titles)]): _diagram(
                data, Grid.of(cells, load, temperature), titles
            )
            for titles, cells in _facets(data)
        }


# Geometry of a figure in inches: the phases to the left with their legend below, squares of
# metrics to the right.
_ROWS = 3
_SIDE, _STEP, _PITCH = 1.75, 2.12, 2.5
_HEIGHT = 7.5
_MAIN = (0.95, 2.5, 4.1, 4.18)
_LEGEND = (0.15, 0.1, 4.9, 1.76)
_RIGHT = 6.05


def _facets(data: ReportData) -> Iterator[tuple[list[str], pd.DataFrame]]:
    keys = [axis.key for axis in data.facets]
    if not keys:
        yield [], data.cells
        return
    for values, cells in data.cells.groupby(keys, dropna=False):
        pairs = zip(data.facets, values, strict=True)
        # In full: figures of values that only later digits tell apart would share title and file.
        yield [f"{axis.name} {value}" for axis, value in pairs], cells


def _slug(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text)


def _diagram(data: ReportData, grid: Grid, facet: list[str]) -> Figure:
    from matplotlib.figure import Figure

    cells = grid.cells
    panels = [p for p in PANELS if p.metric in cells and np.isfinite(cells[p.metric]).any()]
    columns = -(-len(panels) // _ROWS)
    figure = Figure(figsize=(_RIGHT + columns * _PITCH, _HEIGHT))
    _title(figure, data, cells, facet)
    phase_panel(_place(figure, *_MAIN), grid)
    phase_legend(_place(figure, *_LEGEND), cells, data.rule)
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        left, bottom = _RIGHT + column * _PITCH, _MAIN[1] + _MAIN[3] - _SIDE - row * _STEP
        axes = _place(figure, left, bottom, _SIDE, _SIDE)
        bar = _place(figure, left + _SIDE + 0.06, bottom, 0.11, _SIDE)
        metric_panel(axes, bar, grid, panel)
        label_axes(axes, grid, bottom=place + columns >= len(panels), left=column == 0)
    return figure


def _place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches; a layout solver would give other last digits in every run."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _title(figure: Figure, data: ReportData, cells: pd.DataFrame, facet: list[str]) -> None:
    head = f"{data.name}: {data.network} on {data.dataset}"
    members = int(data.members["cell"].isin(cells.index).sum())
    width = figure.get_figwidth()
    facts = [f"{len(cells)} cells, {members} members", "mean over seeds", data.snapshot]
    figure.text(0.15 / width, 0.985, ", ".join([head, *facet]), size=12, weight="bold", va="top")
    figure.text(0.15 / width, 0.95, " · ".join(facts), size=9, color="#444444", va="top")


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes."""
    import matplotlib

    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    # Fixed ids, no date; text stays text.
    with matplotlib.rc_context({"svg.hashsalt": "zoogen", "svg.fonttype": "none"}):
        figure.savefig(paths[0], dpi=150)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths
