"""Readers that are trained by gradients: perceptrons, sets, equivariant, token and graph models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.errors import ConfigError
from zoogen.evaluate.closed import fit_linear
from zoogen.evaluate.fitting import Augment, Learner, Part, Parts, Targets, Tree, fit_learner
from zoogen.evaluate.inputs import (
    joined,
    standard_columns,
    statistics,
    tensor_scales,
    unit_features,
)
from zoogen.evaluate.objectives import Objective, mixable, objective_of, relative_to_zero
from zoogen.evaluate.problem import Problem
from zoogen.evaluate.readers import Fitted, Options, Training
from zoogen.models import (
    STACKS,
    GraphStack,
    SignalStack,
    Stack,
    TokenStack,
    WeightModel,
    fit_graph_standard,
    fit_standard,
    frame_of,
    graph_model_of,
    graph_of,
    mixup,
    network_model,
    parameter_model,
    permutable_terminals,
    random_equivalents,
    signal_model,
    signal_parameter_model,
    standardise,
    token_model,
    unite,
)
from zoogen.models.graphs import INPUT, OUTPUT
from zoogen.models.heads import initial_mlp, mlp
from zoogen.params import ParamSpec
from zoogen.symmetry import align_members, align_population

STANDARD_MEMBERS = 256  # that the scale of graphs is taken from
SAID, HEAD = 32, 128  # numbers that signals say beside statistics; units that read both
ALIGNED_MEMBERS = 64  # whose mean is what others are aligned with


def fit_model(
    problem: Problem,
    learner: Learner,
    parts: list[Part],
    options: Options,
    training: Training,
    seed: int,
    objective: Objective | None = None,
) -> Fitted:
    """Fit with the rate and the decay of the options, by default to the problem's own objective."""
    rates = {name: options[name] for name in ("learning_rate", "weight_decay")}
    objective = objective or objective_of(problem)
    return fit_learner(learner, parts, objective, problem.split, training, seed, **rates)


def _one_part(problem: Problem, inputs: Tree) -> list[Part]:
    return [Part(np.arange(len(problem.samples)), inputs)]


# -------------------------------------------------------------------------------- augmentation
Change = Literal["none", "orders", "mixtures"]


@lru_cache(maxsize=32)
def augment_of(spec: ParamSpec, change: Change) -> Augment | None:
    """What is done to a batch of flat weights, the same object for equal arguments.

    Args:
        spec: of the members.
        change: ``orders``: units in new orders and signs; positive scales stay, for they tell of
            training. ``mixtures``: the same of convex combinations of a batch's members, whose
            units correspond.
    """

    def reordered(key: Array, parts: Parts, targets: Targets) -> tuple[Parts, Targets]:
        return (random_equivalents(spec, key, parts[0]),), targets

    def mixed(key: Array, parts: Parts, targets: Targets) -> tuple[Parts, Targets]:
        of_shares, of_orders = jax.random.split(key)
        weights, targets = mixup(of_shares, parts[0], targets)
        return reordered(of_orders, (weights,), targets)

    changes: dict[Change, Augment | None] = {"none": None, "orders": reordered, "mixtures": mixed}
    return changes[change]


# --------------------------------------------------------------------------------- perceptrons
@lru_cache(maxsize=32)
def mlp_learner(inputs: int, hidden: int, outputs: int, augment: Augment | None = None) -> Learner:
    """Two hidden layers."""
    sizes = (inputs, hidden, hidden, outputs)
    return Learner(partial(initial_mlp, sizes=sizes), lambda params, x: mlp(params, x[0]), augment)


def fit_statistics_mlp(problem: Problem, options: Options, training: Training, seed: int) -> Fitted:
    """A perceptron on statistics of every tensor, and on which tensors there are."""
    features = _statistics(problem)
    learner = mlp_learner(features.shape[1], options["hidden"], problem.outputs)
    return fit_model(problem, learner, _one_part(problem, features), options, training, seed)


def _statistics(problem: Problem) -> Float[np.ndarray, "n f"]:
    """Statistics of every tensor, and which tensors there are, on a standard scale."""
    values = statistics(problem.samples)
    features = np.concatenate([values, np.isnan(values[:, ::7])], axis=1)
    return standard_columns(features, problem.split.train)


