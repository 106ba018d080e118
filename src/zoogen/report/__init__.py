"""Report: a zoo as phase diagrams (PNG, SVG) and a datacard (Markdown) that need no code to read.

Both are drawn from :class:`ReportData`, plain tables and texts; :func:`data_of` fills it from a
zoo. The same zoo gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoogen.errors import StorageError
from zoogen.report.axes import Axis, describe_axis
from zoogen.report.card import datacard
from zoogen.report.data import ReportData, data_of, rule_lines
from zoogen.report.diagram import phase_diagrams, save
from zoogen.report.panels import PANELS

if TYPE_CHECKING:
    from zoogen.zoo import Zoo

__all__ = [
    "PANELS", "Axis", "ReportData", "data_of", "datacard", "describe_axis", "phase_diagrams",
    "render", "rule_lines", "write_report",
]  # fmt: skip


def write_report(zoo: Zoo, out: Path | str) -> list[Path]:
    """Write phase diagrams and datacard of a zoo.

    Args:
        zoo: an open zoo, labelled.
        out: directory; made if absent.

    Returns:
        The files written: ``phase_diagram*.png``, ``phase_diagram*.svg``, ``datacard.md``.

    Raises:
        ConfigError: if matplotlib is missing.
        NotFoundError: if the zoo has no labels yet.
        StorageError: if the directory cannot be written.
    """
    return render(data_of(zoo), out)


def render(data: ReportData, out: Path | str) -> list[Path]:
    """Write phase diagrams (where load and temperature are known) and datacard as files.

    Raises:
        ConfigError: if matplotlib is missing.
        StorageError: if the directory cannot be written.
    """
    folder = Path(out)
    figures = phase_diagrams(data)
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
