"""The graph hypernetwork: known graphs, magnitudes, unseen widths, and that it learns a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from zoogen.config import Config, DataConfig, NetworkConfig
from zoogen.data import Dataset, load, normalise
from zoogen.errors import ConfigError
from zoogen.generators import GENERATORS, Effort, Fittable, Population, Request, Source, fitting
from zoogen.generators.hypernetwork import Size, _on_circle, graph_hypernetwork, room_of
from zoogen.generators.layer_graph import layer_graph
from zoogen.generators.predicted import _images, _networks
from zoogen.networks import Network, build_network

ROW = GENERATORS["hypernetwork"]
SMALL = {"channels": 8, "rounds": 2, "hidden": 32, "latent": 4, "images": 32}
CONFIG = Config.model_validate(
    {
        "name": "digits",
        "data": {"train_examples": 400},
        "network": {"width": 6, "depth": 2},
        "train": {"epochs": 1, "batch_size": 50},
        "grid": {"seeds": 2},
    }
)


def network(width: int = 6, family: str = "mlp", **more: object) -> Network:
    shape = (1, 28, 28) if family in ("cnn", "lenet") else (1, 8, 8)
    return build_network(NetworkConfig(family=family, width=width, **more), shape, 10)


@lru_cache(maxsize=1)
def digits() -> Dataset:
    return load(CONFIG.data)


def blind() -> Dataset:
    """Digits of which the test images are out of reach."""
    return replace(digits(), test=None)


def told(conditions: int = 0) -> tuple[Fittable, Fittable]:
    """Members that say nothing but their weight decay."""
    source = Source(network(), CONFIG, pd.DataFrame(), blind)
    table = pd.DataFrame({"train.weight_decay": np.full(8, 1e-3)})
    values = np.zeros((8, network().spec.size), np.float32)
    part = Fittable(
        Population(network(), values, table), np.ones((8, conditions), np.float32), source
    )
    return part, part


def accuracy(found: Network, weights: np.ndarray) -> np.ndarray:
    data = digits()
    images = normalise(*map(jnp.asarray, (data.test.images, data.mean, data.std)))
    logits = jax.vmap(lambda w: found.apply(found.spec.unflatten(w), images))(weights)
    return np.asarray((logits.argmax(axis=-1) == data.test.labels).mean(axis=1))


# ------------------------------------------------------------------------------------------ graph
def test_layers_meet_those_before_and_behind_them_by_distance() -> None:
    graph = layer_graph(network().spec)
    order = ["hidden0.weight", "hidden0.bias", "hidden1.weight", "hidden1.bias"]
    assert graph.names == (*order, "output.weight", "output.bias")
    one, half, third = (1 / (1 + 1 + 1 / 2 + 1 / 2) / n for n in (1, 2, 3))
    assert third < half
    # The output's weight: fed by both of the second layer at once, by both of the first in two.
    np.testing.assert_allclose(graph.there[4], [half, half, one, one, 0, 0], rtol=1e-6)
    assert not graph.there[0].any()
    assert not graph.back[5].any()
    assert not np.diag(graph.there).any()
    np.testing.assert_allclose(graph.scales**-2, [64, 64, 6, 6, 6, 6], rtol=1e-6)


@pytest.mark.parametrize("family", ["mlp", "cnn", "lenet", "vit"])
def test_rows_are_shares_and_layers_differ(family: str) -> None:
    graph = layer_graph(network(8, family).spec)
    for ways in (graph.there, graph.back):
        total = ways.sum(axis=1)
        assert np.all(np.isclose(total, 1) | (total == 0))
    assert (graph.there > 0).T.sum() == (graph.back > 0).sum() > 0
    assert ((graph.features >= 0) & (graph.features <= 1)).all()
    assert len(np.unique(graph.features, axis=0)) == len(graph.names)


# -------------------------------------------------------------------------------------- magnitude
def test_what_is_told_has_one_length_on_the_circle() -> None:
    x = np.random.default_rng(0).random((50, 7), np.float32)
    lengths = np.linalg.norm(_on_circle(jnp.asarray(x)), axis=1)
    np.testing.assert_allclose(lengths, np.sqrt(7), rtol=1e-6)


@pytest.mark.parametrize(
    ("stabiliser", "family"), [("mip", "mlp"), ("mip", "cnn"), ("none", "mlp")]
)
def test_first_weights_are_fresh_ones_or_of_their_size(stabiliser: str, family: str) -> None:
    net = network(5, family)
    size = Size(8, 2, 16, 4, stabiliser)
    model = graph_hypernetwork(net, room_of((net.spec,)), 2, size)
    key = jax.random.key(0)
    latent = np.random.default_rng(0).random((3, 4), np.float32)
    apply = jax.jit(lambda p: model.apply(p, net.spec, jnp.zeros((3, 2)), latent))
    found = np.asarray(apply(model.init(key)))
    assert found.shape == (3, net.spec.size)
    if stabiliser == "mip":
        fresh = net.spec.flatten(net.init(jax.random.split(key, 5)[4], 1.0))
        np.testing.assert_allclose(found, np.tile(fresh, (3, 1)), rtol=1e-5, atol=1e-7)
    else:
        graph = layer_graph(net.spec)
        scale = np.repeat(graph.scales, [p.size for p in net.spec.parameters])
        assert 0.2 < (found / scale).std() < 5
        assert not np.array_equal(found[0], found[1])


def test_larger_tensors_repeat_what_is_decoded_and_smaller_ones_take_a_part() -> None:
    small, large = network(4), network(9)
    model = graph_hypernetwork(small, room_of((small.spec,)), 0, Size(8, 2, 16, 4, "mip"))
    params, latent = model.init(jax.random.key(1)), np.ones((1, 4), np.float32)
    empty = np.zeros((1, 0), np.float32)
    weights = {
        net: net.spec.unflatten(np.asarray(model.apply(params, net.spec, empty, latent))[0])
        for net in (small, large)
    }
    first, wide = (weights[net]["hidden0.weight"] for net in (small, large))
    room = wide[:4].copy()
    np.testing.assert_array_equal(wide[4:8], room)
    np.testing.assert_allclose(first, room, rtol=1e-6)
    deeper = network(4, depth=3)
    with pytest.raises(ConfigError, match="same family and depth"):
        model.apply(params, deeper.spec, empty, latent)


# --------------------------------------------------------------------------------------------- fit
FIT = Effort(steps=120, batch_size=8, learning_rate=5e-3, looks=2)


@pytest.mark.parametrize(("stabiliser", "seed"), [("mip", 0), ("mip", 1), ("mip", 2), ("none", 0)])
def test_predicted_networks_do_the_task_at_widths_that_were_not_trained(
    stabiliser: str, seed: int
) -> None:
    options = {**ROW.options, **SMALL, "stabiliser": stabiliser, "widths": [10]}
    state = ROW.fit(*told(), options, replace(FIT, seed=seed))
    chance = 0.1 + 4 * np.sqrt(0.1 * 0.9 / len(digits().test))
    for width in (6, 8, 10):
        source = replace(told()[0].source, network=network(width))
        request = Request(seed, 20, np.zeros((20, 0), np.float32))
        found = ROW.sample(source, state, options, request)
        assert found.shape == (20, network(width).spec.size)
        assert np.isfinite(found).all()
        assert accuracy(network(width), found).mean() > chance + 0.1 * (width != 8)
    assert state["losses"][:, 2].min() < np.log(10) - 0.5


@pytest.mark.slow
def test_a_resumed_fit_ends_with_the_same_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, effort = {**ROW.options, **SMALL}, replace(FIT, steps=20, looks=4)
    whole = ROW.fit(*told(2), options, effort)
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    done: list[float] = []

    class Stop(Exception):
        pass

    @contextmanager
    def stop_half_way(_name: str, _total: float, _unit: str) -> Iterator[Callable[[float], None]]:
        def tell(more: float) -> None:
            done.append(more)
            if sum(done) > 10:
                raise Stop

        yield tell

    kept = replace(effort, checkpoint=tmp_path / "checkpoint")
    with pytest.raises(Stop):
        ROW.fit(*told(2), options, replace(kept, reporter=stop_half_way))
    assert any((tmp_path / "checkpoint").iterdir())
    resumed = ROW.fit(*told(2), options, kept)
    for one, other in zip(whole["params"], resumed["params"], strict=True):
        np.testing.assert_array_equal(one, other)


def test_images_to_validate_on_are_training_images_apart() -> None:
    (seen, _), (held, labels) = _images(blind(), 1.0)
    assert len(seen) == 360
    assert len(held) == len(labels) == 40
    assert not (seen[:, None] == held[None]).all(axis=(2, 3, 4)).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ROW.fit(*told(), {**ROW.options, "stabiliser": "mpi"}, FIT), "found 'mpi'"),
        (lambda: ROW.fit(*told(), {**ROW.options, "latent": 0}, FIT), "options.latent: found 0"),
        (lambda: _networks(told()[0].source, [8, "wide"]), "options.widths: found 'wide'"),
        (lambda: _images(load(DataConfig(train_examples=4)), 1.0), "4 training images leave none"),
        (
            lambda: graph_hypernetwork(network(family="resnet", norm="batch"), (4, 4), 0, Size()),
            "can't be predicted",
        ),
    ],
)
def test_what_can_not_be_fitted_is_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
