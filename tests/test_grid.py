"""Plans: crossing of axes, cohorts, and ids that do not move."""

from __future__ import annotations

import pytest

from zoogen.config import Config
from zoogen.errors import ConfigError
from zoogen.grid import MEMBER_LIMIT, expand


def config(**changes: object) -> Config:
    table = {
        "name": "g",
        "train": {"epochs": 4},
        "grid": {
            "seeds": 2,
            "axes": {"network.width": [2, 4], "train.learning_rate": [0.1, 0.2, 0.4]},
        },
    }
    return Config.model_validate(table | changes)


def ids(c: Config) -> set[str]:
    return {member.id for cohort in expand(c).cohorts for member in cohort.members}


def test_axes_cross_and_static_ones_make_cohorts() -> None:
    plan = expand(config())
    assert (plan.n_cohorts, plan.n_cells, plan.n_members) == (2, 6, 12)
    assert [cohort.config.network.width for cohort in plan.cohorts] == [2, 4]
    for cohort in plan.cohorts:
        rates = [member.values["train.learning_rate"] for member in cohort.members]
        assert rates == [0.1, 0.1, 0.2, 0.2, 0.4, 0.4]
        assert [member.seed for member in cohort.members] == [0, 1] * 3
        assert len({member.cell for member in cohort.members}) == 3
    assert len(ids(config())) == 12


@pytest.mark.parametrize(
    "grown",
    [
        {"seeds": 5, "axes": {"network.width": [2, 4], "train.learning_rate": [0.1, 0.2, 0.4]}},
        {"seeds": 2, "axes": {"train.learning_rate": [0.4, 0.2, 0.1, 0.7],
                              "network.width": [8, 4, 2]}},
        {"seeds": 2, "axes": {"network.width": [2, 4], "train.learning_rate": [0.1, 0.2, 0.4],
                              "train.weight_decay": [0, 0.1]}},
    ],
    ids=["more seeds", "more values in another order", "a new axis that contains the default"],
)  # fmt: skip
def test_ids_stay_when_the_grid_grows(grown: dict) -> None:
    assert ids(config()) < ids(config(grid=grown))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"description": "x"}, True),
        ({"landscape": {"hessian_probes": 3}}, True),
        ({"data": {"probe_examples": 7}}, True),
        ({"data": {"path": "elsewhere"}}, True),
        ({"train": {"epochs": 4, "snapshots": [1]}}, True),
        ({"seed": 1}, False),
        ({"data": {"seed": 1}}, False),
        ({"train": {"epochs": 5}}, False),
        ({"network": {"activation": "tanh"}}, False),
    ],
)
def test_ids_follow_what_training_depends_on(change: dict, same: bool) -> None:
    assert (ids(config(**change)) == ids(config())) is same


def test_contradicting_axis_values_are_named() -> None:
    axes = {"train.optimizer": ["sgd", "adam"], "train.nesterov": [True]}
    with pytest.raises(ConfigError, match="nesterov: only sgd has it"):
        _ = expand(config(grid={"axes": axes})).cohorts


def test_huge_grids_are_counted_but_not_expanded() -> None:
    plan = expand(config(grid={"seeds": 10**9}))
    assert plan.n_members == 10**9 > MEMBER_LIMIT
    with pytest.raises(ConfigError, match="1,000,000,000 members"):
        _ = plan.cohorts
