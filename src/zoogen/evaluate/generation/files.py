"""Reports on generators as files: one page of pictures a population, one table, one JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoogen.errors import ConfigError, StorageError
from zoogen.evaluate.generation.page import page
from zoogen.evaluate.generation.report import Report, by_population, to_json
from zoogen.evaluate.generation.table import generation_table
from zoogen.report.canvas import save
from zoogen.store.disk import put_file

STEM = "generation"


def render(reports: Report | Sequence[Report], out: Path | str) -> list[Path]:
    """Write ``generation.json``, ``generation.md``, and ``generation.png`` and ``.svg``.

    Args:
        reports: one, or several. Those that were judged by other members than the first have pages
            of their own, ``generation-2.png`` and so on, and columns of their own in the table.
        out: directory; made if absent.

    Raises:
        ConfigError: if there is no report, or matplotlib is missing (the JSON and the table are
            written before).
        StorageError: if the directory can't be written.
    """
    every = [reports] if isinstance(reports, Report) else list(reports)
    if not every:
        raise ConfigError("reports on generators: found none to write, expected at least one")
    base = Path(out) / STEM
    try:
        put_file(base.with_suffix(".json"), to_json(every).encode())
        put_file(base.with_suffix(".md"), generation_table(every).encode())
        figures = [
            path
            for number, group in enumerate(by_population(every), start=1)
            for path in save(page(group), base.with_name(_stem(number)))
        ]
    except OSError as error:
        raise StorageError(
            f"reports on generators: {out} can't be written: {error.strerror}; choose another --out"
        ) from None
    return [base.with_suffix(".json"), base.with_suffix(".md"), *figures]


def _stem(page: int) -> str:
    return STEM if page == 1 else f"{STEM}-{page}"
