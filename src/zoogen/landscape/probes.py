"""Groups of metrics beyond the first: what one member's gradients, weights and units tell."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from zoogen.landscape import draws
from zoogen.landscape.activations import (
    activation_codes,
    activation_sparsity,
    code_uniqueness,
    dead_units,
    expressive_regime,
    hamming_distance,
    knn_accuracy,
)
from zoogen.landscape.calibration import (
    NoisyLabels,
    calibration_error,
    margin_quantiles,
    margins,
    noisy_label_scores,
)
from zoogen.landscape.collapse import class_statistics, neural_collapse
from zoogen.landscape.complexity import great_circles, linear_regions, mean_frequency, segments
from zoogen.landscape.fisher import fisher_traces, gradient_products, noise_scale
from zoogen.landscape.group import Arrays, Draws, Group, MemberView, Raw, Taken, Task, Words
from zoogen.landscape.pathnorm import path_norm
from zoogen.landscape.ranks import layer_ranks
from zoogen.landscape.sharpness import adaptive_sharpness, ascent_sharpness
from zoogen.landscape.stderr import mean_and_stderr, share_stderr
from zoogen.networks import path_twin

CLASSIFIER = "output.weight"
"""The last layer, whose input is what collapses."""


# ------------------------------------------------------------------------------------ gradients
def _gradient_batches(task: Task) -> tuple[int, int]:
    """Number of batches and examples in each."""
    examples = min(task.landscape.hessian_examples, task.probe)
    groups = max(3, min(task.landscape.gradient_batches, examples))
    return groups, examples // groups


def _fisher_examples(task: Task) -> int:
    return min(task.landscape.fisher_examples, task.probe)


def _take_gradients(view: MemberView) -> Raw:
    task, data, w = view.task, view.data, view.row.w
    n = min(task.landscape.hessian_examples, task.probe)
    groups, _ = _gradient_batches(task)
    squares, overlaps = gradient_products(
        lambda w, images, labels: task.loss(data, w, images, labels),
        w, data.train[:n], view.labels[:n], groups,
    )  # fmt: skip
    few = data.train[: _fisher_examples(task)]
    fisher = mean_and_stderr(fisher_traces(lambda w, x: task.logits(data, w, x), w, few))
    return {
        "fisher_trace": fisher[0],
        "fisher_trace_stderr": fisher[1],
        "gradient_squares": squares,
        "gradient_overlaps": overlaps,
    }


def _finish_gradients(taken: Taken) -> Arrays:
    raw, (_, batch) = taken.member, _gradient_batches(taken.task)
    found = noise_scale(raw["gradient_squares"], raw["gradient_overlaps"], batch)
    return {
        "fisher_trace": raw["fisher_trace"],
        "fisher_trace_stderr": raw["fisher_trace_stderr"],
        "gradient_noise_scale": found.scale,
        "gradient_noise_scale_stderr": found.scale_stderr,
        "gradient_noise": found.noise,
        "gradient_noise_stderr": found.noise_stderr,
        "gradient_signal": found.signal,
        "gradient_signal_stderr": found.signal_stderr,
    }


def _cost_of_gradients(task: Task) -> dict[str, dict[str, float]]:
    groups, batch = _gradient_batches(task)
    of_fisher = _fisher_examples(task) * task.network.classes
    return {
        "fisher_trace": {"gradient_evaluations": of_fisher, "examples": 1},
        "gradient_noise_scale": {"gradient_evaluations": groups, "examples": batch},
    }


# ------------------------------------------------------------------------------------ sharpness
def _take_sharpness(view: MemberView) -> Raw:
    landscape, w = view.task.landscape, view.row.w
    loss = view.loss_on_first(_sharpness_examples(view.task))
    return {
        "ascent_sharpness": ascent_sharpness(loss, w, landscape.ascent_radius),
        "adaptive_sharpness": adaptive_sharpness(loss, w, landscape.adaptive_radius),
    }


def _sharpness_examples(task: Task) -> int:
    return min(task.landscape.hessian_examples, task.probe)


_SHARPNESS = ("ascent_sharpness", "adaptive_sharpness")


def _cost_of_sharpness(task: Task) -> dict[str, dict[str, float]]:
    counts = {"gradient_evaluations": 1.0, "examples": float(_sharpness_examples(task))}
    return dict.fromkeys(_SHARPNESS, counts)


def _finish_sharpness(taken: Taken) -> Arrays:
    return {name: taken.member[name] for name in _SHARPNESS}


# ------------------------------------------------------------------------------------- capacity
def _take_path_norm(view: MemberView) -> Raw:
    network = view.task.network
    params, twin = network.spec.unflatten(view.row.w), path_twin(network)
    if twin is None:
        return {"path_norm": jnp.float32(jnp.nan)}
    return {"path_norm": path_norm(twin, params, network.image_shape)}


def _finish_capacity(taken: Taken) -> Arrays:
    ranks = layer_ranks(taken.task.network.spec, taken.weights)
    return {
        "path_norm": taken.member["path_norm"],
        "spectral_norm": ranks.spectral_norm,
        "spectral_product": ranks.spectral_norm.prod(axis=-1),
        "stable_rank": ranks.stable_rank,
        "effective_rank": ranks.effective_rank,
        "tail_exponent": ranks.tail_exponent,
        "tail_exponent_stderr": ranks.tail_exponent_stderr,
    }


# ------------------------------------------------------------------------------------- collapse
def _take_collapse(view: MemberView) -> Raw:
    logits, hidden = view.forward_on_train
    last = list(hidden.values())[-1].after
    features = last.reshape(*last.shape[:2], -1).mean(axis=-1)  # maps are averaged, as by the net
    found = class_statistics(features, logits, view.labels)
    return {f"class_{name}": value for name, value in found._asdict().items()}


def _finish_collapse(taken: Taken) -> Arrays:
    classifier = taken.task.network.spec.unflatten(taken.weights)[CLASSIFIER]
    raw = taken.member
    found = neural_collapse(
        raw["class_means"], raw["class_within"], raw["class_disagreement"], classifier
    )
    return {
        **{f"collapse_{name}": value for name, value in found._asdict().items()},
        "collapse_disagreement_stderr": share_stderr(found.disagreement, taken.task.probe),
    }


# ---------------------------------------------------------------------------------- activations
def _take_activations(view: MemberView) -> Raw:
    _, hidden = view.forward_on_train
    _, hidden_on_test = view.forward_on_test
    codes = activation_codes([h.after for h in hidden.values()])
    test_codes = activation_codes([h.after for h in hidden_on_test.values()])
    unique, redundancy = code_uniqueness(hamming_distance(codes, codes))
    labels, classes = (view.labels, view.data.test_labels), view.task.network.classes
    pixels = _squared_distance(view.data.test, view.data.train[: view.task.probe])
    accuracy = knn_accuracy(hamming_distance(test_codes, codes), *labels, classes)
    sparsity = jnp.stack([activation_sparsity(h.after) for h in hidden.values()])
    sparsity, sparsity_stderr = mean_and_stderr(sparsity)
    return {
        "activation_sparsity": sparsity,
        "activation_sparsity_stderr": sparsity_stderr,
        "dead_units": jnp.stack([dead_units(h.after) for h in hidden.values()]),
        "code_unique": unique,
        "code_redundancy": redundancy,
        "code_knn_accuracy": accuracy,
        "code_knn_accuracy_stderr": share_stderr(accuracy, len(view.data.test_labels)),
        "pixel_knn_accuracy": knn_accuracy(pixels, *labels, classes),
    }


def _squared_distance(a: Array, b: Array) -> Float[Array, "n r"]:
    x, y = (images.reshape(len(images), -1).astype(jnp.float32) for images in (a, b))
    return jnp.sum(x**2, axis=1)[:, None] - 2 * x @ y.T + jnp.sum(y**2, axis=1)


def _finish_activations(taken: Taken) -> Arrays:
    raw = taken.member
    regime = expressive_regime(
        raw["code_redundancy"], raw["code_knn_accuracy"], raw["pixel_knn_accuracy"]
    )
    names = ("activation_sparsity", "activation_sparsity_stderr", "dead_units", "code_unique",
             "code_redundancy", "code_knn_accuracy", "code_knn_accuracy_stderr")  # fmt: skip
    return {name: raw[name] for name in names} | {"expressive_regime": regime}


# ----------------------------------------------------------------------------------- complexity
def _draw_circles(task: Task, words: Words) -> Draws:
    landscape, shape = task.landscape, task.network.image_shape
    first, second = draws.normal_images(landscape.seed, 2 * landscape.lines, shape).reshape(
        2, landscape.lines, *shape
    )
    return {"circles": great_circles(first, second, landscape.line_points)}


def _take_complexity(view: MemberView) -> Raw:
    task, network = view.task, view.task.network
    lines, points = task.landscape.lines, task.landscape.line_points
    params = network.spec.unflatten(view.row.w)
    on_circles = network.apply(params, view.row.draws["circles"])
    lines_on_data = min(lines, task.probe // 2)
    images = view.normalised(view.data.train[: task.probe])
    _, hidden = network.forward(params, segments(images, lines_on_data, points))
    codes: Bool[Array, "line t bit"] = activation_codes([h.after for h in hidden.values()])
    regions = linear_regions(codes.reshape(lines_on_data, points, -1))
    mean, stderr = mean_and_stderr(regions.astype(jnp.float32))
    return {
        "circle_logits": on_circles.reshape(lines, points, -1),
        "linear_regions": mean,
        "linear_regions_stderr": stderr,
    }


def _finish_complexity(taken: Taken) -> Arrays:
    frequency, stderr = mean_and_stderr(mean_frequency(taken.member["circle_logits"]))
    return {
        "linear_regions": taken.member["linear_regions"],
        "linear_regions_stderr": taken.member["linear_regions_stderr"],
        "mean_frequency": frequency,
        "mean_frequency_stderr": stderr,
    }


# ---------------------------------------------------------------------------------- calibration
def _take_calibration(view: MemberView) -> Raw:
    train, test = view.logits
    clean = view.data.train_labels[: view.task.probe]
    scores = noisy_label_scores(train, view.labels, clean)
    return {
        "calibration_error": calibration_error(test, view.data.test_labels),
        "margins": margins(train, view.labels),
        **{f"noise_{name}": value for name, value in scores._asdict().items()},
    }


def _finish_calibration(taken: Taken) -> Arrays:
    raw = taken.member
    quantiles = margin_quantiles(raw["margins"])
    product = layer_ranks(taken.task.network.spec, taken.weights).spectral_norm.prod(axis=-1)
    return {
        "calibration_error": raw["calibration_error"],
        "margin": quantiles,
        "normalised_margin": np.divide(
            quantiles, product[..., None], out=np.full_like(quantiles, np.nan),
            where=product[..., None] > 0,
        ),
        **{f"noise_{name}": raw[f"noise_{name}"] for name in NoisyLabels._fields},
    }  # fmt: skip


PROBES: dict[str, Group] = {
    "gradients": Group(_finish_gradients, of_member=_take_gradients, cost=_cost_of_gradients),
    "sharpness": Group(_finish_sharpness, of_member=_take_sharpness, cost=_cost_of_sharpness),
    "capacity": Group(_finish_capacity, of_member=_take_path_norm),
    "collapse": Group(_finish_collapse, of_member=_take_collapse),
    "activations": Group(_finish_activations, of_member=_take_activations),
    "complexity": Group(_finish_complexity, of_member=_take_complexity, draw=_draw_circles),
    "calibration": Group(_finish_calibration, of_member=_take_calibration),
}
"""Name → :class:`Group`; the metrics of each stand in ``METRICS``."""
