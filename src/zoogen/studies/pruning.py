"""Magnitude pruning: the smallest weights of a member become zero, at once and for good."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from zoogen.params import ParamSpec
from zoogen.studies.cohort import Subjects
from zoogen.studies.estimates import Estimate, Replicates, compare

SPARSITIES = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95)


def prune(members: Subjects) -> Iterator[Estimate]:
    """Prune once over all layers, without retraining, against the member as it is.

    Reference:
        Han, Pool, Tran and Dally, Learning both weights and connections for efficient neural
        networks, 2015; the threshold here is one for all layers.
    """
    weights = members.weights(members.snapshots - 1)
    before = members.accuracy(weights)
    for sparsity in SPARSITIES:
        after = members.accuracy(pruned(members.network.spec, weights, sparsity))
        for cell, places in members.by_cell():
            found, reference = Replicates.means(after[places]), Replicates.means(before[places])
            yield compare(cell, sparsity, found, reference)


def pruned(
    spec: ParamSpec, values: Float[np.ndarray, "m p"], sparsity: float
) -> Float[np.ndarray, "m p"]:
    """Set a share of each member's weights to zero, the smallest in magnitude first.

    Args:
        spec: of the network. Biases (parameters of one axis) are kept and do not count.
        values: flat weights.
        sparsity: share that becomes zero, 0 to 1.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(2), Axis(2)), "bias": (Axis(2),)})
        >>> pruned(spec, np.array([[3.0, -1.0, 2.0, -4.0, 0.1, 0.1]]), 0.5).tolist()
        [[3.0, 0.0, 0.0, -4.0, 0.1, 0.1]]
    """
    shapes = [(p.offset + np.arange(p.size)) for p in spec.parameters if len(p.axes) > 1]
    prunable = np.concatenate(shapes)
    order = np.argsort(np.abs(values[:, prunable]), axis=1, kind="stable")
    smallest = prunable[order[:, : round(sparsity * len(prunable))]]
    result = values.copy()
    np.put_along_axis(result, smallest, 0, axis=1)
    return result
