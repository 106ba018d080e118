"""A study as files: its table (CSV), and a panel a setting over load and temperature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from zoogen.errors import StorageError
from zoogen.report.axes import Grid
from zoogen.report.canvas import facets_of, head_line, place, save, stem, style
from zoogen.report.panels import Panel, label_axes, metric_panel, phase_legend, phase_panel
from zoogen.studies.run import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In inches: the phases to the left with their legend below, two rows of panels to the right.
_ROWS = 2
_SIDE, _STEP, _PITCH = 1.75, 2.12, 2.5
_HEIGHT, _RIGHT = 6.4, 5.75
_MAIN = (0.95, 2.4, 3.1, 3.1)
_LEGEND = (0.15, 0.1, 4.9, 1.7)


def write_study(study: Study, out: Path | str) -> list[Path]:
    """Write ``NAME.csv`` and, where load and temperature are known, ``NAME*.png`` and ``.svg``.

    Raises:
        ConfigError: if matplotlib is missing, or cells of one facet share a place.
        StorageError: if the directory can't be written.
    """
    folder = Path(out)
    figures = study_diagrams(study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table = folder / f"{study.name}.csv"
        study.table.to_csv(table, index=False, float_format="%.6g")
        paths = [path for name, figure in figures.items() for path in save(figure, folder / name)]
    except OSError as error:
        raise StorageError(
            f"study: {folder} can't be written: {error.strerror}; choose another --out"
        ) from None
    return [table, *paths]


def study_diagrams(study: Study) -> dict[str, Figure]:
    """One figure per combination of the facets' values.

    Returns:
        File stem → figure: phases, the accuracy compared with, and the gain at each setting.
        Empty where the zoo names no load or no temperature.
    """
    load, temperature = study.report.load, study.report.temperature
    if load is None or temperature is None:
        return {}
    with style():
        return {
            stem(study.name, words): _figure(study, Grid.of(cells, load, temperature), words)
            for words, cells in facets_of(replace(study.report, cells=_with_results(study)))
        }


def _with_results(study: Study) -> pd.DataFrame:
    """The cells with their reference and, as text of the setting, their gains."""
    by_cell = study.table.groupby("cell")["reference"].first()
    cells = study.report.cells.assign(reference=by_cell)
    for setting in study.settings:
        rows = study.table[study.table["setting"] == setting]
        cells[f"gain {setting}"] = rows.set_index("cell")["gain"] * 100  # points
    return cells


def _panels(study: Study, cells: pd.DataFrame) -> list[Panel]:
    panels = [Panel("reference", "Accuracy compared with", "%", "percent")]
    for setting in study.settings:
        title = f"Gain: {study.kind.setting.format(setting)}"
        panels.append(Panel(f"gain {setting}", title, "points of test accuracy", "centred"))
    return [panel for panel in panels if np.isfinite(cells[panel.metric]).any()]


def _figure(study: Study, grid: Grid, facet: list[str]) -> Figure:
    from matplotlib.figure import Figure

    panels = _panels(study, grid.cells)
    columns = max(1, -(-len(panels) // _ROWS))
    figure = Figure(figsize=(_RIGHT + columns * _PITCH, _HEIGHT))
    _title(figure, study, grid.cells, facet)
    phase_panel(place(figure, *_MAIN), grid)
    phase_legend(place(figure, *_LEGEND), grid.cells, study.report.rule)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        left, bottom = _RIGHT + column * _PITCH, _MAIN[1] + _MAIN[3] - _SIDE - row * _STEP
        axes = place(figure, left, bottom, _SIDE, _SIDE)
        metric_panel(axes, place(figure, left + _SIDE + 0.06, bottom, 0.11, _SIDE), grid, panel)
        label_axes(axes, grid, bottom=number + columns >= len(panels), left=column == 0)
    return figure


def _title(figure: Figure, study: Study, cells: pd.DataFrame, facet: list[str]) -> None:
    errors = study.table.loc[study.table["cell"].isin(cells.index), "gain_stderr"].dropna() * 100
    facts = [study.kind.definition, f"{study.diverged} diverged members left out"]
    if len(errors):
        facts.append(f"standard error of a gain: median {errors.median():.2g} points")
    head_line(figure, ", ".join([f"{study.report.name}: {study.name}", *facet]), facts)
