"""A study as files: its table (CSV), a panel a setting over load and temperature, and curves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from zoogen.errors import StorageError
from zoogen.report.axes import Grid
from zoogen.report.canvas import GREY, facets_of, head_line, place, save, stem, style
from zoogen.report.panels import (
    COLOURS,
    DOT,
    Panel,
    label_axes,
    metric_panel,
    phase_legend,
    phase_panel,
)
from zoogen.store.disk import put_file
from zoogen.studies.run import Study, gains_by_phase

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In inches: the phases to the left with their legend below, rows of pictures to the right.
_SIDE, _STEP, _PITCH = 1.75, 2.12, 2.5
_TOP, _FOOT, _RIGHT = 0.9, 0.5, 5.75
_ASIDE = 0.45  # room for the numbers of curves
_PHASES, _LEGEND = 3.1, 1.7

_LINES = {"boundary": "#9A9A9A", "unlabelled": "#C8C8C8"}  # in place of too light ones
_CURVE: dict[str, Any] = {
    "capsize": 2, "marker": "o", "markersize": 3, "linewidth": 1.2, "elinewidth": 0.8,
}  # fmt: skip


def write_study(study: Study, out: Path | str) -> list[Path]:
    """Write ``NAME.csv`` and, where load and temperature are known, ``NAME*.png`` and ``.svg``.

    Raises:
        ConfigError: if matplotlib is missing, or cells of one facet share a place.
        StorageError: if the directory can't be written.
    """
    folder = Path(out)
    table = folder / f"{study.name}.csv"
    try:
        # First, so that hours of training are not lost for want of a drawing.
        put_file(table, study.table.to_csv(index=False, float_format="%.6g").encode())
        figures = study_diagrams(study).items()
        paths = [path for name, figure in figures for path in save(figure, folder / name)]
    except OSError as error:
        raise StorageError(
            f"study: {folder} can't be written: {error.strerror}; choose another --out"
        ) from None
    return [table, *paths]


def study_diagrams(study: Study) -> dict[str, Figure]:
    """One figure per combination of the facets' values.

    Returns:
        File stem → figure: phases, the accuracy compared with, the gain at each setting, and the
        mean gain of each phase with its standard error.
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
    """The cells with a column for every variant, quantity and setting; gains in points."""
    columns = {}
    for (variant, setting), rows in study.table.groupby(["variant", "setting"], sort=False):
        values = rows.set_index("cell")
        columns[_column(variant, "reference")] = values["reference"]  # of the last setting
        columns[_column(variant, "accuracy", setting)] = values["accuracy"]
        columns[_column(variant, "gain", setting)] = values["gain"] * 100
        columns[_column(variant, "error", setting)] = values["gain_stderr"] * 100
    return study.report.cells.assign(**columns)


def _column(variant: str, quantity: str, setting: object = "") -> str:
    return f"{variant}/{quantity}/{setting}"


@dataclass(frozen=True)
class _Gain:
    """A panel of gains, and the column of their errors."""

    panel: Panel
    error: str


@dataclass(frozen=True)
class _Curves:
    """The gains of a variant over its settings, a curve a phase."""

    variant: str


_Picture = Panel | _Gain | _Curves


