"""How a study is run over all cohorts of a zoo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from zoogen.errors import ConfigError, NotFoundError
from zoogen.progress import Advance, Reporter, silent
from zoogen.report import ReportData, data_of
from zoogen.studies.cohort import subjects
from zoogen.studies.estimates import Estimate
from zoogen.studies.table import STUDIES, Kind, kind_of
from zoogen.studies.trainees import trainees

if TYPE_CHECKING:
    from zoogen.zoo import Zoo


@dataclass(frozen=True, eq=False)
class Study:
    """What a study found.

    Attributes:
        name: of the study, in :data:`STUDIES`.
        table: one row a cell and setting: ``cell``, ``phase``, the hyper-parameters that vary
            (dotted keys; load and temperature first), and the columns of :class:`Estimate`.
        members: number that did not diverge.
        diverged: number of members left out because they diverged.
        missing: cells without a row, because they lack what the study needs.
        report: the zoo in words and tables, for the diagrams.
    """

    name: str
    table: pd.DataFrame
    members: int
    diverged: int
    missing: tuple[str, ...]
    report: ReportData

    @property
    def kind(self) -> Kind:
        """Function and definition."""
        return STUDIES[self.name]

    @property
    def settings(self) -> list[int | float | str]:
        """What was varied, in order."""
        return list(dict.fromkeys(self.table["setting"]))

    @property
    def variants(self) -> list[str]:
        """Ways of doing it, in order; one empty text where there is one way."""
        return list(dict.fromkeys(self.table["variant"]))


def gains_by_phase(table: pd.DataFrame) -> pd.DataFrame:
    """Mean gain of the cells of each phase, with its standard error over these cells.

    Only cells that have all settings of their variant count, so that a curve over settings is one
    of the same cells.

    Args:
        table: of a :class:`Study`, or rows of it.

    Returns:
        ``variant``, ``phase``, ``setting``, ``mean``, ``error`` (NaN for a single cell) and
        ``cells``; variants and settings as they came, phases in alphabetical order.

    Example:
        >>> rows = [("a", "I", "", 1, 0.1), ("b", "I", "", 1, 0.3), ("c", "I", "", 2, 0.9)]
        >>> table = pd.DataFrame(rows, columns=["cell", "phase", "variant", "setting", "gain"])
        >>> found = gains_by_phase(table[table["setting"] == 1])
        >>> found[["mean", "error", "cells"]].round(3).values.tolist()
        [[0.2, 0.1, 2.0]]
    """
    known = table[np.isfinite(table["gain"])]
    wanted = known.groupby("variant")["setting"].nunique()
    held = known.groupby(["variant", "cell"])["setting"].transform("nunique")
    kept = known[held == known["variant"].map(wanted)]
    ordered = kept.sort_values("phase", kind="stable")
    gains = ordered.groupby(["variant", "phase", "setting"], sort=False)["gain"]
    found = pd.DataFrame({"mean": gains.mean(), "error": gains.sem(), "cells": gains.size()})
    return found.reset_index()


def run_study(
    name: str, zoo: Zoo, overrides: Sequence[str] = (), reporter: Reporter = silent
) -> Study:
    """Run a study on the test probe set of a zoo.

    Args:
        name: in :data:`STUDIES`.
        zoo: an open zoo, labelled.
        overrides: ``section.key=value`` texts that say on what members are trained on.
        reporter: shows progress; silent by default.

    Raises:
        ConfigError: if there is no such study, or the overrides do not suit it.
        NotFoundError: if the zoo has no labels, or no cell has what the study needs.
        DataUnavailableError: if the data set can't be had.
    """
    kind = kind_of(name)
    if overrides and not kind.overridden:
        raise ConfigError(f"study {name}: found --set {overrides[0]}, but it takes none; remove it")
    zoo.require_classifiers(f"study {name}")
    report = data_of(zoo)
    members = len(report.members) - int(report.members["diverged"].sum())
    with reporter(name, members, "members") as advance:
        rows = list(_estimates(kind, zoo, overrides, advance))
    found = pd.DataFrame(rows, columns=list(Estimate._fields))
    if found.empty:
        raise NotFoundError(
            f"{zoo.path}: study {name}: found no cell with {kind.needs}; "
            "generate a zoo that has them"
        )
    # Cells in the zoo's order; settings as they came.
    found = found.sort_values("cell", key=report.cells.index.get_indexer, kind="stable")
    keys = ["phase", *(axis.key for axis in report.axes)]
    table = found[["cell"]].join(report.cells[keys], on="cell").join(found.drop(columns="cell"))
    missing = tuple(cell for cell in report.cells.index if cell not in set(found["cell"]))
    return Study(
        name, table.reset_index(drop=True), members, len(report.members) - members, missing, report
    )


def _estimates(
    kind: Kind, zoo: Zoo, overrides: Sequence[str], advance: Advance
) -> Iterator[Estimate]:
    if kind.trains:
        for people in trainees(zoo, overrides, advance):
            yield from kind.of_cohort(people)
        return
    for cohort in subjects(zoo):
        yield from kind.of_cohort(cohort)
        advance(len(cohort.cells))
