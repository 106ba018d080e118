"""Evaluate: splits do not leak, scores are right, runs resume, and bad input is one line."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import Ridge

from zoogen.config import Config, NetworkConfig, validated
from zoogen.errors import ConfigError, ConflictError, NotFoundError
from zoogen.evaluate import (
    READERS,
    SCORES,
    TARGETS,
    Block,
    Fitted,
    Reader,
    RunConfig,
    Samples,
    as_json,
    board_of,
    load_run,
    markdown,
    open_run,
    samples_of,
    scores,
    split_of,
    task_of,
    train_models,
)
from zoogen.evaluate.figures import write_leaderboard
from zoogen.evaluate.intervals import _rank_correlations, paired_difference
from zoogen.evaluate.padding import padded
from zoogen.evaluate.table import READERS_OF
from zoogen.evaluate.tuning import trials_of
from zoogen.grid import expand
from zoogen.interrupts import Interrupted
from zoogen.networks import build_network
from zoogen.store import ZooWriter
from zoogen.store.disk import writer_lock
from zoogen.zoo import open_zoo

WIDTHS, RATES, SEEDS = [3, 4], [0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6], 3
SHAPE, CLASSES = (1, 2, 2), 2
CONFIGS = Path(__file__).parents[1] / "configs" / "tasks"
DIVERGED = 1  # the last member of every cohort
SNAPSHOTS = [
    {"name": "init", "step": 0, "epoch": 0.0},
    {"name": "epoch 1", "step": 5, "epoch": 1.0},
    {"name": "end", "step": 10, "epoch": 2.0},
]


# ------------------------------------------------------------------------------- a zoo for tests
def zoo_config(seed=0):
    return validated(
        Config,
        {
            "name": "random", "seed": seed, "network": {"depth": 1},
            "train": {"epochs": 2, "snapshots": [1]},
            "grid": {"seeds": SEEDS,
                     "axes": {"network.width": WIDTHS, "train.learning_rate": RATES}},
        },
        "test",
    )  # fmt: skip


def weights_of(cohort, network):
    """Random ones whose size tells the learning rate; the last member is not finite."""
    rng = np.random.default_rng(network.spec.size)
    rates = np.array([m.values["train.learning_rate"] for m in cohort.members])
    values = rng.normal(size=(len(rates), len(SNAPSHOTS), network.spec.size))
    values *= (1 + np.log10(rates) / 4)[:, None, None]
    values[-DIVERGED:, 1:] = np.nan
    return values.astype(np.float32)


def metrics_of(weights):
    """A test accuracy that the weights determine, a gap that crosses zero, and a pair metric."""
    norm = np.nan_to_num(np.abs(weights).mean(axis=2))
    pairs = np.array([(i, i + 1) for i in range(0, len(norm) - 1, SEEDS)], np.int32)
    return {
        "test_accuracy": norm.astype(np.float32),
        "generalisation_gap": (norm - 0.5).astype(np.float32),
        "hessian_trace": (norm - 0.5).astype(np.float32),
        "mode_connectivity": -norm[pairs].mean(axis=1).astype(np.float32),
        "pairs": pairs,
    }


def write_random_zoo(path, seed=0):
    """A zoo of random weights with a known test accuracy: no training, one second."""
    config = zoo_config(seed)
    plan = expand(config)
    with ZooWriter.create(path, config.name, config.model_dump(mode="json", by_alias=True,
                          exclude_unset=True), f"hash-{seed}", {}) as writer:  # fmt: skip
        run, tables, arrays = writer.begin_run({}), [], {}
        for cohort in plan.cohorts:
            network = build_network(cohort.config.network, SHAPE, CLASSES)
            fixed = {k: v for k, v in cohort.config.values().items() if v is not None}
            table = pd.DataFrame(
                [{"id": m.id, "cell": m.cell, "seed": m.seed, **fixed, **m.values}
                 for m in cohort.members]
            )  # fmt: skip
            info = {
                "network": cohort.config.network.model_dump(mode="json"), "image_shape": SHAPE,
                "classes": CLASSES, "mean": [0.0], "std": [1.0], "dataset": {"sha256": "none"},
            }  # fmt: skip
            writer.begin_cohort(
                cohort.id, table, network.spec.to_json(), SNAPSHOTS, len(table), info
            )
            weights = weights_of(cohort, network)
            diverged = np.where(np.isnan(weights[:, -1, 0]), 1.0, -1.0)
            for block in writer.missing_blocks(cohort.id):
                writer.write_block(
                    cohort.id, block, {"weights": weights, "diverged_epoch": diverged},
                    {"weights": ("member", "snapshot", "parameter"),
                     "diverged_epoch": ("member",)},
                )  # fmt: skip
            tables.append(table)
            arrays[cohort.id] = metrics_of(weights)
        for name, values in arrays.items():
            dims = {n: ("pair" if n in {"mode_connectivity", "pairs"} else "member", "snapshot")
                    for n in values} | {"pairs": ("pair", "end")}  # fmt: skip
            writer.write_measurements(run, name, values, dims)
        writer.finish_run(run)
        members = pd.concat(tables, ignore_index=True)
        cells = pd.DataFrame({"cell": members["cell"].unique()})
        names = ["I", "II", "IV-B", "boundary"]
        cells["phase"] = [names[i % 4] for i in range(len(cells))]
        phases = members[["id", "cell"]].merge(cells, on="cell").drop(columns="cell")
        writer.write_labels(phases, cells, {"rule": "taxonomy"})
    return path


@pytest.fixture(scope="session")
def random_zoo(tmp_path_factory):
    return open_zoo(write_random_zoo(tmp_path_factory.mktemp("random") / "zoo.zarr"))


def config_of(task=(), split=(), **further):
    table = {
        "name": "test", "readers": ["oracle", "constant"], "seeds": 3,
        "task": {"target": "test_accuracy", **dict(task)},
        "split": {"test": 0.3, "validation": 0.3, **dict(split)},
        "tuning": {"trials": 2}, "training": {"steps": 3},
    }  # fmt: skip
    return validated(RunConfig, {**table, **further}, "test")


# ------------------------------------------------------------------------------------ toy readers
def oracle_of(zoo, config):
    """Knows the truth, from elsewhere: readers are not told it."""
    truth = task_of(zoo, config).problem

    def fit(problem, options, training, seed):
        if truth.kind == "classification":
            return Fitted(np.eye(len(truth.classes))[truth.targets[:, 0].astype(int)], 0, None, ())
        return Fitted(truth.targets, 0, 0.001, [(1, 2.0, 1.0), (2, 1.0, 0.5)])

    return Reader("Knows.", fit, mixed=True)


def constant(problem, options, training, seed):
    return Fitted(np.full((len(problem.samples), problem.outputs), 0.5 + seed), 1, None, ())


def leaking(problem, options, training, seed):
    return Fitted(problem.targets, 0, None, ())


def readers_for(zoo, config):
    return {
        "oracle": oracle_of(zoo, config),
        "constant": Reader("The same.", constant, {"a": (1, 2, 3)}, mixed=True),
        "leaking": Reader("Returns the targets that it is given.", leaking, mixed=True),
        "flat": Reader("Needs one architecture.", constant),
    }


def fitted_run(zoo, config, out, readers=None):
    return train_models(config, zoo, out, readers=readers or readers_for(zoo, config))


# ----------------------------------------------------------------------------------------- splits
def members_table(cells, seeds, snapshots):
    rows = [(f"m{c}-{s}", f"c{c}", s, c % 7, t)
            for c in range(cells) for s in range(seeds) for t in range(snapshots)]  # fmt: skip
    return pd.DataFrame(rows, columns=["member", "cell", "seed", "train.epochs", "snapshot"])


def leaks(table, split, unit):
    """Units with samples on two sides."""
    sides = pd.Series("", index=table.index)
    for side in ("train", "validation", "test"):
        sides.iloc[getattr(split, side)] += side
    assert (sides != "").all()  # every sample is on some side
    assert set(sides) == {"train", "validation", "test"}  # and on one only
    return (sides.groupby(table[unit]).nunique() > 1).sum()


@settings(max_examples=30, deadline=None)
@given(st.integers(40, 90), st.integers(2, 3), st.integers(1, 3), st.integers(0, 10**6),
       st.sampled_from(["cell", "seed", "region"]))  # fmt: skip
def test_no_split_leaks(cells, seeds, snapshots, seed, by):
    table = members_table(cells, seeds, snapshots)
    region = "train.epochs >= 5" if by == "region" else None

    def split(rows):
        return split_of(rows, by, 0.3, 0.3, seed, region)

    whole = split(table)
    assert leaks(table, whole, "member") == 0
    assert by == "seed" or leaks(table, whole, "cell") == 0
    if by == "region":
        assert (table["train.epochs"].iloc[whole.test] >= 5).all()
        assert (table["train.epochs"].iloc[whole.train] < 5).all()
    # Another order and a larger zoo leave every sample on its side.
    grown = pd.concat([members_table(cells + 9, seeds, snapshots)]).sample(
        frac=1, random_state=seed
    )
    again = split(grown.reset_index(drop=True))
    keys = ["member", "snapshot"]
    before = set(map(tuple, table[keys].iloc[whole.test].to_numpy()))
    after = set(map(tuple, grown[keys].iloc[again.test].to_numpy()))
    assert before <= after
    assert not after & set(map(tuple, table[keys].iloc[whole.train].to_numpy()))


def test_the_check_of_leaks_finds_a_split_by_snapshot():
    table = members_table(20, 2, 3)
    kind = split_of(table.assign(member=[str(i) for i in range(len(table))]), "seed", 0.3, 0.3)
    assert leaks(table, kind, "member") > 0


def test_shares_are_those_asked_for():
    for seed in range(3):
        split = split_of(members_table(2000, 1, 1), "cell", 0.2, 0.1, seed)
        assert abs(len(split.test) - 400) < 4 * math.sqrt(2000 * 0.2 * 0.8)
        assert abs(len(split.validation) - 200) < 4 * math.sqrt(2000 * 0.1 * 0.9)


# ------------------------------------------------------------------------------ samples and targets
def test_samples_hold_the_stored_weights_and_leave_out_diverged_members(random_zoo):
    samples = samples_of(random_zoo, "all")
    n = len(WIDTHS) * (len(RATES) * SEEDS - DIVERGED)
    assert (len(samples), dict(samples.excluded)) == (3 * n, {"diverged": 3 * len(WIDTHS)})
    assert [block.spec.size for block in samples.blocks] == [3 * 5 + 2 * 4, 4 * 5 + 2 * 5]
    assert samples.hyper_parameters == ("network.width", "train.learning_rate", "epoch")
    rows = np.concatenate([block.rows for block in samples.blocks])
    assert sorted(rows) == list(range(3 * n))
    for block in samples.blocks:
        for row in (0, len(block.rows) // 2, -1):
            info = samples.table.iloc[block.rows[row]]
            stored = random_zoo.member(info["member"], info["snapshot"])
            assert stored.spec.parameters == block.spec.parameters
            np.testing.assert_array_equal(block.weights[row], stored.vector)


def test_weights_that_are_not_finite_are_counted(random_zoo, monkeypatch):
    read = type(random_zoo.reader).read

    def broken(self, cohort, name, members=None, snapshots=None):
        values = read(self, cohort, name, members, snapshots)
        if name == "weights":
            values[0] = np.inf
        return values

    monkeypatch.setattr(type(random_zoo.reader), "read", broken)
    assert samples_of(random_zoo).excluded["weights not finite"] == len(WIDTHS)


def values_of(zoo, target, **task):
    task = task_of(zoo, config_of({"target": target, **task}, {"seed": 1}))
    return task, task.problem.samples.table, task.problem.targets[:, 0]


def test_targets_are_what_the_zoo_says(random_zoo):
    task, table, values = values_of(random_zoo, "test_accuracy", snapshots="all")
    weights = np.empty(len(table))
    for block in task.problem.samples.blocks:
        weights[block.rows] = np.abs(block.weights).mean(axis=1)
    np.testing.assert_allclose(values, weights, rtol=1e-5)

    task, table, values = values_of(random_zoo, "train.learning_rate")
    np.testing.assert_allclose(values, np.log10(table["train.learning_rate"]))
    assert task.problem.samples.hyper_parameters == ("network.width",)

    task, table, values = values_of(random_zoo, "network.width")
    np.testing.assert_array_equal(values, table["network.width"])  # less than a decade: as it is

    task, table, values = values_of(random_zoo, "phase")
    assert task.problem.classes == ("I", "II", "IV-B")
    assert [task.problem.classes[int(v)] for v in values] == list(table["phase"])
    assert task.excluded == {"diverged": 2, "phase boundary": 4 * SEEDS - 2}

    task, table, values = values_of(random_zoo, "mode_connectivity")
    assert (pd.Series(values).groupby(table["cell"]).nunique() == 1).all()

    task, table, values = values_of(random_zoo, "hessian_trace")
    gap = task_of(random_zoo, config_of({"target": "generalisation_gap"}, {"seed": 1})).problem
    assert task.excluded["negative hessian_trace"] == (gap.targets < 0).sum()
    assert task.facts()["unit"].startswith("log10")

    _, table, values = values_of(random_zoo, "epoch", snapshots="all")
    np.testing.assert_array_equal(values, table["epoch"])


def test_zero_stands_a_decade_below_the_smallest_positive_value(random_zoo):
    zoo = open_zoo(random_zoo.path)
    members = zoo.members.copy()
    members["train.weight_decay"] = np.resize([0.0, 1e-5, 1e-3], len(members))
    zoo.__dict__["members"] = members
    _, table, values = values_of(zoo, "train.weight_decay")
    expected = table["train.weight_decay"].map({0.0: -6.0, 1e-5: -5.0, 1e-3: -3.0})
    np.testing.assert_allclose(values, expected)


def test_the_next_update_is_the_difference_of_weights(random_zoo):
    task = task_of(random_zoo, config_of(
        {"target": "next_update", "snapshots": "all", "padding": True}, {"seed": 1}))  # fmt: skip
    problem = task.problem
    assert task.excluded["no later snapshot"] == len(problem.samples) // 2
    block, other = problem.samples.blocks
    assert other.spec.parameters == block.spec.parameters
    for row in (0, len(problem.samples) - 1):
        info = problem.samples.table.iloc[row]
        later = {"init": "epoch 1", "epoch 1": "end"}[info["snapshot"]]
        before, after = (random_zoo.member(info["member"], s) for s in (info["snapshot"], later))
        moved = np.sort(np.abs(after.vector - before.vector))
        np.testing.assert_allclose(np.sort(np.abs(problem.targets[row]))[-len(moved) :], moved)


# ---------------------------------------------------------------------------------------- padding
@pytest.mark.parametrize(
    ("network", "sizes"),
    [
        ({"family": "mlp", "depth": 2}, (2, 3, 5)),
        ({"family": "mlp", "activation": "sigmoid"}, (2, 4)),
        ({"family": "cnn", "depth": 2}, (3, 4)),
        ({"family": "lenet", "activation": "tanh"}, (2, 4)),
    ],
)
def test_padding_keeps_the_function(network, sizes):
    laid = padded(samples_from([NetworkConfig(width=w, **network) for w in sizes]))
    assert len({block.spec.parameters for block in laid.blocks}) == 1
    assert laid.blocks[0].spec.size == max(block.weights.shape[1] for block in laid.blocks)


def samples_from(configs, seed=0):
    rng = np.random.default_rng(seed)
    networks = [build_network(config, (1, 20, 20), 3) for config in configs]
    blocks = tuple(
        Block(n, np.array([2 * i, 2 * i + 1]), rng.normal(size=(2, n.spec.size), scale=0.3)
              .astype(np.float32)) for i, n in enumerate(networks)
    )  # fmt: skip
    names = [f"m{i}" for i in range(2 * len(blocks))]
    table = pd.DataFrame({"member": names, "cohort": [f"c{i // 2}" for i in range(len(names))]})
    probes = rng.random((4, 1, 20, 20), np.float32)
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    return Samples(table, blocks, (), probes, zero, one, {})


def test_padding_refuses_another_depth_and_a_changed_function(monkeypatch):
    mixed = samples_from([NetworkConfig(depth=1), NetworkConfig(depth=2)])
    with pytest.raises(ConfigError, match=r"member m0 has other tensors .* m2 \(hidden1"):
        padded(mixed)
    monkeypatch.setattr(
        "zoogen.evaluate.padding.lay", lambda _, spec, w: np.ones((len(w), spec.size))
    )
    with pytest.raises(ConfigError, match="member m0 changes its logits"):
        padded(samples_from([NetworkConfig(width=2), NetworkConfig(width=3)]))


def told_by(reader, seen):
    """A reader that notes what it is given."""

    def fit(problem, options, training, seed):
        seen[reader] = problem
        return constant(problem, options, training, seed)

    return fit


@pytest.mark.parametrize(("where", "sizes"), [(None, [23, 30]), ("network.width == 4", [30])])
def test_padded_weights_are_for_readers_of_one_architecture_alone(
    random_zoo, tmp_path, where, sizes
):
    seen, names = {}, ("mixed", "one")
    readers = {n: Reader("", told_by(n, seen), mixed=n == "mixed") for n in names}
    config = config_of({"padding": True, "where": where}, readers=names, seeds=1)
    run = fitted_run(random_zoo, config, tmp_path / "run", readers)
    mixed, one = seen["mixed"], seen["one"]
    assert [b.weights.shape[1] for b in mixed.samples.blocks] == sizes
    assert [b.weights.shape[1] for b in one.samples.blocks] == [30] * len(sizes)
    for block in mixed.samples.blocks:
        member = mixed.samples.table["member"].iloc[block.rows[0]]
        np.testing.assert_array_equal(block.weights[0], random_zoo.member(member, "end").vector)
    assert mixed.samples.table.equals(one.samples.table)
    np.testing.assert_array_equal(mixed.targets, one.targets)
    assert mixed.split is one.split
    laid = "as stored" if where else "padded to the largest architecture"
    assert run.facts["weights"] == {"mixed": "as stored", "one": laid}
    assert [row["weights"] for row in run.rows()] == ["as stored", laid]
    assert run.facts["task"]["architectures"] == len(sizes)
    assert ("2 architectures, padded for one, as" in markdown([board_of(run)])) == (where is None)
    before = {"architectures": 1}  # as versions had it that padded for all
    facts = {**run.facts, "task": {**run.facts["task"], **before}}
    (run.path / "run.json").write_text(json.dumps(facts))
    if where is None:
        with pytest.raises(ConflictError, match="another version of zoogen"):
            fitted_run(random_zoo, config, run.path, readers)


# ----------------------------------------------------------------------------------------- scores
@pytest.mark.parametrize("seed", range(3))
def test_scores_know_truth_noise_and_constants(seed):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(200, 1))
    assert scores("regression", truth, truth) == {"tau": 1, "spearman": 1, "r2": 1, "mae": 0}
    assert scores("regression", truth, -truth)["tau"] == -1
    still = scores("regression", truth, np.full_like(truth, truth.mean()))
    assert (still["tau"], still["spearman"], abs(still["r2"]) < 1e-12) == (0, 0, True)
    noise = scores("regression", truth, rng.normal(size=(200, 1)))
    assert abs(noise["tau"]) < 4 * math.sqrt(2 * 405 / (9 * 200 * 199))
    classes = rng.integers(0, 3, (300, 1)).astype(float)
    assert scores("classification", classes, np.eye(3)[classes[:, 0].astype(int)]) == {
        "accuracy": 1, "macro_f1": 1,
    }  # fmt: skip
    guess = scores("classification", classes, rng.normal(size=(300, 3)))["accuracy"]
    assert abs(guess - 1 / 3) < 4 * math.sqrt(2 / 9 / 300)


def test_shuffled_targets_can_not_be_predicted(random_zoo):
    """Ridge on the weights' sizes finds the true targets, and nothing in shuffled ones."""
    problem = task_of(random_zoo, config_of({"padding": True, "snapshots": "all"})).problem
    features = np.empty((len(problem.samples), 8))
    for block in problem.samples.blocks:
        features[block.rows] = np.quantile(np.abs(block.weights), np.linspace(0.3, 1, 8), axis=1).T
    found = []
    for seed in (None, 0, 1, 2):
        targets = problem.targets[:, 0]
        targets = targets if seed is None else np.random.default_rng(seed).permutation(targets)
        rows = problem.split.train
        guess = Ridge().fit(features[rows], targets[rows]).predict(features)[problem.split.test]
        truth = targets[problem.split.test]
        found.append(scores("regression", truth[:, None], guess[:, None])["tau"])
    n = len(problem.split.test)
    assert found[0] > 0.5
    assert all(abs(tau) < 4 * math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))) for tau in found[1:])


