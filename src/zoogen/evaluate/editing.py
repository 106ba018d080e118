"""Edits: readers that change the weights of a network, judged by what it then computes.

Targets are pixels, and so is what these readers return: those that edited networks show. The loss
is in the space of functions; no reader is told by which weights an image may be had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from zoogen.data import places
from zoogen.errors import ConfigError
from zoogen.evaluate.fitting import Learner, Part, Parts, Tree, fit_learner
from zoogen.evaluate.functions import answers
from zoogen.evaluate.inputs import joined, tensor_scales
from zoogen.evaluate.objectives import Objective, squared_error
from zoogen.evaluate.problem import Problem
from zoogen.evaluate.readers import Fitted, Options, Training
from zoogen.evaluate.trained import stack_of, token_sizes
from zoogen.models import (
    SignalStack,
    Stack,
    TokenStack,
    WeightModel,
    fit_standard,
    parameter_model,
    signal_parameter_model,
    standardise,
    token_parameter_model,
)
from zoogen.networks import Network, step_factors
from zoogen.params import ParamSpec
from zoogen.population import over_members, share

Canvas = tuple[int, int]
Changed = Callable[[Tree, Mapping[str, Array]], Float[Array, "b k p"]]

# A change begins as this share of each tensor's root mean square: a new model hardly edits.
FIRST_CHANGE = 1e-2
FACTOR_RATE = 3e-2  # of the factors per tensor, with which weights are multiplied
FLOOR_STEPS, FLOOR_RATE = 200, 3e-3  # of the descent that fits one image by one network


def fit_unedited(problem: Problem, options: Options, training: Training, seed: int) -> Fitted:
    """No change: what the networks show as they are."""
    network, weights = _members(problem, "zero")
    return Fitted(shown(network, _canvas(problem), weights), 0, None, ())


def fit_factors(problem: Problem, options: Options, training: Training, seed: int) -> Fitted:
    """Every tensor times a factor, the same for all members."""
    network, weights = _members(problem, "linear")
    learner = factor_editor(network, _canvas(problem))
    rates = {"learning_rate": FACTOR_RATE, "weight_decay": 0.0}
    return _fit(problem, learner, {"weights": weights}, rates, training, seed)


def fit_equivariant_edit(
    problem: Problem, options: Options, training: Training, seed: int
) -> Fitted:
    """An equivariant stack that changes every parameter.

    With the option ``networks``, of so many changed networks the mean function counts (OCE, 2026).

    Reference:
        Zhou et al., Permutation equivariant neural functionals, 2023: dilation as a task.
    """
    stack, copies = stack_of("dws", options), options.get("networks", 1)
    network, weights = _members(problem, _named("equivariant-parameters", options))
    learner = stack_editor(network, _canvas(problem), stack, copies)
    inputs = _with_standard(problem, network.spec, weights)
    return _fit(problem, learner, inputs, _rates(options), training, seed)


def fit_token_edit(problem: Problem, options: Options, training: Training, seed: int) -> Fitted:
    """A transformer over units that changes every parameter."""
    network, weights = _members(problem, "tokens-parameters")
    stack = TokenStack("units", **token_sizes(options))
    learner = token_editor(network, _canvas(problem), stack)
    inputs = _with_standard(problem, network.spec, weights)
    return _fit(problem, learner, inputs, _rates(options), training, seed)


def fit_signal_edit(problem: Problem, options: Options, training: Training, seed: int) -> Fitted:
    """A signal network that changes every parameter; ``networks`` as for equivariant stacks."""
    stack, copies = SignalStack(options["channels"]), options.get("networks", 1)
    network, weights = _members(problem, _named("signals-parameters", options))
    learner = signal_editor(network, _canvas(problem), stack, copies)
    inputs = _with_units(problem, network.spec, weights, weights)
    return _fit(problem, learner, inputs, _rates(options), training, seed)


# ------------------------------------------------------------------------------------- learners
def editor(
    network: Network, canvas: Canvas, init: Callable[[Array], Tree], changed: Changed
) -> Learner:
    """A learner whose outputs are the pixels that changed networks show.

    Args:
        network: of the members.
        canvas: rows and columns of the image.
        init: ``key → params``.
        changed: ``(params, inputs) → [b k p]``: weights of one or more networks a member, whose
            mean is shown.
    """
    at = places(*canvas)

    def apply(params: Tree, parts: Parts) -> Float[Array, "b o"]:
        weights = changed(params, parts[0])
        members, copies, size = weights.shape
        pixels = answers(network, weights.reshape(members * copies, size), jnp.asarray(at))
        return pixels.reshape(members, copies, -1).mean(axis=1)

    return Learner(init, apply)


@lru_cache(maxsize=16)
def factor_editor(network: Network, canvas: Canvas) -> Learner:
    """A factor per tensor."""
    tensor = _tensors(network.spec)

    def changed(factors: Tree, inputs: Mapping[str, Array]) -> Float[Array, "b 1 p"]:
        return (factors[tensor] * inputs["weights"])[:, None]

    return editor(network, canvas, lambda key: jnp.ones(tensor.max() + 1), changed)


@lru_cache(maxsize=16)
def stack_editor(network: Network, canvas: Canvas, stack: Stack, copies: int) -> Learner:
    """What an equivariant stack adds to the weights."""
    model = parameter_model(network.spec, stack, networks=copies, scale=FIRST_CHANGE)
    return _model_editor(network, canvas, model)


@lru_cache(maxsize=16)
def token_editor(network: Network, canvas: Canvas, stack: TokenStack) -> Learner:
    """What a transformer over units adds to the weights."""
    return _model_editor(
        network, canvas, token_parameter_model(network.spec, stack, scale=FIRST_CHANGE)
    )


@lru_cache(maxsize=16)
def signal_editor(network: Network, canvas: Canvas, stack: SignalStack, copies: int) -> Learner:
    """What signals through the network add to the weights."""
    model = signal_parameter_model(network.spec, stack, copies, scale=FIRST_CHANGE)
    return _model_editor(network, canvas, model)


def _model_editor(network: Network, canvas: Canvas, model: WeightModel) -> Learner:
    tensor = _tensors(network.spec)

    def changed(params: Tree, inputs: Mapping[str, Array]) -> Float[Array, "b k p"]:
        change = model.apply(params, inputs["read"])
        change = change.reshape(len(change), -1, network.spec.size)
        return inputs["weights"][:, None] + inputs["units"][:, None, tensor] * change

    return editor(network, canvas, model.init, changed)


# -------------------------------------------------------------------------------------- the floor
def fit_floor(problem: Problem, options: Options, training: Training, seed: int) -> Fitted:
    """Each network's own weights, trained on its target by so many steps that more help little.

    A bound, no competitor: it is told the targets. Training rows, of which nothing is asked, are
    NaN.
    """
    network, weights = _members(problem, "floor")
    rows = np.concatenate([problem.split.validation, problem.split.test])
    wanted = problem.targets[rows].astype(np.float32)
    at = share(jnp.asarray(places(*_canvas(problem))))
    outputs = np.full(problem.targets.shape, np.nan)
    outputs[rows] = _descent(network)((jnp.asarray(weights[rows]), jnp.asarray(wanted)), at)
    return Fitted(outputs, network.spec.size, None, ())


@lru_cache(maxsize=8)
def _descent(network: Network) -> Callable[[Any, Any], Any]:
    """Compiled: weights and pixels of members → the pixels that they show after training."""
    factors = step_factors(network.config, network.spec)
    long = network.spec.flatten(
        {p.name: jnp.full(p.shape, factors.get(p.name, 1.0)) for p in network.spec.parameters}
    )
    optimiser = optax.adam(optax.cosine_decay_schedule(FLOOR_RATE, FLOOR_STEPS))

    def pixels(weights: Float[Array, " p"], at: Array) -> Float[Array, " o"]:
        return network.apply(network.spec.unflatten(weights), at).reshape(-1)

    def of_one(member: tuple[Array, Array], at: Array) -> Float[Array, " o"]:
        weights, wanted = member
        slope = jax.grad(lambda w: jnp.square(pixels(w, at) - wanted).mean())

        def step(state: tuple[Array, Tree], _: None) -> tuple[tuple[Array, Tree], None]:
            weights, moments = state
            update, moments = optimiser.update(slope(weights), moments)
            return (weights + long * update, moments), None

        start = (weights, optimiser.init(weights))
        return pixels(jax.lax.scan(step, start, None, FLOOR_STEPS)[0][0], at)

    return over_members(of_one)


# ------------------------------------------------------------------------------------ what all do
def shown(
    network: Network, canvas: Canvas, weights: Float[np.ndarray, "n p"]
) -> Float[np.ndarray, "n o"]:
    """The pixels that networks show, place after place."""
    run = over_members(lambda w, at: network.apply(network.spec.unflatten(w), at).reshape(-1))
    return np.asarray(run(jnp.asarray(weights), share(jnp.asarray(places(*canvas)))), np.float64)


def _fit(
    problem: Problem,
    learner: Learner,
    inputs: Mapping[str, np.ndarray],
    rates: Mapping[str, float],
    training: Training,
    seed: int,
) -> Fitted:
    parts = [Part(np.arange(len(problem.samples)), dict(inputs))]
    objective = Objective(squared_error, problem.targets, lambda pixels: pixels)
    return fit_learner(learner, parts, objective, problem.split, training, seed, **rates)


def _with_standard(
    problem: Problem, spec: ParamSpec, weights: Float[np.ndarray, "n p"]
) -> dict[str, np.ndarray]:
    """What an editor on the standard scale of the training rows is told."""
    standard = fit_standard(spec, weights[problem.split.train])
    scaled = np.asarray(standardise(standard, weights), np.float32)
    return _with_units(problem, spec, weights, scaled)


def _with_units(
    problem: Problem,
    spec: ParamSpec,
    weights: Float[np.ndarray, "n p"],
    read: Float[np.ndarray, "n p"],
) -> dict[str, np.ndarray]:
    """Weights, what the model reads of them, and root mean squares of the tensors."""
    scales = tensor_scales(spec, weights[problem.split.train])
    units = scales[[p.offset for p in spec.parameters]]
    return {"weights": weights, "read": read, "units": np.tile(units, (len(weights), 1))}


def _tensors(spec: ParamSpec) -> Int[np.ndarray, " p"]:
    """Number of the tensor that each parameter is in."""
    return np.repeat(np.arange(len(spec.parameters)), [p.size for p in spec.parameters])


def _rates(options: Options) -> dict[str, float]:
    return {name: options[name] for name in ("learning_rate", "weight_decay")}


def _named(editor: str, options: Options) -> str:
    """The editor's own name: with several networks it is another one."""
    return f"{editor}-oce" if "networks" in options else editor


def _members(problem: Problem, reader: str) -> tuple[Network, Float[np.ndarray, "n p"]]:
    """Weights of all samples and the network that they are of."""
    _, weights = joined(problem.samples, reader)
    return problem.samples.blocks[0].network, weights


def _canvas(problem: Problem) -> Canvas:
    if problem.canvas is None:
        raise ConfigError(
            f"target {problem.name!r} has no image: found numbers, expected pixels that an edited "
            "network shall show; select a reader of numbers"
        )
    return problem.canvas
