"""Fitting: one compiled program that trains any model on members, the same for all readers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from zoogen.evaluate.objectives import Loss, Objective
from zoogen.evaluate.problem import Split
from zoogen.evaluate.readers import Fitted, Training

Tree = Any
Parts = tuple[Tree, ...]
Apply = Callable[[Tree, Parts], Float[Array, "b o"]]
Targets = Float[Array, "b t"]
Augment = Callable[[Array, Parts, Targets], tuple[Parts, Targets]]

WARM_UP = 0.05  # share of the steps in which the rate rises
LARGEST_GRADIENT = 1.0  # norm to which longer gradients are shortened
OPTIMISER = optax.chain(optax.clip_by_global_norm(LARGEST_GRADIENT), optax.scale_by_adam())


@dataclass(frozen=True)
class Part:
    """Samples that a model reads side by side: those of one spec.

    Attributes:
        rows: numbers of the samples.
        inputs: what the model reads, a tree of arrays with one row a sample.
    """

    rows: Int[np.ndarray, " m"]
    inputs: Tree


@dataclass(frozen=True)
class Learner:
    """A model that can be fitted; programs are shared by learners with the same functions.

    Attributes:
        init: ``key → params``.
        apply: ``(params, parts) → outputs [b o]``, one after another in the order of the parts;
            some parts may have no row.
        augment: ``(key, parts, targets [b t]) → (parts, targets)`` before each step, or nothing.
    """

    init: Callable[[Array], Tree]
    apply: Apply
    augment: Augment | None = None


def fit_learner(
    learner: Learner,
    parts: Sequence[Part],
    objective: Objective,
    split: Split,
    training: Training,
    seed: int,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
) -> Fitted:
    """Train by AdamW with a short rise and a cosine fall of the rate; keep the best look's weights.

    Every batch holds samples of all parts in the shares that they have in the training rows, at
    least one each, and weights in the loss that undo the rounding. So one program serves all
    batches. A training that diverges ends at the next look.

    Args:
        learner: what is trained.
        parts: all samples, each in one part; their arrays stay on the device.
        objective: what is made small; of rows other than ``split.train`` and ``split.validation``
            no target is read.
        split: of the samples.
        training: steps (rounded up to a multiple of the looks), samples per step, looks.
        seed: of initial weights, order of samples, and augmentation; equal ones give equal results.
        learning_rate: the highest.
        weight_decay: decoupled, of matrices alone (Loshchilov and Hutter, 2019).

    Returns:
        Predictions for all samples, on the target's own scale.
    """
    steps = -(-training.steps // training.looks)
    batches = _Batches.of(parts, split.train, training.batch_size, np.random.default_rng(seed))
    data, targets = _on_device(parts, objective)
    scalars = {
        "rate": np.float32(learning_rate), "decay": np.float32(weight_decay),
        "steps": np.float32(steps * training.looks),
    }  # fmt: skip
    key = jax.random.key(seed)
    params = jax.jit(learner.init)(jax.random.fold_in(key, 0))
    state = _State(params, OPTIMISER.init(params), jnp.int32(0), jax.random.fold_in(key, 1))
    span = _span_of(learner.apply, learner.augment, objective.loss)
    predictor = _Predictor(learner, parts, data, training.batch_size)
    best, least, curve, seconds = params, np.inf, [], 0.0
    for look in range(1, training.looks + 1):
        rows = batches.next(steps)
        arguments = (state, data, targets, rows, batches.weights, scalars)
        program = compiled(span, *arguments)
        begin = time.perf_counter()
        state, losses = jax.block_until_ready(program(*arguments))
        seconds += time.perf_counter() - begin
        error = _error(objective, predictor(state.params, split.validation), split.validation)
        curve.append((look * steps, float(losses.mean()), error))
        if error < least:
            best, least = state.params, error
        training.advance(1 / training.looks)
        if not np.isfinite(losses).all():
            break
    everything = np.arange(len(objective.targets))
    outputs = objective.restore(predictor(best, everything).astype(np.float64))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Fitted(outputs, count, seconds / max(1, steps * len(curve)), curve)


def _error(objective: Objective, outputs: np.ndarray, rows: Int[np.ndarray, " v"]) -> float:
    losses = objective.loss(jnp.asarray(outputs), jnp.asarray(objective.targets[rows], jnp.float32))
    return float(np.asarray(losses, np.float64).mean()) if len(rows) else np.nan


def _on_device(parts: Sequence[Part], objective: Objective) -> tuple[Parts, Parts]:
    inputs = tuple(part.inputs for part in parts)
    targets = tuple(objective.targets[part.rows] for part in parts)
    return jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), (inputs, targets))


# --------------------------------------------------------------------------------------- batches
@dataclass
class _Batches:
    """Rows of the parts, step by step; each part's training rows in ever new orders.

    Attributes:
        pools: training rows of each part, as places in the part.
        counts: samples of each part in a step.
        weights: of the samples of a step in the loss.
        left: of each part, rows of the present order that no step has had.
        rng: draws the orders.
    """

    pools: list[Int[np.ndarray, " t"]]
    counts: list[int]
    weights: Float[np.ndarray, " b"]
    left: list[Int[np.ndarray, " l"]]
    rng: np.random.Generator

    @classmethod
    def of(
        cls, parts: Sequence[Part], rows: Int[np.ndarray, " t"], size: int, rng: np.random.Generator
    ) -> _Batches:
        pools = _places(parts, rows)
        counts = _shares([len(pool) for pool in pools], size)
        weights = [
            np.full(count, len(pool) / len(rows) / count)
            for pool, count in zip(pools, counts, strict=True)
            if count
        ]
        return cls(
            pools, counts, np.concatenate(weights).astype(np.float32), [p[:0] for p in pools], rng
        )

    def next(self, steps: int) -> tuple[Int[np.ndarray, "s k"], ...]:
        """Rows of each part for the next steps."""
        return tuple(
            self._of_part(i, steps * count).reshape(steps, count)
            for i, count in enumerate(self.counts)
        )

    def _of_part(self, part: int, number: int) -> Int[np.ndarray, " r"]:
        rows = [self.left[part]]
        while sum(map(len, rows)) < number:
            rows.append(self.rng.permutation(self.pools[part]))
        taken, self.left[part] = np.split(np.concatenate(rows), [number])
        return taken.astype(np.int32)


def _places(parts: Sequence[Part], rows: Int[np.ndarray, " t"]) -> list[Int[np.ndarray, " t"]]:
    """Places in each part of those of its samples that are among the rows."""
    return [np.flatnonzero(np.isin(part.rows, rows)) for part in parts]


def _shares(sizes: Sequence[int], size: int) -> list[int]:
    """How many of so many samples come from each part: at least one where there is any."""
    total = sum(sizes)
    return [max(1, round(size * n / total)) if n else 0 for n in sizes]


def _gathered(data: Parts, rows: Sequence[Int[Array, " k"]]) -> Parts:
    return tuple(
        jax.tree.map(lambda leaf, places=places: leaf[places], part)
        for part, places in zip(data, rows, strict=True)
    )


# -------------------------------------------------------------------------------------- programs
class _State(NamedTuple):
    """What a step changes, and the key of the augmentation."""

    params: Tree
    moments: Tree
    step: Int[Array, ""]
    key: Array


@lru_cache(maxsize=32)
def _span_of(
    apply: Apply, augment: Augment | None, loss: Loss
) -> Callable[..., tuple[_State, Array]]:
    """Many steps as one function, which stays the same object so that it is compiled once."""

    def mean_loss(params: Tree, parts: Parts, targets: Array, weights: Array) -> Array:
        return (loss(apply(params, parts), targets) * weights).sum()

    def span(
        state: _State, data: Parts, targets: Parts, rows: Parts, weights: Array, scalars: Tree
    ) -> tuple[_State, Array]:
        def step(state: _State, rows: Parts) -> tuple[_State, Array]:
            parts, wanted = _gathered(data, rows), jnp.concatenate(_gathered(targets, rows))
            if augment is not None:
                parts, wanted = augment(jax.random.fold_in(state.key, state.step), parts, wanted)
            value, slope = jax.value_and_grad(mean_loss)(state.params, parts, wanted, weights)
            update, moments = OPTIMISER.update(slope, state.moments)
            rate = scalars["rate"] * _factor(state.step, scalars["steps"])
            params = jax.tree.map(
                lambda p, u: p - rate * (u + scalars["decay"] * p * (p.ndim > 1)),
                state.params, update,
            )  # fmt: skip
            return _State(params, moments, state.step + 1, state.key), value

        return jax.lax.scan(step, state, rows)

    return span


def _factor(step: Int[Array, ""], steps: Float[Array, ""]) -> Float[Array, ""]:
    """Of the rate: linear up, then half a cosine down to zero."""
    rise = jnp.maximum(1, WARM_UP * steps)
    fall = jnp.clip((step - rise) / jnp.maximum(1, steps - rise), 0, 1)
    return jnp.minimum((step + 1) / rise, 0.5 * (1 + jnp.cos(jnp.pi * fall)))


@dataclass(frozen=True)
class _Predictor:
    """Outputs for any rows, batch by batch with one program."""

    learner: Learner
    parts: Sequence[Part]
    data: Parts
    batch_size: int

    def __call__(self, params: Tree, rows: Int[np.ndarray, " r"]) -> Float[np.ndarray, "r o"]:
        found: dict[int, np.ndarray] = {}
        for places, samples in self._batches(rows):
            arguments = (params, self.data, places)
            outputs = np.asarray(compiled(_outputs_of(self.learner.apply), *arguments)(*arguments))
            found.update((s, y) for s, y in zip(samples, outputs, strict=True) if s >= 0)
        return np.stack([found[row] for row in rows.tolist()]) if len(rows) else np.zeros((0, 1))

    def _batches(self, rows: Int[np.ndarray, " r"]) -> Iterator[tuple[Parts, list[int]]]:
        """Places in the parts, and the samples there; -1 where a part has no more of them."""
        counts = _shares([len(part.rows) for part in self.parts], self.batch_size)
        wanted = _places(self.parts, rows)
        number = max((-(-len(w) // c) for w, c in zip(wanted, counts, strict=True) if c), default=0)
        for i in range(number):
            places, samples = [], []
            for part, of_part, count in zip(self.parts, wanted, counts, strict=True):
                some = of_part[i * count : (i + 1) * count]
                places.append(np.pad(some, (0, count - len(some))).astype(np.int32))
                samples += [*part.rows[some].tolist(), *[-1] * (count - len(some))]
            yield tuple(places), samples


@lru_cache(maxsize=32)
def _outputs_of(apply: Apply) -> Callable[..., Array]:
    return lambda params, data, rows: apply(params, _gathered(data, rows))


def compiled(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The compiled function for arguments of these shapes; compiled once, apart from its runs."""
    leaves, tree = jax.tree.flatten(arguments)
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype) for leaf in leaves)
    return _compiled(function, tree, shapes)


@lru_cache(maxsize=32)
def _compiled(
    function: Callable[..., Any], tree: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]
) -> Callable[..., Any]:
    return jax.jit(function).lower(*jax.tree.unflatten(tree, shapes)).compile()
