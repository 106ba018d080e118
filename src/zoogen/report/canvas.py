"""Canvas: what all figures share: style, places in inches, the head line, names and saving."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from zoogen.errors import ConfigError
from zoogen.report.data import ReportData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLE_FIT = 105  # font size × letters that one inch of a bold title holds, with a margin
GREY = "#444444"  # of secondary text
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


@contextmanager
def style() -> Iterator[None]:
    """The style of all figures, for the time of drawing.

    Raises:
        ConfigError: if matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError:
        raise ConfigError(
            "report: matplotlib is missing; install it with `pip install 'zoogen[plot]'`"
        ) from None
    with matplotlib.rc_context(_STYLE):
        yield


def facets_of(data: ReportData) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """Words and cells of every combination of the facets' values; of all cells without facets."""
    keys = [axis.key for axis in data.facets]
    if not keys:
        yield [], data.cells
        return
    for values, cells in data.cells.groupby(keys, dropna=False):
        pairs = zip(data.facets, values, strict=True)
        # In full: figures of values that only later digits tell apart would share title and file.
        yield [f"{axis.name} {value}" for axis, value in pairs], cells


def stem(name: str, facet: list[str]) -> str:
    """File name of a figure, without its ending.

    Example:
        >>> stem("cut", ["weight decay 0.1", "depth 2"])
        'cut-weight_decay_0.1-depth_2'
    """
    return "-".join([name, *(re.sub(r"[^\w.+-]+", "_", words) for words in facet)])


def place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches; a layout solver would give other last digits in every run."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def head_line(figure: Figure, title: str, facts: list[str]) -> None:
    """Write the title of a figure and a line of facts below it."""
    width, height = figure.get_size_inches()
    size = min(12.0, _TITLE_FIT * width / len(title))
    figure.text(0.15 / width, 1 - 0.11 / height, title, size=size, weight="bold", va="top")
    figure.text(0.15 / width, 1 - 0.38 / height, " · ".join(facts), size=9, color=GREY, va="top")


def title_of(data: ReportData, facet: list[str]) -> str:
    """Zoo, network, data set and the values of the facets."""
    return ", ".join([f"{data.name}: {data.network} on {data.dataset}", *facet])


def save(figure: Figure, base: Path) -> list[Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes."""
    import matplotlib

    paths = [base.with_name(f"{base.name}.{kind}") for kind in ("png", "svg")]
    # Fixed ids, no date; text stays text.
    with matplotlib.rc_context({"svg.hashsalt": "zoogen", "svg.fonttype": "none"}):
        figure.savefig(paths[0], dpi=150)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths
