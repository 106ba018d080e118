"""Studies: known answers on made-up members, and tables and files of a small zoo."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zoogen import factory, store
from zoogen.config import NetworkConfig
from zoogen.errors import ConfigError, ConflictError, NotFoundError
from zoogen.grid import expand
from zoogen.networks import build_network
from zoogen.params import ParamSpec
from zoogen.present import study_text
from zoogen.studies import (
    STUDIES,
    Pruning,
    Replicates,
    Subjects,
    Trainees,
    run_study,
    sparsify,
    write_study,
)
from zoogen.studies.cohort import Probe, accuracy
from zoogen.studies.compaction import NUMBERS, _components, compact, largest
from zoogen.studies.compositions import compose_tasks, shifted
from zoogen.studies.estimates import compare_members
from zoogen.studies.pruning import kept, pruned, retrain
from zoogen.studies.stars import star
from zoogen.studies.trainees import config_of, members_of, trainees
from zoogen.studies.transfer import transferred
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
        np.zeros(IMAGES, int), probe,
    )  # fmt: skip
    labels = made.logits(snapshots[like : like + 1, -1])[0].argmax(axis=1)
    return Subjects(NETWORK, made.cells, made.snapshots, made.weights, probe, labels, probe)


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


def test_a_member_that_lacks_a_value_takes_no_part() -> None:
    found = np.array([0.5, np.nan, 0.7, np.nan, 0.9])
    cells = [("a", np.array([0, 1, 2])), ("b", np.array([3])), ("c", np.array([4]))]
    a, c = compare_members(cells, 1, found, np.full(5, 0.4))
    assert (a.cell, a.members, c.cell, c.members) == ("a", 2, "c", 1)
    assert a.gain == pytest.approx(0.2)
    assert np.isnan(c.gain_stderr)


# --------------------------------------------------------------------------------------- a zoo
SAME = ("data.source=digits", "data.train_examples=300", "data.test_examples=100")
OVERRIDES = {"fine-tune": SAME}


@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path) -> Zoo:
    return open_zoo(tiny_zoo)


def stored_accuracy(zoo: Zoo, rows: pd.DataFrame) -> np.ndarray:
    return zoo.members.groupby("cell")["test_accuracy"].mean().loc[rows["cell"]].to_numpy()


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_of_a_zoo_has_a_row_a_cell_and_setting(name: str, zoo: Zoo) -> None:
    study = run_study(name, zoo, OVERRIDES.get(name, ()))
    rows = study.table
    assert not rows.duplicated(["cell", "variant", "setting"]).any()
    assert len(rows) == len(zoo.cells) * len(study.settings) * len(study.variants)
    assert rows.columns[:4].tolist() == ["cell", "phase", "network.width", "train.learning_rate"]
    # The members as they are score what the zoo says.
    if not study.kind.trains:
        assert np.allclose(rows["reference"], stored_accuracy(zoo, rows), atol=1e-6)
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
    assert "Gradual: 90% pruned" in svg
    assert "Retrained: gain by phase" in svg
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


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_a_command(
    name: str, tiny_zoo: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    changes = [part for override in OVERRIDES.get(name, ()) for part in ("--set", override)]
    code, out, err = run("study", name, tiny_zoo, *changes, "--out", tmp_path, "--json")
    assert (code, err) == (0, ""), "quiet where nobody looks"
    printed = json.loads(out)
    assert {row["cell"] for row in printed["rows"]} == set(open_zoo(tiny_zoo).cells.index)
    assert [Path(path).suffix for path in printed["files"]] == [".csv", ".png", ".svg"]
    assert all(Path(path).is_file() for path in printed["files"])


def test_the_command_lists_the_studies_and_prints_unknown_numbers_as_null(
    tiny_zoo: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    _, out, _ = run("study", "ensemble", tiny_zoo, "--out", tmp_path, "--json")
    rows = json.loads(out)["rows"]
    assert [row["setting"] for row in rows] == [2] * 4
    assert rows[0]["gain_stderr"] is None  # two seeds
    code, out, _ = run("study", "--help")
    assert code == 0
    assert all(name in out for name in STUDIES)
    code, _, err = run("study", "ensembel", tiny_zoo, "--out", tmp_path)
    assert code == 2
    assert err.count("\n") == 1
    assert "'ensemble'" in err


# ------------------------------------------------------------------------------- training further
@pytest.fixture(scope="module")
def people(zoo: Zoo) -> Trainees:
    """The members of the first cohort."""
    return next(iter(trainees(zoo, SAME, lambda members: None)))


def last(members: Trainees) -> np.ndarray:
    return members.subjects.weights(members.subjects.snapshots - 1)


def test_a_stored_cohort_tells_how_it_was_trained(zoo: Zoo) -> None:
    for cohort in expand(zoo.config).cohorts:
        assert config_of(zoo, cohort.id) == cohort.config
        assert members_of(zoo.reader.members(cohort.id)) == cohort.members


def test_progress_counts_every_member_once(zoo: Zoo) -> None:
    for name in STUDIES:
        done: list[float] = []
        totals: list[float] = []

        @contextmanager
        def reporter(
            title: str, total: float, unit: str, done: list = done, totals: list = totals
        ) -> Iterator[Callable[[float], None]]:
            totals.append(total)
            yield done.append

        run_study(name, zoo, OVERRIDES.get(name, ()), reporter)
        assert totals == [len(zoo)]
        assert sum(done) == pytest.approx(len(zoo))


@pytest.mark.parametrize(("rounds", "epochs"), [(1, None), (5, None), (3, 3), (4, 1)])
def test_rounds_lie_in_the_first_half_and_end_at_the_sparsity(
    rounds: int, epochs: int | None, people: Trainees
) -> None:
    pruning, line = Pruning(0.7, rounds, epochs), people.recipe.timeline
    steps, shares = pruning.steps(people.recipe), pruning.shares()
    length = (epochs or 2) * line.steps_per_epoch  # of 4
    assert (steps[0], steps[-1]) == (line.total_steps - length, line.total_steps)
    assert steps[-2] - steps[0] <= length / 2
    assert len(shares) == len(steps) - 1 == rounds
    assert shares[-1] == 0.7
    assert (np.diff([0, *shares]) > 0).all()


@pytest.mark.parametrize("rounds", [1, 3])
def test_retraining_keeps_zeros_and_moves_the_rest(rounds: int, people: Trainees) -> None:
    dense, members = last(people), people
    before, after = retrain(
        Pruning(0.6, rounds), members.recipe, members.data, members.members, dense
    )
    spec = members.subjects.network.spec
    prunable = sum(p.size for p in spec.parameters if len(p.axes) > 1)
    gone = before == 0
    assert (gone.sum(axis=1) >= round(0.6 * prunable)).all()
    assert (after[gone] == 0).all()
    assert (after[~gone] != dense[~gone]).mean() > 0.5
    if rounds == 1:
        np.testing.assert_array_equal(before, pruned(spec, dense, 0.6))


def test_a_diverged_member_stays_told_and_alone(people: Trainees) -> None:
    dense = last(people).copy()
    _, healthy = retrain(Pruning(0.5), people.recipe, people.data, people.members, dense)
    dense[1] = np.nan
    before, after = retrain(Pruning(0.5), people.recipe, people.data, people.members, dense)
    assert np.isnan(before[1]).all()
    assert np.isnan(after[1]).all()
    others = np.arange(len(dense)) != 1
    np.testing.assert_array_equal(after[others], healthy[others])


def test_pruning_compares_like_with_like(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing goes, nothing is gained: as it is, retrained, or in rounds of nothing."""
    monkeypatch.setattr("zoogen.studies.pruning.SPARSITIES", (0.0, 1.0))
    monkeypatch.setattr("zoogen.studies.pruning.ROUNDS", 1)
    study = run_study("prune", zoo)
    rows = study.table
    assert study.variants == ["at once", "retrained", "gradual"]
    assert (rows.loc[rows["setting"] == 0, ["gain", "gain_stderr"]] == 0).all(axis=None)
    at_once = rows[rows["variant"] == "at once"]
    assert np.allclose(at_once["reference"], stored_accuracy(zoo, at_once), atol=1e-6)
    retrained, gradual = (
        rows.loc[rows["variant"] == name, "accuracy"].to_numpy() for name in study.variants[1:]
    )
    np.testing.assert_array_equal(retrained, gradual)
    all_gone = rows[(rows["setting"] == 1) & (rows["variant"] != "at once")]
    assert (all_gone["accuracy"] < 0.3).all(), "biases alone know one class"