# ------------------------------------------------------------------------------------------- runs
@pytest.mark.parametrize("target", ["test_accuracy", "phase"])
def test_an_oracle_is_right_and_a_leak_is_not_finite(random_zoo, tmp_path, target):
    config = config_of({"target": target}, {"seed": 3}, readers=["oracle", "constant", "leaking"])
    board = board_of(fitted_run(random_zoo, config, tmp_path / "run"))
    best = {s.reader: s.scores for s in board.standings}
    first = next(iter(SCORES[board.run.facts["task"]["kind"]]))
    assert best["oracle"][first] == pytest.approx((1, 0))
    assert best["constant"][first][0] < 1
    assert math.isnan(best["leaking"][first][0])
    assert "not finite" in markdown([board])
    assert board.standings[0].reader == "oracle"  # no baselines among toy readers


def contents(folder):
    return {path.name: (path.read_bytes(), os.stat(path).st_mtime_ns)
            for path in (Path(folder) / "rows").iterdir()}  # fmt: skip


def test_a_run_resumes_and_keeps_finished_rows(random_zoo, tmp_path):
    config, out = config_of(), tmp_path / "run"
    readers = readers_for(random_zoo, config)

    def interrupted(problem, options, training, seed):
        if seed == 1:
            raise Interrupted
        return constant(problem, options, training, seed)

    broken = {**readers, "constant": Reader("", interrupted, {"a": (1, 2, 3)}, mixed=True)}
    with pytest.raises(Interrupted):
        fitted_run(random_zoo, config, out, broken)
    before = contents(out)
    assert len(before) == 2 * (3 + 2)  # all of the oracle, both trials of the other
    assert board_of(open_run(out)).standings[0].reader == "oracle"
    fitted_run(random_zoo, config, out, readers)
    after = contents(out)
    assert {name: after[name] for name in before} == before
    assert len(after) == 2 * (3 + 2 + 2)
    fitted_run(random_zoo, config, out, readers)
    assert contents(out) == after
    # More seeds, trials and readers add rows.
    larger = config_of(seeds=4, tuning={"trials": 3}, readers=["oracle", "constant", "leaking"])
    fitted_run(random_zoo, larger, out, readers)
    assert {name: contents(out)[name] for name in after} == after


