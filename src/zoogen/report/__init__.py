"""Report: a zoo as figures (PNG, SVG) and a datacard (Markdown) that need no code to read.

Figures are phase diagrams, cuts through them, and trajectories of each phase. All is drawn from
:class:`ReportData`, plain tables and texts; :func:`data_of` fills it from a zoo. The same
zoo gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoogen.errors import StorageError
from zoogen.report.axes import Axis, describe_axis
from zoogen.report.canvas import save
from zoogen.report.card import datacard
from zoogen.report.cut import cuts, mean_and_error
from zoogen.report.data import ReportData, data_of, rule_lines
from zoogen.report.diagram import phase_diagrams
from zoogen.report.gallery import galleries
from zoogen.report.panels import PANELS
from zoogen.report.trajectories import bands, trajectories

if TYPE_CHECKING:
    from zoogen.zoo import Zoo

__all__ = [
    "PANELS", "Axis", "ReportData", "bands", "cuts", "data_of", "datacard", "describe_axis",
    "galleries", "mean_and_error", "phase_diagrams", "render", "rule_lines", "trajectories",
    "write_report",
]  # fmt: skip


def write_report(zoo: Zoo, out: Path | str) -> list[Path]:
    """Write the figures and the datacard of a zoo.

    Args:
        zoo: an open zoo, labelled.
        out: directory; made if absent.

    Returns:
        The files written: ``phase_diagram*``, ``cut*`` and ``trajectories`` (where members fit
        images, ``gallery``), each as PNG and SVG, and ``datacard.md``.

    Raises:
        ConfigError: if matplotlib is missing.
        NotFoundError: if the zoo has no labels yet.
        StorageError: if the directory cannot be written.
    """
    return render(data_of(zoo), out)


def render(data: ReportData, out: Path | str) -> list[Path]:
    """Write the figures and the datacard; diagrams and cuts need a load and a temperature.

    Raises:
        ConfigError: if matplotlib is missing.
        StorageError: if the directory cannot be written.
    """
    folder = Path(out)
    figures = phase_diagrams(data) | cuts(data) | trajectories(data) | galleries(data)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [path for name, fig in figures.items() for path in save(fig, folder / name)]
        card = folder / "datacard.md"
        card.write_text(datacard(data, tuple(figures)), encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"report: {folder} can't be written: {error.strerror}; choose another --out"
        ) from None
    return [*paths, card]
