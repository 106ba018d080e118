"""The members of a cohort as they were trained, so that they can be trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from zoogen.config import HYPER_PARAMETERS, LATER_PARAMETERS, PER_MEMBER_PARAMETERS, Config
from zoogen.data import Dataset
from zoogen.grid import Member
from zoogen.progress import Advance
from zoogen.studies.cohort import Subjects, subjects, undiverged
from zoogen.train import Recipe, TrainingData, recipe_of, training_data

if TYPE_CHECKING:
    from zoogen.zoo import Zoo


@dataclass(frozen=True, eq=False)
class Trainees:
    """Members of one cohort that did not diverge, and how they were trained.

    Attributes:
        subjects: their weights, and what they are evaluated on.
        members: identities and per-member hyper-parameters, in the same order.
        config: all other hyper-parameters; it has no grid.
        dataset: what they were trained on.
        overrides: ``section.key=value`` texts that say what they are trained on.
        on_members: called with the work just done, in members; it sums to their number.
    """

    subjects: Subjects
    members: tuple[Member, ...]
    config: Config
    dataset: Dataset
    overrides: tuple[str, ...] = ()
    on_members: Advance = lambda members: None

    @cached_property
    def recipe(self) -> Recipe:
        """How they were trained."""
        return recipe_of(self.config, self.dataset)

    @cached_property
    def data(self) -> TrainingData:
        """The images that they saw, on every device."""
        return training_data(self.dataset, self.recipe)


def trainees(zoo: Zoo, overrides: Sequence[str], on_members: Advance) -> Iterator[Trainees]:
    """The cohorts of a zoo that have members which did not diverge.

    Raises:
        DataUnavailableError: if the data set can't be had.
    """
    for cohort, (name, table) in zip(subjects(zoo), undiverged(zoo), strict=True):
        members, config = members_of(table.reset_index()), config_of(zoo, name)
        yield Trainees(cohort, members, config, zoo.dataset, tuple(overrides), on_members)


def config_of(zoo: Zoo, cohort: str) -> Config:
    """The config of a cohort, from the static hyper-parameters stored with its members."""
    stored = zoo.reader.members(cohort).head(1).to_dict("records")[0]
    static = set(HYPER_PARAMETERS) - set(PER_MEMBER_PARAMETERS)
    return zoo.config.with_values({key: stored[key] for key in stored if key in static})


def members_of(table: pd.DataFrame) -> tuple[Member, ...]:
    """Members from rows with their ``id``, ``cell``, ``seed`` and hyper-parameters."""
    return tuple(
        Member(
            row["id"],
            row["cell"],
            row["seed"],
            # Tables lack the hyper-parameters that came later, where no member has them.
            {key: row.get(key, LATER_PARAMETERS.get(key)) for key in PER_MEMBER_PARAMETERS},
        )
        for row in table.to_dict("records")
    )
