"""Generating a zoo: what is skipped on repetition, resumed after a kill, and left untouched."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zoogen import factory, present, store
from zoogen.config import Config, load_config
from zoogen.errors import ConfigError, ConflictError, DataUnavailableError, NotFoundError
from zoogen.estimate import estimate
from zoogen.report import data_of, datacard
from zoogen.testing import truncate
from zoogen.zoo import Zoo, open_zoo

KILL_WORKER = Path(__file__).with_name("kill_worker.py")
CONFIGS = Path(__file__).parents[1] / "configs"


def content(zoo: Zoo) -> str:
    return zoo.reader.manifest.content_hash()


def test_a_finished_zoo_is_intact_and_repeating_does_nothing(
    tiny_config: Path, tiny_zoo: Path
) -> None:
    assert store.verify(tiny_zoo) == []
    before = (tiny_zoo / "manifest.json").read_bytes()
    work: list[str] = []

    def recorder(name: str, total: float, unit: str):  # type: ignore[no-untyped-def]
        work.append(name)
        raise AssertionError("nothing is left to do")

    factory.generate(tiny_config, tiny_zoo, recorder)
    assert work == []
    assert (tiny_zoo / "manifest.json").read_bytes() == before


def test_the_same_config_gives_the_same_bytes(
    tiny_config: Path, tiny_zoo: Path, tmp_path: Path
) -> None:
    again = factory.generate(tiny_config, tmp_path / "again.zarr")
    assert content(again) == content(open_zoo(tiny_zoo))


def test_another_config_is_refused(tiny_config: Path, tiny_zoo: Path) -> None:
    other = load_config(tiny_config, ["seed=1"])
    with pytest.raises(ConflictError, match="choose another path"):
        factory.generate(other, tiny_zoo)


def test_progress_counts_every_member_once(tiny_config: Path, tmp_path: Path) -> None:
    from contextlib import contextmanager

    done: dict[str, float] = {}

    @contextmanager
    def reporter(name: str, total: float, unit: str):  # type: ignore[no-untyped-def]
        done[name] = 0.0
        yield lambda units: done.__setitem__(name, done[name] + units)
        assert done[name] == pytest.approx(total)

    config = load_config(tiny_config, ["grid.axes.network.width=[4]"])
    factory.generate(config, tmp_path / "z.zarr", reporter)
    assert done == pytest.approx({"train": 4, "measure": 4})


def test_a_bad_plan_stops_before_any_work(tiny_config: Path, tmp_path: Path) -> None:
    cases = {
        "grid.axes.train.batch_size=[50, 9999]": ConfigError,
        "landscape.metrics=['beauty']": ConfigError,
        "phases.rule='taxonomie'": NotFoundError,
        "data.source='npz'": ConfigError,
    }
    for override, error in cases.items():
        with pytest.raises(error):
            factory.generate(load_config(tiny_config, [override]), tmp_path / "bad.zarr")
    missing = load_config(tiny_config, ["data.source=idx", "data.path=/nowhere/at/all"])
    with pytest.raises(DataUnavailableError):
        factory.generate(missing, tmp_path / "bad.zarr")
    assert not (tmp_path / "bad.zarr").exists()


def test_an_impossible_network_leaves_nothing_behind(tiny_config: Path, tmp_path: Path) -> None:
    deep = ["network.family=cnn", "grid.axes.network.depth=[1, 6]"]
    with pytest.raises(ConfigError, match="depth"):
        factory.generate(load_config(tiny_config, deep), tmp_path / "deep.zarr")
    assert not (tmp_path / "deep.zarr").exists()


def test_a_metric_that_a_family_can_not_have_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    over = ["network.family=vit", "landscape.metrics=['performance', 'alignment']"]
    with pytest.raises(ConfigError, match=r"'alignment'.*'vit'"):
        factory.generate(load_config(tiny_config, over), tmp_path / "vit.zarr")
    assert not (tmp_path / "vit.zarr").exists()


@pytest.mark.slow
def test_networks_with_norms_and_attention_learn_in_a_zoo(
    tiny_config: Path, tmp_path: Path
) -> None:
    over = [
        "network.width=8", "train.epochs=8", "train.optimizer=adam",
        "grid.axes={'network.family'=['resnet', 'vit'], 'train.learning_rate'=[0.01]}",
        "grid.load=network.family", "landscape.metrics=['performance']",
    ]  # fmt: skip
    zoo = factory.generate(load_config(tiny_config, over), tmp_path / "normed.zarr")
    assert len(zoo.members) == 4
    assert not zoo.members["diverged"].any()
    assert (zoo.members["test_error"] < 70).all()  # by chance 90 %


def test_other_images_under_the_same_path_are_refused(tiny_config: Path, tmp_path: Path) -> None:
    rng, file = np.random.default_rng(0), tmp_path / "set.npz"

    def place(seed: int) -> None:
        images = np.random.default_rng(seed).integers(0, 255, (120, 8, 8), np.uint8)
        np.savez(file, images=images, labels=rng.integers(0, 3, 120))

    place(1)
    config = load_config(tiny_config, [
        "data.source=npz", f"data.path={file}", "grid.axes.network.width=[4]", "train.epochs=2",
        "grid.axes.train.learning_rate=[0.01, 0.02]", "train.batch_size=20",
        "landscape.metrics=['performance']",
    ])  # fmt: skip
    factory.generate(config, tmp_path / "z.zarr")
    place(2)
    with pytest.raises(ConflictError, match="begun on data set"):
        factory.generate(config, tmp_path / "z.zarr")


def test_a_kill_before_the_run_is_closed_is_mended(
    tiny_config: Path, tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(store.ZooWriter, "finish_run", killed)
        with pytest.raises(Killed):
            factory.generate(tiny_config, tmp_path / "z.zarr")
    zoo = factory.generate(tiny_config, tmp_path / "z.zarr")
    assert all(run.finished for run in zoo.reader.manifest.runs.values())
    assert content(zoo) == content(open_zoo(tiny_zoo))


# ----------------------------------------------------------------------- zoos that are not finished
@pytest.fixture
def torn_zoo(tiny_zoo: Path, tmp_path: Path) -> Path:
    """A zoo of which repair dropped the weights of one cohort."""
    path = Path(shutil.copytree(tiny_zoo, tmp_path / "torn.zarr"))
    truncate(max(path.rglob("weights/c/**/*"), key=lambda p: p.stat().st_size * p.is_file()), 9)
    store.repair(path)
    return path


@pytest.fixture
def begun_zoo(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo whose first cohort alone was trained."""
    real, calls = factory.train_block, []

    def once(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return real(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(factory, "train_block", once)
        with pytest.raises(KeyboardInterrupt):
            factory.generate(tiny_config, tmp_path / "begun.zarr")
    return tmp_path / "begun.zarr"


@pytest.mark.parametrize("which", ["torn_zoo", "begun_zoo"])
def test_an_unfinished_zoo_shows_what_it_has(
    which: str, tiny_config: Path, tiny_zoo: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(which)
    zoo = open_zoo(path)
    assert len(zoo.members) == len(zoo) == 4
    assert len(zoo.cells) == 2
    assert zoo.weights("init").values.shape[0] == 4
    assert "INCOMPLETE" in present.info_text(zoo)
    if which == "torn_zoo":
        assert set(zoo.trajectory("cka")["member"]) <= set(zoo.members.index)
        assert zoo.members["test_accuracy"].notna().all()
    runs = dict(zoo.reader.manifest.runs)
    with pytest.raises(NotFoundError, match="repeat `zoogen generate`"):
        factory.measure(path)
    assert dict(open_zoo(path).reader.manifest.runs) == runs, "a refusal leaves no run behind"
    assert content(factory.generate(tiny_config, path)) == content(open_zoo(tiny_zoo))


# ------------------------------------------------------------------------- measuring and labelling
def test_a_zoo_without_the_metrics_of_a_rule_is_unlabelled_not_lost(
    tiny_config: Path, tmp_path: Path
) -> None:
    for metrics, expected in (("weights", "unlabelled"), ("performance", "unlabelled")):
        config = load_config(
            tiny_config,
            [f"landscape.metrics=['{metrics}']", "grid.axes.network.width=[8]", "train.epochs=20"],
        )
        zoo = factory.generate(config, tmp_path / f"{metrics}.zarr")
        assert set(zoo.members["phase"]) == {expected}


def test_cells_of_one_member_lack_what_needs_two_and_say_so(
    tiny_config: Path, tmp_path: Path
) -> None:
    groups = ["performance", "connectivity", "similarity", "alignment", "representations"]
    config = load_config(
        tiny_config,
        [
            "grid.seeds=1",
            "grid.axes.network.width=[8]",
            "train.epochs=20",
            "train.snapshots=[]",
            f"landscape.metrics={groups}",
        ],
    )
    zoo = factory.generate(config, tmp_path / "z.zarr")
    assert zoo.members["test_accuracy"].notna().all()
    for name in ("mode_connectivity", "cka", "cka_debiased", "learning_order", "weight_distance"):
        assert zoo.members[name].isna().all(), name
    assert zoo.trajectory("layer_cka_debiased").empty
    assert set(zoo.cells["phase"]) == {"unlabelled"}
    assert zoo.cells["reason"].str.contains("pairs need two trained members").all()


def test_a_member_that_computes_nothing_finite_failed(tiny_config: Path, tmp_path: Path) -> None:
    """One step with a huge rate leaves finite weights whose logits are not."""
    config = load_config(
        tiny_config,
        ["train.epochs=1", "train.batch_size=300", "train.schedule=constant", "train.snapshots=[]",
         "grid.axes.train.learning_rate=[0.01, 1e30]", "grid.axes.network.width=[4]",
         "landscape.metrics=['performance', 'weights']"],
    )  # fmt: skip
    members = factory.generate(config, tmp_path / "z.zarr").members
    hot = members["train.learning_rate"] > 1
    assert set(members.loc[hot, "phase"]) == {"failed"}
    assert members.loc[~hot, "train_accuracy"].notna().all()


def test_measuring_again_gives_the_same_numbers_in_a_new_run(copied_zoo: Path) -> None:
    before = open_zoo(copied_zoo)
    after = factory.measure(copied_zoo, ["performance", "weights"])
    assert list(after.reader.manifest.runs) == ["0001", "0002"]
    for name in ("train_loss", "test_accuracy", "weight_norm", "hessian_trace"):
        np.testing.assert_array_equal(after.members[name], before.members[name])
    assert store.verify(copied_zoo) == []
    with pytest.raises(ConfigError, match=r"found 'beauty', allowed"):
        factory.measure(copied_zoo, ["beauty"])


def test_relabelling_touches_no_measurement(copied_zoo: Path, tmp_path: Path) -> None:
    before = open_zoo(copied_zoo)
    from zoogen.phases import load_rule

    strict = load_rule("taxonomy").model_dump(mode="json")
    lenient = tmp_path / "lenient.toml"
    text = (Path(factory.__file__).parent / "rules" / "taxonomy.toml").read_text()
    lenient.write_text(text.replace("value = 0.5", "value = 99.0"))
    after = factory.label(copied_zoo, str(lenient))
    assert strict["thresholds"]["train_error"]["value"] == 0.5
    assert not set(after.cells["phase"]) & {"I", "II"}, "nothing is under-fitted any more"
    units = dict(before.reader.manifest.units())
    kept = dict(after.reader.manifest.units())
    assert all(kept[key] == unit for key, unit in units.items())
    assert store.verify(copied_zoo) == []


def test_repair_and_generate_heal_a_damaged_zoo(
    tiny_config: Path, tiny_zoo: Path, copied_zoo: Path
) -> None:
    shards = [p for p in copied_zoo.rglob("c/**/*") if p.is_file()]
    for shard in (max(shards, key=lambda p: p.stat().st_size), sorted(shards)[0]):
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 0x10
        shard.write_bytes(data)
    assert any(problem.kind == "damaged" for problem in store.verify(copied_zoo))
    assert store.repair(copied_zoo)
    healed = factory.generate(tiny_config, copied_zoo)
    assert content(healed) == content(open_zoo(tiny_zoo))
    assert store.verify(copied_zoo) == []


# ----------------------------------------------------------------------------------------- faults
@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_change_nothing(
    tiny_config: Path, tiny_zoo: Path, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, str(KILL_WORKER), str(tiny_config), str(tmp_path), "20"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    outcome = json.loads(run.stdout)
    assert outcome["kills"] == 20
    assert outcome["unreadable"] == []
    assert outcome["damaged"] == []
    assert set(outcome["hashes"]) == {content(open_zoo(tiny_zoo))}


def test_members_do_not_depend_on_the_number_of_devices(
    tiny_config: Path, tiny_zoo: Path, tmp_path: Path
) -> None:
    """Eight forced host devices give the bytes of two."""
    program = (
        "import sys, jax; from zoogen import factory, open_zoo;"
        "zoo = factory.generate(sys.argv[1], sys.argv[2]);"
        "print(jax.local_device_count(), zoo.reader.manifest.content_hash())"
    )
    import os

    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    run = subprocess.run(
        [sys.executable, "-c", program, str(tiny_config), str(tmp_path / "eight.zarr")],
        capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == ["8", content(open_zoo(tiny_zoo))]


def test_tables_lack_dropout_where_nobody_drops_and_readers_know_it(tiny_zoo: Path) -> None:
    """Zoos that were begun before there was dropout are continued and read like any other."""
    zoo = open_zoo(tiny_zoo)
    assert all("train.dropout" not in zoo.reader.members(cohort) for cohort in zoo.cohorts)
    assert (zoo.members["train.dropout"] == 0).all()
    assert (zoo.cells["train.dropout"] == 0).all()


# --------------------------------------------------------------------------------- random search
def test_a_random_search_becomes_a_zoo_like_any_other(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "name": "search",
            "data": {"train_examples": 300, "test_examples": 100, "probe_examples": 100},
            "network": {"width": 4, "depth": 1},
            "train": {"epochs": 2, "batch_size": 50},
            "landscape": {"metrics": ["performance", "weights"]},
            "grid": {"random": {"members": 6, "draws": {
                "network.init": ["he_normal", "orthogonal"],
                "train.learning_rate": {"from": 0.01, "to": 0.1, "spacing": "log"},
                "train.dropout": {"from": 0.0, "to": 0.5},
            }}},
        }
    )  # fmt: skip
    path = tmp_path / "search.zarr"
    zoo = factory.generate(config, path)
    planned = {m.id: m.values for cohort in zoo.plan.cohorts for m in cohort.members}
    assert set(zoo.members.index) == set(planned)
    for key in ("train.learning_rate", "train.dropout"):
        expected = [planned[member][key] for member in zoo.members.index]
        np.testing.assert_array_equal(zoo.members[key], expected)
        assert len(set(expected)) == 6
    assert zoo.members["test_accuracy"].between(0, 1).all()
    assert set(zoo.cells["phase"]) <= {"unlabelled", "failed"}
    assert zoo.is_complete
    assert store.verify(path) == []
    assert "0.01 to 0.1, log" in present.info_text(zoo)
    cost = estimate(zoo.plan, zoo.dataset)
    assert "2 cohorts, 6 cells × 1 seeds = 6 members" in present.plan_text(cost)
    assert present.plan_json(cost)["random"]["members"] == 6
    assert "network.init" in datacard(data_of(zoo))
    before = content(zoo)
    assert content(factory.generate(config, path)) == before
    with pytest.raises(ConfigError, match="drawn at random"):
        factory.refine(path, 1)
    assert content(open_zoo(path)) == before


@pytest.mark.parametrize(
    ("size", "members", "epochs"), [("tiny", 180, 1), ("small", 2400, 7), ("full", 30000, 86)]
)
def test_the_small_cnn_zoo_is_planned_in_all_sizes(size: str, members: int, epochs: int) -> None:
    config = load_config(CONFIGS / "small_cnn.toml", size=size)
    plan = factory.plan(config)
    assert (plan.n_cohorts, plan.n_members) == (120, members)
    assert config.train.epochs == epochs
    assert config.data.train_examples is not None
    assert 0.1 * config.data.train_examples >= config.train.batch_size