def fit_flat_mlp(
    problem: Problem,
    options: Options,
    training: Training,
    seed: int,
    change: Change = "none",
) -> Fitted:
    """A perceptron on the flat weights, each tensor over its root mean square.

    For mixtures, training members are aligned with the mean of a few that are aligned with one
    another; other members are read as they are.
    """
    names = {"none": "flat-mlp", "orders": "flat-mlp-augmented", "mixtures": "flat-mlp-mixup"}
    spec, weights = joined(problem.samples, names[change])
    train = problem.split.train
    if change == "mixtures":
        reference = align_population(spec, weights[train[:ALIGNED_MEMBERS]]).reference
        weights[train] = align_members(spec, reference, weights[train]).values
    weights = weights / tensor_scales(spec, weights[train])
    objective = mixable(problem) if change == "mixtures" else objective_of(problem)
    augment = augment_of(spec, change)
    learner = mlp_learner(spec.size, options["hidden"], problem.outputs, augment)
    parts = _one_part(problem, weights)
    return fit_model(problem, learner, parts, options, training, seed, objective)


# ---------------------------------------------------------------------------------- sets of units
@lru_cache(maxsize=32)
def set_learner(
    widths: tuple[tuple[str, int], ...], rest: int, hidden: int, outputs: int
) -> Learner:
    """One perceptron per group on each of its units, means over units, one perceptron on all."""
    total = hidden * len(widths) + rest

    def init(key: Array) -> Tree:
        keys = jax.random.split(key, len(widths) + 1)
        units = {
            name: initial_mlp(of_group, (width, hidden, hidden))
            for (name, width), of_group in zip(widths, keys[1:], strict=True)
        }
        return {"units": units, "head": initial_mlp(keys[0], (total, hidden, outputs))}

    def outputs_of(params: Tree, parts: Parts) -> Float[Array, "b o"]:
        groups, alone = parts[0]
        means = [
            jax.nn.relu(mlp(params["units"][name], groups[name])).mean(axis=1) for name, _ in widths
        ]
        return mlp(params["head"], jnp.concatenate([*means, alone], axis=1))

    return Learner(init, outputs_of)


def fit_deep_sets(problem: Problem, options: Options, training: Training, seed: int) -> Fitted:
    """DeepSets over units, described by fixed features."""
    spec, weights = joined(problem.samples, "deepsets")
    rows = problem.split.train
    groups, rest = unit_features(spec, weights)
    inputs = (
        {name: standard_columns(values, rows) for name, values in groups.items()},
        standard_columns(rest, rows),
    )
    widths = tuple((name, values.shape[-1]) for name, values in groups.items())
    learner = set_learner(widths, rest.shape[1], options["hidden"], problem.outputs)
    return fit_model(problem, learner, _one_part(problem, inputs), options, training, seed)


# ------------------------------------------------------------------------------------ equivariant
@lru_cache(maxsize=32)
def equivariant_learner(spec: ParamSpec, outputs: int, stack: Stack) -> Learner:
    """An equivariant stack with its invariant head."""
    model = network_model(spec, outputs, stack)
    return Learner(model.init, lambda params, parts: model.apply(params, parts[0]))


@lru_cache(maxsize=32)
def parameter_learner(spec: ParamSpec, stack: Stack) -> Learner:
    """An equivariant stack with a number per parameter."""
    model = parameter_model(spec, stack, scale=0.1)
    return Learner(model.init, lambda params, parts: model.apply(params, parts[0]))


@lru_cache(maxsize=32)
def signal_parameter_learner(spec: ParamSpec, stack: SignalStack) -> Learner:
    """Signals with a number per parameter."""
    model = signal_parameter_model(spec, stack, scale=0.1)
    return Learner(model.init, lambda params, parts: model.apply(params, parts[0]))


def stack_of(form: str, options: Options) -> Stack:
    """A published stack in the size that the options say, with ranks for what is wide."""
    names = ("channels", "depth", "terminal_rank", "position_rank")
    return replace(STACKS[form], **{name: options[name] for name in names if name in options})


def fit_equivariant(
    problem: Problem, options: Options, training: Training, seed: int, form: str = "dws"
) -> Fitted:
    """An equivariant stack of a published form, on the standard scale of the training rows."""
    spec, weights = joined(problem.samples, "equivariant" if form == "dws" else form)
    stack = stack_of(form, options)
    learner = equivariant_learner(spec, problem.outputs, stack)
    parts = _one_part(problem, _standard(spec, stack, weights, problem))
    return fit_model(problem, learner, parts, options, training, seed)