def _layout(study: Study, cells: pd.DataFrame) -> list[list[_Picture]]:
    """Rows of pictures: a variant a row, or at most two rows where there is one variant."""
    rows = [_gains(study, variant, cells) for variant in study.variants]
    if len(rows) > 1:
        return rows
    if study.kind.accuracy:
        return [_accuracies(study, cells), *rows]
    if len(rows[0]) <= 3:
        return rows
    half = -(-len(rows[0]) // 2)
    return [rows[0][:half], rows[0][half:]]


def _gains(study: Study, variant: str, cells: pd.DataFrame) -> list[_Picture]:
    """What a variant is compared with, its gains at each setting, and curves of them."""
    reference = _column(variant, "reference")
    head = f"{variant.capitalize()}: " if variant else ""
    title = f"{head}compared with" if head else "Accuracy compared with"
    row: list[_Picture] = [Panel(reference, title, "% test accuracy", "percent")]
    for setting in study.settings:
        gain, error = (_column(variant, name, setting) for name in ("gain", "error"))
        if gain in cells and np.isfinite(cells[gain]).any():
            title = (head or "Gain: ") + study.kind.setting.format(setting)
            row.append(_Gain(Panel(gain, title, "points of test accuracy", "centred"), error))
    return [*row, _Curves(variant)]


def _accuracies(study: Study, cells: pd.DataFrame) -> list[_Picture]:
    names = {setting: _column("", "accuracy", setting) for setting in study.settings}
    return [
        Panel(name, f"Accuracy {study.kind.setting.format(setting)}", "% test accuracy", "percent")
        for setting, name in names.items()
        if np.isfinite(cells[name]).any()
    ]


def _figure(study: Study, grid: Grid, facet: list[str]) -> Figure:
    from matplotlib.figure import Figure

    rows = _layout(study, grid.cells)
    height = max(_TOP + len(rows) * _STEP + _FOOT, _TOP + _PHASES + 0.8 + _LEGEND)
    figure = Figure(figsize=(_RIGHT + max(map(len, rows)) * _PITCH, height))
    _title(figure, study, grid.cells, facet)
    phase_panel(place(figure, 0.95, height - _TOP - _PHASES, _PHASES, _PHASES), grid)
    phase_legend(place(figure, 0.15, 0.1, 4.9, _LEGEND), grid.cells, study.report.rule)
    for number, row in enumerate(rows):
        bottom = height - _TOP - _SIDE - number * _STEP
        below = rows[number + 1] if number + 1 < len(rows) else []
        for column, picture in enumerate(row):
            lowest = column >= len(below)
            corner = (_RIGHT + column * _PITCH, bottom)
            _draw(figure, corner, study, grid, picture, (lowest, column == 0))
    return figure


def _draw(
    figure: Figure,
    corner: tuple[float, float],
    study: Study,
    grid: Grid,
    picture: _Picture,
    labelled: tuple[bool, bool],
) -> None:
    """Draw a picture at a place in inches, its axes named below and at the left if asked."""
    left, bottom = corner
    if isinstance(picture, _Curves):
        axes = place(figure, left + _ASIDE, bottom, _SIDE, _SIDE)
        _gain_curves(axes, study, picture.variant, grid.cells)
        axes.tick_params(labelbottom=labelled[0])
        return
    axes = place(figure, left, bottom, _SIDE, _SIDE)
    bar = place(figure, left + _SIDE + 0.06, bottom, 0.11, _SIDE)
    panel = picture.panel if isinstance(picture, _Gain) else picture
    metric_panel(axes, bar, grid, panel)
    label_axes(axes, grid, *labelled)
    if isinstance(picture, _Gain):
        small = grid.cells[panel.metric].abs() < 2 * grid.cells[picture.error]
        axes.plot(grid.cells.loc[small, "column"], grid.cells.loc[small, "row"], **DOT)


def _gain_curves(axes: Axes, study: Study, variant: str, cells: pd.DataFrame) -> None:
    """Mean gain of the cells of each phase, with its standard error over the cells."""
    table = study.table[study.table["variant"] == variant]
    table = gains_by_phase(table[table["cell"].isin(cells.index)])
    settings = list(dict.fromkeys(table["setting"]))
    phases = [phase for phase in COLOURS if phase in set(table["phase"])]
    axes.axhline(0, color=GREY, linewidth=0.6)
    for number, phase in enumerate(phases):
        line = table[table["phase"] == phase].set_index("setting").reindex(settings)
        aside = 0.08 * (number - (len(phases) - 1) / 2)  # so that error bars do not hide each other
        axes.errorbar(
            np.arange(len(settings)) + aside, 100 * line["mean"], 100 * line["error"],
            color=_LINES.get(phase, COLOURS[phase]),
            **_CURVE,
        )  # fmt: skip
    words = [study.kind.setting.format(setting) for setting in settings]
    axes.set_xticks(range(len(settings)), words, rotation=30, ha="right")
    axes.set_title(f"{variant.capitalize()}: gain by phase" if variant else "Gain by phase")
    axes.set_ylabel("points, mean of the cells", size=7, labelpad=1)


def _title(figure: Figure, study: Study, cells: pd.DataFrame, facet: list[str]) -> None:
    errors = study.table.loc[study.table["cell"].isin(cells.index), "gain_stderr"].dropna() * 100
    facts = [study.kind.definition, f"{study.diverged} diverged members left out"]
    if len(errors):
        facts.append(f"standard error of a gain: median {errors.median():.2g} points")
        width, height = figure.get_size_inches()
        note = "○ on a gain: within two standard errors of zero; curves: the colours of phases"
        figure.text(_RIGHT / width, 0.12 / height, note, size=7.5, color=GREY)
    head_line(figure, ", ".join([f"{study.report.name}: {study.name}", *facet]), facts)
