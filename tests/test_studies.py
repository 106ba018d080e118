"""Studies: known answers on made-up members, and tables and files of a small zoo."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zoogen import cli
from zoogen.config import NetworkConfig
from zoogen.errors import ConfigError, NotFoundError
from zoogen.networks import build_network
from zoogen.present import study_text
from zoogen.studies import STUDIES, Replicates, Subjects, run_study, write_study
from zoogen.studies.cohort import Probe, accuracy
from zoogen.studies.pruning import pruned
from zoogen.zoo import Zoo, open_zoo

NETWORK = build_network(NetworkConfig(family="mlp", width=6, depth=2), (1, 4, 4), 5)
IMAGES, FEATURES = 200, (1, 4, 4)


def vectors(count: int, seed: int = 0) -> np.ndarray:
    """Weights of different members, biases included."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, NETWORK.spec.size)).astype(np.float32)


def cohort(snapshots: np.ndarray, cells: str, like: int = 0) -> Subjects:
    """Members with weights ``[m s p]``; the labels are what member ``like`` predicts."""
    images = np.random.default_rng(9).normal(size=(IMAGES, *FEATURES)).astype(np.float32)
    probe = Probe(images, np.zeros(1, np.float32), np.ones(1, np.float32))
    made = Subjects(
        NETWORK, np.array(list(cells)), snapshots.shape[1], lambda s: snapshots[:, s], probe,
        np.zeros(IMAGES, int),
    )  # fmt: skip
    labels = made.logits(snapshots[like : like + 1, -1])[0].argmax(axis=1)
    return Subjects(NETWORK, made.cells, made.snapshots, made.weights, probe, labels)


def table(name: str, members: Subjects) -> pd.DataFrame:
    return pd.DataFrame(STUDIES[name].of_cohort(members)).set_index(["cell", "setting"])


# ------------------------------------------------------------------------------- known answers
def test_averaging_equal_snapshots_changes_nothing() -> None:
    last, init = vectors(3), vectors(3, seed=1)
    found = table("average-snapshots", cohort(np.stack([init, last, last, last], axis=1), "aab"))
    assert found.index.tolist() == [("a", 2), ("b", 2), ("a", 3), ("b", 3)]
    assert (found["gain"] == 0).all()
    assert found.loc["a", "gain_stderr"].tolist() == [0, 0]


def test_the_average_of_snapshots_is_the_network_in_their_midst() -> None:
    middle, step = vectors(2), vectors(2, seed=1)
    off = 3 * step
    members = cohort(np.stack([step, middle - off, middle, middle + off], axis=1), "ab")
    wanted = members.accuracy(middle)
    found = table("average-snapshots", members).xs(3, level="setting")
    assert found["accuracy"].tolist() == wanted.tolist()
    assert (found["gain"] != 0).any()
    assert found["gain"].tolist() == (wanted - members.accuracy(middle + off)).tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_alignment_restores_the_average_of_a_member_and_its_copy(seed: int) -> None:
    one = vectors(1, seed)[0]
    copy = NETWORK.spec.permute(one, NETWORK.spec.random_permutation(seed + 5))
    found = table("average-seeds", cohort(np.stack([one, copy])[:, None], "aa"))
    assert found.loc[("a", "raw"), "accuracy"] < 0.9
    assert found.loc[("a", "aligned"), "accuracy"] == 1
    assert found.loc[("a", "aligned"), "gain"] == 0
    assert found["accuracy_stderr"].isna().all()  # of two, nothing can be left out


@pytest.mark.parametrize("name", ["average-seeds", "ensemble"])
def test_equal_members_together_are_the_member(name: str) -> None:
    members = cohort(np.repeat(vectors(2), [3, 3], axis=0)[:, None], "aaabbb")
    found = table(name, members)
    assert (found["gain"] == 0).all()
    assert (found["gain_stderr"] == 0).all()
    assert found.loc["b", "accuracy"].max() < 1  # the labels are those of cell a


def test_an_ensemble_averages_probabilities_of_the_members_of_a_cell() -> None:
    weights = vectors(4)
    members = cohort(weights[:, None], "aaab", like=3)
    logits = members.logits(weights[:3]).astype(float)
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    pairs = [(shares[i] + shares[j]) / 2 for i, j in ((0, 1), (1, 2), (0, 2))]
    found = table("ensemble", members)
    assert found.index.tolist() == [("a", 2), ("a", 3)]
    wanted = np.mean([accuracy(pair, members.labels) for pair in pairs])
    assert found.loc[("a", 2), "accuracy"] == pytest.approx(wanted)
    assert found.loc[("a", 3), "accuracy"] == accuracy(shares.mean(axis=0), members.labels)
    assert found["gain_stderr"].gt(0).all()


