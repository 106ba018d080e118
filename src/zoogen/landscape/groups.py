"""The groups of metrics: which functions of this package make which metrics of the table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from zoogen.landscape import draws
from zoogen.landscape.connectivity import (
    CURVE_POINTS,
    along_curve_and_line,
    farthest_point,
    linear_barrier,
    mode_connectivity,
    train_curve,
)
from zoogen.landscape.curvature import (
    hessian_product,
    lanczos,
    mean_and_stderr,
    sign_words,
    trace_samples,
)
from zoogen.landscape.group import (
    Arrays,
    Draws,
    Group,
    MemberView,
    PairView,
    Raw,
    Taken,
    Task,
    Words,
)
from zoogen.landscape.performance import cross_entropy, error_percent
from zoogen.landscape.probes import PROBES
from zoogen.landscape.similarity import linear_cka, prediction_agreement
from zoogen.landscape.spectrum import quadrature, ritz_extremes
from zoogen.landscape.weights import layer_rotation, weight_norm
from zoogen.symmetry import apply, weight_matching


# ---------------------------------------------------------------------------------- performance
def _take_scores(view: MemberView) -> Raw:
    train, test = view.logits
    return {
        "train_loss": cross_entropy(train, view.labels),
        "train_error": error_percent(train, view.labels),
        "test_loss": cross_entropy(test, view.data.test_labels),
        "test_error": error_percent(test, view.data.test_labels),
    }


def _finish_scores(taken: Taken) -> Arrays:
    raw = taken.member
    scores = {f"{part}_{what}": raw[f"{part}_{what}"] for part in _PARTS for what in _SCORES}
    accuracies = {f"{part}_accuracy": 1 - raw[f"{part}_error"] / 100 for part in _PARTS}
    gap = accuracies["train_accuracy"] - accuracies["test_accuracy"]
    return scores | accuracies | {"generalisation_gap": gap}


_PARTS = ("train", "test")
_SCORES = ("loss", "error")


# ------------------------------------------------------------------------------------ curvature
def _hessian_examples(task: Task) -> int:
    return min(task.landscape.hessian_examples, task.probe)


EIGENVALUES = 5
"""How many of the largest eigenvalues are stored."""


def _krylov(task: Task) -> int:
    return min(task.landscape.lanczos_steps, task.network.spec.size)


def _draw_probes(task: Task, words: Words) -> Draws:
    size, seed = task.network.spec.size, task.landscape.seed
    return {
        "signs": draws.sign_bits(seed, words, sign_words(task.landscape.hessian_probes), size),
        "start": draws.start_vector(seed, words, size),
    }


def _take_curvature(view: MemberView) -> Raw:
    product = hessian_product(view.loss_on_first(_hessian_examples(view.task)), view.row.w)
    drawn, landscape = view.row.draws, view.task.landscape
    alpha, beta = lanczos(product, drawn["start"], _krylov(view.task))
    samples = trace_samples(product, drawn["signs"], landscape.hessian_probes)
    return {"trace_samples": samples, "alpha": alpha, "beta": beta}


def _finish_curvature(taken: Taken) -> Arrays:
    raw = taken.member
    trace, stderr = mean_and_stderr(raw["trace_samples"].astype(np.float64))
    ends = ritz_extremes(raw["alpha"], raw["beta"], min(EIGENVALUES, _krylov(taken.task)))
    nodes, weights = quadrature(raw["alpha"], raw["beta"])
    return {
        "hessian_trace": trace,
        "hessian_trace_stderr": stderr,
        "hessian_top": ends.top[..., 0],
        "hessian_top_residual": ends.top_residual[..., 0],
        "hessian_eigenvalues": ends.top,
        "hessian_eigenvalues_residual": ends.top_residual,
        "hessian_lowest": ends.lowest,
        "hessian_lowest_residual": ends.lowest_residual,
        "spectral_nodes": nodes,
        "spectral_weights": weights,
    }


def _cost_of_curvature(task: Task) -> dict[str, dict[str, float]]:
    probes, steps, examples = task.landscape.hessian_probes, _krylov(task), _hessian_examples(task)
    return {
        "hessian_trace": {"probes": probes, "hessian_products": probes, "examples": examples},
        "hessian_top": {"steps": steps, "hessian_products": steps, "examples": examples},
    }


# --------------------------------------------------------------------------------- connectivity
def _draw_curve(task: Task, words: Words) -> Draws:
    landscape = task.landscape
    order, times = draws.curve_order(
        landscape.seed, words, task.examples, landscape.curve_epochs, landscape.curve_batch_size
    )
    return {"order": order, "times": times}


def _take_curve(view: PairView) -> Raw:
    task, row, data = view.task, view.row, view.data
    control = train_curve(
        lambda w, images, labels: task.loss(data, w, images, labels),
        row.start,
        row.end,
        data.train,
        view.labels,
        row.draws["order"],
        row.draws["times"],
        task.landscape.curve_learning_rate,
        task.landscape.curve_weight_decay,
    )
    images, labels = data.train[: task.probe], view.labels[: task.probe]

    def evaluate(w):  # type: ignore[no-untyped-def]
        logits = task.logits(data, w, images)
        return error_percent(logits, labels), cross_entropy(logits, labels)

    curve, line = along_curve_and_line(evaluate, row.start, control, row.end)
    return {"curve_error": curve[0], "curve_loss": curve[1], "line_error": line[0]}


def _finish_curve(taken: Taken) -> Arrays:
    curve, times = taken.pair["curve_error"], np.array(CURVE_POINTS)
    connectivity = mode_connectivity(curve)
    return {
        "curve_train_error": curve,
        "curve_train_loss": taken.pair["curve_loss"],
        "mode_connectivity": connectivity,
        "worst_t": np.where(np.isfinite(connectivity), times[farthest_point(curve)], np.nan),
        "linear_barrier": linear_barrier(taken.pair["line_error"], times),
    }


def _cost_of_curve(task: Task) -> dict[str, dict[str, float]]:
    batch = min(task.landscape.curve_batch_size, task.examples)
    steps = task.landscape.curve_epochs * (task.examples // batch)
    return {"mode_connectivity": {"steps": steps, "gradient_evaluations": steps, "batch": batch}}


# ------------------------------------------------------------------------------------ alignment
def _prepare_alignment(
    task: Task, weights: Float32[np.ndarray, "m s p"], pairs: Int[np.ndarray, "q 2"]
) -> Arrays:
    """The second member of each pair with its units in the order that fits the first best."""
    spec, (first, second) = task.network.spec, np.swapaxes(weights[pairs], 0, 1)
    flat = (first.reshape(-1, spec.size), second.reshape(-1, spec.size))
    aligned = apply(spec, weight_matching(spec, *flat).elements, flat[1])
    return {"aligned": np.asarray(aligned, np.float32).reshape(second.shape)}


def _take_barriers(view: PairView) -> Raw:
    task, row, data = view.task, view.row, view.data
    images = jnp.concatenate([data.train[: task.probe], data.test])
    labels = (view.labels[: task.probe], data.test_labels)

    def scores(w: Float[Array, " p"]) -> Float[Array, "4"]:
        logits = task.logits(data, w, images)
        parts = zip((logits[: task.probe], logits[task.probe :]), labels, strict=True)
        return jnp.stack([score(*part) for part in parts for score in _BARRIER_SCORES])

    times = jnp.asarray(CURVE_POINTS, jnp.float32)
    return {
        name: jax.lax.map(lambda t, end=end: scores((1 - t) * row.start + t * end), times)
        for name, end in (("line", row.end), ("line_aligned", row.draws["aligned"]))
    }


_BARRIER_SCORES = (error_percent, cross_entropy)
_BARRIERS = ("train_error", "train_loss", "test_error", "test_loss")


def _finish_barriers(taken: Taken) -> Arrays:
    times = np.array(CURVE_POINTS)
    found: Arrays = {}
    for suffix in ("", "_aligned"):
        lines = np.moveaxis(taken.pair[f"line{suffix}"], -1, 0)
        found |= {
            f"barrier_{name}{suffix}": linear_barrier(line, times)
            for name, line in zip(_BARRIERS, lines, strict=True)
        }
    return found


# ----------------------------------------------------------------------------------- similarity
def _finish_similarity(taken: Taken) -> Arrays:
    logits = taken.member["test_logits"]
    shape = (len(taken.pairs), logits.shape[1])
    cka, agreement = np.empty(shape), np.empty(shape)
    for begin in range(0, len(taken.pairs), _PAIRS_AT_ONCE):
        block = slice(begin, begin + _PAIRS_AT_ONCE)
        x, y = (logits[side] for side in taken.pairs[block].T)
        cka[block], agreement[block] = linear_cka(x, y), prediction_agreement(x, y)
    return {"cka": cka, "prediction_agreement": agreement}


_PAIRS_AT_ONCE = 64  # CKA works on double-precision copies of their logits


# -------------------------------------------------------------------------------------- weights
def _finish_weights(taken: Taken) -> Arrays:
    return {
        "weight_norm": weight_norm(taken.weights),
        "layer_rotation": layer_rotation(taken.task.network.spec, taken.weights),
    }


GROUPS: dict[str, Group] = {
    "performance": Group(_finish_scores, of_member=_take_scores),
    "curvature": Group(
        _finish_curvature, of_member=_take_curvature, draw=_draw_probes, cost=_cost_of_curvature
    ),
    "connectivity": Group(
        _finish_curve, of_pair=_take_curve, draw=_draw_curve, cost=_cost_of_curve
    ),
    "alignment": Group(_finish_barriers, of_pair=_take_barriers, prepare=_prepare_alignment),
    "similarity": Group(_finish_similarity, of_member=lambda view: {"test_logits": view.logits[1]}),
    "weights": Group(_finish_weights),
    **PROBES,
}
"""Name → :class:`Group`; the metrics of each stand in ``METRICS``."""
