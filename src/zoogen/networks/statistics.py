"""Running statistics: what norms over a batch see of their input, kept with the weights."""

from __future__ import annotations

import jax

from zoogen.networks.architecture import BatchMoments
from zoogen.params import Params

STATISTICS = {"running_mean": "mean", "running_var": "variance"}
"""What a norm over a batch stores beside its weight and bias, and what that is."""

MEMORY = 0.9
"""Share of old statistics that a step keeps: PyTorch's momentum of 0.1."""


def moved(params: Params, seen: dict[str, BatchMoments]) -> Params:
    """Running statistics after a step of training, as in PyTorch.

    Args:
        params: which hold those before it.
        seen: norm → moments of its input over the batch.

    Returns:
        The statistics alone, by parameter; of the variance, the unbiased estimate counts.
    """
    found: Params = {}
    for norm, (mean, variance, size) in seen.items():
        fresh = _named(norm, mean, variance * (size / max(1, size - 1)))
        found |= {
            name: MEMORY * params[name] + (1 - MEMORY) * value for name, value in fresh.items()
        }
    return jax.lax.stop_gradient(found)


def exact(seen: dict[str, BatchMoments]) -> Params:
    """Statistics with which evaluation on the images of a batch gives what was seen there.

    Args:
        seen: norm → moments of its input over the batch.

    Returns:
        The statistics alone, by parameter.
    """
    found: Params = {}
    for norm, (mean, variance, _) in seen.items():
        found |= _named(norm, mean, variance)
    return found


def _named(norm: str, mean: jax.Array, variance: jax.Array) -> Params:
    values = zip(STATISTICS, (mean, variance), strict=True)
    return {f"{norm}.{name}": value for name, value in values}
