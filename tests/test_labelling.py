"""Labels of a stored zoo: two times, rule and hash beside them, trees on zoos, coverage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zoogen import factory, labelling, phases, store
from zoogen.config import load_config
from zoogen.errors import ConfigError, NotFoundError, StorageError
from zoogen.zoo import Zoo, open_zoo

Run = Callable[..., tuple[int, str, str]]
AFTER, BEFORE = "", "_before_annealing"


# -------------------------------------------------------------------------------------- two times
def means(zoo: Zoo, metric: str, snapshot: str) -> pd.Series:
    """A metric's mean over members or pairs at a snapshot, by cell."""
    long = zoo.trajectory(metric)
    return long[long["snapshot"] == snapshot].groupby("cell", sort=False)["value"].mean()


@pytest.mark.parametrize(("snapshot", "suffix"), [("anneal", BEFORE), ("end", AFTER)])
def test_labels_of_both_times_follow_from_the_measurements_then(
    tiny_zoo: Path, snapshot: str, suffix: str
) -> None:
    zoo = open_zoo(tiny_zoo)
    labelled = zoo.cells[zoo.cells[f"phase{suffix}"].isin(phases.PHASES)]
    assert len(labelled) >= 2
    error, mc, cka = (
        means(zoo, name, snapshot)[labelled.index]
        for name in ("train_accuracy", "mode_connectivity", "cka")
    )
    expected = phases.label(100 * (1 - error), mc, cka)
    assert labelled[f"phase{suffix}"].tolist() == expected.phase.tolist()
    assert labelled[f"reason{suffix}"].tolist() == list(expected.reason)


def test_a_cell_that_passes_the_threshold_while_annealing_has_two_phases(
    copied_zoo: Path, tmp_path: Path
) -> None:
    zoo = open_zoo(copied_zoo)
    early, late = (100 * (1 - means(zoo, "train_accuracy", t)) for t in ("anneal", "end"))
    cell = (early - late).idxmax()
    cut = (early[cell] + late[cell]) / 2
    rule = phases.load_rule("taxonomy")
    error = rule.thresholds.train_error.model_copy(update={"value": float(cut)})
    failure = rule.failure.model_copy(update={"margin": 0.0})
    moved = rule.thresholds.model_copy(update={"train_error": error})
    path = tmp_path / "moved.toml"
    labelling.write_rule(rule.model_copy(update={"thresholds": moved, "failure": failure}), path)
    found = factory.label(copied_zoo, str(path)).cells.loc[cell]
    assert early[cell] > cut > late[cell]
    assert found["phase_before_annealing"] in {"I", "II"}
    assert found["phase"] in {"III", "IV-A", "IV-B"}
    assert ">" in found["reason_before_annealing"].split(",")[0]
    assert "≤" in found["reason"].split(",")[0]


def test_both_times_are_stored_for_members_and_cells(tiny_zoo: Path) -> None:
    zoo = open_zoo(tiny_zoo)
    stored = zoo.reader.labels()
    assert stored is not None
    for suffix in (AFTER, BEFORE):
        columns = {f"{name}{suffix}" for name in ("phase", "confidence", "reason")}
        assert columns <= set(stored.members)
        assert columns <= set(stored.cells)
        assert {f"phase{suffix}", f"confidence{suffix}"} <= set(zoo.members)
        assert set(zoo.cells[f"phase{suffix}"]) <= set(phases.CLASSES)
    assert not any(name.startswith("reason") for name in zoo.members)
    table = pd.read_parquet(tiny_zoo / "members.parquet")
    assert table["phase_before_annealing"].tolist() == list(zoo.members["phase_before_annealing"])
    assert stored.info["sha256"] == phases.load_rule("taxonomy").sha256
    assert set(stored.info["before_annealing"]["thresholds"]) == set(stored.info["thresholds"])


def test_a_zoo_that_never_anneals_has_one_time(tiny_config: Path, tmp_path: Path) -> None:
    overrides = ["train.schedule=constant", "grid.axes.network.width=[4]"]
    zoo = factory.generate(load_config(tiny_config, overrides), tmp_path / "z.zarr")
    assert "phase" in zoo.cells
    assert not [name for name in (*zoo.cells, *zoo.members) if name.endswith(BEFORE)]


class _Stub:
    """A zoo of one cohort of three members: never diverged, early and late."""

    def __init__(self) -> None:
        self.reader = self

    def snapshots(self, cohort: str) -> pd.DataFrame:
        return pd.DataFrame({"name": ["init", "anneal", "end"], "epoch": [0.0, 5.0, 10.0]})

    def read(self, cohort: str, name: str) -> np.ndarray:
        return np.array([-1, 4, 5])

    def members(self, cohort: str) -> pd.DataFrame:
        return pd.DataFrame({"id": ["never", "early", "late"]})


