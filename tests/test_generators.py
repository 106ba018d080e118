"""Generators: known distributions, exact symmetry, runs on disk, samples as zoos."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from zoogen import factory, store
from zoogen.config import NetworkConfig
from zoogen.data import Dataset
from zoogen.errors import ConfigError, ConflictError, CorruptZooError, NotFoundError
from zoogen.evaluate.generation import Evaluator, evaluate_runs, exam_of
from zoogen.evaluate.generation.fits import Fits, generators_of
from zoogen.generators import (
    GENERATORS,
    Effort,
    GeneratorConfig,
    Run,
    conditioning_of,
    open_run,
    parse_wish,
    parted,
    parts_of,
    population_of,
    sample_zoo,
    train_generator,
)
from zoogen.generators.conditions import FORGET_ALL, FORGET_ONE, completed, forgotten
from zoogen.generators.dataset_encoder import Examples, dataset_encoder
from zoogen.generators.flow import (
    TIMES,
    Data,
    Field,
    Seen,
    Teller,
    answer,
    condition_size,
    errors_of,
    fit_field,
    independent,
    reading,
)
from zoogen.generators.integration import integrate
from zoogen.generators.options import known_options
from zoogen.generators.path import Path as FlowPath
from zoogen.generators.sight import Sight, gradients
from zoogen.generators.trained_on import embedded
from zoogen.generators.units import unit_field
from zoogen.generators.velocity import equivariant_field, token_field, vector_field
from zoogen.generators.weight_flow import _form, _matched
from zoogen.networks import build_network
from zoogen.params import Axis, ParamSpec
from zoogen.population import over_members
from zoogen.symmetry import Element, apply, random_element
from zoogen.testing import flip_bit
from zoogen.zoo import Zoo, open_zoo

POPULATION = """
name = "population"
[data]
train_examples = 400
probe_examples = 100
[network]
width = 6
depth = 2
[train]
epochs = 10
batch_size = 50
[grid]
seeds = 60
[grid.axes]
"train.learning_rate" = [0.05, 0.15]
[landscape]
metrics = ["performance", "weights"]
"""
SHORT = {"steps": 20, "batch_size": 16, "looks": 2}
OPTIONS = {"pca-gaussian": {"components": 8}, "kde": {"components": 8},
           "pca-flow": {"components": 8, "width": 16, "depth": 1},
           "d2nwg": {"latent": 4, "hidden": 8, "width": 16, "depth": 1, "embedding": 0,
                     "sampling_steps": 20},
           "flow": {"channels": 8, "depth": 1, "heads": 2, "rank": 2, "path_steps": 8},
           "hypernetwork": {"channels": 4, "hidden": 8, "images": 16}}  # fmt: skip


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """120 members of 538 parameters, trained on 400 digits."""
    directory = tmp_path_factory.mktemp("population")
    (directory / "population.toml").write_text(POPULATION)
    return factory.generate(directory / "population.toml", directory / "zoo.zarr")


def config(generator: str, **more: object) -> GeneratorConfig:
    table = {"name": generator, "generator": generator, "training": SHORT,
             "options": OPTIONS.get(generator, {})}  # fmt: skip
    return GeneratorConfig.model_validate(table | more)


def accuracy(zoo: Zoo, values: np.ndarray) -> np.ndarray:
    """Test accuracy of each network."""
    from zoogen.data import normalise

    data, network = zoo.dataset, population_of(zoo).network
    images = normalise(*map(np.asarray, (data.test.images, data.mean, data.std)))

    def one(weights: jax.Array, shared: tuple) -> jax.Array:
        logits = network.apply(network.spec.unflatten(weights), shared[0])
        return (logits.argmax(axis=-1) == shared[1]).mean()

    return np.asarray(over_members(one)(values, (images, np.asarray(data.test.labels))))


# ------------------------------------------------------------------------------------- population
def test_parts_are_disjoint_and_do_not_depend_on_other_members(zoo: Zoo) -> None:
    whole = population_of(zoo)
    parts = parted(whole)
    names = [set(part.table.index) for part in parts]
    assert sum(map(len, names)) == len(whole) == len(set.union(*names))
    fewer = parted(whole.rows(np.arange(len(whole))[::-1][: len(whole) - 15]))
    for before, after in zip(names, fewer, strict=True):
        assert set(after.table.index) <= before
    assert set(parted(whole, seed=1).held_out.table.index) != names[2]


def test_few_training_runs_are_some_of_many_and_leave_the_other_parts(zoo: Zoo) -> None:
    few, more, every = (
        parts_of(config("noise", population={"members": count}), zoo) for count in (12, 40, None)
    )
    assert [len(parts.train) for parts in (few, more)] == [12, 40]
    assert set(few.train.table.index) < set(more.train.table.index) < set(every.train.table.index)
    assert set(few.train.table["train.learning_rate"]) == {0.05, 0.15}  # of all cells
    for parts in (few, more):
        assert parts.validation.table.index.equals(every.validation.table.index)
        assert parts.held_out.table.index.equals(every.held_out.table.index)


def test_a_population_too_small_to_part_is_refused(zoo: Zoo) -> None:
    few = population_of(zoo).rows(np.arange(12))
    with pytest.raises(ConfigError, match="12 runs leave"):
        parted(few)


def test_several_architectures_are_refused(tiny_zoo: Path) -> None:
    with pytest.raises(ConfigError, match="one architecture, found cohorts"):
        population_of(open_zoo(tiny_zoo))


# ------------------------------------------------------------------------------------- conditions
TABLE = pd.DataFrame(
    {"phase": ["I", "II", "II"], "rate": [0.01, 0.1, 1.0], "depth": [1, 2, 3], "same": [1, 1, 1]}
)


def test_conditions_of_members_and_wishes_agree() -> None:
    found = conditioning_of(TABLE, ["phase", "rate", "depth"])
    rows = found.of_members(TABLE)
    for number, row in enumerate(TABLE.to_dict("records")):
        wish = {name: row[name] for name in ("phase", "rate", "depth")}
        np.testing.assert_allclose(found.of_wish(wish, 1)[0], rows[number], rtol=1e-6)
    assert found.of_wish({}, 2).tolist() == [[0] * found.size] * 2
    assert type(found).from_json(found.to_json()) == found
    assert rows[:, 3].sum() == pytest.approx(0, abs=1e-6), "the logarithm is centred"


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"phse": "I"}, "did you mean 'phase'"),
        ({"phase": "IV-B"}, "trained with I, II"),
        ({"rate": 2.0}, "from 0.01 to 1"),
        ({"rate": "high"}, "expected a number"),
    ],
)
def test_a_wish_that_no_member_could_fulfil_is_refused(wish: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        conditioning_of(TABLE, ["phase", "rate"]).of_wish(wish, 1)


@pytest.mark.parametrize(
    ("name", "message"), [("width", "no such column"), ("same", "at least two")]
)
def test_a_condition_that_says_nothing_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        conditioning_of(TABLE, [name])


def test_wishes_are_numbers_or_words() -> None:
    assert parse_wish(["phase=IV-B", "rate = 1e-2"]) == {"phase": "IV-B", "rate": 0.01}
    with pytest.raises(ConfigError, match="expected name=value"):
        parse_wish(["phase"])


# ----------------------------------------------------------------------------------------- fields
HIDDEN, SECOND = Axis(5, "first"), Axis(4, "second")
SPEC = ParamSpec.build(
    {
        "first.weight": (HIDDEN, Axis(3)), "first.bias": (HIDDEN,),
        "second.weight": (SECOND, HIDDEN), "second.bias": (SECOND,),
        "output.weight": (Axis(2), SECOND), "output.bias": (Axis(2),),
    }
)  # fmt: skip


CONVOLUTION = ParamSpec.build(
    {"first.weight": (HIDDEN, Axis(2), Axis(3), Axis(3)),
     "second.weight": (SECOND, HIDDEN, Axis(3), Axis(3)),
     "again.weight": (SECOND, SECOND, Axis(1), Axis(1)),
     "flat.weight": (Axis(2), Axis(16, "second", 4)), "flat.bias": (Axis(2),)}
)  # fmt: skip
FIELDS: dict[str, Callable] = {
    "layers": partial(equivariant_field, channels=4, depth=2, rank=2),
    "units": partial(unit_field, channels=8, depth=2, heads=2, rank=3),
    "tokens": partial(token_field, channels=8, depth=2, heads=2),
}


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 2e-6), (np.float64, 1e-13)])
@pytest.mark.parametrize("spec", [SPEC, CONVOLUTION], ids=["perceptron", "convolution"])
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("kind", FIELDS)
def test_fields_over_weights_commute_with_permutations(
    kind: str, reads: bool, spec: ParamSpec, dtype: type, bound: float
) -> None:
    with jax.enable_x64(dtype == np.float64):
        field = FIELDS[kind](spec, 2, gradients=reads)
        params = field.init(jax.random.key(0))
        keys = iter(jax.random.split(jax.random.key(1), 100))
        params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params)
        rng = np.random.default_rng(0)
        numbers = [rng.standard_normal((20, spec.size)).astype(dtype) for _ in range(1 + reads)]
        condition = rng.standard_normal((20, condition_size(2, reads))).astype(dtype)
        element = Element(random_element(spec, 3, (20,)).permutations, {})

        def run(*read: np.ndarray) -> np.ndarray:
            return np.asarray(jax.jit(field.apply)(params, np.stack(read, axis=-1), condition))

        moved_after = apply(spec, element, run(*numbers))
        moved_before = run(*(apply(spec, element, x) for x in numbers))
        assert np.abs(moved_after).max() > 0.1
        assert np.abs(moved_after - moved_before).max() < bound * np.abs(moved_after).max() * 4


def test_the_weighed_loss_is_least_at_the_mean_of_what_may_be() -> None:
    """Of data that are normal, the best ``F`` is known; noise of a row must not weigh the row."""
    from zoogen.generators.flow import _draws, _loss

    size, seen_size, rows = 40, 5, 4000
    siren = build_network(
        NetworkConfig(family="siren", width=2, activation="sin", init="siren"), (2, 1, 1), 1
    )
    spec = ParamSpec.build({"seen": (Axis(seen_size),), "unseen": (Axis(size - seen_size),)})
    network = replace(siren, spec=spec, apply=lambda params, _: params["seen"][None])
    sight = Sight(np.zeros((1, 2, 1, 1)), np.zeros(1, int), np.zeros(size), np.ones(size))
    values = np.random.default_rng(0).standard_normal((rows, size), np.float32)
    data = Data(values, np.zeros((rows, 0), np.float32))

    drawn = _draws(independent, 1, None, None, data, rows, 1, [0])
    one = jax.tree.map(lambda leaf: leaf[0], drawn._replace(time=np.full((1, rows), 0.5)))
    seen = Seen(network, sight, weight=1e3)  # of directions that are seen nothing else counts

    def loss(slope: jax.Array) -> jax.Array:
        field = Field(lambda _: slope, lambda params, x, _: params * x)
        return _loss(field, seen, None, {"field": slope}, data, one)

    # At t = 1/2 the best F is zero: x1 − x0 is independent of x1 + x0.
    slopes = jnp.linspace(-0.4, 0.4, 17)
    best = slopes[jnp.argmin(jnp.stack([loss(slope) for slope in slopes]))]
    assert abs(best) < 0.06


@pytest.mark.parametrize("inputs", [0, 5, 100, 600, 1024])
def test_a_step_looks_at_no_image_twice(inputs: int) -> None:
    from zoogen.generators.flow import AT_ONCE, GRADIENTS, _draws

    data = Data(np.zeros((3, 2), np.float32), np.zeros((3, 0), np.float32))
    steps = 400
    for seed in range(3):
        drawn = _draws(independent, inputs, None, None, data, 2, steps, [seed])
        seen = np.zeros(inputs)
        for rows in drawn.inputs:
            step = drawn._replace(inputs=rows)
            parts = step.for_errors, step.for_gradients
            for part, wanted in zip(parts, (AT_ONCE, GRADIENTS), strict=True):
                assert len(part) == len(set(part)) == min(wanted, inputs)
            if inputs >= AT_ONCE + GRADIENTS:
                assert not set(parts[0]) & set(parts[1])
            np.add.at(seen, parts[0], 1)
        expected = min(AT_ONCE, inputs) / max(inputs, 1)
        deviation = (expected * (1 - expected) / steps) ** 0.5
        assert (abs(seen / steps - expected) <= 5 * deviation).all()


def test_conditions_are_forgotten_as_a_whole() -> None:
    told = forgotten(np.random.default_rng(0), (2, 4, 1), (50, 400))
    assert told.shape == (50, 400, 7)
    number, classes = told[..., :2], told[..., 2:6]
    for one in (number, classes):
        assert (one.all(axis=-1) == one.any(axis=-1)).all()
    shares = told[..., [0, 2, 6]].reshape(-1, 3)
    expected = 1 - (1 - FORGET_ALL) * (1 - FORGET_ONE)
    np.testing.assert_allclose(shares.mean(axis=0), expected, atol=4 * 0.5 / 20000**0.5)
    alone = (shares.sum(axis=1) == 2).mean()  # one is told, two are not
    assert alone == pytest.approx((1 - FORGET_ALL) * 3 * FORGET_ONE**2 * (1 - FORGET_ONE), rel=0.15)


def test_a_data_set_is_forgotten_on_its_own() -> None:
    from zoogen.generators.flow import _draws

    examples = Examples(np.zeros((5, 1), np.float32), np.array([[0, 1, 2, 3]]), np.array([[2, 4]]))
    teller = Teller(dataset_encoder(1, 2), examples, 1)
    rows = 50
    data = Data(np.zeros((rows, 1)), np.zeros((rows, 3)), np.zeros(rows, int), examples.images)
    drawn = _draws(independent, 0, [3], teller, data, 40, 400, [0])
    assert drawn.forget.shape == (400, 40, 3)
    both = np.stack([drawn.forget[..., 0], drawn.forget_set[..., 0]], axis=-1).reshape(-1, 2)
    expected = 1 - (1 - FORGET_ALL) * (1 - FORGET_ONE)
    np.testing.assert_allclose(both.mean(axis=0), expected, atol=4 * 0.5 / 16000**0.5)
    assert (both[:, 0] != both[:, 1]).any()
    plain = _draws(independent, 0, [3], None, data, 40, 400, [0])
    assert plain.forget_set.shape == (400, 40, 0)
    assert plain.shown is None


def test_muon_moves_the_matrices_of_layers_alone() -> None:
    field = FIELDS["units"](SPEC, 2)
    params = field.init(jax.random.key(0))
    assert field.matrices is not None
    moved = field.matrices(params)
    assert not any(jax.tree.leaves({name: moved[name] for name in ("embedding", "entry", "exit")}))
    chosen = [x for x, one in zip(*map(jax.tree.leaves, (params, moved)), strict=True) if one]
    assert {x.ndim for x in chosen} == {2}
    layer = params["layers"][0]
    assert len(chosen) == 2 * (3 * len(layer["sets"]) + len(layer["edges"]))


def test_matched_noise_is_the_same_noise_nearer_to_the_data() -> None:
    rng = np.random.default_rng(0)
    noise, data = rng.standard_normal((2, 30, SPEC.size), np.float32)
    matched = _matched(SPEC, noise, data)
    np.testing.assert_array_equal(np.sort(matched, axis=1), np.sort(noise, axis=1))
    nearer = np.linalg.norm(matched - data, axis=1) <= np.linalg.norm(noise - data, axis=1) + 1e-5
    assert nearer.all()
    shuffled = apply(SPEC, Element(random_element(SPEC, 1, (30,)).permutations, {}), data)
    np.testing.assert_allclose(_matched(SPEC, shuffled, data), data, rtol=1e-6)


def best_of_normal(mean: float, deviation: Any) -> Field:
    """The best ``F`` for data from N(mean, deviation²)."""

    def best(_params: object, x: jax.Array, condition: jax.Array) -> jax.Array:
        # the time from the sine of half its angle, the first of the frequencies
        t = jnp.arcsin(jnp.minimum(condition[:, :1], 1)) * 2 / jnp.pi
        square = t**2 + (1 - t) ** 2
        variance = (t * deviation) ** 2 + (1 - t) ** 2
        velocity = mean + (t * deviation**2 - (1 - t)) / variance * (x - t * mean)
        return jnp.sqrt(square) * (velocity - (2 * t - 1) / square * x)

    return Field(lambda key: {}, best)


PATHS = [
    *(FlowPath(64, method) for method in ("heun", "rk4")),
    *(FlowPath(steps, "sde", noise=noise) for steps in (7, 60, 120) for noise in (0.0, 0.5, 16.0)),
    FlowPath(**{name: GENERATORS["flow"].options[name] for name in FlowPath._fields}),
    FlowPath(96, "sde", noise=8.0, spread=2.0),
]


@pytest.mark.parametrize("path", PATHS)
def test_the_exact_field_of_a_gaussian_gives_that_gaussian(path: FlowPath) -> None:
    mean, deviation, count = 1.5, np.array([0.1, 0.5, 1.0], np.float32), 4000
    noise, of_data = np.random.default_rng(0).standard_normal((2, count, 3), np.float32)
    field, empty = best_of_normal(mean, deviation), np.zeros((count, 0), np.float32)
    errors = errors_of(field, {}, Data(mean + deviation * of_data, empty))
    found = integrate(field, {}, noise, empty, path, batch=count, errors=errors)
    assert (np.abs(found.mean(axis=0) - mean) < 4 * deviation / count**0.5 + 0.01).all()
    wider = found.std(axis=0) / deviation
    if path.spread > 1:
        assert ((wider > 1) & (wider < path.spread)).all()
    else:
        np.testing.assert_allclose(wider, 1, rtol=0.06)


def test_errors_are_those_of_what_can_not_be_known() -> None:
    deviation = 0.5
    data = Data(
        deviation * np.random.default_rng(1).standard_normal((20000, 1)).astype(np.float32),
        np.zeros((20000, 0), np.float32),
    )
    found = errors_of(best_of_normal(0.0, deviation), {}, data)[:, 0]
    square, noise = TIMES**2 + (1 - TIMES) ** 2, (1 - TIMES) ** 2
    expected = deviation**2 * square / (TIMES**2 * deviation**2 + noise)
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_a_field_reads_gradients_at_the_linear_guess() -> None:
    """Of a network whose loss is known: one weight, classes 0 and 1, a logit of the weight each."""
    network = build_network(NetworkConfig(family="mlp", width=2), (1, 1, 1), 2)
    spec = ParamSpec.build({"logit": (Axis(1),)})
    network = replace(
        network, spec=spec,
        apply=lambda params, x: jnp.tile(jnp.stack([0 * params["logit"][0], params["logit"][0]]),
                                         (len(x), 1)),
    )  # fmt: skip
    sight = jax.tree.map(
        jnp.asarray, Sight(np.zeros((4, 1, 1, 1)), np.array([0, 1, 1, 1]), np.zeros(1), np.ones(1))
    )
    field = Field(lambda key: {}, lambda _, read, condition: read[..., 1] * condition[:, -1:])
    x, t = 0.8, 0.5
    guess = t / (t**2 + (1 - t) ** 2) * x
    right = 1 / (1 + math.exp(-guess))
    loss = -(math.log(1 - right) + 3 * math.log(right)) / 4
    gradient_of = partial(gradients, network, sight, rows=jnp.arange(4))
    read = reading(gradient_of, jnp.full((1, 1), x), jnp.full(1, t))
    found = answer(field, {}, read, jnp.zeros((1, 0)))
    assert float(found[0, 0]) == pytest.approx(np.sign(right - 0.75) * math.log(loss), abs=1e-4)


def test_a_fit_has_no_more_looks_than_steps() -> None:
    data = Data(np.ones((20, 1), np.float32), np.zeros((20, 0), np.float32))
    effort = Effort(steps=3, batch_size=4, looks=10)
    losses = fit_field(vector_field(1, 0, width=2, depth=0), data, data, effort).losses
    assert losses[:, 0].tolist() == [1, 2, 3]
    assert np.isfinite(losses).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_flow_learns_a_mixture_and_follows_its_condition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    side = rng.integers(2, size=2000)
    values = np.stack([2 * side - 1, np.zeros(2000)], axis=1) + 0.1 * rng.standard_normal((2000, 2))
    values = (values / values.std(axis=0)).astype(np.float32)
    conditions = np.stack([1 - side, side, np.ones(2000)], axis=1).astype(np.float32)
    data = Data(values, conditions)
    field = vector_field(2, 3, width=64, depth=2)
    effort = Effort(steps=1500, batch_size=256, looks=5, seed=seed)
    fitted = fit_field(field, data, Data(values[:200], conditions[:200]), effort)
    noise = rng.standard_normal((600, 2), np.float32)
    wishes = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]], np.float32)
    asked = np.repeat(wishes, 200, axis=0)
    found = integrate(field, fitted.params["field"], noise, asked, FlowPath(), batch=600)
    right = found[:, 0] > 0
    assert right[:200].mean() < 0.08
    assert right[200:400].mean() > 0.92
    assert 0.3 < right[400:].mean() < 0.7, "unasked, both sides come"
    assert found[:, 1].std() == pytest.approx(1, abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_flow_learns_to_tell_data_sets_apart(seed: int) -> None:
    """Two data sets whose classes have dark or bright images, and weights on either side."""
    rng, shots, classes, each = np.random.default_rng(seed), 3, 2, 40
    dark, bright = rng.standard_normal((2, classes * each, 4)) + np.array([[[-1.0]], [[1.0]]])
    images = np.concatenate([dark, bright, np.zeros((1, 4))]).astype(np.float32)
    order = np.arange(2 * classes * each).reshape(2, -1)
    examples = Examples(images, order, np.tile(each * np.arange(1, classes + 1), (2, 1)))
    of = rng.integers(2, size=2000)
    values = (2 * of - 1 + 0.1 * rng.standard_normal(2000)).astype(np.float32)[:, None]
    data = Data(values, np.zeros((2000, 0), np.float32), of, images)
    held = Data(*(part[:200] for part in data[:3]), images)
    teller = Teller(dataset_encoder(4, 3, inducing=2), examples, shots)
    effort = Effort(steps=600, batch_size=128, learning_rate=3e-3, looks=3, seed=seed)
    field = vector_field(1, 3, width=32, depth=1)
    params = fit_field(field, data, held, effort, teller=teller).params

    asked = np.repeat([0, 1], 200)
    told = embedded(teller.encoder, params["encoder"], examples, asked, shots, rng)
    noise = rng.standard_normal((600, 1), np.float32)
    conditions = np.concatenate([told, np.zeros((200, 3), np.float32)])
    found = integrate(field, params["field"], noise, conditions, FlowPath(), batch=600)[:, 0] > 0
    assert found[:200].mean() < 0.1
    assert found[200:400].mean() > 0.9
    assert 0.3 < found[400:].mean() < 0.7, "untold, both sides come"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_units_of_a_flow_complement_one_another(seed: int) -> None:
    """One unit of four is on, no matter which, and its output has the sign of its input.

    Independent units would be right in (3/4)³ = 42 % of the networks at most.
    """
    hidden = Axis(4, "hidden")
    spec = ParamSpec.build({"weight": (hidden, Axis(2)), "output": (Axis(1), hidden)})
    rng = np.random.default_rng(seed)

    def members(count: int) -> Data:
        values = 0.2 * rng.standard_normal((count, spec.size), np.float32)
        rows, place = np.arange(count), rng.integers(4, size=count)
        sign = 2 * rng.integers(2, size=count) - 1
        values[rows, 2 * place] += 2 * sign
        values[rows, 8 + place] += 2 * sign
        return Data(values, np.zeros((count, 0), np.float32))

    field = unit_field(spec, 0, channels=16, depth=2, heads=2, rank=4)
    effort = Effort(steps=800, batch_size=128, learning_rate=4e-3, looks=2, seed=seed)
    fitted = fit_field(field, members(2000), members(200), effort)
    noise = rng.standard_normal((400, spec.size), np.float32)
    found = integrate(
        field, fitted.params["field"], noise, members(400).conditions, FlowPath(), batch=400
    )
    first, output = found[:, 0:8:2], found[:, 8:]
    on = np.abs(first) > 1
    agree = (np.sign(first) == np.sign(output)) & (np.abs(output) > 1)
    right = (on.sum(axis=1) == 1) & (agree & on).any(axis=1)
    assert right.mean() > 0.85
    shares = on[right].mean(axis=0)
    assert np.abs(shares - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / right.sum()), "any of them"


def test_conditions_are_drawn_from_members_where_nothing_is_asked() -> None:
    known = np.array([[1.0, 1.0, 0.0, 0.0], [2.0, 1.0, 3.0, 1.0]], np.float32)
    asked = np.zeros((400, 4), np.float32)
    asked[0] = 0, 0, 5, 1
    found = completed(asked, known, 0)
    np.testing.assert_array_equal(found[0], asked[0])
    share = (found[1:] == known[1]).all(axis=1).mean()
    assert ((found[1:] == known[0]) | (found[1:] == known[1])).all()
    assert share == pytest.approx(0.5, abs=4 * 0.5 / 400**0.5)
    assert completed(asked[:, :0], known[:, :0], 0).shape == (400, 0)
    assert not completed(asked, known[:0], 0)[1:].any()


@pytest.mark.parametrize("name", [name for name, row in GENERATORS.items() if row.conditional])
def test_every_sample_is_told_conditions(
    name: str, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = GENERATORS[name]
    requests = []

    def sample(*given: Any) -> np.ndarray:
        requests.append(given[-1].conditions)
        return np.zeros((len(requests[-1]), 1), np.float32)

    def fit(*_given: Any) -> dict[str, Any]:
        return {}

    monkeypatch.setitem(GENERATORS, name, replace(row, fit=fit, sample=sample))
    told = config(name, conditions=["train.learning_rate"])
    run = train_generator(told, zoo, tmp_path / "run")
    run.sample(300)
    run.sample(2, wish={"train.learning_rate": 0.1})
    unasked, asked = (run.conditioning.asked("train.learning_rate", one) for one in requests)
    share = (unasked < 0.1).mean()
    known = run.conditioning.asked("train.learning_rate", run.state["conditions"])
    assert share == pytest.approx((known < 0.1).mean(), abs=4 * 0.5 / 300**0.5)
    np.testing.assert_allclose(asked, 0.1, rtol=1e-5)


# --------------------------------------------------------------------------------------- baselines
def test_copies_compute_what_members_compute(zoo: Zoo, tmp_path: Path) -> None:
    run = train_generator(config("permuted"), zoo, tmp_path / "run")
    copies = run.sample(20)
    members = run.state["values"]
    network = population_of(zoo).network
    images = np.random.default_rng(0).standard_normal((5, *network.image_shape), np.float32)
    apply_all = jax.jit(jax.vmap(lambda w: network.apply(network.spec.unflatten(w), images)))
    of_copies, of_members = np.asarray(apply_all(copies)), np.asarray(apply_all(members))
    gap = np.abs(of_copies[:, None] - of_members[None]).max(axis=(2, 3))
    assert (gap.min(axis=1) < 1e-4).all()
    assert not (copies[:, None] == members[None]).all(axis=2).any(), "but in another order"


def test_noise_is_as_large_as_asked_and_that_of_the_evaluator(zoo: Zoo, tmp_path: Path) -> None:
    run = train_generator(config("noise"), zoo, tmp_path / "run")
    spec, members = run.source.network.spec, run.state["values"]
    held_out = parts_of(run.config, zoo).held_out.values
    evaluator = Evaluator(run.source.network, members, held_out, *exam_of(zoo.dataset))
    for seed, sigma in enumerate((0.0, 0.05, 0.5)):
        found = run.sample(200, seed, options={"sigma": sigma})
        np.testing.assert_array_equal(found, evaluator.noisy_members(sigma, 200, seed))
        nearest = members[np.abs(found[:, None] - members[None]).mean(axis=2).argmin(axis=1)]
        for parameter in spec.parameters:
            place = slice(parameter.offset, parameter.offset + parameter.size)
            size = np.sqrt(np.square(nearest[:, place]).mean(axis=1, keepdims=True))
            gap = ((found - nearest)[:, place] / size).std()
            assert gap == pytest.approx(sigma, rel=0.1, abs=1e-7)


def test_aligned_means_are_better_than_raw_ones(zoo: Zoo, tmp_path: Path) -> None:
    run = train_generator(config("average"), zoo, tmp_path / "run")
    raw = accuracy(zoo, run.sample(40, options={"aligned": False})).mean()
    assert accuracy(zoo, run.sample(40)).mean() > raw + 0.05
    with pytest.raises(ConfigError, match="members: found 1"):
        run.sample(2, options={"members": 1})


def test_gaussians_have_the_moments_of_the_members(zoo: Zoo, tmp_path: Path) -> None:
    run = train_generator(config("gaussian", options={"aligned": False}), zoo, tmp_path / "run")
    found, members = run.sample(2000), run.state
    np.testing.assert_allclose(found.std(axis=0), members["deviation"], rtol=0.1)
    assert np.abs((found.mean(axis=0) - members["mean"]) / members["deviation"]).max() < 0.12


def test_fresh_members_are_as_good_as_trained_ones(zoo: Zoo, tmp_path: Path) -> None:
    run = train_generator(config("train"), zoo, tmp_path / "run")
    fresh = run.sample(30)
    real = accuracy(zoo, population_of(zoo).values)
    assert accuracy(zoo, fresh).mean() == pytest.approx(
        real.mean(), abs=float(4 * real.std() / 30**0.5)
    )
    assert len({row.tobytes() for row in fresh}) == 30


# -------------------------------------------------------------------------------------------- runs
@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_is_seeded_finite_and_blind(
    name: str, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test images are none to whoever is blind; here, nothing may even look for them."""
    monkeypatch.setattr(Dataset, "blind", lambda whole: replace(whole, test=None))
    run = train_generator(config(name), zoo, tmp_path / "run")
    again = open_run(tmp_path / "run")
    found = run.sample(5, seed=3)
    assert found.shape == (5, population_of(zoo).network.spec.size)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(again.sample(5, seed=3, dataset=zoo.dataset), found)
    assert not np.array_equal(run.sample(5, seed=4), found)


