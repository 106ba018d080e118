"""Edits: targets are dilated images, known answers of readers, images never on two sides."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from zoogen.config import Config, NetworkConfig, validated
from zoogen.data import load
from zoogen.errors import ConfigError
from zoogen.evaluate import (
    EDITORS,
    Block,
    Problem,
    Reader,
    RunConfig,
    Samples,
    Split,
    board_of,
    markdown,
    scores,
    task_of,
    train_models,
)
from zoogen.evaluate.editing import editor, shown
from zoogen.evaluate.readers import Training
from zoogen.evaluate.tasks import dilated
from zoogen.grid import expand, split_of
from zoogen.models import mean_of_networks
from zoogen.networks import build_network
from zoogen.store import ZooWriter
from zoogen.symmetry import Element, apply, random_element
from zoogen.zoo import open_zoo

CANVAS = (8, 8)
SMALL = {"channels": 4, "depth": 2, "networks": 2, "learning_rate": 1e-2}
SEEDS, RATES = 2, [1e-3, 1e-2]
SNAPSHOTS = [{"name": "end", "step": 10, "epoch": 1.0}]


# --------------------------------------------------------------------------------------- a zoo
def siren(width=8):
    config = NetworkConfig(
        family="siren", activation="sin", init="siren", width=width, depth=1, omega=10.0
    )
    return build_network(config, (2, 1, 1), 1)


def initial(network, count, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return np.array(network.spec.flatten(jax.vmap(lambda k: network.init(k, 1.0))(keys)))


@pytest.fixture(scope="module")
def images_zoo(tmp_path_factory):
    """Untrained networks, two seeds at each of two rates for each of 24 digits."""
    path = tmp_path_factory.mktemp("images") / "zoo.zarr"
    config = validated(
        Config,
        {
            "name": "images",
            "data": {"source": "digits", "train_examples": 20, "test_examples": 4},
            "network": {"family": "siren", "activation": "sin", "init": "siren", "width": 8,
                        "depth": 1, "omega": 10.0},
            "train": {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 64, "steps": 10},
            "grid": {"seeds": SEEDS, "axes": {"train.learning_rate": RATES}},
            "landscape": {"metrics": ["reconstruction"]},
        },
        "test",
    )  # fmt: skip
    content = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    with ZooWriter.create(path, "images", content, "hash", {}) as writer:
        for cohort in expand(config).cohorts:
            rows = [
                {"id": m.id, "cell": m.cell, "seed": m.seed, "label": m.image % 3,
                 **dict(zip(("split", "image"), split_of(config, m.image), strict=True)),
                 **m.values}
                for m in cohort.members
            ]  # fmt: skip
            info = {
                "network": cohort.config.network.model_dump(mode="json"),
                "image_shape": (2, 1, 1), "classes": 1, "mean": [0.0, 0.0], "std": [1.0, 1.0],
                "dataset": {"sha256": load(config.data).sha256, "image_shape": (1, 8, 8)},
            }  # fmt: skip
            spec, table = siren().spec, pd.DataFrame(rows)
            writer.begin_cohort(cohort.id, table, spec.to_json(), SNAPSHOTS, len(table), info)
            weights = initial(siren(), len(table))[:, None]
            for block in writer.missing_blocks(cohort.id):
                writer.write_block(
                    cohort.id, block,
                    {"weights": weights, "diverged_epoch": np.full(len(table), -1.0)},
                    {"weights": ("member", "snapshot", "parameter"),
                     "diverged_epoch": ("member",)},
                )  # fmt: skip
    return open_zoo(path)


def config_of(target="dilate", readers=("linear",), by="cell", region=None):
    return validated(
        RunConfig,
        {
            "name": "test", "readers": list(readers), "seeds": 1, "task": {"target": target},
            "split": {"by": by, "test": 0.3, "validation": 0.2, "region": region},
            "training": {"steps": 20, "looks": 2}, "tuning": {"trials": 1},
        },
        "test",
    )  # fmt: skip


# ---------------------------------------------------------------------------------------- the task
def test_targets_are_the_dilated_images_of_the_data_set(images_zoo):
    problem = task_of(images_zoo, config_of()).problem
    table, images = problem.samples.table, images_zoo.dataset
    assert (problem.kind, problem.canvas, problem.targets.shape) == ("edit", CANVAS, (96, 64))
    for row in (0, 50, 95):
        part = getattr(images, table["split"][row]).images[table["image"][row], 0] / 16
        edge = np.pad(part, 1, constant_values=-1)
        by_hand = [[edge[i : i + 3, j : j + 3].max() for j in range(8)] for i in range(8)]
        np.testing.assert_allclose(problem.targets[row].reshape(8, 8), by_hand, atol=1e-6)
    assert dilated(np.zeros((1, 1, 3, 3))).max() == 0


@pytest.mark.parametrize("target", ["dilate", "label"])
def test_all_networks_of_an_image_are_on_one_side(images_zoo, target):
    problem = task_of(images_zoo, config_of(target)).problem
    table = problem.samples.table
    sides = np.empty(len(table), object)
    for side in ("train", "validation", "test"):
        sides[getattr(problem.split, side)] = side
    by_image = pd.Series(sides).groupby([table["split"], table["image"]])
    assert (by_image.size() == SEEDS * len(RATES)).all()
    assert (by_image.nunique() == 1).all()


def test_a_comparison_has_no_edit_and_the_floor_beside_it(images_zoo, tmp_path):
    """Who is told the targets reaches them; who is not sees none of test samples."""
    seen = {}

    def spying(problem, options, training, seed):
        seen["unknown"] = np.isnan(problem.targets).all(axis=1)
        return EDITORS["zero"].fit(problem, options, training, seed)

    readers = {**EDITORS, "spying": Reader("Looks.", spying)}
    config = config_of(readers=["spying", "linear"])
    run = train_models(config, images_zoo, tmp_path / "run", readers=readers)
    board, problem = board_of(run), task_of(images_zoo, config).problem
    assert np.flatnonzero(seen["unknown"]).tolist() == problem.split.test.tolist()
    found = {s.reader: s.scores["mse"][0] for s in board.standings}
    before = shown(siren(), CANVAS, problem.samples.blocks[0].weights)
    test = problem.split.test
    apart = np.square(before - problem.targets)[test].mean()
    assert found["zero"] == found["spying"] == pytest.approx(apart, rel=1e-5)
    assert found["floor"] < 0.05 * found["zero"]
    assert [s.reader for s in board.standings][:2] == ["zero", "floor"]
    table = markdown([board])
    assert f"| {100 * apart:.3f} |" in table
    assert "is told the test targets" in table
    assert "by image" in table


# -------------------------------------------------------------------------------------- the readers
def problem_of(network, weights, targets):
    count = len(weights)
    table = pd.DataFrame({"member": [f"m{i}" for i in range(count)], "cohort": "c"})
    block = Block(network, np.arange(count), weights.astype(np.float32))
    samples = Samples(table, (block,), (), np.zeros((0, 2, 1, 1)), np.zeros(2), np.ones(2), {})
    split = Split(np.arange(count // 2), np.arange(count // 2, count * 2 // 3),
                  np.arange(count * 2 // 3, count))  # fmt: skip
    return Problem("dilate", "edit", samples, targets, (), split, CANVAS)


@lru_cache
def brightened():
    """Networks that shall be half as bright again: the output layer by 1.5, nothing else; the last
    third are networks before them in other orders (stacks of layers don't know of signs)."""
    network = siren()
    weights = initial(network, 60)
    orders = random_element(network.spec, 0, (20,), spread=0.0).permutations
    weights[40:] = apply(network.spec, Element(orders, {}), weights[20:40])
    return problem_of(network, weights, 1.5 * shown(network, CANVAS, weights))


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("zero", 1.0), ("floor", 0.01), ("linear", 0.01), ("equivariant-parameters", 0.6),
        pytest.param("equivariant-parameters-oce", 0.6, marks=pytest.mark.slow),
        pytest.param("tokens-parameters", 0.6, marks=pytest.mark.slow),
        pytest.param("signals-parameters", 0.2, marks=pytest.mark.slow),
        pytest.param("signals-parameters-oce", 0.2, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_an_edit_with_a_known_answer(name, most):
    problem, reader = brightened(), EDITORS[name]
    options = {key: value for key, value in SMALL.items() if key in reader.space}
    outputs = reader.fit(problem, options, Training(200, 16, 4), 0).outputs
    before = problem.targets / 1.5
    left = np.square(outputs - problem.targets)[40:].mean()
    share = left / np.square(before - problem.targets)[40:].mean()
    assert (share == pytest.approx(1)) if name == "zero" else (share < most)
    if name != "floor":  # of which nothing is asked in training rows
        np.testing.assert_allclose(outputs[40:], outputs[20:40], atol=1e-4)


def test_of_several_networks_the_mean_function_counts():
    network = siren()
    weights = jnp.asarray(initial(network, 6)).reshape(2, 3, -1)
    learner = editor(network, CANVAS, lambda key: 0, lambda params, inputs: inputs["copies"])
    found = learner.apply(0, ({"copies": weights},))
    single = shown(network, CANVAS, np.asarray(weights).reshape(6, -1))
    np.testing.assert_allclose(found, single.reshape(2, 3, -1).mean(axis=1), atol=1e-5)
    assert np.abs(mean_of_networks(lambda w: w)(weights[0]) - weights[0, 0]).max() > 0.1


def test_scores_of_images():
    found = scores("edit", np.zeros((2, 4)), np.full((2, 4), 0.1))
    assert found["mse"] == pytest.approx(0.01)
    assert found["psnr"] == pytest.approx(20)
    assert scores("edit", np.zeros((2, 4)), np.zeros((2, 4)))["psnr"] == 120


# ---------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"readers": ["flat-mlp"]}, "found 'flat-mlp', which reads for a target of whole networks; "
                                    "allowed for target 'dilate', an edited network: zero, floor"),
        ({"target": "label", "readers": ["tokens-parameters"]},
         "found 'tokens-parameters', which reads for an edited network; allowed for target"),
        ({"by": "seed"}, "the target is one of the whole image"),
        ({"by": "region", "region": "train.learning_rate > 0.005"}, "cuts image "),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(images_zoo, tmp_path, given, words):
    with pytest.raises(ConfigError) as error:
        train_models(config_of(**given), images_zoo, tmp_path / "run")
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", EDITORS)
def test_two_widths_are_refused_under_the_editors_own_name(name):
    problem = brightened()
    (block,), wide = problem.samples.blocks, siren(9)
    rows = np.arange(30)
    blocks = (Block(block.network, rows, block.weights[:30]),
              Block(wide, rows + 30, initial(wide, 30).astype(np.float32)))  # fmt: skip
    mixed = replace(problem, samples=replace(problem.samples, blocks=blocks))
    with pytest.raises(ConfigError, match=rf"reader '{name}': found cohort 'c' with 33 .* with 37"):
        EDITORS[name].fit(mixed, {}, Training(), 0)


def test_a_target_without_an_image_has_no_editor():
    problem = replace(brightened(), canvas=None)
    with pytest.raises(ConfigError, match="target 'dilate' has no image"):
        EDITORS["zero"].fit(problem, {}, Training(), 0)