@pytest.mark.parametrize(("snapshot", "expected"), [("anneal", [0, 1, 0]), ("end", [0, 1, 1])])
def test_a_member_that_diverges_later_has_not_failed_yet(
    snapshot: str, expected: list[int]
) -> None:
    found = labelling._diverged(_Stub(), ["c"], snapshot)  # type: ignore[arg-type]
    assert found.loc[["never", "early", "late"]].tolist() == expected


@pytest.mark.parametrize("rule", ["adaptive", "md_tree"])
def test_relabelling_stores_the_new_hash_and_keeps_measurements(
    copied_zoo: Path, rule: str
) -> None:
    before = open_zoo(copied_zoo)
    after = factory.label(copied_zoo, rule)
    labels = after.reader.labels()
    assert labels is not None
    assert labels.info["sha256"] == phases.load_rule(rule).sha256
    kept, units = dict(after.reader.manifest.units()), dict(before.reader.manifest.units())
    assert all(kept[key] == unit for key, unit in units.items())
    assert store.verify(copied_zoo) == []
    again = factory.label(copied_zoo, rule).reader.labels()
    assert again is not None
    assert again.number == labels.number, "equal labels are stored once"


def test_a_member_failed_alone_says_so() -> None:
    table = pd.DataFrame({"cell": "c", "seed": [0, 1, 2]}, index=["x", "y", "z"])
    found = phases.label(
        np.array([[20.0, 21.0, 90.0]]), np.full((1, 3), 9.0), np.full((1, 3), 0.5),
        chance_error=90.0, pairs=np.array([[0, 1], [0, 2], [1, 2]]),
    )  # fmt: skip
    members = labelling._member_labels(table, ["c"], found)
    assert members["phase"].tolist() == ["II", "II", "failed"]
    assert members["confidence"].tolist()[2] == 1.0
    assert "this member" in members["reason"][2]
    assert members["reason"][0] == found.reason[0]


# ------------------------------------------------------------------------------------------- trees
def test_measurements_of_a_zoo_point_towards_load_and_temperature(tiny_zoo: Path) -> None:
    zoo = open_zoo(tiny_zoo)
    cells, table = zoo.cells, labelling.measurements(zoo)
    np.testing.assert_array_equal(table["load"], -cells["network.width"])
    np.testing.assert_array_equal(table["temperature"], cells["train.learning_rate"])
    np.testing.assert_allclose(table["train_error"], 100 * (1 - cells["train_accuracy"]))
    assert len(phases.cells_of(table)) == len(cells)


def grown_table(side: int = 6) -> pd.DataFrame:
    """A grid whose test accuracy grows with temperature where CKA is low, else with less load."""
    rng = np.random.default_rng(0)
    load, heat = (axis.ravel() for axis in np.mgrid[:side, :side])
    high = load < side // 2
    accuracy = np.where(high, 0.4 + 0.05 * (-load), 0.2 + 0.05 * heat)
    return pd.DataFrame(
        {
            "load": load, "temperature": heat, "train_error": 0.0, "mode_connectivity": -1.0,
            "hessian_trace": 1.0, "test_accuracy": accuracy,
            "cka": np.where(high, 0.7, 0.3) + rng.uniform(-0.05, 0.05, side**2),
        }
    )  # fmt: skip


def test_fit_on_a_csv_then_label_with_the_rule(run: Run, copied_zoo: Path, tmp_path: Path) -> None:
    csv, out = tmp_path / "grid.csv", tmp_path / "mine.toml"
    grown_table().to_csv(csv, index=False)
    code, printed, _ = run("phases", "fit", csv, "--out", out)
    assert code == 0
    assert "5-fold cross-validation by cell" in printed
    assert "grid.csv" in printed
    code, printed, _ = run("phases", "fit", csv, "--out", out, "--json")
    score = json.loads(printed)["rule"]["tree"]["score"]
    assert score["accuracy"] > score["baseline"]
    assert run("label", copied_zoo, "--rule", out)[0] == 0
    zoo = open_zoo(copied_zoo)
    assert set(zoo.cells["advice"]) <= {
        f"{knob} {way}" for knob in ("load", "temperature") for way in ("up", "down")
    } | {""}
    assert zoo.reader.labels().info["rule"] == "mine"  # type: ignore[union-attr]


