"""Phase diagrams: a figure of panels over load and temperature, one per facet, as PNG and SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zoogen.report.axes import Grid
from zoogen.report.canvas import facets_of, head_line, place, stem, style, title_of
from zoogen.report.data import ReportData
from zoogen.report.panels import PANELS, label_axes, metric_panel, phase_legend, phase_panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


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
    with style():
        return {
            stem("phase_diagram", words): _diagram(data, Grid.of(cells, load, temperature), words)
            for words, cells in facets_of(data)
        }


# Geometry of a figure in inches: the phases to the left with their legend below, squares of
# metrics to the right.
_ROWS = 3
_SIDE, _STEP, _PITCH = 1.75, 2.12, 2.5
_HEIGHT = 7.5
_MAIN = (0.95, 2.5, 4.1, 4.18)
_LEGEND = (0.15, 0.1, 4.9, 1.76)
_RIGHT = 6.05


def _diagram(data: ReportData, grid: Grid, facet: list[str]) -> Figure:
    from matplotlib.figure import Figure

    cells = grid.cells
    panels = [p for p in PANELS if p.metric in cells and np.isfinite(cells[p.metric]).any()]
    columns = -(-len(panels) // _ROWS)
    figure = Figure(figsize=(_RIGHT + columns * _PITCH, _HEIGHT))
    _title(figure, data, cells, facet)
    phase_panel(place(figure, *_MAIN), grid)
    phase_legend(place(figure, *_LEGEND), cells, data.rule)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        left, bottom = _RIGHT + column * _PITCH, _MAIN[1] + _MAIN[3] - _SIDE - row * _STEP
        axes = place(figure, left, bottom, _SIDE, _SIDE)
        bar = place(figure, left + _SIDE + 0.06, bottom, 0.11, _SIDE)
        metric_panel(axes, bar, grid, panel)
        label_axes(axes, grid, bottom=number + columns >= len(panels), left=column == 0)
    return figure


def _title(figure: Figure, data: ReportData, cells: pd.DataFrame, facet: list[str]) -> None:
    members = int(data.members["cell"].isin(cells.index).sum())
    facts = [
        f"{len(cells)} cells, {members} members",
        "mean over all seeds; labels leave failed members out",
        data.snapshot,
    ]
    head_line(figure, title_of(data, facet), facts)
