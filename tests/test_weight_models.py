"""What all models on weights share: symmetry to rounding, one program, finite gradients."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import NetworkConfig
from zoogen.models import (
    GraphStack,
    SignalStack,
    Stack,
    TokenStack,
    graph_model_of,
    network_model,
    parameter_model,
    signal_model,
    signal_parameter_model,
    token_model,
    token_parameter_model,
)
from zoogen.networks import build_network
from zoogen.symmetry import Element, apply, canonical, random_element

ELEMENTS = 20
TOLERANCES = {"float32": 1e-6, "float64": 1e-10}
UNITS = TokenStack(channels=8, depth=2, heads=2, edge_channels=4)


def graphs(order, messages):
    def build(spec):
        return graph_model_of(spec, 2, GraphStack(8, 2, order, messages), hidden=16)

    return build


# A new equivariant model is a new row. Models of every parameter move with the units.
NETWORK_MODELS = {
    "stack": lambda spec: network_model(spec, 2, Stack(channels=4, depth=2), hidden=16),
    "graph together mean": graphs("together", "mean"),
    "graph together sum": graphs("together", "sum"),
    "graph forward mean": graphs("forward", "mean"),
    "graph forward sum": graphs("forward", "sum"),
    "units": lambda spec: token_model(spec, 2, UNITS, hidden=16),
}
PARAMETER_MODELS = {
    "stack, parameters": lambda spec: parameter_model(spec, Stack(channels=4, depth=2)),
    "units, parameters": lambda spec: token_parameter_model(spec, UNITS),
}
MODELS = NETWORK_MODELS | PARAMETER_MODELS
# Scales and signs are unseen as they are: tests/test_signals.py.
SIGNALS = {
    "signals": lambda spec: signal_model(spec, 2, SignalStack(8), hidden=16),
    "signals, parameters": lambda spec: signal_parameter_model(spec, SignalStack(8)),
}


def spec_of(activation):
    return build_network(NetworkConfig(width=5, activation=activation), (1, 1, 2), 3).spec


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", MODELS)
def test_random_elements_of_the_symmetry_group_are_unseen(params_of, name, dtype):
    """Permutations as they are; scales of relu units and signs of tanh units in canonical form."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype == "float64"):
        model = MODELS[name](spec_of("relu"))
        run = partial(jax.jit(model.apply), params_of(model, dtype))
        for activation in ("relu", "tanh"):  # of one size, so that one model reads both
            spec = spec_of(activation)
            values = rng.standard_normal((ELEMENTS, spec.size)).astype(dtype)
            element = random_element(spec, 1, (ELEMENTS,))
            order = Element(element.permutations, {})
            before, after = (np.asarray(run(w)) for w in (values, apply(spec, order, values)))
            expected = apply(spec, order, before) if name in PARAMETER_MODELS else before
            assert after.dtype == dtype
            assert relative(after, expected) <= TOLERANCES[dtype]
            moved = apply(spec, element, values)
            same, unseen = (np.asarray(run(canonical(spec, w).values)) for w in (values, moved))
            assert relative(unseen, same) <= TOLERANCES[dtype]
            assert relative(np.asarray(run(moved)), expected) > 1e-3  # scales are seen without


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS | SIGNALS)
def test_one_program_gives_finite_gradients_and_the_outputs_of_none(params_of, name):
    spec = spec_of("relu")
    model, traces = (MODELS | SIGNALS)[name](spec), []
    params = params_of(model)

    def loss(params, weights):
        traces.append(1)
        outputs = model.apply(params, weights)
        return jnp.square(outputs).mean(), outputs

    weights = np.random.default_rng(0).standard_normal((4, spec.size)).astype(np.float32)
    step = jax.jit(jax.grad(loss, has_aux=True))
    for scale in (1e4, 0, 1):  # zero: norms and deviations of constant features
        gradient, outputs = step(params, scale * weights)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradient, outputs)))
    assert len(traces) == 1
    alone = model.apply(params, weights)  # not compiled as a whole
    assert relative(outputs, alone) <= 1e-5


@pytest.mark.parametrize("name", MODELS | SIGNALS)
def test_a_member_is_read_alone(params_of, name):
    """Also where a unit stands by itself, and where all its weights are zero."""
    spec = build_network(NetworkConfig(width=1), (1, 1, 2), 3).spec
    model = (MODELS | SIGNALS)[name](spec)
    values = np.random.default_rng(0).standard_normal((3, spec.size)).astype(np.float32)
    values[1] = 0
    run = partial(jax.jit(model.apply), params_of(model))
    together, others = (np.asarray(run(v)) for v in (values, np.roll(values, 1, axis=0)))
    assert np.isfinite(together).all()
    assert relative(np.roll(others, -1, axis=0), together) <= 1e-6
