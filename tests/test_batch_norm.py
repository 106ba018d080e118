"""Running statistics of batch norms: exact after merging, and no part of what is trained."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import Config, LandscapeConfig, NetworkConfig
from zoogen.data import load, normalise
from zoogen.errors import ConfigError
from zoogen.grid import expand
from zoogen.landscape.group import Examples, Task
from zoogen.merging import barriers, loss_of, recompute_statistics, star_model
from zoogen.merging.star import StarTraining
from zoogen.networks import build_network
from zoogen.params import Axis, ParamSpec
from zoogen.studies.averaging import average_seeds, average_snapshots
from zoogen.studies.cohort import Probe, Subjects
from zoogen.train import recipe_of, train_block, training_data

SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])
NETWORK = build_network(
    NetworkConfig(family="resnet", norm="batch", width=4, depth=1), (1, 6, 6), 3
)
SPEC = NETWORK.spec
LAYERED = build_network(NetworkConfig(family="resnet", width=4, depth=1), (1, 6, 6), 3)


def members(count: int, seed: int = 0) -> np.ndarray:
    """Weights with statistics that are those of nothing."""
    params = SPEC.unflatten(np.random.default_rng(seed).normal(size=(count, SPEC.size)) / 2)
    for name, kind in SPEC.statistics:
        params[name] = np.exp(params[name]) if kind == "variance" else params[name]
    return SPEC.flatten(params).astype(np.float32)


def pictures(count: int = 64, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.5 + rng.normal(size=(count, *NETWORK.image_shape))).astype(np.float32)


@cache
def program(how: str):  # type: ignore[no-untyped-def]
    function = getattr(NETWORK, how)
    return jax.jit(lambda rows, x: jax.lax.map(lambda v: function(SPEC.unflatten(v), x), rows))


# ------------------------------------------------------------------------------- exact statistics
@SEEDS
def test_recomputed_statistics_are_the_moments_of_what_norms_read(seed: int) -> None:
    images, values = pictures(seed=seed), members(3, seed)
    found = recompute_statistics(NETWORK, values, images)
    params = SPEC.unflatten(found)
    _, hidden = program("forward")(found, images)  # evaluation, by what was stored
    for group, norm in {"block0.conv0": "block0.norm1", "stem": "norm"}.items():
        units = np.moveaxis(np.asarray(hidden[group].before, np.float64), 2, 1)
        units = units.reshape(*units.shape[:2], -1)
        weight, bias = params[f"{norm}.weight"], params[f"{norm}.bias"]
        variance = params[f"{norm}.running_var"].astype(np.float64)
        spread = np.abs(weight) * np.sqrt(variance / (variance + 1e-5))
        np.testing.assert_allclose(units.mean(axis=-1), bias, atol=1e-4)
        np.testing.assert_allclose(units.std(axis=-1), spread, atol=1e-4)
    in_training, _ = program("train_forward")(values, images)
    in_evaluation, _ = program("forward")(found, images)
    np.testing.assert_allclose(in_evaluation, in_training, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found[:, SPEC.trained], values[:, SPEC.trained])
    assert not np.isclose(found[:, ~SPEC.trained], values[:, ~SPEC.trained]).all(axis=1).any()


def test_members_are_recomputed_each_on_its_own_and_leading_axes_stay() -> None:
    images, values = pictures(), members(4)
    values[2] = np.nan
    together = recompute_statistics(NETWORK, values.reshape(2, 2, -1), images).reshape(4, -1)
    alone = recompute_statistics(NETWORK, values[:1], images)
    np.testing.assert_array_equal(together[:1], alone)
    np.testing.assert_array_equal(recompute_statistics(NETWORK, alone, images), alone)
    assert np.isfinite(together).all(axis=1).tolist() == [True, True, False, True]


def test_networks_without_running_statistics_stay_as_they_are() -> None:
    values = np.ones((2, LAYERED.spec.size), np.float32)
    assert recompute_statistics(LAYERED, values, pictures()) is values
    assert LAYERED.spec.without_statistics(values) is values
    assert "statistics" not in LAYERED.spec.to_json()


def test_specs_keep_their_statistics_and_refuse_those_of_nothing() -> None:
    assert ParamSpec.from_json(SPEC.to_json()) == SPEC
    assert SPEC.size - LAYERED.spec.size == (~SPEC.trained).sum() == 3 * 2 * 4
    for wrong in ({"scale": "mean"}, {"shift": "median"}):
        with pytest.raises(ConfigError, match="statistics: found"):
            ParamSpec.build({"shift": (Axis(2),)}, statistics=wrong)


# ------------------------------------------------------------------------------ what sees them not
@pytest.mark.parametrize("how", ["apply", "train_forward"])
def test_statistics_get_no_gradient(how: str) -> None:
    images, labels = jnp.asarray(pictures()), jnp.arange(64) % 3

    def loss(values: jax.Array) -> jax.Array:
        found = getattr(NETWORK, how)(SPEC.unflatten(values), images)
        logits = found if how == "apply" else found[0]
        return -jax.nn.log_softmax(logits)[jnp.arange(64), labels].mean()

    gradient = np.asarray(jax.jit(jax.grad(loss))(jnp.asarray(members(1)[0])))
    assert not gradient[~SPEC.trained].any()
    assert gradient[SPEC.trained].any()


def test_losses_of_merged_members_and_curves_do_not_see_stored_statistics() -> None:
    images, labels = pictures(), np.arange(64) % 3
    one = members(1)[0]
    other = np.where(SPEC.trained, one, members(1, 1)[0])
    loss = jax.jit(loss_of(NETWORK))
    assert float(loss(one, images, labels)) == float(loss(other, images, labels))
    data = Examples(images, labels, images, labels, np.zeros(1), np.ones(1))
    task = Task(NETWORK, LandscapeConfig(), 0, 64, 32)
    on_probe = jax.jit(lambda w: task.recomputed(data, w))
    np.testing.assert_array_equal(on_probe(one), on_probe(other))
    expected = recompute_statistics(NETWORK, one, images[:32])
    np.testing.assert_allclose(on_probe(one), expected, rtol=1e-4, atol=1e-5)
    in_training = jax.jit(lambda w: task.loss_in_training(data, w, images, labels))
    assert float(in_training(one)) == pytest.approx(float(loss(one, images, labels)), rel=1e-5)


def test_a_star_that_is_not_trained_is_its_start_with_statistics_of_the_images() -> None:
    values, images = members(2), pictures()
    star = star_model(
        NETWORK, values, images, np.arange(64) % 3, start=values[0], training=StarTraining(0)
    )
    np.testing.assert_array_equal(star, recompute_statistics(NETWORK, values[0], images))


# --------------------------------------------------------------------------------------- averages
def subjects(snapshots: np.ndarray, cells: str) -> Subjects:
    """Members ``[m s p]``; labels are what the first says in the end, statistics recomputed."""
    test, train = (Probe(pictures(200, seed), np.zeros(1), np.ones(1)) for seed in (5, 6))
    right = recompute_statistics(NETWORK, snapshots[:1, -1], train.images)
    labels = np.asarray(program("apply")(right, test.images))[0].argmax(axis=1)
    weights = lambda place: snapshots[:, place]  # noqa: E731
    return Subjects(
        NETWORK, np.array(list(cells)), snapshots.shape[1], weights, test, labels, train
    )


def test_averages_of_members_and_of_snapshots_are_evaluated_with_their_own_statistics() -> None:
    one = members(1)[0]
    twins = np.stack([one, SPEC.permute(one, SPEC.random_permutation(1))])
    of_seeds = {e.setting: e for e in average_seeds(subjects(twins[:, None], "aa"))}
    assert of_seeds["aligned"].accuracy == 1.0
    snapshots = np.stack([members(1, 3)[0], one, one])[None]
    (of_snapshots,) = average_snapshots(subjects(snapshots, "a"))
    assert of_snapshots.accuracy == 1.0


# --------------------------------------------------------------------------------- trained members
def config(**train: object) -> Config:
    return Config.model_validate({
        "name": "t",
        "data": {"train_examples": 600, "test_examples": 400},
        "network": {"family": "resnet", "norm": "batch", "width": 8, "depth": 1},
        "train": {"epochs": 2, "batch_size": 50, "learning_rate": 0.1, **train},
        "grid": {"seeds": 4},
    })  # fmt: skip


@pytest.mark.slow
def test_statistics_follow_training_and_stop_with_it() -> None:
    made = config(snapshots=[1], stop_at_train_loss=10.0, learning_rate=1e-4)
    dataset = load(made.data)
    recipe = recipe_of(made, dataset)
    block = train_block(recipe, training_data(dataset, recipe), expand(made).cohorts[0].members[:2])
    assert block.stopped_epoch.tolist() == [0, 0]
    begin, after, end = np.moveaxis(block.weights, 1, 0)
    np.testing.assert_array_equal(after, end)
    params = recipe.net.spec.unflatten(after)
    # Twelve steps, in which weights hardly move, leave 0.9 ** 12 = 0.28 of the beginning.
    images = normalise(dataset.train.images, dataset.mean, dataset.std)
    exact = recipe.net.spec.unflatten(recompute_statistics(recipe.net, after, images))
    start = recipe.net.spec.unflatten(begin)
    for name, _ in recipe.net.spec.statistics:
        apart, moved = (
            np.linalg.norm(each[name] - exact[name]) / np.linalg.norm(exact[name])
            for each in (params, start)
        )
        assert 0.14 * moved < apart < 0.42 * moved, name


@pytest.mark.slow
def test_recomputed_statistics_lower_the_barriers_of_trained_members() -> None:
    made = config(epochs=12)
    dataset = load(made.data)
    recipe = recipe_of(made, dataset)
    block = train_block(recipe, training_data(dataset, recipe), expand(made).cohorts[0].members)
    first, second = np.triu_indices(4, 1)
    values = block.weights[:, -1]
    train, test = (
        np.asarray(normalise(s.images, dataset.mean, dataset.std))
        for s in (dataset.train, dataset.test)
    )
    found = barriers(
        recipe.net, values[first], values[second], test, dataset.test.labels, repair_images=train
    )
    assert found.repaired is not None
    middle = len(found.times) // 2
    print(*(line.accuracy[:, [0, middle]].mean(0) for line in found[1:4]))
    print(*(line.loss_barrier.mean() for line in found[1:4]))
    assert (found.aligned.accuracy[:, [0, -1]] > 0.85).all()
    assert (found.repaired.accuracy[:, middle] >= found.aligned.accuracy[:, middle]).all()
    assert found.repaired.loss_barrier.mean() < found.aligned.loss_barrier.mean()
    assert found.repaired.accuracy_barrier.mean() < found.aligned.accuracy_barrier.mean()
