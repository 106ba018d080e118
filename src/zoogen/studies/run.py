"""The table of studies, and how one is run over all cohorts of a zoo."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from zoogen.errors import ConfigError, NotFoundError
from zoogen.progress import Advance, Reporter, silent
from zoogen.report import ReportData, data_of
from zoogen.studies.averaging import average_seeds, average_snapshots, ensemble
from zoogen.studies.cohort import subjects
from zoogen.studies.compaction import compact
from zoogen.studies.compositions import compose_tasks
from zoogen.studies.estimates import Estimate
from zoogen.studies.pruning import prune
from zoogen.studies.stars import star
from zoogen.studies.trainees import trainees
from zoogen.studies.transfer import fine_tune

if TYPE_CHECKING:
    from zoogen.zoo import Zoo


@dataclass(frozen=True)
class Kind:
    """One kind of study.

    Attributes:
        of_cohort: the estimates of a cohort, any order of cells; takes a :class:`Subjects`, or
            a :class:`Trainees` where the study trains.
        definition: one line.
        setting: a setting in words, as a format.
        needs: what a cell must have to take part.
        trains: whether members are trained on.
        overridden: whether the user says on what and how, in the words of a config.
        accuracy: whether the accuracies themselves are drawn, besides the gains.
    """

    of_cohort: Callable[[Any], Iterable[Estimate]]
    definition: str
    setting: str
    needs: str
    trains: bool = False
    overridden: bool = False
    accuracy: bool = False


STUDIES = {
    "average-snapshots": Kind(
        average_snapshots,
        "mean weights of a member's last k stored snapshots, against its last snapshot",
        "last {}", "two snapshots after the initialisation",
    ),
    "average-seeds": Kind(
        average_seeds,
        "mean weights of a cell's members, raw and aligned, against the mean member",
        "{}", "two members that did not diverge",
    ),
    "ensemble": Kind(
        ensemble,
        "mean probabilities of k members of a cell, against the mean member",
        "{} members", "two members that did not diverge",
    ),
    "prune": Kind(
        prune,
        "smallest weights set to zero: at once, against the member as it is; at once or gradually "
        "and retrained, against the member retrained unpruned",
        "{:.0%} pruned", "a member that did not diverge", trains=True,
    ),
    "fine-tune": Kind(
        fine_tune,
        "members trained on to another data set, against the same training from their "
        "initialisation",
        "after {}", "a member that did not diverge", trains=True, overridden=True, accuracy=True,
    ),
    "star": Kind(
        star,
        "lowest accuracy on the lines from a star model to members of its cell, against lines "
        "between aligned members",
        "{}", "two members that did not diverge", trains=True, accuracy=True,
    ),
    "task-vectors": Kind(
        compose_tasks,
        "members plus task vectors of shifted images, for another shift of which a few examples "
        "are seen, against the member as it is",
        "{}", "a member that did not diverge", trains=True, accuracy=True,
    ),
    "compaction": Kind(
        compact,
        "members rebuilt from k numbers: a pseudo-random basis, met by least squares or trained on "
        "the task, the largest weights, or components of others, against the member as it is",
        "{} numbers", "a member that did not diverge", trains=True,
    ),
}  # fmt: skip
"""Name → :class:`Kind`."""


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
    kind = _kind(name)
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


def _kind(name: str) -> Kind:
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1, cutoff=0)
        raise ConfigError(
            f"study {name!r}: unknown (did you mean {near[0]!r}?); there are: {', '.join(STUDIES)}"
        )
    return STUDIES[name]
