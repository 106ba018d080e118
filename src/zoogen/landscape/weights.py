"""Statistics of the weights themselves: their norm, and how far layers have turned."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from zoogen.params import Parameter, ParamSpec


def cosine_distance(
    a: Float[np.ndarray, "*m p"], b: Float[np.ndarray, "*m p"]
) -> Float[np.ndarray, "*m"]:
    """One minus the cosine of the angle between vectors, in [0, 2]; NaN for a zero vector.

    Example:
        >>> cosine_distance(np.array([[4, 0], [0, 3], [-2, 0]]), np.array([1, 0])).tolist()
        [0.0, 1.0, 2.0]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = _dot(a, b) / np.sqrt(_dot(a, a) * _dot(b, b))
        return np.clip(1 - cosine, 0, 2)


def weight_norm(weights: Float[np.ndarray, "*m p"]) -> Float[np.ndarray, "*m"]:
    """Euclidean norm of flat weights, accumulated in double precision."""
    return np.sqrt(_dot(weights, weights))


def _dot(a: Float[np.ndarray, "*m p"], b: Float[np.ndarray, "*m p"]) -> Float[np.ndarray, "*m"]:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.einsum("...p,...p->...", a, b, dtype=np.float64)


def rotating_layers(spec: ParamSpec) -> tuple[Parameter, ...]:
    """The weight tensors of a network: parameters of two or more axes, hence no biases."""
    return tuple(parameter for parameter in spec.parameters if len(parameter.axes) >= 2)


def layer_rotation(
    spec: ParamSpec, weights: Float[np.ndarray, "m s p"]
) -> Float[np.ndarray, "m s l"]:
    """Cosine distance of each layer's weights to their initialisation, in [0, 2].

    Args:
        spec: of the network; its layers are those of :func:`rotating_layers`.
        weights: flat weights; snapshot 0 is the initialisation.

    Reference:
        Carbonnelle and De Vleeschouwer, Layer rotation: a surprisingly simple indicator of
        generalization in deep networks?, 2019.
    """
    parts = [slice(p.offset, p.offset + p.size) for p in rotating_layers(spec)]
    return np.stack(
        [cosine_distance(weights[..., part], weights[:, :1, part]) for part in parts], axis=-1
    )