def test_fine_tuning_to_the_same_data_starts_from_the_member_and_repeats_its_training(
    zoo: Zoo,
) -> None:
    rows = run_study("fine-tune", zoo, SAME).table
    assert rows["setting"].unique().tolist() == ["0 epochs", "1 epoch", "4 epochs"]
    start, end = rows[rows["setting"] == "0 epochs"], rows[rows["setting"] == "4 epochs"]
    assert np.allclose(start["accuracy"], stored_accuracy(zoo, start), atol=1e-6)
    assert np.allclose(end["reference"], stored_accuracy(zoo, end), atol=1e-6)
    assert end["gain"].mean() > 0, "more training helps these members"


@pytest.fixture
def three_classes(tmp_path: Path) -> Path:
    """Images of bright rows, of the shape of digits."""
    rng, labels = np.random.default_rng(0), np.arange(240) % 3
    images = rng.integers(0, 60, (240, 8, 8)).astype(np.uint8)
    for label in range(3):
        images[labels == label, 2 * label : 2 * label + 2] += 150
    np.savez(tmp_path / "rows.npz", images=images, labels=labels)
    return tmp_path / "rows.npz"


def test_other_classes_get_a_fresh_output_layer(zoo: Zoo, three_classes: Path) -> None:
    words = (f"data.path={three_classes}", "data.source=npz")
    more = ("train.steps=12", "train.snapshots=[4]", "train.learning_rate=0.05")
    rows = run_study("fine-tune", zoo, [*words, *more]).table
    assert rows["setting"].unique().tolist() == ["4 steps", "12 steps"]
    assert (rows.loc[rows["setting"] == "12 steps", "accuracy"] > 0.9).mean() > 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_fits_is_transferred_and_the_rest_is_fresh(seed: int) -> None:
    other = build_network(NETWORK.config, FEATURES, 3)
    values, fresh = vectors(2, seed), np.zeros((2, other.spec.size), np.float32)
    after = other.spec.unflatten(transferred(NETWORK.spec, values, other.spec, fresh))
    before = NETWORK.spec.unflatten(values)
    for name, value in after.items():
        fits = not name.startswith("output")
        np.testing.assert_array_equal(value, before[name] if fits else np.zeros_like(value))
    same = transferred(NETWORK.spec, values, NETWORK.spec, vectors(2, seed + 9))
    np.testing.assert_array_equal(same, values)