def test_pruning_nothing_changes_nothing_and_pruning_all_gives_one_class() -> None:
    weights = vectors(2)
    members = cohort(weights[:, None], "ab")
    assert np.array_equal(pruned(NETWORK.spec, weights, 0.0), weights)
    logits = members.logits(pruned(NETWORK.spec, weights, 1.0))
    biases = NETWORK.spec.unflatten(weights)["output.bias"]
    assert np.array_equal(logits, np.broadcast_to(biases[:, None], logits.shape))
    chance = [(members.labels == k).mean() for k in biases.argmax(axis=1)]
    assert accuracy(logits, members.labels).tolist() == chance


@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_pruning_takes_the_smallest_weights_of_all_layers(sparsity: float) -> None:
    weights = vectors(3)
    after = pruned(NETWORK.spec, weights, sparsity)
    is_weight = np.concatenate([np.full(p.size, len(p.axes) > 1) for p in NETWORK.spec.parameters])
    gone = (after == 0) & (weights != 0)
    assert (gone.sum(axis=1) == round(sparsity * is_weight.sum())).all()
    assert not gone[:, ~is_weight].any()
    assert np.array_equal(after[~gone], weights[~gone])
    for member, lost in zip(np.abs(weights[:, is_weight]), gone[:, is_weight], strict=True):
        assert member[lost].max() <= member[~lost].min()


def test_the_error_of_a_mean_is_the_usual_one() -> None:
    values = np.random.default_rng(0).normal(size=20)
    assert Replicates.means(values).stderr == pytest.approx(values.std(ddof=1) / np.sqrt(20))
    assert np.isnan(Replicates.means(values[:1]).stderr)


# --------------------------------------------------------------------------------------- a zoo
@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path) -> Zoo:
    return open_zoo(tiny_zoo)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_of_a_zoo_has_a_row_a_cell_and_setting(name: str, zoo: Zoo) -> None:
    study = run_study(name, zoo)
    rows = study.table
    assert not rows.duplicated(["cell", "setting"]).any()
    assert len(rows) == len(zoo.cells) * len(study.settings)
    assert rows.columns[:4].tolist() == ["cell", "phase", "network.width", "train.learning_rate"]
    # The members as they are score what the zoo says.
    stored = zoo.members.groupby("cell")["test_accuracy"].mean()
    assert np.allclose(rows["reference"], stored.loc[rows["cell"]], atol=1e-6)
    assert np.allclose(rows["gain"], rows["accuracy"] - rows["reference"])
    text = study_text(study, [])
    assert "nan" not in text
    assert all(f"\n{phase:<12}" in text for phase in rows["phase"])


def test_diverged_members_are_left_out_and_counted(
    zoo: Zoo,
) -> None:
    members = zoo.members.copy()
    lost = members.index[members["cell"] == members["cell"].iloc[0]]
    members.loc[lost[0], "diverged"] = True
    members.loc[members.index[-1], "diverged"] = True
    copy = open_zoo(zoo.path)
    copy.__dict__["members"] = members
    study = run_study("ensemble", copy)
    assert (study.members, study.diverged) == (6, 2)
    assert study.missing == tuple(members.loc[[lost[0], members.index[-1]], "cell"])
    members["diverged"] = True
    with pytest.raises(NotFoundError, match="no cell with two members that did not diverge"):
        run_study("ensemble", copy)


def test_files_are_written_and_hold_the_table(zoo: Zoo, tmp_path: Path) -> None:
    study = run_study("prune", zoo)
    paths = write_study(study, tmp_path / "new")
    assert [p.name for p in paths] == ["prune.csv", "prune.png", "prune.svg"]
    read = pd.read_csv(paths[0])
    assert np.allclose(read["gain"], study.table["gain"], atol=1e-5)
    svg = paths[2].read_text()
    assert "Gain: 90% pruned" in svg
    assert STUDIES["prune"].definition in svg


def test_without_load_or_temperature_the_table_is_all(zoo: Zoo, tmp_path: Path) -> None:
    study = run_study("ensemble", zoo)
    bare = replace(study, report=replace(study.report, load=None))
    assert [p.name for p in write_study(bare, tmp_path)] == ["ensemble.csv"]


@pytest.mark.parametrize(
    ("name", "near"), [("average-seed", "average-seeds"), ("Prune", "prune"), ("x", "")]
)
def test_an_unknown_study_names_the_nearest(name: str, near: str, zoo: Zoo) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{near}") as error:
        run_study(name, zoo)
    assert "\n" not in str(error.value)
    assert all(known in str(error.value) for known in STUDIES)


def test_the_command_prints_json_and_lists_the_studies(
    tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        return end.value.code, *capsys.readouterr()

    code, out, _ = run("study", "ensemble", tiny_zoo, "--out", tmp_path, "--json")
    assert code == 0
    printed = json.loads(out)
    assert [row["setting"] for row in printed["rows"]] == [2] * 4
    assert printed["rows"][0]["gain_stderr"] is None  # two seeds
    assert all(Path(path).is_file() for path in printed["files"])
    code, out, _ = run("study", "--help")
    assert code == 0
    assert all(name in out for name in STUDIES)
    code, _, err = run("study", "ensembel", tiny_zoo, "--out", tmp_path)
    assert code == 2
    assert err.count("\n") == 1
    assert "'ensemble'" in err
