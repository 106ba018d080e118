"""D2NWG: chunks, autoencoder, encoder of data sets, diffusion of codes, and the whole of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

from zoogen.config import Config, DataConfig, NetworkConfig, TrainConfig
from zoogen.data import Dataset, load
from zoogen.errors import ConfigError
from zoogen.generators import (
    GENERATORS,
    Effort,
    Fittable,
    Population,
    Request,
    Source,
    conditioning_of,
    d2nwg,
    fitting,
    weight_flow,
)
from zoogen.generators.autoencoder import (
    CHUNKS,
    autoencoder,
    chunks_of,
    decoded,
    encoded,
    fit_autoencoder,
)
from zoogen.generators.dataset_encoder import dataset_encoder, examples_of
from zoogen.generators.diffusion import (
    STEPS,
    Latents,
    denoised,
    denoiser,
    fit_denoiser,
    signal,
    steps_of,
)
from zoogen.generators.fitting import restored
from zoogen.generators.flow import TIMES, Data, errors_of, initial
from zoogen.generators.trained_on import embedded
from zoogen.generators.velocity import vector_field
from zoogen.models import Standard, standardise
from zoogen.networks import Network, build_network

SMALL = {**GENERATORS["d2nwg"].options, "latent": 3, "hidden": 8, "embedding": 0, "width": 16,
         "depth": 1, "sampling_steps": 20, "piece": 40, "aligned": False}  # fmt: skip
SHORT = Effort(steps=24, batch_size=16, looks=3)


@pytest.fixture(scope="module")
def network() -> Network:
    """A perceptron of 74 parameters."""
    return build_network(NetworkConfig(width=5, depth=1), (1, 3, 3), 4)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DataConfig())


def members(network: Network, count: int, seed: int = 0) -> Fittable:
    """Members on a plane in the space of weights, with noise; two kinds of label noise."""
    rng = np.random.default_rng(seed)
    plane = np.random.default_rng(7).standard_normal((2, network.spec.size))
    values = rng.standard_normal((count, 2)) @ plane + 0.05 * rng.standard_normal(
        (count, network.spec.size)
    )
    table = pd.DataFrame(
        {"data.fraction": 1.0, "data.label_noise": rng.choice([0.0, 0.5], count)},
        index=[f"{seed}-{i}" for i in range(count)],
    )
    population = Population(network, values.astype(np.float32), table)
    conditioning = conditioning_of(table, ["data.label_noise"])
    config = Config(name="zoo", train=TrainConfig(epochs=1))
    source = Source(network, config, table, lambda: load(config.data), conditioning)
    return Fittable(population, conditioning.of_members(table), source)


# -------------------------------------------------------------------------------------- chunks
@pytest.mark.parametrize(("how", "chunks"), [("whole", 1), ("layers", 2), ("pieces", 2)])
def test_chunks_hold_every_weight_once(how: str, chunks: int, network: Network) -> None:
    places = chunks_of(network.spec, how, 40)
    assert len(places) == chunks
    held = places[places < network.spec.size]
    assert sorted(held.tolist()) == list(range(network.spec.size))


@pytest.mark.slow
@pytest.mark.parametrize("how", CHUNKS)
def test_a_plane_of_members_is_encoded_and_decoded(how: str, network: Network) -> None:
    train, held = (members(network, n, seed).values for n, seed in ((400, 1), (100, 2)))
    model = autoencoder(chunks_of(network.spec, how, 40), network.spec.size, 4, 16)
    effort = Effort(steps=1200, batch_size=64, learning_rate=3e-3, looks=4)
    params = fit_autoencoder(model, train, held, effort).params
    codes = encoded(model, params, held)
    assert codes.mean.shape == (100, model.size)
    found = decoded(model, params, codes.mean)
    unexplained = np.square(found - held).mean() / held.var(axis=0).mean()
    assert unexplained < 0.03, "the noise around the plane alone is 0.0013 of the variance"


# ------------------------------------------------------------------------------------ data sets
@pytest.mark.slow
def test_the_order_of_images_and_classes_does_not_matter() -> None:
    encoder = dataset_encoder(9, 6, inducing=3)
    params = jax.jit(encoder.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 4, 5, 9), np.float32)
    images_moved = images[:, :, rng.permutation(5)]
    order = np.array([2, 0, 3, 1])
    classes, whole = jax.jit(encoder.classes), jax.jit(encoder.whole)
    found = np.asarray(classes(params, images))
    np.testing.assert_allclose(classes(params, images_moved), found, atol=2e-5)
    np.testing.assert_allclose(classes(params, images[:, order]), found[:, order], atol=2e-5)
    embedded = np.asarray(whole(params, found))
    np.testing.assert_allclose(whole(params, found[:, order]), embedded, atol=2e-5)
    assert np.abs(embedded[0] - embedded[1]).max() > 0.01, "but what the images are does"


def test_examples_are_of_their_class_and_share(digits: Dataset) -> None:
    subsets = np.array([[1.0, 0.0], [0.05, 0.0], [1.0, 1.0]])
    examples = examples_of(digits, DataConfig(), subsets)
    drawn = examples.draw(np.random.default_rng(0), np.arange(3), shots=30)
    assert drawn.shape == (3, 10, 30)
    labels = digits.train.labels
    for number in (0, 1):
        assert (labels[drawn[number]] == np.arange(10)[:, None]).all()
    assert drawn[1].max() < digits.training_size(0.05) <= drawn[0].max()
    right = (labels[drawn[2]] == np.arange(10)[:, None]).mean()
    assert right == pytest.approx(0.1, abs=4 * (0.09 / 300) ** 0.5), "labels are all noise"
    few = examples_of(digits, DataConfig(), np.array([[1.5 / len(labels), 0.0]]))
    lone = few.draw(np.random.default_rng(0), np.zeros(1, int), shots=2)[0]
    assert (few.images[lone].any(axis=(1, 2))).sum() == 1, "classes without images show zeros"


# ------------------------------------------------------------------------------------ diffusion
@pytest.mark.parametrize("steps", [250, STEPS])
def test_the_exact_noise_of_a_gaussian_gives_that_gaussian(steps: int) -> None:
    """For N(m, s²) the expected noise is known in closed form."""
    mean, deviation = 1.5, 0.5
    kept = signal()

    def expected(_params: object, x: jax.Array, condition: jax.Array) -> jax.Array:
        # the level from the sine and cosine of half its angle, the first of the frequencies
        half = jax.numpy.arctan2(condition[:, :1], condition[:, condition.shape[1] // 2 :][:, :1])
        level = jax.numpy.round(half * 2 / np.pi * STEPS).astype(int)
        a = jax.numpy.asarray(kept, jax.numpy.float32)[level]
        variance = a * deviation**2 + 1 - a
        return jax.numpy.sqrt(1 - a) * (x - jax.numpy.sqrt(a) * mean) / variance

    field = vector_field(1, 0)._replace(apply=expected)
    found = denoised(field, {}, np.zeros((4000, 0), np.float32), 1, steps, 1.0, seed=0)
    assert found.mean() == pytest.approx(mean, abs=4 * deviation / 4000**0.5 + 0.01)
    assert found.std() == pytest.approx(deviation, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_denoiser_learns_a_mixture_and_follows_its_condition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    side = rng.integers(2, size=2000)
    codes = np.stack([2 * side - 1, np.zeros(2000)], axis=1) + 0.1 * rng.standard_normal((2000, 2))
    codes = (codes / codes.std(axis=0)).astype(np.float32)
    conditions = np.stack([1 - side, side, np.ones(2000)], axis=1).astype(np.float32)
    nothing = np.zeros((1, 0), np.float32)
    data = Latents(codes, np.zeros_like(codes), conditions, np.zeros(2000, int), nothing)
    held = Latents(*(part[:200] for part in data[:4]), nothing)
    field = vector_field(2, 3, width=64, depth=2)
    effort = Effort(steps=1500, batch_size=256, looks=5, seed=seed)
    fitted = fit_denoiser(denoiser(field, None, 2, 0), data, held, effort)
    asked = np.repeat(np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]], np.float32), 200, axis=0)
    found = denoised(field, fitted.params["field"], asked, 2, 100, 1.0, seed)
    right = found[:, 0] > 0
    assert right[:200].mean() < 0.08
    assert right[200:400].mean() > 0.92
    assert 0.3 < right[400:].mean() < 0.7, "unasked, both sides come"
    assert np.abs(found[:, 0]).std() < 0.3, "and little lies between them"
    assert found[:, 1].std() == pytest.approx(1, abs=0.2)


# ------------------------------------------------------------------------------------ the whole
@pytest.mark.parametrize("change", [{"chunks": "layers"}, {"normalisation": "none"}], ids=str)
def test_samples_are_seeded_and_like_members(change: dict, network: Network) -> None:
    train, held = members(network, 120, 1), members(network, 30, 2)
    options = SMALL | change
    state = d2nwg.fit(train, held, options, SHORT)
    assert train.source is not None
    requests = [Request(seed, 6, np.zeros((6, 2), np.float32)) for seed in (3, 3, 4)]
    found = [d2nwg.sample(train.source, state, options, request) for request in requests]
    assert found[0].shape == (6, network.spec.size)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


# ------------------------------------------------------------------------------------- guidance
def test_guidance_goes_from_unasked_to_asked_and_beyond() -> None:
    """A single step is affine in the guess of the noise, hence in guidance."""
    field = vector_field(2, 0)._replace(
        apply=lambda _, x, told: x * 0.5 + told[:, :2] - told[:, 1:2] * x
    )
    asked = np.random.default_rng(0).standard_normal((50, 2), np.float32)
    none, plain, much = (denoised(field, {}, asked, 2, 1, g, seed=0) for g in (0.0, 1.0, 2.5))
    unasked = denoised(field, {}, np.zeros_like(asked), 2, 1, 1.0, seed=0)
    change = plain - unasked
    assert np.abs(change).max() > 1
    np.testing.assert_allclose(none, unasked, atol=1e-5 * np.abs(change).max())
    np.testing.assert_allclose(much - unasked, 2.5 * change, atol=1e-4 * np.abs(change).max())


TOLD = {"embedding": 3, "shots": 2, "inducing": 2}
TELLING = {
    "d2nwg": (d2nwg, SMALL | TOLD | {"sampling_steps": 2}),
    "flow": (weight_flow, {**GENERATORS["flow"].options, "channels": 8, "depth": 1, "heads": 1,
                           "rank": 2, **TOLD, "path_steps": 2, "method": "heun"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TELLING)
def test_guidance_is_of_conditions_and_of_data_sets(
    name: str, network: Network, digits: Dataset, params_of: Callable[..., Any]
) -> None:
    part = members(network, 20, 1)
    source, size = part.source, part.conditions.shape[1]
    assert source is not None
    generator, options = TELLING[name]
    state = unfitted(name, part, options, params_of)
    inverted = digits.train.images.max() - digits.train.images  # labels say which are drawn
    dataset = replace(digits, train=replace(digits.train, images=inverted))
    other = replace(source, dataset=lambda: dataset)
    clean, noisy = (source.conditioning.of_wish({"data.label_noise": n}, 6) for n in (0.0, 0.5))
    nothing = np.zeros((6, size), np.float32)

    def made(guidance: float, asked: np.ndarray, of: Source = source) -> np.ndarray:
        told = options | {"guidance": guidance}
        return generator.sample(of, state, told, Request(3, 6, asked))

    none, plain = made(0.0, clean), made(1.0, clean)
    for asked, of in ((noisy, source), (nothing, source), (clean, other)):
        np.testing.assert_array_equal(made(0.0, asked, of), none)
    same = generator.sample(source, state, options, Request(3, 6, clean))
    np.testing.assert_array_equal(plain, same)
    changed = (made(1.0, noisy), made(1.0, clean, other), none, made(3.0, clean))
    for weights in changed:
        assert np.abs(weights - plain).max() > 0.01 * plain.std()
    gap = np.abs(made(3.0, nothing) - made(1.0, nothing)).max()
    assert gap > 0.01 * plain.std(), "the embedding is guided, too, where no condition is asked for"
    odd = replace(digits, train=replace(digits.train, images=digits.train.images[..., 1:]))
    with pytest.raises(ConfigError, match="images of 56 numbers, the run was trained on 64"):
        made(1.0, clean, replace(source, dataset=lambda: odd))


def unfitted(
    name: str, part: Fittable, options: dict, params_of: Callable[..., Any]
) -> dict[str, Any]:
    """The state of a run whose parameters are random numbers, which costs no compilation."""
    spec, conditions, pixels = part.network.spec, part.conditions.shape[1], 64
    zeros, ones = np.zeros(spec.size, np.float32), np.ones(spec.size, np.float32)
    told = {
        "subsets": np.array([[1.0, 0.0], [1.0, 0.5]]), "members": np.array([10, 10]),
        "pixels": np.int64(pixels),
    }  # fmt: skip
    if name == "flow":
        field = weight_flow._field(spec, conditions + options["embedding"], options, None)
        encoder = dataset_encoder(pixels, options["embedding"], options["inducing"])
        both = SimpleNamespace(init=partial(initial, field, encoder))
        errors = np.zeros((len(TIMES), len(spec.parameters)))
        params = jax.tree.leaves(params_of(both))
        return {**told, "mean": zeros, "deviation": ones, "params": params, "errors": errors}
    model = d2nwg._autoencoder(spec, options)
    noise = d2nwg._denoiser(model.size, conditions, pixels, options)
    coder = SimpleNamespace(init=lambda key: model.init(key, zeros))
    return {
        **told,
        "weights_mean": zeros, "weights_deviation": ones,
        "codes_mean": np.zeros(model.size, np.float32),
        "codes_deviation": np.ones(model.size, np.float32),
        "autoencoder": jax.tree.leaves(params_of(coder)),
        "denoiser": jax.tree.leaves(params_of(noise)),
    }  # fmt: skip


def test_a_flow_is_told_the_data_set_of_each_member(network: Network, digits: Dataset) -> None:
    train, held = members(network, 60, 1), members(network, 40, 2)
    options = TELLING["flow"][1] | {"function_weight": 0.0}
    state = weight_flow.fit(train, held, options, SHORT)
    noisy = [part.population.table["data.label_noise"].to_numpy() > 0 for part in (train, held)]
    assert state["members"].tolist() == [(~noisy[0]).sum(), noisy[0].sum()]

    field = weight_flow._field(network.spec, 3 + train.conditions.shape[1], options, None)
    encoder = dataset_encoder(64, 3, 2)
    params = restored(partial(initial, field, encoder), state["params"])
    examples = examples_of(digits, DataConfig(), np.array([[1.0, 0.0], [1.0, 0.5]]))
    values = standardise(Standard(state["mean"], state["deviation"]), held.values)

    def errors(of: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(0)
        told = embedded(encoder, params["encoder"], examples, of.astype(int), 2, rng)
        data = Data(values.astype(np.float32), np.concatenate([held.conditions, told], axis=1))
        found = errors_of(field, params["field"], data)
        return weight_flow._by_tensor(network.spec, found)

    np.testing.assert_allclose(state["errors"], errors(noisy[1]), rtol=1e-5)
    assert not np.allclose(state["errors"], errors(~noisy[1]), rtol=1e-5)


@pytest.mark.parametrize("name", TELLING)
def test_data_sets_are_told_with_what_makes_them_differ(name: str, network: Network) -> None:
    part = members(network, 20, 1)
    table = part.population.table.assign(train_loss=np.linspace(0, 1, 20))
    conditioning = conditioning_of(table, ["train_loss"])
    assert part.source is not None
    told = Fittable(
        replace(part.population, table=table),
        conditioning.of_members(table),
        replace(part.source, conditioning=conditioning),
    )
    generator, options = TELLING[name]
    with pytest.raises(ConfigError, match=r"differ in data.label_noise, which is not among"):
        generator.fit(told, told, options, SHORT)


class Stop(Exception):
    """Stands for a kill."""


def stopping(stage: str, after: float) -> Callable[..., Any]:
    """A reporter that stops the fit within a stage."""

    @contextmanager
    def reporter(name: str, _total: float, _unit: str) -> Any:
        done = [0.0]

        def tell(steps: float) -> None:
            done[0] += steps
            if name == stage and done[0] > after:
                raise Stop

        yield tell

    return reporter


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 60.0])
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_fit_killed_in_either_stage_ends_with_the_same_state(
    stage: str, seconds: float, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looks, too, and however long ago the last checkpoint was."""
    train, held = members(network, 120, 1), members(network, 30, 2)
    monkeypatch.setattr(fitting, "SPAN_BYTES", 1)
    whole = d2nwg.fit(train, held, SMALL, SHORT)
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", seconds)
    kept = replace(SHORT, checkpoint=tmp_path / "checkpoint")
    with pytest.raises(Stop):
        d2nwg.fit(train, held, SMALL, replace(kept, reporter=stopping(stage, 6)))
    assert any((tmp_path / "checkpoint" / stage).iterdir())
    begun: dict[str, list[float]] = {}

    @contextmanager
    def noting(name: str, _total: float, _unit: str) -> Any:
        yield begun.setdefault(name, []).append

    resumed = d2nwg.fit(train, held, SMALL, replace(kept, reporter=noting))
    assert list(begun) == ["autoencoder", "diffusion"]
    assert begun[stage][0] == 7, "nothing that was done is done again"
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunks": "halves"}, "expected one of whole, layers, pieces"),
        ({"normalisation": "layer"}, "expected one of tensor, none"),
        ({"share": 1.0}, "between 0 and 1"),
        ({"sampling_steps": 1001}, "found 1001, expected 1 to 1000"),
        ({"embedding": 4}, "no classes of images"),
    ],
)
def test_impossible_options_are_one_line(change: dict, message: str, network: Network) -> None:
    part = replace(members(network, 20), source=None)
    with pytest.raises(ConfigError, match=message) as error:
        d2nwg.fit(part, part, SMALL | change, SHORT)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="expected 1 to 1000"):
        steps_of(0)
