"""The groups of metrics: which functions of this package make which metrics of the table."""

from __future__ import annotations

import numpy as np

from zoogen.landscape import draws
from zoogen.landscape.connectivity import (
    CURVE_POINTS,
    along_curve_and_line,
    barrier_shares,
    connectivity_shares,
    farthest_point,
    linear_barrier,
    mode_connectivity,
    train_curve,
)
from zoogen.landscape.curvature import (
    hessian_product,
    lanczos,
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
from zoogen.landscape.pairs import PAIRS
from zoogen.landscape.performance import example_errors, example_losses
from zoogen.landscape.probes import PROBES
from zoogen.landscape.reconstruction import pixel_errors
from zoogen.landscape.spectrum import quadrature, ritz_extremes
from zoogen.landscape.stderr import combination_stderr, covariance_of_means, mean_and_stderr
from zoogen.landscape.weights import layer_rotation, weight_norm


# ---------------------------------------------------------------------------------- performance
def _take_scores(view: MemberView) -> Raw:
    found: Raw = {}
    for part, *given in zip(_PARTS, view.logits, (view.labels, view.data.test_labels), strict=True):
        for what, score in _SCORES.items():
            name = f"{part}_{what}"
            found[name], found[f"{name}_stderr"] = mean_and_stderr(score(*given))
    return found


def _finish_scores(taken: Taken) -> Arrays:
    raw = taken.member
    names = (f"{part}_{what}{suffix}" for part in _PARTS for what in _SCORES for suffix in _BOTH)
    scores = {name: raw[name] for name in names}
    for part in _PARTS:
        scores[f"{part}_accuracy"] = 1 - raw[f"{part}_error"] / 100
        scores[f"{part}_accuracy_stderr"] = raw[f"{part}_error_stderr"] / 100
    train, test = (scores[f"{part}_accuracy_stderr"] for part in _PARTS)
    return scores | {
        "generalisation_gap": scores["train_accuracy"] - scores["test_accuracy"],
        "generalisation_gap_stderr": np.hypot(train, test),  # of other images each
    }


_PARTS = ("train", "test")
_SCORES = {"loss": example_losses, "error": example_errors}
_BOTH = ("", "_stderr")


# ------------------------------------------------------------------------------------ curvature
def _hessian_examples(task: Task) -> int:
    return min(task.landscape.hessian_examples, task.probe)


EIGENVALUES = 5
"""How many of the largest eigenvalues are stored."""

GRADIENTS_PER_PRODUCT = 2
"""Gradient evaluations that a Hessian product counts as (1.6 to 1.8 in operations)."""


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
    counts = {"hessian_trace": ("probes", probes), "hessian_top": ("steps", steps)}
    return {
        name: {what: n, "gradient_evaluations": GRADIENTS_PER_PRODUCT * n, "examples": examples}
        for name, (what, n) in counts.items()
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
        lambda w, images, labels: task.loss_in_training(data, w, images, labels),
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
        logits = task.logits(data, task.recomputed(data, w), images)
        return example_errors(logits, labels), example_losses(logits, labels)

    curve, line = along_curve_and_line(evaluate, row.start, control, row.end)
    loss, loss_stderr = mean_and_stderr(curve[1])
    return {
        "curve_error": curve[0].mean(axis=1),
        "curve_error_covariance": covariance_of_means(curve[0]),
        "curve_loss": loss,
        "curve_loss_stderr": loss_stderr,
        "line_error": line[0].mean(axis=1),
        "line_error_covariance": covariance_of_means(line[0]),
    }


def _finish_curve(taken: Taken) -> Arrays:
    raw, times = taken.pair, np.array(CURVE_POINTS)
    curve, covariance, line = raw["curve_error"], raw["curve_error_covariance"], raw["line_error"]
    connectivity = mode_connectivity(curve)
    barrier = barrier_shares(line, times)
    return {
        "curve_train_error": curve,
        "curve_train_error_stderr": np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1)),
        "curve_train_loss": raw["curve_loss"],
        "curve_train_loss_stderr": raw["curve_loss_stderr"],
        "mode_connectivity": connectivity,
        "mode_connectivity_stderr": combination_stderr(connectivity_shares(curve), covariance),
        "worst_t": np.where(np.isfinite(connectivity), times[farthest_point(curve)], np.nan),
        "linear_barrier": linear_barrier(line, times),
        "linear_barrier_stderr": combination_stderr(barrier, raw["line_error_covariance"]),
    }


def _cost_of_curve(task: Task) -> dict[str, dict[str, float]]:
    batch = min(task.landscape.curve_batch_size, task.examples)
    steps = task.landscape.curve_epochs * (task.examples // batch)
    return {"mode_connectivity": {"gradient_evaluations": steps, "examples": batch}}


# ------------------------------------------------------------------------------- reconstruction
def _take_reconstruction(view: MemberView) -> Raw:
    error, stderr = mean_and_stderr(pixel_errors(view))
    return {"mse": error, "mse_stderr": stderr}


def _finish_reconstruction(taken: Taken) -> Arrays:
    mse, stderr = taken.member["mse"], taken.member["mse_stderr"]
    with np.errstate(divide="ignore"):
        psnr = -10 * np.log10(mse)
    return {
        "mse": mse,
        "mse_stderr": stderr,
        "psnr": psnr,
        "psnr_stderr": 10 / np.log(10) * stderr / mse,  # to first order
    }


# -------------------------------------------------------------------------------------- weights
def _finish_weights(taken: Taken) -> Arrays:
    spec = taken.task.network.spec
    return {
        "weight_norm": weight_norm(spec.without_statistics(taken.weights)),
        "layer_rotation": layer_rotation(spec, taken.weights),
    }


GROUPS: dict[str, Group] = {
    "performance": Group(_finish_scores, of_member=_take_scores),
    "curvature": Group(
        _finish_curvature, of_member=_take_curvature, draw=_draw_probes, cost=_cost_of_curvature
    ),
    "connectivity": Group(
        _finish_curve, of_pair=_take_curve, draw=_draw_curve, cost=_cost_of_curve
    ),
    "reconstruction": Group(_finish_reconstruction, of_member=_take_reconstruction),
    "weights": Group(_finish_weights),
    **PAIRS,
    **PROBES,
}
"""Name → :class:`Group`; the metrics of each stand in ``METRICS``."""