def test_a_fit_is_repeated_for_nothing_and_never_replaced(zoo: Zoo, tmp_path: Path) -> None:
    told = config("flow", conditions=("train.learning_rate",))
    train_generator(told, zoo, tmp_path / "run")
    before = (tmp_path / "run" / "state.npz").stat().st_mtime_ns
    train_generator(told, zoo, tmp_path / "run")
    assert (tmp_path / "run" / "state.npz").stat().st_mtime_ns == before
    other = config("flow")
    with pytest.raises(ConflictError, match="another run: the config differs"):
        train_generator(other, zoo, tmp_path / "run")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("dear")
    with pytest.raises(ConflictError, match="is no run"):
        train_generator(told, zoo, tmp_path / "foreign")
    (tmp_path / "left" / "checkpoint").mkdir(parents=True)
    with pytest.raises(ConflictError, match="it holds 'checkpoint'"):
        train_generator(told, zoo, tmp_path / "left")


def test_no_checkpoint_outlives_its_fit_and_its_seconds_count(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the fit of another run could go on from it."""
    from zoogen.generators import fitting

    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    kept = []
    save = fitting.Checkpoint.save_if_due
    monkeypatch.setattr(fitting.Checkpoint, "save_if_due", lambda *found: kept.append(save(*found)))
    restore = fitting.Checkpoint.restore
    monkeypatch.setattr(
        fitting.Checkpoint,
        "restore",
        lambda *found: restore(*found)._replace(seconds=np.float64(1000)),
    )
    run = train_generator(config("pca-flow"), zoo, tmp_path / "run")
    assert 1000 < run.facts["fit"]["seconds"] < 2000, "all calls count"
    assert kept
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_an_interrupted_fit_ends_with_the_same_state(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoogen.generators import fitting

    told = config("flow", training={**SHORT, "looks": 4})
    run = train_generator(told, zoo, tmp_path / "whole")
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    effort = Effort(**told.training.model_dump(), checkpoint=tmp_path / "checkpoint")

    class Stop(Exception):
        pass

    def stop_half_way(_name: str, _total: float, _unit: str):
        from contextlib import contextmanager

        @contextmanager
        def advance():
            done = []

            def tell(steps: float) -> None:
                done.append(steps)
                if sum(done) > 10:
                    raise Stop

            yield tell

        return advance()

    from zoogen.generators import Fittable, parts_of

    parts = parts_of(told, zoo)
    train, held = (Fittable(p, np.zeros((len(p), 0), np.float32), run.source) for p in parts[:2])
    generator, options = GENERATORS["flow"], {**GENERATORS["flow"].options, **told.options}
    with pytest.raises(Stop):
        generator.fit(train, held, options, replace(effort, reporter=stop_half_way))
    assert any((tmp_path / "checkpoint").iterdir())
    earlier: list[float] = []
    resumed = generator.fit(train, held, options, replace(effort, resumed=earlier.append))
    assert len(earlier) == 1
    assert earlier[0] > 0  # seconds of the part that was not repeated
    for one, other in zip(run.state["params"], resumed["params"], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_refused_fit_does_not_block_a_better_one(zoo: Zoo, tmp_path: Path) -> None:
    bad = config("pca-gaussian", options={"components": 10**6})
    with pytest.raises(ConfigError, match=r"options\.components: found 1000000"):
        train_generator(bad, zoo, tmp_path / "run")
    with pytest.raises(NotFoundError):
        open_run(tmp_path / "run")
    train_generator(config("pca-gaussian"), zoo, tmp_path / "run")
    open_run(tmp_path / "run")


def test_damaged_and_half_written_runs_are_told_apart(zoo: Zoo, tmp_path: Path) -> None:
    train_generator(config("gaussian"), zoo, tmp_path / "run")
    half = Path(shutil.copytree(tmp_path / "run", tmp_path / "half"))
    text = (half / "run.json").read_text()
    (half / "run.json").write_text(text[: text.index('"fit"')] + '"fit": null}')
    with pytest.raises(NotFoundError, match="fit is not finished"):
        open_run(half)
    train_generator(config("gaussian"), zoo, half)
    open_run(half)
    flip_bit(tmp_path / "run" / "state.npz", 4001)
    with pytest.raises(CorruptZooError, match="checksum"):
        open_run(tmp_path / "run")
    with pytest.raises(NotFoundError, match="no run"):
        open_run(tmp_path)


def _with(key: str, value: object) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        facts = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(facts | {key: value}))

    return change


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda run: (run / "run.json").write_text('{"format": 3, '), "no JSON"),
    "no table": (lambda run: (run / "run.json").write_text("[1]"), "no table"),
    "no fact": (lambda run: (run / "run.json").write_text('{"format": 3}'), "run: missing"),
    "another fact": (_with("fit", "yes"), "fit: found 'yes'"),
    "a part of a fact": (_with("info", {"classes": 10}), "info.image_shape: missing"),
    "another condition": (_with("conditions", [{"x": 1}]), "conditions"),
    "a folder": (lambda run: _as_folder(run / "run.json"), "can't be read"),
    "no state": (lambda run: (run / "state.npz").unlink(), "remove .* and fit again"),
    "cut state": (lambda run: (run / "state.npz").write_bytes(b"PK"), "checksum"),
}


def test_broken_runs_are_one_line(zoo: Zoo, tmp_path: Path) -> None:
    whole = tmp_path / "run"
    train_generator(config("gaussian"), zoo, whole)
    for name, (harm, words) in BROKEN.items():
        run = Path(shutil.copytree(whole, tmp_path / name))
        harm(run)
        with pytest.raises(CorruptZooError, match=words) as error:
            open_run(run)
        assert "\n" not in str(error.value)
    text = (whole / "run.json").read_text().replace('"generator": "gaussian"', '"generator": "x"')
    (whole / "run.json").write_text(text)
    with pytest.raises(ConfigError, match="found 'x'"):
        open_run(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator": "flwo"}, "did you mean 'flow'"),
        ({"options": {"chanels": 2}}, "did you mean 'channels'"),
        ({"options": {"channels": 2.5}}, "expected a whole number"),
        ({"options": {"rank": 0}}, "options.rank: found 0"),
        ({"conditions": ("width",)}, "no such column"),
        ({"generator": "noise", "options": {}, "conditions": ("phase",)}, "takes none"),
    ],
)
def test_mistakes_in_a_config_are_one_line(
    change: dict, message: str, zoo: Zoo, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        train_generator(config("flow").model_copy(update=change), zoo, tmp_path / "run")
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------ command line
def test_samples_are_a_zoo_again(zoo: Zoo, tmp_path: Path, run: Callable) -> None:
    (tmp_path / "flow.toml").write_text(
        'name = "flow"\ngenerator = "flow"\nconditions = ["train.learning_rate"]\n'
        "[options]\nchannels = 8\ndepth = 1\nheads = 2\nrank = 2\n"
        "[training]\nsteps = 20\nbatch_size = 16\nlooks = 2\n"
    )
    fit = ["train-generator", tmp_path / "flow.toml", "--zoo", zoo.path, "--out", tmp_path / "run"]
    code, out, _ = run(*fit)
    assert code == 0
    assert "generator 'flow' on zoo 'population'" in out
    made = tmp_path / "made.zarr"
    ask = ["sample", tmp_path / "run", "-n", 12, "--out", made]
    code, out, _ = run(*ask, "--condition", "train.learning_rate=0.1", "--set", "path_steps=4")
    assert code == 0
    sampled = open_zoo(made)
    assert len(sampled) == 12
    assert sampled.is_complete
    assert sampled.made_by == "zoogen sample"
    assert (sampled.members["train.learning_rate"] == 0.1).all()
    assert np.isfinite(sampled.members["test_accuracy"]).all()
    assert not store.verify(made)
    expected = open_run(tmp_path / "run").sample(
        12, wish={"train.learning_rate": 0.1}, options={"path_steps": 4}
    )
    np.testing.assert_array_equal(sampled.weights().values, expected)
    code, _, err = run(*ask)
    assert code == 3
    assert "holds the zoo of config" in err
    for more, words in (
        (("--condition", "phase=IV-B"), "there are: train.learning_rate"),
        (("--set", "channels=4"), "options.channels: found 4, but 'flow' was fitted with 8"),
        (("--set", "path_steps"), "--set 'path_steps': expected option=value"),
    ):
        code, _, err = run(*ask, *more)
        assert code == 2
        assert words in err


def test_a_path_that_is_taken_is_refused_before_work(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_generator(config("gaussian"), zoo, tmp_path / "run")
    monkeypatch.setattr(type(run), "sample", lambda *_: pytest.fail("sampled"))
    for taken, words in {tmp_path: "holds 'run'", zoo.path: "holds the zoo of config"}.items():
        with pytest.raises(ConflictError, match=words):
            sample_zoo(run, 4, taken)


def test_sampling_twice_changes_nothing(zoo: Zoo, tmp_path: Path) -> None:
    fitted = train_generator(config("gaussian"), zoo, tmp_path / "run")
    sample_zoo(fitted, 5, tmp_path / "zoo.zarr")
    before = open_zoo(tmp_path / "zoo.zarr").reader.manifest.content_hash()
    sample_zoo(fitted, 5, tmp_path / "zoo.zarr")
    assert open_zoo(tmp_path / "zoo.zarr").reader.manifest.content_hash() == before
    assert len(open_zoo(tmp_path / "zoo.zarr")) == 5


def fitted(name: str, seed: int, members: int, **more: object) -> Run:
    told = config("pca-flow", name=name, training={**SHORT, "seed": seed}, **more)
    options = {**GENERATORS["pca-flow"].options, **told.options}
    return Run(Path(name), told, {"members": {"train": members}, "options": options}, {})


def test_runs_are_fits_of_a_generator_and_points_of_its_curve() -> None:
    runs = [fitted("flow-b", 1, 80), fitted("flow-a", 0, 80), fitted("few", 0, 20),
            fitted("other", 0, 80, conditions=["train_loss"])]  # fmt: skip
    (few, many), (other,) = generators_of(runs)
    assert (few.members, many.members, other.members) == (20, 80, 80)
    assert [run.config.training.seed for run in many.runs] == [1, 0]
    assert (few.name, many.name, other.name) == ("few", "flow", "other")
    assert "2 fits" in many.notes[0]
    assert "fitted once" in few.notes[0]
    ((told,),) = generators_of(runs[:1], {"guidance": 1.5})
    assert told.notes[1] == "sampled with guidance = 1.5"
    selected = fitted("picked", 0, 20, population={"where": "test_accuracy > 0.9"})
    ((found,),) = generators_of([selected])
    assert found.notes[1] == "its config names test_accuracy, which is taken on test images"
    with pytest.raises(ConfigError, match="expected at least one"):
        generators_of([])
    with pytest.raises(ConfigError, match="flow-a and few are the same fit"):
        generators_of([fitted("few", 0, 20), fitted("flow-a", 0, 20)])


def keeping(told: dict[str, list[float]]) -> Callable[..., Any]:
    """A reporter that keeps, of each part of the work, its total and the units that are done."""

    @contextmanager
    def report(name: str, total: float, _unit: str) -> Iterator[Callable[[float], None]]:
        told[name] = [total]
        yield told[name].append

    return report


@pytest.mark.slow
def test_fits_are_pooled_and_conditions_read(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "zoogen.evaluate.generation.runs.BASELINES", {"copies": ("permuted", ({},))}
    )
    told = {"conditions": ["train.learning_rate", "train_loss"]}
    runs = [
        train_generator(
            config("pca-flow", population={"members": members}, training={**SHORT, "seed": seed},
                   **told),
            zoo,
            tmp_path / f"{members}-{seed}",
        )
        for members, seed in ((20, 0), (70, 0), (70, 1))
    ]  # fmt: skip
    told_of: dict[str, list[float]] = {}
    (report,) = evaluate_runs(runs, zoo, samples=30, reporter=keeping(told_of))
    assert list(told_of) == [
        "samples of pca-flow, 20 training runs", "real networks, 20 training runs",
        "judgement of pca-flow, 20 training runs", "samples of pca-flow, 70 training runs",
        "real networks, 70 training runs", "baselines, 70 training runs",
        "starts from pca-flow on digits", "metrics of pca-flow",
        "judgement of pca-flow, 70 training runs",
    ]  # fmt: skip
    for total, *units in told_of.values():
        assert sum(units) == pytest.approx(total), "all units are told, and no more"
    assert len(told_of["baselines, 70 training runs"]) > 8, "a report a setting"
    assert (report.fits, report.members) == (2, 70)
    assert [result.seed for result in report.by_seed] == [0, 1]
    assert [(point.members, len(point.by_seed)) for point in report.scaling] == [(20, 3), (70, 2)]
    read, measured = report.conditions
    assert (read.how, measured.how) == ("read from the weights by trees", "measured")
    assert read.ceiling > 0.7  # weights tell rates of 0.05 from those of 0.15
    assert math.isnan(measured.ceiling)
    other = train_generator(config("noise", population={"seed": 1}), zoo, tmp_path / "other")
    with pytest.raises(ConfigError, match="different held-out members"):
        evaluate_runs([runs[0], other], zoo, samples=30)


@pytest.mark.slow
def test_a_run_is_judged_on_its_own_population(
    zoo: Zoo, tiny_zoo: Path, tmp_path: Path, run: Callable
) -> None:
    (tmp_path / "copies.toml").write_text('name = "copies"\ngenerator = "permuted"\n')
    fit = ["train-generator", tmp_path / "copies.toml", "--zoo", zoo.path]
    assert run(*fit, "--out", tmp_path / "run")[0] == 0
    judge = ["evaluate-generator", tmp_path / "run", "--out", tmp_path / "report"]
    other = other_digits(zoo, tmp_path)
    code, out, _ = run(*judge, "--zoo", zoo.path, "-n", 30, "--other-data", other)
    assert code == 0
    from zoogen.evaluate.generation import from_json

    (report,) = from_json((tmp_path / "report" / "generation.json").read_bytes())
    assert report.copying.zu < -3
    assert report.novelty.all == 0
    assert {curve.name for curve in report.curves} >= {"noise", "average, aligned", "PCA-Gaussian"}
    curves = {curve.name: curve.points for curve in report.curves}
    for name in ("average, aligned", "midpoint, raw"):
        assert [point.setting for point in curves[name]][:2] == ["1", "2"]
        assert curves[name][0] == replace(curves["noise"][0], setting="1")
    names = {"generated", "nearest", "scratch"}
    own, elsewhere = (
        {start.name: start.accuracy for start in report.starts if start.data == data}
        for data in (zoo.dataset.name, "other")
    )
    assert set(own) == set(elsewhere) == names
    assert elsewhere["generated"][0] < own["generated"][0] / 2  # labels mean other digits
    assert all(found[-1] > found[0] + 0.1 for found in elsewhere.values())  # and are learned
    assert report.cost is not None
    assert report.cost.fresh_seconds > 0
    assert "seeds are of the samples" in " ".join(report.notes)
    assert "copies" in out
    code, _, err = run(*judge, "--zoo", tiny_zoo)
    assert code in (2, 3)
    assert "zoogen: " in err
    (tmp_path / "none.toml").write_text('name = "none"\n')
    code, _, err = run(*judge, "--zoo", zoo.path, "--set", "guidance=2")
    assert code == 2
    assert "no such option" in err
    code, _, err = run(*judge, "--zoo", zoo.path, "--other-data", tmp_path / "none.toml")
    assert code == 2
    assert "none.toml: no table [data]" in err


def other_digits(zoo: Zoo, directory: Path) -> Path:
    """A config of digits under other names: 0 is called 1, and so on."""
    dataset, path = zoo.dataset, directory / "other.npz"
    np.savez(
        path,
        x_train=dataset.train.images,
        y_train=(dataset.train.labels + 1) % 10,
        x_test=dataset.test.images,
        y_test=(dataset.test.labels + 1) % 10,
    )
    config = path.with_suffix(".toml")
    config.write_text(f'[data]\nsource = "npz"\npath = "{path}"\n')
    return config


def test_a_generator_is_told_of_data_like_its_own(zoo: Zoo, tmp_path: Path) -> None:
    fitted = train_generator(config("gaussian"), zoo, tmp_path / "run")
    odd = replace(zoo.dataset, classes=7)
    with pytest.raises(ConfigError, match=r"of 7 classes, expected .* of 10"):
        fitted.sample(2, dataset=odd)
    same = fitted.sample(2, dataset=zoo.dataset)
    assert np.array_equal(same, fitted.sample(2))
    with pytest.raises(ConfigError, match="of 7 classes"):
        evaluate_runs([fitted], zoo, samples=30, others=[odd])
    for source in (fitted.source, fitted.told(zoo.dataset)):
        assert len(source.dataset().train) == len(zoo.dataset.train)
        assert not len(source.dataset().test)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gaussian", {"aligned": False}, "fitted with True; sampling can change: nothing"),
        ("kde", {"components": 4}, "fitted with 8; sampling can change: nothing"),
        ("average", {"aligned": 0}, "found 0, expected true or false"),
        ("average", {"members": 1}, "found 1, expected at least 2"),
        ("noise", {"sigma": -0.1}, "found -0.1, expected at least 0"),
        ("average", {"members": math.inf}, "found inf, expected a whole number"),
        ("noise", {"sigma": math.nan}, "found nan, expected a finite number"),
        ("noise", {"sigma": True}, "found True, expected a finite number"),
    ],
)
def test_a_sample_changes_options_of_sampling_alone(
    name: str, options: dict, message: str, zoo: Zoo, tmp_path: Path
) -> None:
    fitted = train_generator(config(name), zoo, tmp_path / "run")
    with pytest.raises(ConfigError, match=message) as error:
        fitted.sample(2, options=options)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=message):
        evaluate_runs([fitted], zoo, samples=30, options=options)
    own = {key: value for key, value in fitted.options.items() if key in options}
    assert np.array_equal(fitted.sample(2, options=own), fitted.sample(2))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("flow", {"shots": 0}, "options.shots: found 0, expected at least 1"),
        ("flow", {"embedding": -1}, "options.embedding: found -1, expected at least 0"),
        ("flow", {"function_weight": -2.5}, "function_weight: found -2.5, expected at least 0"),
        ("flow", {"rank": 0}, "options.rank: found 0, expected at least 1"),
        ("d2nwg", {"shots": -1}, "options.shots: found -1, expected at least 1"),
        ("d2nwg", {"sampling_steps": 0}, "sampling_steps: found 0, expected at least 1"),
        ("d2nwg", {"latent": 0}, "options.latent: found 0, expected at least 1"),
    ],
)
def test_options_that_are_too_small_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        known_options(name, options)


def test_fits_that_are_asked_have_noise_of_their_own(zoo: Zoo, tmp_path: Path) -> None:
    told = config("pca-flow", conditions=["train.learning_rate"])
    fitted = train_generator(told, zoo, tmp_path / "run")
    rows = fitted.conditioning.of_wish({"train.learning_rate": 0.05}, 4)
    found = Fits((fitted, fitted)).asked(rows)
    assert np.abs(found[0::2] - found[1::2]).max(axis=1).min() > 1e-3


def test_options_of_sampling_are_options() -> None:
    for row in GENERATORS.values():
        assert set(row.sampling) <= set(row.options)


def test_members_in_canonical_form_lose_their_scales_alone(zoo: Zoo) -> None:
    spec = population_of(zoo).network.spec
    values = population_of(zoo).values[:6]
    twins = apply(spec, Element({}, random_element(spec, 1, (6,)).factors), values)
    one, other = (_form(spec, each, canonical=True) for each in (values, twins))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert np.abs(one - values).max() > 1e-3
    assert _form(spec, values, canonical=False) is values


@pytest.mark.parametrize("option", [{"gradients": True}, {"embedding": 2}], ids=str)
def test_a_flow_follows_the_data_that_it_is_told(option: dict, zoo: Zoo, tmp_path: Path) -> None:
    told = config("flow", options={**OPTIONS["flow"], **option, "function_weight": 0.0})
    fitted = train_generator(told, zoo, tmp_path / "run")
    data = zoo.dataset
    inverted = data.train.images.max() - data.train.images  # labels say which are drawn
    other = replace(data, train=replace(data.train, images=inverted))
    own, again, of_other = (fitted.sample(3, dataset=each) for each in (None, data, other))
    np.testing.assert_array_equal(own, again)
    assert np.abs(own - of_other).max() > 1e-4
    if "gradients" not in option:
        return
    (fits,) = (points[-1] for points in generators_of([fitted]))
    images, evaluations = len(data.train), 8
    assert any(
        note.startswith(f"every sample reads gradients of {images} labelled training images "
                        f"{evaluations} times, as many as {evaluations}.0 epochs")
        for note in fits.notes
    )  # fmt: skip


def test_one_generator_is_one_set_of_options(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defaults of another day make another generator, though configs are equal."""
    runs = [train_generator(config("noise"), zoo, tmp_path / "before")]
    row = GENERATORS["noise"]
    monkeypatch.setitem(GENERATORS, "noise", replace(row, options={"sigma": 0.7}))
    runs.append(train_generator(config("noise"), zoo, tmp_path / "after"))
    assert [open_run(run.path).options["sigma"] for run in runs] == [0.1, 0.7]
    assert [fits.name for (fits,) in generators_of(runs)] == ["noise in before", "noise in after"]
    assert [fits.name for (fits,) in generators_of(runs[:1])] == ["noise"]
    monkeypatch.setitem(GENERATORS, "noise", replace(row, options={"sigma": 0.7, "more": 1}))
    with pytest.raises(ConfigError, match=r"had other options \(more\)"):
        open_run(runs[0].path)