def test_a_run_belongs_to_one_zoo_and_one_config(random_zoo, tmp_path):
    config, out = config_of(), tmp_path / "run"
    fitted_run(random_zoo, config, out)
    before = contents(out)
    other = open_zoo(write_random_zoo(tmp_path / "other.zarr", seed=1))
    refusals = {
        "with content": lambda: fitted_run(other, config, out),
        r"\(split.seed differ\)": lambda: fitted_run(random_zoo, config_of({}, {"seed": 1}), out),
        "'other.zarr' and is no run": lambda: fitted_run(random_zoo, config, tmp_path),
        "is a file": lambda: fitted_run(random_zoo, config, out / "run.json"),
    }
    for words, act in refusals.items():
        with pytest.raises(ConflictError, match=words):
            act()
    with writer_lock(out), pytest.raises(ConflictError, match=f"process {os.getpid()}"):
        fitted_run(random_zoo, config, out)
    samples = pd.read_parquet(out / "samples.parquet")  # as another version might deal them out
    samples["side"] = np.roll(samples["side"], 1)
    samples.to_parquet(out / "samples.parquet", index=False)
    with pytest.raises(ConflictError, match="other samples, sides or targets"):
        fitted_run(random_zoo, config, out)
    assert contents(out) == before


def test_rows_tell_all_that_a_table_needs(random_zoo, tmp_path):
    run = fitted_run(random_zoo, config_of(), tmp_path / "run")
    row = run.row("oracle", 0, 2)
    assert row["sides"] == run.facts["task"]["sides"]
    assert row["excluded"] == {"diverged": 2}
    assert row["curve"] == [[1, 2.0, 1.0], [2, 1.0, 0.5]]
    assert row["peak_bytes"] > 10**6
    assert row["provenance"]["packages"]["jax"]
    places, outputs = run.predictions(row)
    table = run.samples
    assert set(table["side"].iloc[places]) == {"validation", "test"}
    np.testing.assert_allclose(outputs[:, 0], table["target"].iloc[places], rtol=1e-6)


