"""Layers equal their textbook definitions: values, gradients and Hessian-vector products."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen import population
from zoogen.networks import formulations, layers
from zoogen.networks.formulations import FORMULATIONS, Geometry

# channels, height, width, batch, out, kernel height, kernel width, stride, padding
GEOMETRIES = [
    Geometry(1, 9, 9, 4, 3, 3, 3, 2, 0),
    Geometry(3, 8, 8, 2, 4, 3, 3, 2, 1),
    Geometry(2, 7, 10, 3, 2, 3, 3, 1, 1),
    Geometry(2, 6, 5, 3, 3, 2, 2, 1, 0),
    Geometry(4, 5, 5, 1, 1, 5, 5, 1, 0),
    Geometry(2, 11, 8, 2, 3, 3, 2, 3, 2),
    Geometry(3, 4, 4, 2, 2, 1, 1, 1, 0),
    Geometry(1, 3, 3, 2, 2, 3, 3, 2, 0),
]
OTHERS = [name for name in FORMULATIONS if name != "convolution"]
CASES = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)


def arrays(geometry, seed=0):
    rng = np.random.default_rng(seed)
    c, h, w, b, o, kh, kw, _, _ = geometry
    shapes = {"x": (c, h, w, b), "weight": (o, c, kh, kw)}
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}


def loss(name, geometry, arguments):
    product = FORMULATIONS[name]
    maps = product(arguments["x"], arguments["weight"], geometry.stride, geometry.padding)
    return jnp.sum(jnp.sin(maps) * jnp.arange(maps.size, dtype=jnp.float32).reshape(maps.shape))


def close(found, expected, rtol=2e-5):
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale), found, expected
    )


@CASES
def test_formulations_equal_the_ordinary_convolution(geometry):
    given, direction = arrays(geometry), arrays(geometry, seed=1)

    def everything(name):
        """Values, gradients and Hessian-vector product (forward over reverse)."""
        gradient = jax.grad(partial(loss, name, geometry))
        value = FORMULATIONS[name](*given.values(), geometry.stride, geometry.padding)
        return value, gradient(given), jax.jvp(gradient, (given,), (direction,))[1]

    results = jax.jit(lambda: {name: everything(name) for name in FORMULATIONS})()
    for name in OTHERS:
        close(results[name], results["convolution"])


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("mapped", [jax.vmap, lambda fn: partial(jax.lax.map, fn)])
def test_formulation_over_members_equals_one_by_one(name, mapped):
    geometry = GEOMETRIES[1]
    members = [arrays(geometry, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    gradient = jax.grad(partial(loss, name, geometry))
    together = jax.jit(mapped(gradient))(stacked)
    one_by_one = jax.jit(gradient)
    for index, member in enumerate(members):
        close(jax.tree.map(lambda leaf, i=index: leaf[i], together), one_by_one(member))


@CASES
def test_conv2d_adds_the_bias_of_each_channel(geometry):
    given = arrays(geometry)
    bias = jnp.arange(1.0, geometry.out + 1)
    stride, padding = geometry.stride, geometry.padding
    found = layers.conv2d(given["x"], given["weight"], bias, stride, padding)
    plain = formulations.convolution(given["x"], given["weight"], stride, padding)
    close(found, plain + bias[:, None, None, None])
    assert layers.chosen()[str(geometry)] in FORMULATIONS


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (1, 5, 7, 2)])
def test_max_pool_equals_reduce_window(shape):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    window = (1, 2, 2, 1)
    expected = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
    np.testing.assert_array_equal(layers.max_pool(x), expected)


def test_max_pool_gives_ties_to_the_first():
    gradient = jax.grad(lambda x: layers.max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    assert gradient[0, :, :, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("activation", "scaling"), [("relu", "positive"), ("leaky_relu", "positive"), ("tanh", "sign")]
)
def test_scaling_symmetry_holds_for_the_activation(activation, scaling):
    fn, x = layers.ACTIVATIONS[activation], jnp.linspace(-3, 3, 13)
    factor = 2.5 if scaling == "positive" else -1.0
    assert layers.scalings(activation, ["a", "b"]) == {"a": scaling, "b": scaling}
    np.testing.assert_allclose(fn(factor * x), factor * fn(x), rtol=1e-6)


@pytest.mark.parametrize("activation", sorted(set(layers.ACTIVATIONS) - set(layers.SCALINGS)))
def test_other_activations_have_neither_symmetry(activation):
    fn, x = layers.ACTIVATIONS[activation], jnp.linspace(-3, 3, 13)
    assert layers.scalings(activation, ["a"]) == {"a": "none"}
    assert not np.allclose(fn(2.5 * x), 2.5 * fn(x), rtol=1e-3)
    assert not np.allclose(fn(-x), -fn(x), rtol=1e-3)


class TestChoice:
    """On backends without a rule the winner is measured once and kept."""

    geometry = Geometry(1, 4, 4, 2, 2, 2, 2, 1, 0)

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr(formulations, "_cache_file", lambda: tmp_path / "a" / "cache.json")
        formulations._measured.cache_clear()
        yield tmp_path / "a" / "cache.json"
        formulations._measured.cache_clear()

    def test_winner_is_measured_once_and_read_afterwards(self, cache, monkeypatch):
        seconds = {"patches": 3.0, "taps": 1.0, "convolution": 2.0}
        calls = []
        monkeypatch.setattr(
            formulations, "time_candidates", lambda geometry: calls.append(geometry) or seconds
        )
        assert formulations._measured("device", self.geometry) == "taps"
        formulations._measured.cache_clear()  # as in a new process
        assert formulations._measured("device", self.geometry) == "taps"
        assert calls == [self.geometry]
        assert formulations._measured("another device", self.geometry) == "taps"
        assert len(calls) == 2
        assert [*cache.parent.iterdir()] == [cache]

    @pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}'])
    def test_damaged_cache_is_measured_again(self, cache, monkeypatch, content):
        cache.parent.mkdir()
        cache.write_text(content)
        monkeypatch.setattr(formulations, "time_candidates", lambda _: {"taps": 1.0})
        assert formulations._measured("device", self.geometry) == "taps"

    def test_cache_that_cannot_be_written_is_no_error(self, cache, monkeypatch):
        cache.parent.write_text("a file where the directory should be")
        monkeypatch.setattr(formulations, "time_candidates", lambda _: {"taps": 1.0})
        assert formulations._measured("device", self.geometry) == "taps"

    def test_candidates_can_be_timed_while_a_population_is_traced(self):
        timed = []

        def member(x, _):
            timed.append(formulations.time_candidates(self.geometry, steps=2, repeats=1))
            return x

        population.over_members(member)(jnp.ones(2), None)
        assert set(timed[0]) == set(FORMULATIONS)
        assert all(seconds > 0 for seconds in timed[0].values())