def _standard(
    spec: ParamSpec, stack: Stack, weights: Float[np.ndarray, "n p"], problem: Problem
) -> Float[np.ndarray, "n p"]:
    symmetry = spec if stack.terminals == "fixed" else permutable_terminals(spec)
    scaled = standardise(fit_standard(symmetry, weights[problem.split.train]), weights)
    return np.asarray(scaled, np.float32)


def fit_equivariant_parameters(
    problem: Problem, options: Options, training: Training, seed: int
) -> Fitted:
    """An equivariant stack with a number per parameter, which corrects :func:`fit_linear`.

    Its layers divide by the scale of each tensor, so that the part of a change that is
    proportional to the weights themselves would be hard to find for it alone.
    """
    spec, weights = _with_a_number_each(problem, "equivariant-parameters")
    stack = stack_of("dws", options)
    learner = parameter_learner(spec, stack)
    inputs = _standard(spec, stack, weights, problem)
    return _fit_correction(problem, learner, inputs, options, training, seed)


def fit_signal_parameters(
    problem: Problem, options: Options, training: Training, seed: int
) -> Fitted:
    """Products of signals at both ends of a weight, which correct :func:`fit_linear`."""
    spec, weights = _with_a_number_each(problem, "signals-parameters")
    learner = signal_parameter_learner(spec, SignalStack(options["channels"]))
    return _fit_correction(problem, learner, weights, options, training, seed)


def _with_a_number_each(
    problem: Problem, reader: str
) -> tuple[ParamSpec, Float[np.ndarray, "n p"]]:
    """Spec and weights of all samples, if the target has a number for each parameter."""
    spec, weights = joined(problem.samples, reader)
    if problem.targets.shape[1] != spec.size:
        raise ConfigError(
            f"reader {reader!r}: target {problem.name!r} has {problem.targets.shape[1]} numbers a "
            f"sample, expected {spec.size}, one per parameter; select a reader of whole networks"
        )
    return spec, weights


def _fit_correction(
    problem: Problem,
    learner: Learner,
    inputs: Float[np.ndarray, "n p"],
    options: Options,
    training: Training,
    seed: int,
) -> Fitted:
    """Fit what is left of the target by a factor per tensor."""
    first = fit_linear(problem, {}, training, seed).outputs
    objective = relative_to_zero(problem, first)
    return fit_model(
        problem, learner, _one_part(problem, inputs), options, training, seed, objective
    )


# ----------------------------------------------------------------------------------------- tokens
@lru_cache(maxsize=32)
def token_learner(spec: ParamSpec, outputs: int, stack: TokenStack) -> Learner:
    """A transformer over units with its head; where it sees their order, in ever new ones."""
    model = token_model(spec, outputs, stack)
    augment = augment_of(spec, "orders" if stack.tokens == "plain" else "none")
    return Learner(model.init, lambda params, parts: model.apply(params, parts[0]), augment)


def fit_tokens(
    problem: Problem,
    options: Options,
    training: Training,
    seed: int,
    form: Literal["units", "plain"] = "units",
) -> Fitted:
    """A transformer over units, on the standard scale of the training rows."""
    spec, weights = joined(problem.samples, "tokens" if form == "units" else "tokens-plain")
    stack = TokenStack(form, window=options.get("window"), **token_sizes(options))
    learner = token_learner(spec, problem.outputs, stack)
    standard = fit_standard(spec, weights[problem.split.train])
    parts = _one_part(problem, np.asarray(standardise(standard, weights), np.float32))
    return fit_model(problem, learner, parts, options, training, seed)