# ----------------------------------------------------------------------------- budget and the board
def test_every_reader_gets_the_same_number_of_different_trials():
    space = {"rate": (1, 2, 3), "depth": (1, 2), "wide": tuple(range(40))}
    for seed in range(3):
        trials = trials_of("a", space, 12, seed)
        assert trials[0] == {"rate": 1, "depth": 1, "wide": 0}
        assert len({tuple(t.values()) for t in trials}) == 12
        assert trials_of("a", space, 5, seed) == trials[:5]
        assert trials_of("b", space, 12, seed) != trials
    assert trials_of("a", {"x": (1, 2)}, 9, 0) == [{"x": 1}, {"x": 2}]
    assert trials_of("a", {}, 4, 0) == [{}]
    huge = {f"o{i}": tuple(range(10)) for i in range(9)}
    assert len({tuple(t.values()) for t in trials_of("a", huge, 50, 0)}) == 50


def test_canonical_forms_are_not_tried_where_groups_are_nested(random_zoo):
    task = task_of(random_zoo, config_of({"where": "network.width == 4"}))
    reader = READERS["flat-mlp"]
    assert task.space_for(reader) == reader.space
    net = build_network(NetworkConfig(family="vit", width=8, depth=1), (1, 8, 8), 2)
    blocks = (Block(net, np.arange(1), np.zeros((1, net.spec.size))),)
    samples = replace(task.problem.samples, blocks=blocks)
    nested = replace(task, problem=replace(task.problem, samples=samples))
    assert set(reader.space) - set(nested.space_for(reader)) == {"canonical"}


