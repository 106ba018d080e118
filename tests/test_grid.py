"""Plans: crossing of axes, random search, cohorts, and ids that do not move."""

from __future__ import annotations

import math
from collections import Counter

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


# --------------------------------------------------------------------------------- random search
DRAWS = {
    "train.optimizer": ["sgd", "adam"],
    "network.init": ["he_normal", "normal", "orthogonal"],
    "train.learning_rate": {"from": 1e-4, "to": 1.0, "spacing": "log"},
    "train.weight_decay": {"from": 0, "to": 0.5},
    "data.label_noise": [0.0, 0.1, 0.2],
    "network.init_scale": {"from": 0.1, "to": 10, "spacing": "log",
                           "where": {"network.init": ["normal"]}},
}  # fmt: skip


def search(members: int = 600, draws: dict | None = None, **changes: object) -> Config:
    random = {"members": members, "draws": draws or DRAWS} | changes
    return config(grid={"random": random})


def rows(c: Config) -> list[dict]:
    """Hyper-parameters of all members."""
    return [
        cohort.config.values() | dict(member.values)
        for cohort in expand(c).cohorts
        for member in cohort.members
    ]


def test_programs_take_turns_and_all_else_is_drawn() -> None:
    plan = expand(search(601))
    assert (plan.n_cohorts, plan.n_cells, plan.n_members) == (6, 601, 601)
    assert sorted(len(cohort.members) for cohort in plan.cohorts) == [100] * 5 + [101]
    assert list(plan.iterate_static()) == [cohort.config for cohort in plan.cohorts]
    assert {member.seed for cohort in plan.cohorts for member in cohort.members} == {0}
    assert len(ids(search(601))) == 601


def test_a_few_draws_differ_in_every_list() -> None:
    lists = {"train.optimizer": 3, "network.init": 5, "network.activation": 2, "train.epochs": 4}
    draws = DRAWS | {
        "train.optimizer": ["sgd", "adam", "adamw"],
        "network.init": ["he_normal", "normal", "orthogonal", "he_uniform", "lecun_normal"],
        "network.activation": ["relu", "tanh"],
        "train.epochs": [1, 2, 3, 4],
    }
    found = rows(search(12, draws))
    for key, length in lists.items():
        assert len({row[key] for row in found}) == length


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_draws_follow_their_distribution(seed: int) -> None:
    found = rows(search(seed=seed))
    n = len(found)
    logs = [math.log10(row["train.learning_rate"]) for row in found]
    assert -4 <= min(logs) < -3.9 < -0.1 < max(logs) <= 0
    assert abs(sum(logs) / n + 2) < 4 * 4 / math.sqrt(12 * n)
    decays = [row["train.weight_decay"] for row in found]
    assert abs(sum(decays) / n - 0.25) < 4 * 0.5 / math.sqrt(12 * n)
    both = sum((x + 2) * (y - 0.25) for x, y in zip(logs, decays, strict=True)) / n
    assert abs(both) < 4 * (4 * 0.5 / 12) / math.sqrt(n), "two draws hang together"
    counts = Counter(row["data.label_noise"] for row in found)
    assert max(abs(count - n / 3) for count in counts.values()) < 4 * math.sqrt(n * 2 / 9)
    assert all((row["network.init_scale"] == 1) == (row["network.init"] != "normal")
               for row in found)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"members": 700}, True),
        ({"draws": dict(reversed(DRAWS.items()))}, True),
        ({"members": 6}, False),
        ({"seed": 1}, False),
    ],
)
def test_more_draws_keep_the_first_ones(change: dict, kept: bool) -> None:
    assert (ids(search()) <= ids(search(**change))) is kept


def test_draws_may_have_several_seeds_and_points() -> None:
    draws = {"network.width": {"from": 2, "to": 8, "points": 3}, "train.learning_rate": [0.1, 0.2]}
    grid = {"seeds": 2, "random": {"members": 6, "draws": draws}}
    plan = expand(config(grid=grid))
    assert (plan.n_cohorts, plan.n_cells) == (3, 3)
    assert {cohort.config.network.width for cohort in plan.cohorts} == {2, 5, 8}
    assert [[member.seed for member in c.members] for c in plan.cohorts] == [[0, 1]] * 3


def test_a_condition_that_drops_a_static_draw_makes_no_second_cohort() -> None:
    draws = DRAWS | {
        "train.nesterov": {"values": [True, False], "where": {"train.optimizer": ["sgd"]}}
    }
    plan = expand(search(draws=draws))
    assert plan.n_cohorts == 9
    assert len({cohort.id for cohort in plan.cohorts}) == 9


def test_a_search_that_repeats_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="9 draws give 6 different cells"):
        _ = expand(
            search(9, {"train.optimizer": ["sgd", "adam"], "network.width": [1, 2, 3]})
        ).cohorts


def test_too_many_programs_are_refused() -> None:
    lists = {"network.width": list(range(1, 1000)), "train.batch_size": list(range(1, 1000))}
    with pytest.raises(ConfigError, match="make 998,001 programs"):
        _ = expand(search(draws=lists)).n_cohorts