def token_sizes(options: Options) -> dict[str, int]:
    """Sizes of a token model: a quarter of a unit's channels for a weight, heads of eight."""
    channels = options["channels"]
    return {
        "channels": channels, "depth": options["depth"], "heads": max(1, channels // 8),
        "edge_channels": max(1, channels // 4),
    }  # fmt: skip


# ----------------------------------------------------------------------------------------- graphs
@lru_cache(maxsize=16)
def graph_learner(specs: tuple[ParamSpec, ...], outputs: int, stack: GraphStack) -> Learner:
    """A graph network on members of several specs."""
    frame = frame_of(specs)
    models = [graph_model_of(spec, outputs, stack, frame=frame) for spec in specs]
    return Learner(models[0].init, partial(_read_side_by_side, models))


def _read_side_by_side(
    models: list[WeightModel], params: Tree, parts: Parts
) -> Float[Array, "b o"]:
    """Members of each spec by its model, with the parameters that all share."""
    read = [m.apply(params, x) for m, x in zip(models, parts, strict=True) if len(x)]
    return jnp.concatenate(read)


def fit_graph(
    problem: Problem,
    options: Options,
    training: Training,
    seed: int,
    order: Literal["together", "forward"] = "together",
) -> Fitted:
    """A graph network; members of all specs stand in every batch."""
    stack = GraphStack(options["channels"], options["depth"], order)
    blocks = problem.samples.blocks
    learner = graph_learner(tuple(block.spec for block in blocks), problem.outputs, stack)
    scales = graph_scales(problem, stack, seed)
    parts = [Part(block.rows, block.weights / scales[block.spec]) for block in blocks]
    return fit_model(problem, learner, parts, options, training, seed)


def graph_scales(
    problem: Problem, stack: GraphStack, seed: int
) -> Mapping[ParamSpec, Float[np.ndarray, " p"]]:
    """Root mean square of each role in training members, at every entry of each spec."""
    rng = np.random.default_rng(seed)
    train = problem.split.train
    some = rng.permutation(train)[:STANDARD_MEMBERS]
    seen = [(b.spec, b.weights[np.isin(b.rows, some)]) for b in problem.samples.blocks]
    specs = [block.spec for block in problem.samples.blocks]
    batch = unite(frame_of(specs), [pair for pair in seen if len(pair[1])], pad=False)
    standard = fit_graph_standard(batch, stack.messages)
    scales = {spec: np.ones(spec.size) for spec in specs}
    for spec, scale in scales.items():
        graph = graph_of(spec)
        for nodes in graph.sets:
            places = graph.values[nodes.begin : nodes.begin + nodes.size]
            scale[places[places >= 0]] = standard.nodes[nodes.role]
        for block in graph.blocks:
            ends = graph.sets[block.source].role == INPUT, graph.sets[block.target].role == OUTPUT
            scale[block.entries] = standard.edges[ends[0] + 2 * ends[1]]
    return scales


# ---------------------------------------------------------------------------------------- signals
@lru_cache(maxsize=16)
def signal_learner(specs: tuple[ParamSpec, ...], outputs: int, stack: SignalStack) -> Learner:
    """Signals through members of several specs, with the same parameters."""
    frame = frame_of(specs)
    models = [signal_model(spec, outputs, stack, frame=frame) for spec in specs]
    return Learner(models[0].init, partial(_read_side_by_side, models))


def fit_signals(problem: Problem, options: Options, training: Training, seed: int) -> Fitted:
    """A signal network, on weights in their own units."""
    blocks = problem.samples.blocks
    specs = tuple(block.spec for block in blocks)
    learner = signal_learner(specs, problem.outputs, SignalStack(options["channels"]))
    parts = [Part(block.rows, block.weights) for block in blocks]
    return fit_model(problem, learner, parts, options, training, seed)


@lru_cache(maxsize=8)
def _informed_learner(
    specs: tuple[ParamSpec, ...], told: int, outputs: int, stack: SignalStack
) -> Learner:
    """A perceptron on what signals say and on as many further features."""
    signals = signal_learner(specs, SAID, stack)

    def init(key: Array) -> Tree:
        of_signals, of_head = jax.random.split(key)
        head = initial_mlp(of_head, (SAID + told, HEAD, outputs))
        return {"signals": signals.init(of_signals), "head": head}

    def apply(params: Tree, parts: Parts) -> Float[Array, "b o"]:
        weights, features = zip(*parts, strict=True)
        said = signals.apply(params["signals"], weights)
        return mlp(params["head"], jnp.concatenate([said, jnp.concatenate(features)], axis=1))

    return Learner(init, apply)


def fit_signals_and_statistics(
    problem: Problem, options: Options, training: Training, seed: int
) -> Fitted:
    """Signals, and statistics of every tensor, which see the scales that signals do not."""
    blocks, told = problem.samples.blocks, _statistics(problem)
    specs, stack = tuple(block.spec for block in blocks), SignalStack(options["channels"])
    learner = _informed_learner(specs, told.shape[1], problem.outputs, stack)
    parts = [Part(block.rows, (block.weights, told[block.rows])) for block in blocks]
    return fit_model(problem, learner, parts, options, training, seed)
