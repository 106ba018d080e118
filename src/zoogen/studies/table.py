"""The table of studies."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoogen.errors import ConfigError
from zoogen.lazy import Deferred

if TYPE_CHECKING:
    from zoogen.studies import averaging, compaction, compositions, pruning, stars, transfer
    from zoogen.studies.estimates import Estimate
else:  # help shows the table, and needs no JAX
    averaging, compaction, compositions, pruning, stars, transfer = (
        Deferred(f"zoogen.studies.{name}")
        for name in ("averaging", "compaction", "compositions", "pruning", "stars", "transfer")
    )


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
        averaging.average_snapshots,
        "mean weights of a member's last k stored snapshots, against its last snapshot",
        "last {}", "two snapshots after the initialisation",
    ),
    "average-seeds": Kind(
        averaging.average_seeds,
        "mean weights of a cell's members, raw and aligned, against the mean member",
        "{}", "two members that did not diverge",
    ),
    "ensemble": Kind(
        averaging.ensemble,
        "mean probabilities of k members of a cell, against the mean member",
        "{} members", "two members that did not diverge",
    ),
    "prune": Kind(
        pruning.prune,
        "smallest weights set to zero: at once, against the member as it is; at once or gradually "
        "and retrained, against the member retrained unpruned",
        "{:.0%} pruned", "a member that did not diverge", trains=True,
    ),
    "fine-tune": Kind(
        transfer.fine_tune,
        "members trained on to another data set, against the same training from their "
        "initialisation",
        "after {}", "a member that did not diverge", trains=True, overridden=True, accuracy=True,
    ),
    "star": Kind(
        stars.star,
        "lowest accuracy on the lines from a star model to members of its cell, against lines "
        "between aligned members",
        "{}", "two members that did not diverge", trains=True, accuracy=True,
    ),
    "task-vectors": Kind(
        compositions.compose_tasks,
        "members plus task vectors of shifted images, for another shift of which a few examples "
        "are seen, against the member as it is",
        "{}", "a member that did not diverge", trains=True, accuracy=True,
    ),
    "compaction": Kind(
        compaction.compact,
        "members rebuilt from k numbers: a pseudo-random basis, met by least squares or trained on "
        "the task, the largest weights, or components of others, against the member as it is",
        "{} numbers", "a member that did not diverge", trains=True,
    ),
}  # fmt: skip
"""Name → :class:`Kind`."""


def kind_of(name: str) -> Kind:
    """The row of a name.

    Raises:
        ConfigError: if there is no such study, with the nearest name.
    """
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1, cutoff=0)
        raise ConfigError(
            f"study {name!r}: unknown (did you mean {near[0]!r}?); there are: {', '.join(STUDIES)}"
        )
    return STUDIES[name]