def test_the_best_trial_is_that_of_validation_and_the_mean_goes_over_seeds(random_zoo, tmp_path):
    """Trial 1 is worse on the test samples and better on those of validation."""
    config = config_of(readers=["planted"])
    truth = task_of(random_zoo, config).problem

    def fit(problem, options, training, seed):
        error = np.zeros(len(truth.targets))
        error[truth.split.validation] = 1 - options["a"]
        error[truth.split.test] = options["a"] * (seed + 1)
        return Fitted(truth.targets + error[:, None], 10 * seed, 0.001 * seed, ())

    readers = {"planted": Reader("", fit, {"a": (0, 1)}, mixed=True)}
    (standing,) = board_of(fitted_run(random_zoo, config, tmp_path / "r", readers)).standings
    assert (standing.options, standing.trials, standing.seeds) == ({"a": 1}, 2, 3)
    assert standing.scores["mae"] == pytest.approx((2.0, 1.0))
    assert standing.parameters == 10
    assert standing.step_ms == pytest.approx(1.0)


def test_baselines_stand_in_every_table_and_the_figure_is_drawn(random_zoo, tmp_path):
    pytest.importorskip("matplotlib")
    boards = []
    for target in ("test_accuracy", "phase"):
        config = config_of({"target": target}, {"seed": 4}, readers=["oracle", "constant"], seeds=1)
        ceiling = Reader("Stands for trees.", constant, mixed=True)
        baselines = {"mean": READERS["mean"], "hyper-parameters": ceiling}
        readers = {**readers_for(random_zoo, config), **baselines}
        boards.append(board_of(fitted_run(random_zoo, config, tmp_path / target, readers)))
        names = [s.reader for s in boards[-1].standings]
        assert names[:3] == ["mean", "hyper-parameters", "oracle"]
    text = markdown(boards)
    for words in (
        "trivial baseline", "ceiling", "by cell", "left out: 2 diverged", "Fewer than 3",
        "Kendall τ minus that of oracle", "whole cells at a time", "| Δ oracle |",
    ):  # fmt: skip
        assert words in text, words
    for board in boards:
        assert set(board.differences) == {"mean", "hyper-parameters", "constant"}
        assert all(-1 <= low <= high < 0 for low, high in board.differences.values())
        plain = {r["reader"]: r["difference"] for r in as_json(board)["readers"]}
        assert plain == {**board.differences, "oracle": None}
        assert set(board.run.samples["unit"]) == set(board.run.samples["cell"])
    files = write_leaderboard(boards, tmp_path / "out")
    assert [f.suffix for f in files] == [".md", ".png", ".svg", ".png", ".svg"]
    assert len({f.name for f in files}) == 5
    assert all(f.stat().st_size > 500 for f in files)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_intervals_tell_equal_readers_from_better_ones(kind):
    """Three seeds each: the same, equally good ones, and a clearly better one."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        truth, cells = (
            rng.integers(0, 3, 200).astype(float),
            np.repeat(np.arange(50), 4).astype(str),
        )

        def guesses(noise, truth=truth, rng=rng):
            for _ in range(3):
                far = rng.normal(size=(200, 3), scale=noise)
                hit = np.eye(3)[truth.astype(int)] + far
                yield hit if kind == "classification" else truth[:, None] + far[:, :1]

        rough, other, near = list(guesses(1.0)), list(guesses(1.0)), list(guesses(0.3))
        assert paired_difference(kind, truth, rough, rough, cells) == (0, 0)
        low, high = paired_difference(kind, truth, other, rough, cells)
        assert low < 0.02
        assert high > -0.02
        better = paired_difference(kind, truth, near, rough, cells)
        assert 0.05 < better.low < better.high < 1
        worse = paired_difference(kind, truth, rough, near, cells)
        assert worse == pytest.approx((-better.high, -better.low))
        main = next(iter(SCORES[kind]))
        gain = np.mean(
            [[scores(kind, truth[:, None], o)[main] for o in of] for of in (near, rough)], 1
        )
        assert better.low < gain[0] - gain[1] < better.high


def test_rows_on_other_samples_have_no_interval(random_zoo, tmp_path):
    """As where rows of two versions were put into one directory by hand."""
    run = fitted_run(random_zoo, config_of(), tmp_path / "run")
    assert set(board_of(run).differences) == {"constant"}
    rows, outputs = run.predictions(run.row("constant", 0, 1))
    np.savez(run.path / "rows" / "constant-trial0-seed1.npz", rows=rows[:-1], outputs=outputs[:-1])
    assert board_of(run).differences == {}
    assert "Intervals" not in markdown([board_of(run)])


def test_cells_are_drawn_as_a_whole():
    """Of two cells, one right and one wrong, a resample has none, one or both."""
    truth, wrong = np.zeros(6), np.tile([[0.0, 1.0]], (6, 1))
    right = np.where(np.arange(6)[:, None] < 3, [[1.0, 0.0]], wrong)
    assert paired_difference("classification", truth, [right], [wrong], list("aaabbb")) == (0, 1)
    low, high = paired_difference("classification", truth, [right], [wrong], list("abcdef"))
    assert 0 < low < high < 1


def test_resampled_ranks_are_kendalls():
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 9, 600).astype(float), rng.normal(size=(600, 1)).round(1)
    times = rng.multinomial(600, np.full(600, 1 / 600), 3).astype(np.float32)
    for found, count in zip(
        _rank_correlations(truth, guess, times), times.astype(int), strict=True
    ):
        rows = np.repeat(np.arange(600), count)
        assert found == pytest.approx(stats.kendalltau(truth[rows], guess[rows, 0]).statistic)
    assert _rank_correlations(truth, 0 * guess, times).tolist() == [0, 0, 0]


# --------------------------------------------------------------------------------------- mistakes
MISTAKES = {
    "no such target": ({"target": "test_acuracy"}, {}, {}, "did you mean 'test_accuracy'"),
    "not measured": ({"target": "sharpness"}, {}, {}, "this zoo has: phase, epoch, next_update"),
    "does not vary": ({"target": "train.momentum"}, {}, {}, "does not vary"),
    "not a number a sample": ({"target": "label"}, {}, {}, "no target 'label'"),
    "no such snapshot": ({"snapshots": "anneal"}, {}, {}, "there are: init, epoch 1, end"),
    "matches nothing": ({"where": "network.width > 99"}, {}, {}, "no member matches"),
    "no query": ({"where": "network.width >"}, {}, {}, "is no query over the members"),
    "diverged alone": ({"where": "diverged"}, {}, {}, "2 diverged"),
    "one value": ({"target": "network.width", "where": "network.width == 3"}, {}, {}, "not vary"),
    "leaks": ({"target": "phase"}, {"by": "seed"}, {}, "target is one of the whole cell"),
    "cut in two": ({}, {"by": "region", "region": "seed > 0"}, {}, "in two; give a region of"),
    "no region": ({}, {"by": "region", "region": "network.width +"}, {}, "is no query over cells"),
    "no condition": ({}, {"by": "region", "region": "network.width"}, {}, "is no condition"),
    "all held out": ({}, {"by": "region", "region": "network.width > 0"}, {}, "train has no sampl"),
    "no such reader": ({}, {}, {"readers": ["orakle"]}, "'orakle' (did you mean 'oracle'?)"),
    "no images": ({"target": "dilate"}, {}, {}, "'dilate', which needs members that encode an ima"),
    "no digits": ({"target": "label"}, {}, {}, "'label', which needs members that encode an image"),
    "mixed": ({}, {}, {"readers": ["flat"]}, "23 parameters and cohort"),
    "mixed per parameter": ({"target": "next_update", "snapshots": "init"}, {}, {},
                            "one architecture; set task.padding = true"),
    "at the end": ({"target": "next_update"}, {}, {}, "earlier ones in task.snapshots (init, ep"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(random_zoo, tmp_path, name):
    task, split, further, words = MISTAKES[name]
    readers = readers_for(random_zoo, config_of())
    with pytest.raises((ConfigError, NotFoundError)) as error:
        fitted_run(random_zoo, config_of(task, split, **further), tmp_path / "run", readers)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": {"region": "x > 1"}}, "split.region: expected one exactly where by = 'region'"),
        ({"split": {"by": "snapshot"}}, "split.by: found 'snapshot'"),
        ({"split": {"test": 0.6, "validation": 0.4}}, "expected less than 1 together"),
        ({"tuning": {"trails": 3}}, "did you mean 'trials'?"),
        ({"seeds": 0}, "seeds: found 0"),
    ],
)
def test_mistakes_in_the_config_are_one_line(change, words):
    table = {"name": "x", "task": {"target": "phase"}, "readers": []}
    with pytest.raises(ConfigError) as error:
        validated(RunConfig, {**table, **change}, "file.toml")
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def asked_by(config):
    target = TARGETS.get(config.task.target)
    return "network" if target is None else target.asks


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_comparisons_are_valid(path):
    config = load_run(path)
    assert config.name == path.stem
    assert set(config.readers) <= set(READERS_OF[asked_by(config)])
    assert config.seeds >= 3
    assert "--zoo zoos/" in path.read_text()


def test_the_page_lists_the_targets():
    page = (CONFIGS.parents[1] / "docs" / "tasks.md").read_text()
    assert all(f"| `{name}` | {target.kind}" in page for name, target in TARGETS.items())


def test_a_damaged_row_is_named(random_zoo, tmp_path):
    run = fitted_run(random_zoo, config_of(), tmp_path / "run")
    (run.path / "rows" / "oracle-trial0-seed0.json").write_text("{")
    with pytest.raises(Exception, match=r"oracle-trial0-seed0\.json is damaged.*delete it"):
        board_of(open_run(run.path))
    with pytest.raises(NotFoundError, match="no run of"):
        open_run(tmp_path)


def test_facts_are_plain_json(random_zoo, tmp_path):
    run = fitted_run(random_zoo, config_of(), tmp_path / "run")
    assert json.loads((run.path / "run.json").read_text()) == run.facts
