"""Groups of metrics that compare two members of a cell without training anything."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from zoogen.landscape.connectivity import CURVE_POINTS, barrier_shares, linear_barrier
from zoogen.landscape.group import Arrays, Group, MemberView, PairView, Raw, Taken, Task
from zoogen.landscape.performance import example_errors, example_losses
from zoogen.landscape.representations import debiased_cka
from zoogen.landscape.similarity import (
    accessibility,
    linear_cka,
    prediction_agreement,
    prediction_divergence,
    rank_correlation,
    rank_scores,
)
from zoogen.landscape.stderr import combination_stderr, covariance_of_means, share_stderr
from zoogen.symmetry import apply, weight_matching


# ------------------------------------------------------------------------------------ alignment
def _prepare_alignment(
    task: Task, weights: Float32[np.ndarray, "m s p"], pairs: Int[np.ndarray, "q 2"]
) -> Arrays:
    """The second member of each pair with its units in the order that fits the first best."""
    spec, (first, second) = task.network.spec, np.swapaxes(weights[pairs], 0, 1)
    flat = (first.reshape(-1, spec.size), second.reshape(-1, spec.size))
    aligned = apply(spec, weight_matching(spec, *flat).elements, flat[1])
    return {"aligned": np.asarray(aligned, np.float32).reshape(second.shape)}


def _take_alignment(view: PairView) -> Raw:
    found: Raw = {}
    for suffix, end in (("", view.row.end), ("_aligned", view.row.draws["aligned"])):
        found |= {f"{name}{suffix}": value for name, value in _take_line(view, end).items()}
    return found


def _take_line(view: PairView, end: Float[Array, " p"]) -> Raw:
    """Length of a straight line from the first member, and means of four scores along it."""
    task, start, data = view.task, view.row.start, view.data
    images = jnp.concatenate([data.train[: task.probe], data.test])
    labels = (view.labels[: task.probe], data.test_labels)

    def scores(t: Float[Array, ""]) -> list[Float[Array, " n"]]:
        logits = task.logits(data, task.recomputed(data, (1 - t) * start + t * end), images)
        parts = zip((logits[: task.probe], logits[task.probe :]), labels, strict=True)
        return [score(*part) for part in parts for score in _BARRIER_SCORES]

    along = jax.lax.map(scores, jnp.asarray(CURVE_POINTS, jnp.float32))
    return {
        "weight_distance": jnp.sqrt(
            jnp.sum(task.network.spec.without_statistics(start - end) ** 2)
        ),
        "line": jnp.stack([each.mean(axis=1) for each in along]),
        "line_covariance": jnp.stack([covariance_of_means(each) for each in along]),
    }


_BARRIER_SCORES = (example_errors, example_losses)
_BARRIERS = ("train_error", "train_loss", "test_error", "test_loss")


def _finish_alignment(taken: Taken) -> Arrays:
    times, raw = np.array(CURVE_POINTS), taken.pair
    found: Arrays = {}
    for suffix in ("", "_aligned"):
        lines, covariances = raw[f"line{suffix}"], raw[f"line_covariance{suffix}"]
        barriers = linear_barrier(lines, times)
        stderrs = combination_stderr(barrier_shares(lines, times), covariances)
        found[f"weight_distance{suffix}"] = raw[f"weight_distance{suffix}"]
        for i, name in enumerate(_BARRIERS):
            found[f"barrier_{name}{suffix}"] = barriers[..., i]
            found[f"barrier_{name}{suffix}_stderr"] = stderrs[..., i]
    return found


# ----------------------------------------------------------------------------------- similarity
def _take_test_logits(view: MemberView) -> Raw:
    logits = view.logits[1]
    return {"test_logits": logits, "test_errors": example_errors(logits, view.data.test_labels)}


def _finish_similarity(taken: Taken) -> Arrays:
    logits, errors = taken.member["test_logits"], taken.member["test_errors"]
    order = rank_scores(accessibility(1 - errors / 100)).astype(np.float32)
    pairs = taken.pairs
    # Without pairs one stands in for them, so that the shapes of nothing can be told.
    blocks = np.array_split(pairs, -(-len(pairs) // _PAIRS_AT_ONCE)) if len(pairs) else [[[0, 0]]]
    parts = [
        _compared(*(logits[side] for side in np.transpose(block)),
                  *(order[side] for side in np.transpose(block)))
        for block in blocks
    ]  # fmt: skip
    return {name: np.concatenate([part[name] for part in parts])[: len(pairs)] for name in parts[0]}


def _compared(
    x: Float[np.ndarray, "q s n k"],
    y: Float[np.ndarray, "q s n k"],
    order_x: Float[np.ndarray, "q s n"],
    order_y: Float[np.ndarray, "q s n"],
) -> Arrays:
    agreement, divergence = prediction_agreement(x, y), prediction_divergence(x, y)
    learning = rank_correlation(order_x, order_y)
    return {
        "cka": linear_cka(x, y),
        "prediction_agreement": agreement,
        "prediction_agreement_stderr": share_stderr(agreement, x.shape[-2]),
        "prediction_divergence": divergence[0],
        "prediction_divergence_stderr": divergence[1],
        "learning_order": learning[0],
        "learning_order_stderr": learning[1],
    }


_PAIRS_AT_ONCE = 64  # CKA works on double-precision copies of their logits


# ------------------------------------------------------------------------------ representations
def _take_representations(view: PairView) -> Raw:
    logits, hidden = view.forward_on_test
    of_logits = debiased_cka(*logits)
    of_layers = zip(*(debiased_cka(*layer.after) for layer in hidden.values()), strict=True)
    layers, stderrs = map(jnp.stack, of_layers)
    return {
        "cka_debiased": of_logits[0],
        "cka_debiased_stderr": of_logits[1],
        "layer_cka_debiased": layers,
        "layer_cka_debiased_stderr": stderrs,
    }


def _finish_representations(taken: Taken) -> Arrays:
    names = ("cka_debiased", "layer_cka_debiased")
    return {each: taken.pair[each] for name in names for each in (name, f"{name}_stderr")}


PAIRS: dict[str, Group] = {
    "alignment": Group(_finish_alignment, of_pair=_take_alignment, prepare=_prepare_alignment),
    "similarity": Group(_finish_similarity, of_member=_take_test_logits),
    "representations": Group(_finish_representations, of_pair=_take_representations),
}
"""Name → :class:`Group`; the metrics of each stand in ``METRICS``."""
