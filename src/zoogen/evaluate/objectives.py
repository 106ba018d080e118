"""Objectives: what fitting makes small, and the scale on which a model answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from zoogen.evaluate.problem import Problem

Loss = Callable[[Float[Array, "b o"], Float[Array, "b t"]], Float[Array, " b"]]


@dataclass(frozen=True)
class Objective:
    """A loss, and what stands on its two sides.

    A loss in another space than that of the model's numbers (of the function that edited weights
    compute, say) needs no more than a model that returns points of this space.

    Attributes:
        loss: ``(outputs [b o], targets [b t]) → [b]``, traceable.
        targets: one row a sample, as the loss reads them.
        restore: outputs of the model → the target on its own scale.
    """

    loss: Loss
    targets: Float[np.ndarray, "n t"]
    restore: Callable[[Float[np.ndarray, "n o"]], Float[np.ndarray, "n o"]]


def squared_error(outputs: Float[Array, "b o"], targets: Float[Array, "b o"]) -> Float[Array, " b"]:
    """Mean over the numbers of a sample."""
    return jnp.square(outputs - targets).mean(axis=1)


def cross_entropy(logits: Float[Array, "b o"], classes: Float[Array, "b 1"]) -> Float[Array, " b"]:
    """Of logits, in nats; classes are numbers of the right logits."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, classes[:, 0].astype(jnp.int32))


def shared_cross_entropy(
    logits: Float[Array, "b o"], shares: Float[Array, "b o"]
) -> Float[Array, " b"]:
    """Of logits, in nats; of every class there is a share, as of mixed members."""
    return optax.softmax_cross_entropy(logits, shares)


def objective_of(problem: Problem) -> Objective:
    """Squared error of targets with zero mean and unit deviation in the training rows; or
    cross-entropy of classes. Of a constant target, predictions are the constant."""
    if problem.kind == "classification":
        return Objective(cross_entropy, problem.targets, lambda logits: logits)
    seen = problem.targets[problem.split.train]
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    scaled = (problem.targets - mean) / np.where(deviation > 0, deviation, 1)
    return Objective(squared_error, scaled, lambda y: y * deviation + mean)


def mixable(problem: Problem) -> Objective:
    """The same with targets of which convex combinations are targets: shares of classes."""
    if problem.kind != "classification":
        return objective_of(problem)
    shares = problem.targets == np.arange(problem.outputs)
    return Objective(shared_cross_entropy, shares.astype(float), lambda logits: logits)


def relative_to_zero(problem: Problem, first: Float[np.ndarray, "n p"]) -> Objective:
    """Squared error over that of predicting zero; for numbers per parameter.

    Targets have one scale for all parameters and no shift: a mean per entry would tell units apart
    by their place.

    Args:
        problem: with one number per parameter.
        first: a first guess for all samples, which the model corrects.
    """
    scale = np.sqrt(np.square(problem.targets[problem.split.train]).mean()) or 1.0
    return Objective(squared_error, (problem.targets - first) / scale, lambda y: y * scale + first)
