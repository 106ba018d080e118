"""Sinkhorn matching: doubly stochastic matrices, their gradient, and planted elements."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import NetworkConfig
from zoogen.errors import ConfigError
from zoogen.networks import build_network
from zoogen.params import Axis, ParamSpec
from zoogen.symmetry import Descent, apply, identity, random_element, sinkhorn_matching
from zoogen.symmetry.soft import apply_softly, sinkhorn

SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])


def of_family(family, activation="relu", **more):
    config = NetworkConfig(family=family, activation=activation, **more)
    return build_network(config, (1, 28, 28) if family != "mlp" else (1, 5, 5), 10).spec


def residual():
    """Two blocks that write to one stream of units."""
    stream, axes = Axis(16, "stream"), {}
    axes |= {"input.weight": (stream, Axis(8)), "input.bias": (stream,)}
    for i in range(2):
        hidden = Axis(16, f"block{i}")
        axes |= {f"block{i}.up.weight": (hidden, stream), f"block{i}.up.bias": (hidden,)}
        axes |= {f"block{i}.down.weight": (stream, hidden), f"block{i}.down.bias": (stream,)}
    return ParamSpec.build(axes | {"output.weight": (Axis(5), stream), "output.bias": (Axis(5),)})


def heads():
    """Dimensions nested in four heads."""
    keys, values = Axis(12, "key"), Axis(8, "value")
    axes = {f"{name}.weight": (keys, Axis(6)) for name in ("query", "key")}
    axes |= {"value.weight": (values, Axis(6)), "output.weight": (Axis(6), values)}
    return ParamSpec.build(axes, parents={"key": ("heads", 4), "value": ("heads", 4)})


SMALL = build_network(NetworkConfig(width=4, depth=1), (1, 1, 4), 4)
SPECS = {
    "mlp": lambda: of_family("mlp", width=24),
    "mlp-tanh": lambda: of_family("mlp", "tanh", width=16),
    "cnn": lambda: of_family("cnn", width=16),
    "lenet": lambda: of_family("lenet", width=8),
    "residual": residual,
    "heads": heads,
}
QUICK = ("heads",)  # to compile; all others are as quick to run
ALL = pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SPECS]
)


def normal(spec, count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, spec.size)).astype(np.float32)


def planted(spec, a, seed=0):
    """Equivalent members by random permutations and signs."""
    return apply(spec, random_element(spec, seed + 100, a.shape[:-1], spread=0), a)


@SEEDS
@pytest.mark.parametrize("units", [1, 2, 7])
def test_rows_and_columns_sum_to_one(seed, units):
    logits = 2 * np.random.default_rng(seed).normal(size=(3, units, units)).astype(np.float32)
    matrix = np.asarray(sinkhorn(jnp.asarray(logits), 60))
    assert (matrix > 0).all()
    np.testing.assert_allclose(matrix.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(matrix.sum(axis=-2), 1, atol=1e-5)


@SEEDS
def test_the_implicit_gradient_is_that_of_differences(seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        logits, weight, way = (jnp.asarray(rng.normal(size=(5, 5))) for _ in range(3))
        value = lambda x: jnp.sum(weight * sinkhorn(x, 200))  # noqa: E731
        slope = (value(logits + 1e-5 * way) - value(logits - 1e-5 * way)) / 2e-5
        np.testing.assert_allclose(jnp.vdot(jax.grad(value)(logits), way), slope, rtol=1e-6)


@pytest.mark.parametrize("name", SPECS)
def test_soft_elements_at_permutations_are_elements(name):
    spec = SPECS[name]()
    element, values = random_element(spec, 3, spread=0), normal(spec, 1)[0]
    matrices = {}
    for group in spec.groups.values():
        order = np.asarray(element.permutations[group.name])
        rows = np.eye(group.size, dtype=np.float32)[order]
        if group.scaling == "sign":
            rows = rows * element.factors[group.name][:, None]
        families = 1 if group.parent is None else spec.groups[group.parent].size
        share = group.size // families
        # Of a nested group, the order within each share.
        blocks = rows.reshape(families, share, families, share).sum(axis=2)
        matrices[group.name] = jnp.asarray(blocks)
    wanted = apply(spec, element, values)
    np.testing.assert_allclose(apply_softly(spec, matrices, values), wanted, rtol=1e-6)


@ALL
def test_fifty_of_fifty_planted_elements_are_recovered(name):
    spec = SPECS[name]()
    a = normal(spec, 50)
    b = planted(spec, a)
    found = sinkhorn_matching(spec, a, b)
    assert np.array_equal(apply(spec, found.elements, b), a)
    assert (found.before < found.after).all()
    np.testing.assert_allclose(found.after, np.square(a.astype(np.float64)).sum(axis=1))


@SEEDS
def test_a_loss_alone_brings_twins_together(seed):
    """Of planted twins the segment's loss is least where they coincide."""
    spec, rng = SMALL.spec, np.random.default_rng(seed)
    a = normal(spec, 4, seed)
    b = planted(spec, a, seed)
    images = rng.normal(size=(100, 1, 1, 4)).astype(np.float32)

    found = sinkhorn_matching(spec, a, b, _apart, images, a[0])
    assert (found.after >= found.before).all()
    own = apply(spec, found.elements, b)[:1]
    np.testing.assert_allclose(own, a[:1], rtol=1e-6)


def _apart(values, images, target):
    """Mean squared difference to the logits of a target, whose flat weights are the labels."""
    logits = [SMALL.apply(SMALL.spec.unflatten(v), images) for v in (values, target)]
    return jnp.mean((logits[0] - logits[1]) ** 2)


def test_bad_members_stay_alone_and_nothing_is_ever_lost():
    spec = SMALL.spec
    a, b = normal(spec, 4), normal(spec, 4, 1)
    b[1, 5] = np.nan
    b[2] = a[2]
    found = sinkhorn_matching(spec, a, b)
    assert np.isnan(found.after).tolist() == [False, True, False, False]
    kept = [0, 2, 3]
    assert (found.after >= found.before)[kept].all()
    for group, order in identity(spec).permutations.items():
        np.testing.assert_array_equal(found.elements.permutations[group][1], order)
        np.testing.assert_array_equal(found.elements.permutations[group][2], order)


@pytest.mark.parametrize("descent", [Descent(steps=0), Descent(cold=0.0)])
def test_impossible_descents_are_refused(descent):
    spec = heads()
    with pytest.raises(ConfigError, match="positive temperatures"):
        sinkhorn_matching(spec, normal(spec, 1), normal(spec, 1), descent=descent)
