"""Task vectors: what fine-tuning added, and sums of them with learned coefficients."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.merging.descent import descend
from zoogen.merging.loss import loss_of
from zoogen.networks import Network
from zoogen.params import ParamSpec
from zoogen.population import MemberFunction, over_members

Numbers = np.ndarray | Array


def task_vectors(
    base: Float[Numbers, "*m p"], fine_tuned: Float[Numbers, "*m k p"]
) -> Float[Numbers, "*m k p"]:
    """What fine-tuning on each of k tasks added to the weights.

    Reference:
        Ilharco et al., Editing models with task arithmetic, 2023.
    """
    return fine_tuned - base[..., None, :]


def add_vectors(
    spec: ParamSpec,
    base: Float[Numbers, "*m p"],
    vectors: Float[Numbers, "*m k p"],
    coefficients: Float[Numbers, "*m k l"],
) -> Any:
    """Weights plus task vectors, each parameter's part of each vector times its coefficient.

    Args:
        spec: of the network.
        base: flat weights.
        vectors: of k tasks.
        coefficients: one for each vector and parameter, in the order of the spec.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(2),), "bias": (Axis(1),)})
        >>> vectors = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 0.0]])
        >>> add_vectors(spec, np.zeros(3), vectors, np.array([[1.0, 5.0], [3.0, 0.0]])).tolist()
        [1.0, 7.0, 5.0]
    """
    sizes = np.array([parameter.size for parameter in spec.parameters])
    each = coefficients.repeat(sizes, axis=-1)
    return base + (each * vectors).sum(axis=-2)


def learn_coefficients(
    network: Network,
    base: Float[np.ndarray, "m p"],
    vectors: Float[np.ndarray, "m k p"],
    images: Float[Array, "n c h w"],
    labels: Any,
    steps: int = 300,
    learning_rate: float = 0.05,
    penalty: float = 0.0,
) -> Float[np.ndarray, "m k l"]:
    """Coefficients of task vectors with which a few examples of another task have low loss.

    One coefficient for each vector and parameter: few numbers, so that few examples suffice. They
    start at 0, where a member is as it was, and are trained by Adam on all examples at once.

    Args:
        network: of the members.
        base: flat weights of m members. Coefficients of running statistics stay 0: recompute them
            (:func:`~zoogen.merging.recompute_statistics`) after the vectors are added.
        vectors: task vectors of each.
        images: normalised examples of the task, which all members share.
        labels: of the examples.
        steps: of Adam.
        learning_rate: at the first step; it falls as a cosine to 0.
        penalty: times the mean magnitude of coefficients, added to the loss.

    Reference:
        Zhang, Albert, Rodriguez-Opazo, van den Hengel and Abbasnejad, Knowledge composition using
        task vectors with learned anisotropic scaling, 2024 (aTLAS).
    """
    given = tuple(np.asarray(rows, np.float32) for rows in (base, vectors))
    data = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    return np.asarray(_program(network, steps, learning_rate, penalty)(given, data))


@lru_cache(maxsize=16)
def _program(network: Network, steps: int, learning_rate: float, penalty: float) -> MemberFunction:
    loss, spec = loss_of(network), network.spec

    def of_member(member: tuple[Array, Array], data: tuple[Array, Array]) -> Array:
        base, vectors = member

        def objective(coefficients: Float[Array, "k l"]) -> Float[Array, ""]:
            values = add_vectors(spec, base, vectors, coefficients)
            return loss(values, *data) + penalty * jnp.mean(jnp.abs(coefficients))

        start = jnp.zeros((len(vectors), len(spec.parameters)))
        found: Array = descend(objective, start, steps, learning_rate)
        return found

    return over_members(of_member)
