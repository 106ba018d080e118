"""One page of reports on generators: pictures in rows, a legend above and costs below."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from zoogen.evaluate.generation.draw import (
    REAL,
    Reports,
    colour_of,
    dash_of,
    marker_of,
    panels,
)
from zoogen.evaluate.generation.report import Report
from zoogen.evaluate.generation.table import cost_rows
from zoogen.report.canvas import GREY, head_line, place, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# In inches.
_COLUMNS, _SIDE, _ACROSS, _DOWN = 4, 2.3, 3.1, 3.0
_LEFT, _TOP = 0.75, 0.95  # above the panels without the legend
_LINE, _LETTER, _HANDLE = 0.17, 0.062, 0.55  # of the legend: a line, a letter, a sample of a line
_COST, _UNDER = 0.2, 0.3  # height of a line of the cost table, and of what is around it

NAMED = 3  # generators that the title names


def page(reports: Reports) -> Figure:
    """All pictures, what their lines mean, and what generators cost.

    Raises:
        ConfigError: if matplotlib is missing.
    """
    with style():
        from matplotlib.figure import Figure

        pictures, costs = panels(reports), cost_rows(reports)
        rows = math.ceil(len(pictures) / _COLUMNS)
        foot = _COST * len(costs) + _UNDER if len(costs) > 1 else 0.0
        width = _LEFT + _COLUMNS * _ACROSS
        handles = _handles(reports)
        top = _TOP + _LINE * math.ceil(len(handles) / _legend_columns(handles, width))
        height = top + rows * _DOWN + foot
        figure = Figure(figsize=(width, height))
        _head(figure, reports, handles)
        for number, draw in enumerate(pictures):
            row, column = divmod(number, _COLUMNS)
            bottom = height - top - row * _DOWN - _SIDE
            draw(place(figure, _LEFT + column * _ACROSS, bottom, _SIDE, _SIDE))
        if foot:
            _cost_table(place(figure, _LEFT, 0.15, width - 2 * _LEFT, foot - _UNDER), costs)
        return figure


def _head(figure: Figure, reports: Reports, handles: list[Line2D]) -> None:
    first, count = reports[0], len(reports)
    names = ", ".join(report.name for report in reports)
    facts = [f"{len(first.held_out.accuracy)} held-out members", f"overlaps on {first.view}"]
    title = f"Generated weights: {names if count <= NAMED else f'{count} generators'}"
    head_line(figure, title, facts)
    width, height = figure.get_size_inches()
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.15 / width, 1 - 0.57 / height),
        ncols=_legend_columns(handles, width), frameon=False, fontsize=8, borderpad=0,
        borderaxespad=0, labelspacing=0.3,
    )  # fmt: skip


def _handles(reports: Reports) -> list[Line2D]:
    """Held-out members, generators, baselines, with all that a legend says of them."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=REAL, label="held-out members", linewidth=2)]
    handles += [
        Line2D([], [], color=colour_of(k), label=_label(report), linewidth=2)
        for k, report in enumerate(reports)
    ]
    return handles + [
        Line2D(
            [],
            [],
            color=GREY,
            linestyle=dash_of(k),
            marker=marker_of(k),
            markersize=4,
            label=f"baseline: {curve.name}",
        )
        for k, curve in enumerate(reports[0].curves)
    ]


def _label(report: Report) -> str:
    fits = f", {report.fits} fits" if report.fits > 1 else ""
    return f"{report.name} ({report.samples} samples{fits})"


def _legend_columns(handles: list[Line2D], width: float) -> int:
    """As many as fit, all as wide as the longest label."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    return max(1, int((width - 0.3) / (_HANDLE + _LETTER * longest)))


def _cost_table(axes: Axes, rows: list[list[str]]) -> None:
    axes.axis("off")
    axes.set_title("Cost, beside simply training fresh networks", loc="left")
    table = axes.table(rows[1:], colLabels=rows[0], loc="lower left", cellLoc="right")
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for cell in table.get_celld().values():
        cell.set_linewidth(0.3)
