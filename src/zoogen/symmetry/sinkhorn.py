"""Sinkhorn matching: elements found by gradient descent on soft permutations."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from zoogen.errors import ConfigError
from zoogen.params import ParamSpec
from zoogen.population import MemberFunction, over_members
from zoogen.symmetry.elements import Element, apply
from zoogen.symmetry.matching import Matching, comparable, overwrite, paired, select, unmatched
from zoogen.symmetry.soft import apply_softly, flat_logits, nearest_element, soft_matrices

BatchLoss = Callable[[Float[Array, " p"], Any, Any], Float[Array, ""]]


class Descent(NamedTuple):
    """How logits of soft permutations are trained.

    Attributes:
        steps: of Adam.
        learning_rate: of Adam.
        hot, cold: temperature at the first and at the last step; between them it falls
            geometrically.
        iterations: of Sinkhorn's normalisation, per step.
        distance: weight of the squared distance, relative to the squared lengths, beside a loss.
        middle: whether the loss is that of the middle between both members, instead of that of a
            random point of the segment per step.
    """

    steps: int = 200
    learning_rate: float = 0.1
    hot: float = 1.0
    cold: float = 0.1
    iterations: int = 10
    distance: float = 0.0
    middle: bool = False


def sinkhorn_matching(
    spec: ParamSpec,
    a: Float[np.ndarray, "*q p"],
    b: Float[np.ndarray, "q p"],
    loss: BatchLoss | None = None,
    images: Any = None,
    labels: Any = None,
    descent: Descent | None = None,
    seed: int = 0,
) -> Matching:
    """Match the units of ``b`` to those of ``a`` by gradient descent, for many pairs at once.

    The order of every group is a doubly stochastic matrix, by Sinkhorn's normalisation of logits
    that Adam trains while the temperature falls; of sign groups, each entry has a soft sign, too.
    In the end the matrices become the nearest permutations. Without a loss, what falls is the
    distance |a − g·b|, as in :func:`~zoogen.symmetry.weight_matching`, which is far faster. With
    one, it is the loss between both members, which no matching by weights or activations looks at.
    Nested groups are matched: a parent's units, and each unit's own share. Positive scales are
    not searched: bring both members to one scale first (:func:`~zoogen.symmetry.canonical`).

    Args:
        spec: of the network.
        a: flat weights to align with; one member, or one per pair.
        b: flat weights that are aligned.
        loss: ``(flat weights, images, labels) → scalar``, such as
            :func:`zoogen.merging.loss_of`; a function that compares equal is compiled once.
        images, labels: what it is given.
        descent: how logits are trained.
        seed: of the random points of the segments.

    Returns:
        Matchings whose objective is the inner product ⟨a, g·b⟩; with a loss, minus the mean loss
        at quarters of the segment. ``sweeps`` counts steps. Pairs that end below the identity get
        the identity.

    Raises:
        ConfigError: if there are no steps, temperatures are not positive, or the weights have
            another length than the spec.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"hidden.weight": (Axis(3, "hidden"), Axis(2))})
        >>> a = np.array([[1.0, 0.0, 0.0, 1.0, -1.0, 0.0]], np.float32)
        >>> b = spec.permute(a, {"hidden": np.array([2, 0, 1])})
        >>> sinkhorn_matching(spec, a, b).elements.permutations["hidden"].tolist()
        [[1, 2, 0]]

    Reference:
        Peña, Medeiros, Dubail, Aminbeidokhti, Granger and Pedersoli, Re-basin via implicit
        Sinkhorn differentiation, 2023. We differ in the falling temperature, the signs and the
        nested groups.
    """
    descent = descent or Descent()
    _refuse_impossible(descent)
    a, b = paired(spec, a, b)
    result = unmatched(spec, len(b))
    rows = np.flatnonzero(comparable(a, b))
    if not rows.size or not spec.groups:
        result.before[rows] = result.after[rows] = _inner(a[rows], b[rows])
        return result
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), rows)
    pairs = np.asarray(a[rows], np.float32), np.asarray(b[rows], np.float32)
    soft = _program(spec, loss, descent)((*pairs, keys), (images, labels))
    element = nearest_element(spec, {name: np.asarray(value) for name, value in soft.items()})
    found = _scored(spec, loss, (images, labels), *pairs, element)._replace(
        sweeps=np.full(rows.size, descent.steps)
    )
    overwrite(result, rows, found)
    return result


def _refuse_impossible(descent: Descent) -> None:
    if descent.steps < 1 or min(descent.hot, descent.cold) <= 0:
        raise ConfigError(
            f"sinkhorn_matching: found {descent.steps} steps at temperatures from {descent.hot:g} "
            f"to {descent.cold:g}; choose at least one step and positive temperatures"
        )


@lru_cache(maxsize=16)
def _program(spec: ParamSpec, loss: BatchLoss | None, descent: Descent) -> MemberFunction:
    """Compiled once for equal arguments: pairs → group → soft matrices."""
    adam = optax.adam(descent.learning_rate)
    falling = np.geomspace(descent.hot, descent.cold, descent.steps).astype(np.float32)

    def of_pair(pair: tuple[Array, Array, Array], data: tuple[Any, Any]) -> dict[str, Array]:
        a, b, key = pair
        compared = spec.without_statistics(a)
        lengths = jnp.sum(compared**2) + jnp.sum(spec.without_statistics(b) ** 2)

        def objective(logits: Any, temperature: Array, t: Array) -> Float[Array, ""]:
            soft = soft_matrices(logits, temperature, descent.iterations)
            moved = apply_softly(spec, soft, b)
            # As of a permutation, which leaves lengths: a blurred b would be nearer than any is.
            distance = 1 - 2 * jnp.vdot(compared, moved) / lengths
            if loss is None:
                return distance
            return descent.distance * distance + loss((1 - t) * a + t * moved, *data)

        def step(carry: Any, given: tuple[Array, Array]) -> tuple[Any, None]:
            logits, state = carry
            gradient = jax.grad(objective)(logits, *given)
            updates, state = adam.update(gradient, state)
            return (optax.apply_updates(logits, updates), state), None

        times = jax.random.uniform(key, (descent.steps,))
        times = jnp.full_like(times, 0.5) if descent.middle else times
        start = flat_logits(spec)
        carry = (start, adam.init(start))
        (logits, _), _ = jax.lax.scan(step, carry, (jnp.asarray(falling), times))
        return soft_matrices(logits, jnp.float32(descent.cold), descent.iterations)

    return over_members(of_pair)


def _scored(
    spec: ParamSpec,
    loss: BatchLoss | None,
    data: tuple[Any, Any],
    a: Float[np.ndarray, "q p"],
    b: Float[np.ndarray, "q p"],
    element: Element,
) -> Matching:
    """Objectives before and after; the identity where it is better."""
    moved = apply(spec, element, b)
    if loss is None:
        compared = spec.without_statistics(a)
        before, after = _inner(compared, b), _inner(compared, moved)
    else:
        run = _losses(loss)
        before, after = (-np.asarray(run((a, end), data), np.float64) for end in (b, moved))
    found = unmatched(spec, len(b))
    better = np.flatnonzero(after > before)
    overwrite(found.elements, better, select(better, element))
    found.before[:], found.after[:] = before, np.where(after > before, after, before)
    return found


@lru_cache(maxsize=16)
def _losses(loss: BatchLoss) -> MemberFunction:
    """Mean loss at quarters of segments."""

    def of_pair(pair: tuple[Array, Array], data: tuple[Any, Any]) -> Float[Array, ""]:
        a, b = pair
        times = jnp.array([0.25, 0.5, 0.75])
        return jax.lax.map(lambda t: loss((1 - t) * a + t * b, *data), times).mean()

    return over_members(of_pair)


def _inner(a: Float[np.ndarray, "q p"], b: Float[np.ndarray, "q p"]) -> Float[np.ndarray, " q"]:
    return np.multiply(a, b, dtype=np.float64).sum(axis=-1)