# ------------------------------------------------------------------------- stars and task vectors
def test_a_star_of_twins_that_is_not_trained_is_the_member(
    people: Trainees, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twins lie in one place once they are aligned, and so does their mean."""
    monkeypatch.setattr("zoogen.studies.stars.star_model", lambda net, m, *_, **__: m.mean(axis=1))
    spec, weights = people.subjects.network.spec, last(people)
    member = weights[0]
    twins = np.stack(
        [spec.permute(member, spec.random_permutation(i)) for i in range(len(weights))]
    )
    same = replace(people.subjects, weights=lambda s: twins)
    rows = pd.DataFrame(star(replace(people, subjects=same)))
    wanted = people.subjects.accuracy(member[None])[0]
    assert rows["setting"].nunique() == 2
    assert np.allclose(rows[["accuracy", "reference"]], wanted, atol=0.011)
    assert np.allclose(rows["gain"], 0, atol=0.011), "one example may flip by rounding"


def test_a_trained_star_lies_well_between_the_members_of_its_cell(zoo: Zoo) -> None:
    rows = run_study("star", zoo).table
    ends = zoo.members.groupby("cell")["test_accuracy"].min().loc[rows["cell"]].to_numpy()
    assert (rows["reference"] <= ends + 1e-6).all(), "the ends are on the lines"
    seen = rows["setting"] == "own members"
    assert rows.loc[seen, "gain"].mean() > 0


def test_vectors_of_nothing_change_nothing(
    people: Trainees, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = lambda members, weights: np.stack([weights] * 4, axis=1)  # noqa: E731
    monkeypatch.setattr("zoogen.studies.compositions._fine_tuned", still)
    rows = pd.DataFrame(compose_tasks(people)).set_index("setting")
    assert (rows.drop("fine-tuned")["gain"] == 0).all()
    assert rows.loc["fine-tuned", "gain"].abs().max() > 0


def test_learned_coefficients_help_on_a_shift_that_no_vector_was_made_for(zoo: Zoo) -> None:
    rows = run_study("task-vectors", zoo).table
    gains = rows.groupby("setting")["gain"].mean()
    assert gains["learned blocks"] > 0
    assert (rows["reference"] < stored_accuracy(zoo, rows)).mean() > 0.7, "a harder task"


@pytest.mark.parametrize("way", [(0, 1), (0, -1), (1, 0), (-1, 1)])
def test_shifted_images_come_back_but_for_what_left_the_frame(way: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(1, 255, (3, 2, 9, 16))
    back = shifted(shifted(images, way), (-way[0], -way[1]))
    assert ((back == images) | (back == 0)).all()
    lost = 1 - (1 - abs(way[0]) / 9) * (1 - 2 * abs(way[1]) / 16)
    assert (back == 0).mean() == pytest.approx(lost)


REFUSED = {
    "no data": ("fine-tune", ["train.epochs=1"], "no data set named"),
    "network": (
        "fine-tune",
        [*SAME, "network.width=3"],
        r"expected a key of \[data\] or \[train\]",
    ),
    "unknown": ("fine-tune", [*SAME, "train.epoch=3"], "'epochs'"),
    "no path": ("fine-tune", ["data.source=npz"], "path: missing"),
    "no word": ("fine-tune", ["digits"], "--set digits: expected a key"),
    "other": ("ensemble", ["train.epochs=1"], "found --set train.epochs=1, but it takes none"),
}


@pytest.mark.parametrize(("name", "overrides", "words"), REFUSED.values(), ids=REFUSED)
def test_overrides_that_do_not_suit_are_refused(
    name: str, overrides: list[str], words: str, zoo: Zoo
) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        run_study(name, zoo, overrides)
    assert "\n" not in str(error.value)


def test_images_of_another_shape_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    images, labels = np.zeros((20, 9, 8), np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "tall.npz", images=images, labels=labels)
    with pytest.raises(ConfigError, match=r"'tall': expected images of 1×8×8 .* found 1×9×8"):
        run_study("fine-tune", zoo, ["data.source=npz", f"data.path={tmp_path / 'tall.npz'}"])


# ---------------------------------------------------------------------------------------- a twin
HALF = Pruning(0.5, rounds=2, epochs=1)


@pytest.fixture(scope="module")
def twin(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    path = tmp_path_factory.mktemp("twin") / "twin.zarr"
    sparsify(zoo, path, HALF)
    return factory.complete(path)


def test_a_twin_is_a_zoo_of_the_same_members(twin: Zoo, zoo: Zoo) -> None:
    same = ["cohort", "cell", "seed", "network.width", "train.learning_rate"]
    pd.testing.assert_frame_equal(twin.members[same], zoo.members[same])
    assert store.verify(twin.path) == []
    assert twin.name == "tiny-sparse-0.5-gradual"
    assert set(twin.metric_names()) == set(zoo.metric_names())
    assert twin.members["phase"].notna().all()
    assert twin.reader.manifest.config_hash != zoo.reader.manifest.config_hash
    derivation = twin.facts["derivation"]
    assert derivation["parent"]["config_hash"] == zoo.reader.manifest.config_hash
    assert (derivation["sparsity"], derivation["rounds"], derivation["epochs"]) == (0.5, 2, 1)


def test_a_twin_holds_its_members_dense_pruned_and_retrained(twin: Zoo, zoo: Zoo) -> None:
    for cohort in twin.cohorts:
        assert twin.snapshots(cohort)["name"].tolist() == ["dense", "pruned", "retrained"]
        dense, before, after = np.moveaxis(twin.reader.read(cohort, "weights"), 1, 0)
        np.testing.assert_array_equal(dense, zoo.reader.read(cohort, "weights", snapshots=-1))
        spec = ParamSpec.from_json(twin.reader.cohort(cohort).spec)
        np.testing.assert_array_equal(before != 0, kept(spec, before, 0.5) & (before != 0))
        assert (after[before == 0] == 0).all()
        assert (before == 0).mean() > 0.3


def test_a_twin_can_be_studied(twin: Zoo) -> None:
    rows = run_study("prune", twin).table
    half = rows[(rows["variant"] == "at once") & (rows["setting"] == 0.5)]
    assert (half["gain"] == 0).all(), "half of the weights are zero as it is"


def test_a_twin_that_was_killed_is_resumed(
    twin: Zoo, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    real, calls = store.ZooWriter.write_block, []

    def once(*args: object, **kwargs: object) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise Killed
        real(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(store.ZooWriter, "write_block", once)
        with pytest.raises(Killed):
            sparsify(zoo, tmp_path / "t.zarr", HALF)
    with pytest.raises(ConflictError, match="choose another path"):
        sparsify(zoo, tmp_path / "t.zarr", replace(HALF, sparsity=0.6))
    sparsify(zoo, tmp_path / "t.zarr", HALF)
    resumed = factory.complete(tmp_path / "t.zarr")
    assert resumed.reader.manifest.content_hash() == twin.reader.manifest.content_hash()
    again = factory.complete(tmp_path / "t.zarr")
    assert again.reader.manifest.content_hash() == twin.reader.manifest.content_hash()


def test_the_sparsify_command_writes_a_labelled_zoo(
    tiny_zoo: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    options = ("--out", tmp_path / "t.zarr", "--json", "--epochs", 1)
    code, out, _ = run("sparsify", tiny_zoo, "--sparsity", 0.9, *options)
    assert code == 0
    assert json.loads(out)["complete"]
    assert json.loads(out)["snapshots"] == ["dense", "pruned", "retrained"]
    for sparsity, epochs, words in ((1.5, 1, "between 0 and 1"), (0.9, 99, "choose fewer")):
        code, _, err = run(
            "sparsify",
            tiny_zoo,
            "--sparsity",
            sparsity,
            "--epochs",
            epochs,
            "--out",
            tmp_path / "u",
        )
        assert code == 2
        assert words in err
    assert not (tmp_path / "u").exists()


# ------------------------------------------------------------------------------------- compaction
def test_all_numbers_rebuild_a_member_and_the_largest_weights_count(people: Trainees) -> None:
    values, spec = last(people), people.recipe.net.spec
    np.testing.assert_array_equal(largest(values, spec.size), values)
    few = largest(values, 10)
    assert ((few != 0).sum(axis=1) == 10).all()
    assert (np.abs(few).max(axis=1) == np.abs(values).max(axis=1)).all()
    rows = pd.DataFrame(compact(people)).set_index(["variant", "setting"])
    assert spec.size < max(NUMBERS)
    assert rows.loc[[("least squares", 1024), ("largest weights", 1024)], "gain"].eq(0).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_components_of_others_rebuild_members_in_their_span_only(seed: int) -> None:
    rng = np.random.default_rng(seed)
    directions = 1e-3 * vectors(4, seed)
    values = (vectors(1, seed + 9) + rng.normal(size=(40, 4)) @ directions).astype(np.float32)
    values[1] += 0.01 * vectors(1, seed + 5)[0]
    rebuilt = _components(NETWORK.spec, values, np.array([0, 1, 2]))(8)
    # Alignment reorders units, so what is rebuilt holds the same numbers in some order.
    missed = np.abs(np.sort(rebuilt, axis=1) - np.sort(values[:3], axis=1)).max(axis=1)
    assert missed[[0, 2]].max() < 1e-5
    assert missed[1] > 1e-3


def test_members_with_batch_norms_are_refused(people: Trainees) -> None:
    network = NetworkConfig(family="resnet", width=4, norm="batch")
    other = replace(people)
    other.__dict__["recipe"] = replace(people.recipe, network=network)
    with pytest.raises(ConfigError, match="no basis holds"):
        next(iter(compact(other)))
