"""A cohort measured as a whole: against single networks, and without regard to neighbours."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from zoogen.config import DataConfig, LandscapeConfig, NetworkConfig
from zoogen.config.sections import MetricGroup
from zoogen.data import Dataset, Split, noisy_labels, normalise
from zoogen.errors import ConfigError
from zoogen.keys import identity_words
from zoogen.landscape import (
    CURVE_POINTS,
    WITHOUT_ERROR,
    Measurement,
    cross_entropy,
    debiased_cka,
    linear_cka,
    measure_cohort,
    prediction_divergence,
    seed_pairs,
)
from zoogen.landscape import GROUPS as ALL_GROUPS
from zoogen.landscape import METRICS as ALL_METRICS
from zoogen.landscape.calibration import MARGIN_QUANTILES
from zoogen.landscape.curvature import hessian_product
from zoogen.networks import build_network

# Those of classifiers; members that fit images are measured in tests/test_siren.py.
METRICS = {n: m for n, m in ALL_METRICS.items() if m.group != "reconstruction"}
GROUPS = tuple(group for group in ALL_GROUPS if group != "reconstruction")

M, S, P = 4, 2, 35
NETWORK = build_network(
    NetworkConfig(family="mlp", width=4, depth=1, activation="tanh"), (1, 2, 2), 3
)
DATA = DataConfig(fraction=0.8, probe_examples=24)
LANDSCAPE = LandscapeConfig(
    hessian_examples=16, hessian_probes=40, lanczos_steps=12, curve_epochs=3, curve_batch_size=8
)
NOISE = np.array([0.0, 0.0, 0.5, 0.5])
CELLS = ["a", "a", "b", "b"]
PAIRS = seed_pairs(CELLS)
WORDS = np.stack([identity_words(f"member {i}") for i in range(M)])


def _dataset() -> Dataset:
    rng = np.random.default_rng(0)
    train, test = (
        Split(
            rng.integers(0, 255, (n, 1, 2, 2)).astype(np.uint8),
            rng.integers(0, 3, n).astype(np.int32),
        )
        for n in (50, 20)
    )
    mean, std = np.array([127.0], np.float32), np.array([74.0], np.float32)
    return Dataset("tiny", train, test, 3, mean, std, "", "", "", "")


DATASET = _dataset()
WEIGHTS = np.random.default_rng(1).normal(size=(M, S, NETWORK.spec.size)).astype(np.float32)


def measure(weights: np.ndarray = WEIGHTS, take: slice = slice(None), **changed) -> Measurement:
    """Measure some members of the cohort with their pairs."""
    given = {
        "weights": weights[take],
        "pairs": seed_pairs(CELLS[take]),
        "label_noise": NOISE[take],
        "member_words": WORDS[take],
        "groups": GROUPS,
    }
    return measure_cohort(NETWORK, DATASET, DATA, LANDSCAPE, **(given | changed))


@pytest.fixture(scope="module")
def measured() -> Measurement:
    return measure()


def single(member: int, snapshot: int) -> tuple[np.ndarray, jax.Array, np.ndarray]:
    """Logits on both probe sets, and labels as trained on, of one network by itself."""
    params = NETWORK.spec.unflatten(jnp.asarray(WEIGHTS[member, snapshot]))

    def logits(images: np.ndarray) -> np.ndarray:
        return np.asarray(NETWORK.apply(params, normalise(images, DATASET.mean, DATASET.std)))

    train, test = DATASET.probes(DATA)
    return (
        logits(train.images),
        noisy_labels(jnp.asarray(DATASET.train.labels), NOISE[member], 3, DATA.seed)[:24],
        logits(test.images),
    )


def test_every_metric_of_the_table_is_there_in_its_shape_and_range(measured):
    assert list(measured.arrays) == list(METRICS)
    sizes = {"member": M, "snapshot": S, "pair": 2, "t": 5, "layer": 2}
    sizes |= {"rank": 5, "node": 12, "hidden": 1, "quantile": 7}
    for name, metric in METRICS.items():
        values = measured.arrays[name]
        assert values.dtype == np.float32
        assert values.shape == tuple(sizes[axis] for axis in metric.axes)
        assert measured.dims[name] == metric.axes
        there = np.isfinite(values[NOISY if name in OF_NOISE else slice(None)])
        assert there.any() == (name not in MISSING), name
        assert there.all() or name in MISSING | SOMETIMES_MISSING, name
        assert metric.low is None or np.nanmin(values, initial=metric.low) >= metric.low, name
        assert metric.high is None or np.nanmax(values, initial=metric.high) <= metric.high, name
    assert measured.coords == {
        "t": CURVE_POINTS,
        "layer": ("hidden0.weight", "output.weight"),
        "hidden": ("hidden0",),
        "quantile": MARGIN_QUANTILES,
    }


NOISY = slice(2, 4)
OF_NOISE = {  # missing where no label is wrong
    "noise_memorised", "noise_recovered", "noise_memorised_stderr", "noise_recovered_stderr",
}  # fmt: skip
MISSING = {"tail_exponent", "tail_exponent_stderr"}  # of layers with fewer than 50 eigenvalues
SOMETIMES_MISSING = {"gradient_noise_scale_stderr"}  # where a batch less leaves no signal
OF_DIRECTIONS = {
    "hessian_trace_stderr", "hessian_top_residual", "hessian_eigenvalues",
    "hessian_eigenvalues_residual", "hessian_lowest", "hessian_lowest_residual",
    "spectral_nodes", "spectral_weights",
}  # fmt: skip


def test_table_is_complete():
    assert set(LandscapeConfig().metrics) < set(ALL_GROUPS) == set(get_args(MetricGroup))
    assert {metric.group for metric in ALL_METRICS.values()} == set(ALL_GROUPS)
    for name, metric in ALL_METRICS.items():
        assert name == metric.name
        assert metric.definition
        assert metric.reference[-4:].isdigit()
        if metric.error not in WITHOUT_ERROR:
            bound = ALL_METRICS[metric.error]
            assert (bound.group, bound.axes, bound.unit) == (metric.group, metric.axes, metric.unit)
            assert bound.is_error
    errors = {name for name, metric in ALL_METRICS.items() if metric.is_error}
    assert errors == {metric.error for metric in ALL_METRICS.values()} - set(WITHOUT_ERROR)


@pytest.mark.parametrize(("member", "snapshot"), [(0, 0), (2, 1)])
def test_performance_equals_that_of_one_network(measured, member, snapshot):
    train, labels, test = single(member, snapshot)
    found = {name: values[member, snapshot] for name, values in measured.arrays.items()
             if METRICS[name].group == "performance"}  # fmt: skip
    expected = {}
    for part, logits, right in (("train", train, labels), ("test", test, DATASET.test.labels)):
        losses = -jax.nn.log_softmax(logits)[np.arange(len(right)), right]
        hits = logits.argmax(1) == right
        for name, each in (("loss", losses), ("error", 100.0 * ~hits), ("accuracy", 1.0 * hits)):
            expected[f"{part}_{name}"] = np.mean(each)
            expected[f"{part}_{name}_stderr"] = np.std(each, ddof=1) / np.sqrt(len(right))
    both = [expected[f"{part}_accuracy"] for part in ("train", "test")]
    errors = [expected[f"{part}_accuracy_stderr"] for part in ("train", "test")]
    expected |= {"generalisation_gap": both[0] - both[1]}
    expected |= {"generalisation_gap_stderr": np.hypot(*errors)}
    assert found == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("member", "snapshot"), [(0, 0), (3, 1)])
def test_curvature_is_that_of_the_first_examples_with_noisy_labels(measured, member, snapshot):
    labels = single(member, snapshot)[1][:16]
    images = normalise(DATASET.train.images[:16], DATASET.mean, DATASET.std)

    def loss(w: jax.Array) -> jax.Array:
        return cross_entropy(NETWORK.apply(NETWORK.spec.unflatten(w), images), labels)

    hessian = jax.jit(jax.hessian(loss))(WEIGHTS[member, snapshot])
    spectrum = np.linalg.eigvalsh(np.asarray(hessian, np.float64))
    found = {name: values[member, snapshot] for name, values in measured.arrays.items()
             if METRICS[name].group == "curvature"}  # fmt: skip
    error = abs(found["hessian_trace"] - spectrum.sum())
    assert error <= 3.5 * found["hessian_trace_stderr"]
    assert found["hessian_top"] == pytest.approx(spectrum[-1], rel=1e-3)
    assert found["hessian_top_residual"] < 0.05 * spectrum[-1]


def test_curves_meet_their_ends_and_similarity_its_logits(measured):
    found = measured.arrays
    for q, (i, j) in enumerate(PAIRS):
        for s in range(S):
            ends = found["curve_train_error"][q, s, [0, -1]]
            np.testing.assert_allclose(ends, found["train_error"][[i, j], s], atol=1e-4)
            ends = found["curve_train_loss"][q, s, [0, -1]]
            np.testing.assert_allclose(ends, found["train_loss"][[i, j], s], rtol=1e-5)
            expected = linear_cka(single(i, s)[2], single(j, s)[2])
            assert found["cka"][q, s] == pytest.approx(expected, abs=1e-5)


def test_training_lowers_the_curve(measured):
    """Random ends: the trained middle beats the middle of the straight line on average."""
    loss = measured.arrays["curve_train_loss"]
    assert (loss[..., 1:-1].mean(-1) < (loss[..., 0] + loss[..., -1]) / 2).all()


def test_costs_are_those_of_the_table(measured):
    info, settings = measured.info, LANDSCAPE.model_dump() | {
        "parameters": P, "classes": 3, "images": 40, "probe": 24, "min": min, "max": max,
    }  # fmt: skip
    totals = dict.fromkeys(GROUPS, 0)
    for name, metric in METRICS.items():
        if metric.cost.startswith("with "):
            assert not METRICS[metric.cost.removeprefix("with ")].cost.startswith("with ")
            continue
        expected = eval(metric.cost, {}, settings)
        totals[metric.group] += expected
        assert info.get(name, {"gradient_evaluations": 0})["gradient_evaluations"] == expected
    assert info["gradient_evaluations"] == totals
    assert info["hessian_trace"] == {"probes": 40, "gradient_evaluations": 80, "examples": 16}
    assert info["mode_connectivity"] == {"gradient_evaluations": 15, "examples": 8}
    seconds = info["seconds"]
    assert seconds["per_member"] == seconds["members"] / M > 0
    assert seconds["per_pair"] == seconds["pairs"] / len(PAIRS) > 0
    assert seconds["host"] > 0


def test_errors_of_curves_and_barriers_are_those_of_paired_examples():
    """Along the straight line, by evaluating it example by example."""
    found = measure(groups=["alignment"]).arrays
    i, j = PAIRS[1]
    labels = np.asarray(single(i, 0)[1])
    images = normalise(DATASET.train.images[:24], DATASET.mean, DATASET.std)
    wrong = []
    for t in CURVE_POINTS:
        params = NETWORK.spec.unflatten((1 - t) * WEIGHTS[i, 0] + t * WEIGHTS[j, 0])
        wrong.append(np.asarray(NETWORK.apply(params, images)).argmax(1) != labels)
    wrong, times = 100.0 * np.array(wrong), np.array(CURVE_POINTS)[:, None]
    rises = wrong - (1 - times) * wrong[0] - times * wrong[-1]
    highest = rises[rises.mean(axis=1).argmax()]
    assert found["barrier_train_error"][1, 0] == pytest.approx(highest.mean(), abs=1e-3)
    stderr = highest.std(ddof=1) / np.sqrt(len(highest))
    assert found["barrier_train_error_stderr"][1, 0] == pytest.approx(stderr, rel=1e-3, abs=1e-4)


def test_similarity_of_pairs_is_that_of_single_networks(measured):
    found = measured.arrays
    for q, (i, j) in enumerate(PAIRS):
        right = np.array([[single(k, s)[2].argmax(1) == DATASET.test.labels for s in range(S)]
                          for k in (i, j)])  # fmt: skip
        for s in range(S):
            x, y = single(i, s)[2], single(j, s)[2]
            params = [NETWORK.spec.unflatten(jnp.asarray(WEIGHTS[k, s])) for k in (i, j)]
            images = normalise(DATASET.test.images, DATASET.mean, DATASET.std)
            hidden = [NETWORK.forward(each, images)[1]["hidden0"].after for each in params]
            expected = {
                "prediction_divergence": prediction_divergence(x, y)[0],
                "learning_order": spearmanr(*right[:, : s + 1].sum(axis=1)).statistic,
                "cka_debiased": debiased_cka(jnp.asarray(x), jnp.asarray(y))[0],
                "layer_cka_debiased": debiased_cka(*hidden)[0],
                "weight_distance": np.linalg.norm(WEIGHTS[i, s] - WEIGHTS[j, s]),
            }
            for name, value in expected.items():
                assert found[name][q, s] == pytest.approx(float(value), abs=1e-4), name


def test_a_member_that_diverged_once_has_no_learning_order_from_then_on():
    weights = WEIGHTS.copy()
    weights[0, 0] = np.nan
    order = measure(weights, groups=["similarity"]).arrays["learning_order"]
    assert np.isnan(order[0]).all()
    assert np.isfinite(order[1]).all()


def assert_same(found: Measurement, expected: Measurement, members: slice, pairs: slice) -> None:
    for name, metric in METRICS.items():
        part = members if metric.axes[0] == "member" else pairs
        np.testing.assert_array_equal(found.arrays[name], expected.arrays[name][part], err_msg=name)


def test_results_do_not_depend_on_who_else_is_measured(measured):
    # Bit by bit, because on CPU one row is computed after another.
    assert_same(measure(take=slice(2, 4)), measured, slice(2, 4), slice(1, 2))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30], ids=str)
def test_diverged_member_is_nan_and_disturbs_nobody(measured, value):
    weights = WEIGHTS.copy()
    weights[1, 1] = value
    found = measure(weights)
    for name, metric in METRICS.items():
        values, expected = found.arrays[name], measured.arrays[name].copy()
        own = (1, 1) if metric.axes[0] == "member" else (0, 1)
        if np.isfinite(value):
            assert not np.isinf(values).any(), name  # 1e30 may overflow, or not
        else:
            assert np.isnan(values[own]).all(), name
        expected[own] = values[own]
        np.testing.assert_array_equal(values, expected, err_msg=name)


def test_permuted_members_differ_where_the_table_says_so(measured):
    order = NETWORK.spec.random_permutation(3)
    weights = WEIGHTS.copy()
    weights[::2] = NETWORK.spec.permute(WEIGHTS[::2], order)
    found = measure(weights)
    stderr = measured.arrays["hessian_trace_stderr"]
    for name, metric in METRICS.items():
        if name in OF_DIRECTIONS | MISSING:
            continue  # estimates hang on the directions that chance chose
        difference = np.abs(found.arrays[name] - measured.arrays[name])
        if name == "hessian_trace":
            assert (difference <= 5 * stderr).all()
        elif metric.permutation_symmetric:
            assert np.nanmax(difference) <= 1e-3, name
        elif name != "worst_t":  # one of three values: may stay by chance
            assert np.nanmax(difference) > 1e-3, name


def test_planted_permutations_leave_no_barrier_after_alignment():
    """On labels of its own making a network has no error; half-way to its permuted self it has."""
    weights = 3 * WEIGHTS[:2].copy()
    weights[1] = NETWORK.spec.permute(weights[0], {"hidden0": np.array([2, 0, 3, 1])})
    params = NETWORK.spec.unflatten(jnp.asarray(weights[0, 0]))
    images = normalise(DATASET.train.images, DATASET.mean, DATASET.std)
    own = np.asarray(NETWORK.apply(params, images)).argmax(1).astype(np.int32)
    dataset = replace(DATASET, train=Split(DATASET.train.images, own))
    found = measure_cohort(
        NETWORK, dataset, DATA, LANDSCAPE, weights, seed_pairs(["a", "a"]), np.zeros(2), WORDS[:2],
        groups=["alignment"],
    ).arrays  # fmt: skip
    assert found["barrier_train_error"][0, 0] > 10
    assert found["barrier_train_loss"][0, 0] > 0.1
    for name in ("train_error", "train_loss", "test_error", "test_loss"):
        assert found[f"barrier_{name}_aligned"].max() < 1e-4
    assert found["weight_distance"][0, 0] > 1
    assert found["weight_distance_aligned"][0, 0] == 0


FAMILIES = {
    "cnn": (NetworkConfig(family="cnn", width=3, depth=2, padding="same", activation="tanh"), 6),
    "lenet": (NetworkConfig(family="lenet", width=2, activation="tanh"), 20),
    "resnet": (NetworkConfig(family="resnet", width=3, depth=1, activation="tanh"), 6),
    "batch": (NetworkConfig(family="resnet", width=3, depth=1, norm="batch", activation="tanh"), 6),
    "vit": (NetworkConfig(family="vit", width=4, depth=1, activation="tanh"), 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_measured_in_every_respect(family):
    """And its curvature is that of its dense Hessian."""
    config, side = FAMILIES[family]
    groups = [g for g in GROUPS if family != "vit" or g != "alignment"]  # heads can't be matched
    network = build_network(config, (1, side, side), 3)
    rng, size = np.random.default_rng(2), network.spec.size
    train, test = (
        Split(rng.normal(size=(n, 1, side, side)).astype(np.float32),
              rng.integers(0, 3, n).astype(np.int32))
        for n in (50, 20)
    )  # fmt: skip
    dataset = replace(DATASET, train=train, test=test, mean=np.zeros(1, np.float32),
                      std=np.ones(1, np.float32))  # fmt: skip
    weights = (rng.normal(size=(2, 2, size)) / 2).astype(np.float32)
    found = measure_cohort(network, dataset, DATA, LANDSCAPE, weights, seed_pairs(["a", "a"]),
                           np.zeros(2), WORDS[:2], groups=groups)  # fmt: skip
    normed = {"path_norm"} if family in ("resnet", "batch", "vit") else set()
    missing = normed | MISSING | OF_NOISE | SOMETIMES_MISSING | {"gradient_noise_scale"}
    for name, values in found.arrays.items():
        assert np.isfinite(values).all() or name in missing, name
    assert set(found.coords["hidden"]) <= set(network.spec.groups)
    assert family == "vit" or set(found.coords["hidden"]) == set(network.spec.groups)
    assert np.isnan(found.arrays["path_norm"]).all() == bool(normed)

    def loss(w: jax.Array) -> jax.Array:
        logits = network.apply(network.spec.unflatten(w), jnp.asarray(train.images[:16]))
        return cross_entropy(logits, jnp.asarray(train.labels[:16]))

    product = hessian_product(loss, jnp.asarray(weights[1, 1]))
    hessian = jax.jit(lambda v: jax.lax.map(product, v))(jnp.eye(size))
    spectrum = np.linalg.eigvalsh(np.asarray(hessian, np.float64))
    here = {name: values[1, 1] for name, values in found.arrays.items()
            if METRICS[name].group == "curvature"}  # fmt: skip
    error = abs(here["hessian_trace"] - spectrum.sum())
    assert error <= 3.5 * here["hessian_trace_stderr"]
    assert here["hessian_top"] == pytest.approx(spectrum[-1], rel=0.01)


@pytest.mark.slow
def test_groups_are_taken_alone_with_the_same_results(measured):
    for group in GROUPS:
        found = measure(groups=[group])
        assert {METRICS[name].group for name in found.arrays} == {group}
        for name, values in found.arrays.items():
            np.testing.assert_allclose(values, measured.arrays[name], rtol=2e-4, atol=1e-4)


def test_one_compilation_serves_other_weights_noise_and_names():
    traced = []

    def counted(params: dict, images: jax.Array) -> jax.Array:
        traced.append(None)
        return NETWORK.apply(params, images)

    network = replace(NETWORK, apply=counted)
    counts = []
    for changed in (WEIGHTS, 2 * WEIGHTS):
        measure_cohort(
            network, DATASET, DATA, LANDSCAPE, changed, PAIRS, NOISE, WORDS + len(counts),
            groups=["performance"],
        )  # fmt: skip
        counts.append(len(traced))
    assert counts[0] == counts[1] > 0


def test_cell_of_one_member_has_no_pairs(measured):
    found = measure(pairs=seed_pairs(list("abcd")))
    assert found.arrays["mode_connectivity"].shape == (0, S)
    assert found.arrays["curve_train_error"].shape == (0, S, 5)
    for name, metric in METRICS.items():
        if metric.axes[0] == "pair":
            assert found.arrays[name].shape[:2] == (0, S), name
    assert found.arrays["layer_cka_debiased"].shape == (0, S, 1)
    np.testing.assert_array_equal(found.arrays["hessian_top"], measured.arrays["hessian_top"])


def test_progress_reaches_its_total():
    for groups in (None, ["weights"], ["connectivity"], ["performance", "weights"]):
        shares: list[float] = []
        measure(groups=groups, on_share=shares.append)
        assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"groups": ["curvatura"]}, "curvatura.*performance, curvature"),
        ({"weights": WEIGHTS[..., :-1]}, r"\[member, snapshot, 35\].*\[4, 2, 34\]"),
        ({"pairs": np.array([[0, 1], [1, 2]])}, r"pair \(1, 2\).*0 and 0.5"),
    ],
)
def test_mistakes_are_told_in_one_line(changed, message):
    with pytest.raises(ConfigError, match=message):
        measure(**changed)


@pytest.mark.parametrize(
    ("cells", "limit", "pairs"),
    [
        ("", None, []),
        ("abc", None, []),
        ("aaa", None, [[0, 1], [1, 2], [0, 2]]),
        ("abab", None, [[0, 2], [1, 3]]),
        ("aaaabb", 3, [[0, 1], [1, 2], [2, 3], [4, 5]]),
    ],
)
def test_pairs_stay_within_cells(cells, limit, pairs):
    found = seed_pairs(list(cells), limit)
    assert found.shape == (len(pairs), 2)
    assert found.tolist() == pairs
