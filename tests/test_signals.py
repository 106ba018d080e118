"""Signals: signs, scales and order of units are unseen exactly, and so are widenings."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zoogen.config import NetworkConfig
from zoogen.errors import ConfigError
from zoogen.models import SignalStack, frame_of, signal_model, signal_parameter_model
from zoogen.networks import build_network
from zoogen.params import Axis, ParamSpec
from zoogen.symmetry import apply, random_element

ELEMENTS = 20
TOLERANCES = {"float32": 1e-6, "float64": 1e-10}
STACK = SignalStack(8)


def family(name, activation, **more):
    config = NetworkConfig(family=name, width=4, activation=activation, **more)
    return build_network(config, (2, 1, 1) if name in ("mlp", "siren") else (1, 8, 8), 3)


NETWORKS = {
    **{f"mlp {a}": partial(family, "mlp", a, depth=3) for a in ("relu", "tanh", "gelu")},
    **{f"cnn {a}": partial(family, "cnn", a, depth=2) for a in ("relu", "tanh")},
    "siren": partial(family, "siren", "sin", init="siren"),
    "resnet": partial(family, "resnet", "relu", depth=1),
    "vit": partial(family, "vit", "gelu", depth=1),
}


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", NETWORKS)
def test_permutations_signs_and_scales_are_unseen(params_of, name, dtype):
    """By models of whole networks; what models of parameters say moves as the weights do."""
    spec = NETWORKS[name]().spec
    values = np.random.default_rng(0).standard_normal((1, spec.size)).astype(dtype)
    moved = apply(spec, random_element(spec, 1, (ELEMENTS,)), values)
    with jax.enable_x64(dtype == "float64"):
        for model in (signal_model(spec, 2, STACK), signal_parameter_model(spec, STACK)):
            run = partial(jax.jit(model.apply), params_of(model, dtype))
            before, after = (np.asarray(run(w.astype(dtype))) for w in (values, moved))
            expected = before
            if before.shape[1] == spec.size:
                expected = apply(spec, random_element(spec, 1, (ELEMENTS,)), before)
            assert after.dtype == dtype
            error = np.abs(after - expected).max(axis=1) / np.abs(expected).max(axis=1)
            assert error.max() <= TOLERANCES[dtype]
            assert before.std() > 0


def widened(spec, values, copies, rng):
    """Every unit ``copies[j]`` times, its outgoing weights in random shares; [2,4,4,4,3]."""
    layers = spec.unflatten(values)
    for number in range(3):
        units = np.repeat(np.arange(4), copies)
        share = rng.uniform(0.5, 1.5, len(units))
        share /= np.bincount(units, share)[units]
        own, after = f"hidden{number}", f"hidden{number + 1}" if number < 2 else "output"
        for kind in ("weight", "bias"):
            layers[f"{own}.{kind}"] = layers[f"{own}.{kind}"][units]
        layers[f"{after}.weight"] = layers[f"{after}.weight"][:, units] * share
    return layers


@pytest.mark.parametrize("copies", [(2, 2, 2, 2), (1, 3, 2, 5)], ids=["even", "uneven"])
def test_a_widening_that_keeps_the_function_of_a_relu_network_is_unseen(params_of, copies):
    narrow = family("mlp", "relu", depth=3)
    wide = build_network(
        NetworkConfig(family="mlp", width=sum(copies), activation="relu", depth=3), (2, 1, 1), 3
    )
    values = np.random.default_rng(0).standard_normal(narrow.spec.size)
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        layers = widened(narrow.spec, values, copies, rng)
        more = np.asarray(wide.spec.flatten(layers))
        at = jnp.asarray(rng.standard_normal((5, 2, 1, 1)))
        same = [n.apply(n.spec.unflatten(w), at) for n, w in ((narrow, values), (wide, more))]
        np.testing.assert_allclose(*same, rtol=1e-10)
        frame = frame_of([narrow.spec])
        read = [signal_model(n.spec, 2, STACK, frame=frame) for n in (narrow, wide)]
        params = params_of(read[0], "float64")
        pairs = zip(read, (values, more), strict=True)
        small, large = (np.asarray(model.apply(params, w[None])) for model, w in pairs)
    assert relative(large, small) <= 1e-10


@pytest.mark.parametrize("seed", range(3))
def test_what_a_network_computes_can_be_read_off_its_weights(seed):
    """Outputs at a place, of random tanh networks whose units' signs are free."""
    network = family("mlp", "tanh", depth=1)
    spec, rng = network.spec, np.random.default_rng(seed)
    weights = rng.standard_normal((1024, spec.size)).astype(np.float32)
    place = jnp.full((1, 2, 1, 1), 0.5)
    outputs = jax.vmap(lambda w: network.apply(spec.unflatten(w), place)[0, 0])(weights)
    targets = np.asarray(outputs)
    targets = (targets - targets.mean()) / targets.std()
    model, optimiser = signal_model(spec, 1, SignalStack(16)), optax.adam(1e-2)

    @jax.jit
    def fitted(params):
        def step(carry, rows):
            loss = lambda p: jnp.square(model.apply(p, weights[rows])[:, 0] - targets[rows]).mean()  # noqa: E731
            update, moments = optimiser.update(jax.grad(loss)(carry[0]), carry[1])
            return (optax.apply_updates(carry[0], update), moments), None

        rows = jnp.asarray(rng.integers(0, 768, (300, 64)))
        (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), rows)
        return model.apply(params, weights[768:])[:, 0]

    weights, targets = jnp.asarray(weights), jnp.asarray(targets)
    found = fitted(model.init(jax.random.key(seed)))
    assert 1 - float(jnp.square(found - targets[768:]).mean()) > 0.8


@pytest.mark.parametrize(
    ("axes", "missing"),
    [
        ({"weight": (Axis(3, "hidden"), Axis(2))}, "no outputs"),
        ({"weight": (Axis(2), Axis(3, "hidden"))}, "no inputs"),
    ],
)
def test_a_signal_must_have_a_place_to_begin(axes, missing):
    with pytest.raises(ConfigError, match=missing):
        signal_model(ParamSpec.build(axes), 1)


def test_states_have_a_channel():
    with pytest.raises(ConfigError, match="channels: expected at least 1, found 0"):
        SignalStack(0)