def test_rules_are_listed(run: Run) -> None:
    code, printed, _ = run("phases", "rules")
    assert code == 0
    for name in ("taxonomy", "adaptive", "md_tree"):
        assert f"{name} " in printed
        assert phases.load_rule(name).sha256[:12] in printed
    code, printed, _ = run("phases", "rules", "--json")
    assert [rule["name"] for rule in json.loads(printed)] == phases.rule_names()


def test_impossible_fits_are_one_line(run: Run, tiny_zoo: Path, tmp_path: Path) -> None:
    csv = tmp_path / "grid.csv"
    grown_table().to_csv(csv, index=False)
    cases = {
        "few cells": ([tiny_zoo, "--out", tmp_path / "a.toml"], 2, "a fit needs 10"),
        "no csv": ([tmp_path / "no.csv", "--out", tmp_path / "a.toml"], 3, "give a zoo or a CSV"),
        "name": ([csv, "--out", tmp_path / "a.txt"], 2, "give RULE.toml"),
        "place": ([csv, "--out", tmp_path / "no" / "a.toml"], 3, "choose another --out"),
        "start": ([csv, "--out", tmp_path / "a.toml", "--start", "taxonomy"], 2, "'md_tree'"),
    }
    for name, (arguments, expected, words) in cases.items():
        code, _, err = run("phases", "fit", *arguments)
        assert (code, words in err, "Traceback" in err) == (expected, True, False), (name, err)
    assert not (tmp_path / "a.toml").exists()


@pytest.mark.parametrize(
    ("grid", "words"), [({"load": None}, "not named"), ({"load": "data.crop"}, "data.crop")]
)
def test_unknown_knobs_are_refused(tiny_zoo: Path, grid: dict, words: str) -> None:
    zoo = open_zoo(tiny_zoo)
    changed = zoo.config.grid.model_copy(update=grid)
    zoo.__dict__["config"] = zoo.config.model_copy(update={"grid": changed})
    with pytest.raises(ConfigError, match=words):
        labelling.measurements(zoo)


def test_an_unwritable_rule_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="choose another --out"):
        labelling.write_rule(phases.load_rule("taxonomy"), tmp_path / "no" / "a.toml")


# ---------------------------------------------------------------------------------------- coverage
def required(zoo: Zoo, names: str) -> str:
    """The complaint about a zoo, or empty text."""
    try:
        labelling.require_coverage(zoo, phases.phase_names(names))
    except NotFoundError as error:
        return str(error)
    return ""


def test_generate_fails_loudly_and_keeps_the_zoo(
    run: Run, tiny_config: Path, copied_zoo: Path
) -> None:
    held = set(open_zoo(copied_zoo).cells["phase"])
    empty = [name for name in phases.PHASES if name not in held]
    assert empty, "four cells can't hold five phases"
    code, out, err = run(
        "generate", tiny_config, "--out", copied_zoo, "--require-coverage", ",".join(phases.PHASES)
    )
    assert code == 3
    assert f"no cell in phase {', '.join(empty)}" in err
    assert "complete and kept" in err
    assert sum(line.startswith("  ") for line in err.splitlines()) == len(empty)
    assert "entropy" in out, "the table is printed before the failure"
    assert store.verify(copied_zoo) == []
    assert run("generate", tiny_config, "--out", copied_zoo)[0] == 0
    if held & set(phases.PHASES):
        there = ",".join(held & set(phases.PHASES))
        assert required(open_zoo(copied_zoo), there) == ""


@pytest.mark.parametrize("names", ["V", "I,II,", "", "iv-b"])
def test_a_phase_that_does_not_exist_stops_before_work(
    run: Run, tiny_config: Path, tmp_path: Path, names: str
) -> None:
    out = tmp_path / "z.zarr"
    code, _, err = run("generate", tiny_config, "--out", out, "--require-coverage", names)
    assert code == 2
    assert "expected some of I,II,III,IV-A,IV-B" in err
    assert not out.exists()


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("I", "higher load (network.width below 4)"),
        ("II", "higher temperature (train.learning_rate above 0.05)"),
        ("III", "higher load (network.width below 4)"),
        ("IV-A", "lower temperature (train.learning_rate below 0.01)"),
        ("IV-B", "lower load (network.width above 8)"),
    ],
)
def test_what_to_extend_is_named(tiny_zoo: Path, phase: str, words: str) -> None:
    zoo = open_zoo(tiny_zoo)
    labels = zoo.reader.labels()
    assert labels is not None
    labels.cells["phase"] = "boundary"
    zoo.reader.labels = lambda: labels  # type: ignore[method-assign]
    assert words in required(zoo, phase)


def test_without_axes_the_advice_names_the_knob() -> None:
    assert "name an axis as grid.load" in phases.remedy("I", {})
