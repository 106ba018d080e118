"""The protocol for generators of weights: constructed generators must be seen for what they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu

from zoogen.config import Config, NetworkConfig
from zoogen.data import Dataset, load
from zoogen.errors import ConfigError
from zoogen.evaluate.generation import (
    Beside,
    Cost,
    Curve,
    Evaluator,
    Exam,
    Images,
    Offered,
    Point,
    Report,
    Shares,
    Start,
    class_agreement,
    compare_starts,
    evaluate_samples,
    exam_of,
    files,
    from_json,
    gain_at_equal_novelty,
    measured,
    rank_agreement,
    render,
    separate,
    split_runs,
    to_json,
    training_seconds,
)
from zoogen.evaluate.generation import runs as judged_runs
from zoogen.evaluate.generation.behaviour import finite_outputs, probabilities, wrong_overlap
from zoogen.evaluate.generation.conditioning import OfClass
from zoogen.evaluate.generation.copying import zu_score
from zoogen.evaluate.generation.distinct import distinct
from zoogen.evaluate.generation.diversity import effective_rank, random_pairs
from zoogen.evaluate.generation.ensembles import ensembled
from zoogen.evaluate.generation.judged import judge
from zoogen.evaluate.generation.measures import _of_real, percent
from zoogen.evaluate.generation.neighbours import aligned_distances, nearest, unit_distances
from zoogen.evaluate.generation.phased import CELL_SIZE, CELLS, real_cells
from zoogen.evaluate.generation.protocol import _ensembles
from zoogen.evaluate.generation.starts import SCRATCH, _start, drawn
from zoogen.evaluate.generation.table import _without_gain, generation_table
from zoogen.evaluate.generation.views import noisy
from zoogen.generators import Parted, Population, conditioning_of
from zoogen.generators.parts import SMALLEST
from zoogen.grid import expand
from zoogen.networks import Network, build_network
from zoogen.progress import silent
from zoogen.symmetry import apply, balanced, random_element
from zoogen.train import recipe_of, train_block, training_data
from zoogen.zoo import open_zoo

SEEDS = (0, 1, 2)
CONFIG = Config.model_validate({
    "name": "runs",
    "data": {"train_examples": 400},
    "network": {"width": 10, "depth": 1},
    "train": {"epochs": 15, "batch_size": 50, "learning_rate": 0.1, "schedule": "cosine"},
    "grid": {"seeds": 80},
})  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """Independent runs of one recipe on digits."""

    network: Network
    weights: np.ndarray
    ids: list[str]
    dataset: Dataset

    def parted(self, seed: int = 0, candidates: int | None = 48) -> tuple[Offered, Evaluator]:
        parts = split_runs(self.ids, seed, Shares(0.45, 0.25))
        return separate(self.network, self.weights, parts, *exam_of(self.dataset), candidates)


@pytest.fixture(scope="module")
def runs() -> Runs:
    dataset = load(CONFIG.data)
    [cohort] = expand(CONFIG).cohorts
    recipe = recipe_of(cohort.config, dataset)
    trained = train_block(recipe, training_data(dataset, recipe), cohort.members)
    return Runs(recipe.net, trained.weights[:, -1], [m.id for m in cohort.members], dataset)


@pytest.fixture(scope="module")
def parted(runs: Runs) -> tuple[Offered, Evaluator]:
    return runs.parted()


@pytest.fixture(scope="module")
def noise(parted: tuple[Offered, Evaluator]) -> Curve:
    return parted[1].noise_curve((0.0, 0.1, 0.2, 0.4), count=30)


# ----------------------------------------------------------------------- constructed generators
def copies(offered: Offered, seed: int, count: int = 60) -> np.ndarray:
    """Training members with their units in another order and another scale."""
    spec, rng = offered.network.spec, np.random.default_rng(seed)
    chosen = offered.train[rng.integers(0, len(offered.train), count)]
    return np.asarray(apply(spec, random_element(spec, seed, (count,)), chosen))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_copier_is_caught(seed: int, parted: tuple[Offered, Evaluator], noise: Curve) -> None:
    offered, evaluator = parted
    report = evaluate_samples(evaluator, copies(offered, seed), noise=noise)
    assert report.copying.zu < -5
    assert report.copying.functional_zu < -5
    assert report.copying.distance_ratio < 1e-4
    assert report.copying.duplicates == 1
    assert report.copying.overlap == pytest.approx(1, abs=0.01)  # rounding may flip an image
    assert report.novelty.all == 0
    assert report.novelty.accurate > 0.5
    [gain], [real] = report.gains, report.real_gains
    assert abs(gain.gain) < 0.01 < real.gain


@pytest.mark.parametrize("seed", SEEDS)
def test_real_members_of_other_runs_pass(seed: int, runs: Runs) -> None:
    offered, evaluator = runs.parted(seed)
    noise = evaluator.noise_curve((0.0, 0.4), count=10)
    report = evaluate_samples(evaluator, offered.validation, noise=noise)
    assert abs(report.copying.zu) < 3
    assert report.copying.distance_ratio == pytest.approx(1, abs=0.05)
    assert report.copying.duplicates == 0
    assert report.copying.overlap == pytest.approx(report.copying.overlap_held_out, abs=0.1)
    assert report.diversity.distance_ratio == pytest.approx(1, abs=0.05)
    assert report.diversity.overlap_ratio == pytest.approx(1, abs=0.3)
    assert report.diversity.rank_ratio == pytest.approx(1, abs=0.05)
    for ratio in (report.diversity.spread_ratio, report.diversity.size_ratio):
        assert ratio["hidden0.weight"] == pytest.approx(1, abs=0.1)
    nominal, both = report.novelty.nominal, len(offered.validation)
    assert nominal > 0.5
    error = math.sqrt(nominal * (1 - nominal) * (1 / both + 1 / len(report.held_out.accuracy)))
    assert abs(report.novelty.all - nominal) < 4 * error


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_trades_accuracy_for_novelty(seed: int, parted: tuple[Offered, Evaluator]) -> None:
    curve = parted[1].noise_curve((0.1, 0.2, 0.4), count=30, seed=seed)
    accuracy, overlap, distance = (
        np.diff([getattr(point, name) for point in curve.points])
        for name in ("accuracy", "overlap", "distance_ratio")
    )
    assert (accuracy < 0).all()
    assert (overlap < 0).all()
    assert (distance > 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_generator_of_means_is_caught(
    seed: int, parted: tuple[Offered, Evaluator], noise: Curve
) -> None:
    offered, evaluator = parted
    mean = evaluator.frame.place(offered.train).mean(axis=0)
    rng = np.random.default_rng(seed)
    samples = mean + 0.02 * mean.std() * rng.normal(size=(30, mean.size))
    found = evaluate_samples(evaluator, samples, noise=noise).diversity
    assert found.distance_ratio < 0.1
    assert found.overlap_ratio > 1.5
    assert max(found.spread_ratio.values()) < 0.2
    assert found.size_ratio["hidden0.weight"] < 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_repetitions_of_new_networks_count_once(
    seed: int, parted: tuple[Offered, Evaluator], noise: Curve
) -> None:
    offered, evaluator = parted
    real = evaluate_samples(evaluator, offered.validation, noise=noise)
    assert real.distinct.share == pytest.approx(real.novelty.all, rel=0.1)
    assert real.distinct.nominal == pytest.approx(real.novelty.nominal, rel=0.1)
    assert not real.collapsed
    held = judge(evaluator, offered.validation)
    good = offered.validation[
        evaluator.distinct(held.known, held.accuracy, held.finite, held.apart)
    ]
    spec, mean = offered.network.spec, evaluator.frame.place(offered.train).mean(axis=0)
    rng = np.random.default_rng(seed)
    cases = {  # samples, share that is distinct, word of the note
        "one": (np.repeat(good[seed : seed + 1], 40, axis=0), 1 / 40, "collapsed"),
        "some": (np.tile(good[:6], (7, 1)), 6 / 42, "repeats itself"),
        "mean": (mean + 0.02 * mean.std() * rng.normal(size=(40, mean.size)), 0, "collapsed"),
    }
    for samples, share, word in cases.values():
        moved = apply(spec, random_element(spec, seed, (len(samples),)), samples)
        found = evaluate_samples(evaluator, np.asarray(moved), noise=noise)
        assert found.distinct.share == pytest.approx(share, abs=0 if share else 1 / 40)
        assert found.collapsed
        assert found.notes[0].startswith(word)
        assert not share or found.novelty.all > 0.9, "yield alone does not see it"
        assert "(collapsed)" in generation_table([found])


@pytest.mark.parametrize("seed", SEEDS)
def test_repetitions_of_bad_networks_are_seen(
    seed: int, parted: tuple[Offered, Evaluator], noise: Curve
) -> None:
    """They pass no gate, and pairs of them are far apart."""
    offered, evaluator = parted
    bad, spec = evaluator.noisy_members(1.0, 30, seed), offered.network.spec
    cases = {"apart": (bad, 1.0), "repeated": (np.tile(bad[:5], (6, 1)), 5 / 30)}
    for name, (samples, share) in cases.items():
        moved = np.asarray(apply(spec, random_element(spec, seed, (len(samples),)), samples))
        found = evaluate_samples(evaluator, moved, noise=noise)
        assert found.novelty.all == found.distinct.share == 0
        assert found.diversity.distance_ratio > 0.8
        assert found.distinct.apart == pytest.approx(share)
        assert found.distinct.real_apart > 0.9
        assert found.collapsed == (name == "repeated")
        assert found.collapsed == found.notes[0].startswith("repeats itself: 16.7 % of all")
        [row] = [line for line in generation_table([found]).splitlines() if "good or not |" in line]
        assert f"| {percent(share)}{' (collapsed)' * found.collapsed} |" in row


@pytest.mark.parametrize("seed", SEEDS)
def test_each_seed_has_a_distinct_yield(
    seed: int, parted: tuple[Offered, Evaluator], noise: Curve
) -> None:
    """One seed repeats itself, one repeats the other, one does neither."""
    offered, evaluator = parted
    held = judge(evaluator, offered.validation)
    good = offered.validation[
        evaluator.distinct(held.known, held.accuracy, held.finite, held.apart)
    ]
    one, two = good[:4], good[4:8]
    samples = np.concatenate([one, one, two, np.repeat(two[:1], 4, axis=0)])
    seeds = np.arange(4).repeat(4)
    order = np.random.default_rng(seed).permutation(len(samples))
    found = evaluate_samples(evaluator, samples[order], seeds[order], noise=noise)
    by_seed = {each.seed: each.distinct_yield for each in found.by_seed}
    assert by_seed == {0: 1, 1: 1, 2: 1, 3: 0.25}
    assert found.distinct.share == found.distinct.apart == 0.5
    assert found.over_seeds("distinct_yield") == pytest.approx((13 / 16, 0.375))
    assert "by itself |  |  | 81.25 ± 37.50 (4) |" in generation_table([found])


@pytest.mark.parametrize("seed", SEEDS)
def test_distinct_networks_are_those_of_all_pairs(seed: int) -> None:
    spec, rng = NETWORK.spec, np.random.default_rng(seed)
    kinds, noise = vectors(20, seed)[rng.integers(0, 20, 70)], rng.normal(size=(70, spec.size))
    element = replace(random_element(spec, seed, (70,)), factors={})
    values = np.asarray(apply(spec, element, kinds + rng.uniform(0, 0.6, (70, 1)) * noise))
    pairs = np.stack(np.meshgrid(range(70), range(70), indexing="ij"), axis=-1).reshape(-1, 2)
    exact = aligned_distances(spec, values, values, pairs).reshape(70, 70)
    counted: list[int] = []
    for row in range(70):
        counted += [row] if (exact[row, counted] >= 6).all() else []
    assert np.flatnonzero(distinct(spec, values, 6)).tolist() == counted
    assert 20 < len(counted) < 60


@pytest.mark.parametrize("seed", SEEDS)
def test_few_candidates_hold_the_nearest_member(seed: int, runs: Runs) -> None:
    offered, evaluator = runs.parted(seed)
    noisy = evaluator.noisy_members(0.4, 40, seed)
    networks = evaluator.known(np.concatenate([offered.validation, noisy]))
    members = evaluator.known(offered.train)
    found, exact = (nearest(evaluator.frame, networks, members, k) for k in (10, None))
    assert (found.member == exact.member).mean() >= 0.95
    assert (found.distance >= exact.distance).all()
    assert np.median(found.distance / exact.distance) == 1
    np.testing.assert_array_equal(found.overlap, exact.overlap)


# -------------------------------------------------------------------------------- hard views
@pytest.mark.parametrize("seed", SEEDS)
def test_copies_are_told_apart_where_test_images_are_too_easy(seed: int, runs: Runs) -> None:
    parts = split_runs(runs.ids, seed, Shares(0.45, 0.25))
    exam, probes = exam_of(runs.dataset)
    offered, strict = separate(runs.network, runs.weights, parts, exam, probes)
    easy = np.argsort(strict.wrong(offered.validation).mean(axis=0), kind="stable")[:250]
    images = exam.images._replace(raw=np.asarray(exam.images.raw)[easy])
    easily = Exam(images, exam.labels[easy])
    _, evaluator = separate(runs.network, runs.weights, parts, easily, probes)
    real, noise = evaluator.real_neighbours, evaluator.noise_curve((0.0, 0.4), count=10)
    assert np.quantile(real.plain, 0.9) == 1  # as large as that of copies
    assert evaluator.view.level > 0
    assert evaluator.view.leak <= 0.1
    copied = evaluate_samples(evaluator, copies(offered, seed), noise=noise)
    assert copied.novelty.different == 0
    assert copied.copying.plain_overlap == pytest.approx(1, abs=0.01)
    assert copied.plain_novelty is not None
    assert copied.plain_novelty.different == 1  # nor does the gate show them there
    assert copied.plain_novelty.gate.accuracy == copied.novelty.gate.accuracy
    assert "| yield %, overlaps on the test images as they are |" in generation_table([copied])
    others = evaluate_samples(evaluator, offered.validation, noise=noise)
    assert others.novelty.different > 0.6
    error = math.sqrt(0.25 * (1 / others.samples + 1 / len(real.overlap)))
    assert abs(others.novelty.all - others.novelty.nominal) < 4 * error


def test_test_images_are_taken_as_they_are_where_they_show_copies(
    parted: tuple[Offered, Evaluator],
) -> None:
    evaluator = parted[1]
    assert evaluator.view.level == 0
    np.testing.assert_array_equal(
        evaluator.real_neighbours.plain, evaluator.real_neighbours.overlap
    )
    exam = evaluator.view.exam
    again = noisy(exam, 1.5)
    assert len(again.labels) >= 1000
    np.testing.assert_array_equal(again.labels[: len(exam.labels)], exam.labels)
    np.testing.assert_array_equal(again.images.raw, noisy(exam, 1.5).images.raw)
    added = np.asarray(again.images.raw)[: len(exam.labels)] - np.asarray(exam.images.raw)
    assert added.std() == pytest.approx(1.5 * float(np.asarray(exam.images.std)[0]), rel=0.03)


# ------------------------------------------------------------------------------- known answers
NETWORK = build_network(NetworkConfig(family="mlp", width=6, depth=2), (1, 4, 4), 5)


def vectors(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, NETWORK.spec.size)).astype(np.float32)


def test_runs_are_split_whole_and_stay_in_their_part() -> None:
    ids = [f"run {i // 2}" for i in range(400)]  # two snapshots of each
    few, many = split_runs(ids[:200], 3), split_runs(ids, 3)
    assert sorted(np.concatenate(many)) == list(range(400))
    for part in many:
        assert (part.reshape(-1, 2) // 2 == part.reshape(-1, 2)[:, :1] // 2).all()
    for before, after in zip(few, many, strict=True):
        np.testing.assert_array_equal(before, after[after < 200])
    assert not np.array_equal(split_runs(ids, 4).held_out, many.held_out)


def test_offered_rows_are_not_those_held_out(runs: Runs) -> None:
    parts = split_runs(runs.ids, 0, Shares(0.45, 0.25))
    offered, _ = runs.parted()
    shown = {row.tobytes() for part in offered[1:] for row in part}
    assert not shown & {row.tobytes() for row in runs.weights[parts.held_out]}
    assert len(shown) == len(parts.train) + len(parts.validation)


@pytest.mark.parametrize("seed", SEEDS)
def test_zu_is_the_z_of_mann_and_whitney(seed: int) -> None:
    rng = np.random.default_rng(seed)
    generated, real = rng.normal(size=40), rng.normal(1, 1, size=60)
    found = mannwhitneyu(generated, real, method="asymptotic", use_continuity=False)
    z = zu_score(generated, real)
    assert z < 0
    assert 2 * 0.5 * math.erfc(abs(z) / math.sqrt(2)) == pytest.approx(found.pvalue, rel=1e-6)
    assert zu_score(real, generated) == pytest.approx(-z)
    assert zu_score(real, real) == 0
    assert math.isnan(zu_score(real[:0], real))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_balanced_scale_does_not_depend_on_the_scale_given(seed: int) -> None:
    values = vectors(3, seed).astype(np.float64)
    other = apply(
        NETWORK.spec, replace(random_element(NETWORK.spec, seed), permutations={}), values
    )
    assert np.abs(other - values).max() > 0.1
    once, again = balanced(NETWORK.spec, values), balanced(NETWORK.spec, np.asarray(other))
    np.testing.assert_allclose(once, again, atol=2e-3)
    assert (np.linalg.norm(once, axis=1) <= np.linalg.norm(values, axis=1) + 1e-9).all()
    images = Images(np.random.default_rng(9).normal(size=(20, 1, 4, 4)), np.zeros(1), np.ones(1))
    before, after = (probabilities(NETWORK, w, images) for w in (values, once))
    np.testing.assert_allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_equivalent_members_are_at_distance_zero(seed: int) -> None:
    values = vectors(4, seed)
    moved = apply(NETWORK.spec, random_element(NETWORK.spec, seed, (4,)), values)
    a, b = (balanced(NETWORK.spec, np.asarray(each)) for each in (values, moved))
    same, others = np.stack([np.arange(4)] * 2, axis=1), np.array([[0, 1], [2, 3]])
    assert aligned_distances(NETWORK.spec, a, b, same).max() < 1e-2
    assert aligned_distances(NETWORK.spec, a, b, others).min() > 5


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_unit_distances_bound_distances_after_matching(activation: str) -> None:
    spec = build_network(NETWORK.config.model_copy(update={"activation": activation}),
                         (1, 4, 4), 5).spec  # fmt: skip
    a, b = vectors(3), vectors(5, 1)
    b[0] = apply(spec, replace(random_element(spec, 0), factors={}), a[0])
    b[1] = apply(spec, random_element(spec, 0), a[1]) if activation == "tanh" else b[1]
    found = unit_distances(spec, a, b)
    pairs = np.stack(np.meshgrid(range(3), range(5), indexing="ij"), axis=-1).reshape(-1, 2)
    exact = aligned_distances(spec, a, b, pairs).reshape(3, 5)
    assert (found / 2 <= exact**2 + 1e-3).all()
    assert found[0, 0] < 1e-3
    assert found[2].min() > 5
    assert activation != "tanh" or found[1, 1] < 1e-3


def test_overlap_counts_what_both_get_wrong() -> None:
    masks = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]], bool)
    wanted = [[1, 1 / 4, 0], [1 / 4, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(wrong_overlap(masks, masks), wanted, rtol=1e-6)


def test_rank_is_the_number_of_equal_directions() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(200, 3)) @ np.linalg.qr(rng.normal(size=(7, 3)))[0].T
    assert effective_rank(flat) == pytest.approx(3, abs=0.1)
    assert effective_rank(np.ones((5, 7))) == 0
    pairs = random_pairs(3000, 50, 0)
    assert pairs.shape == (50, 2)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert random_pairs(3, 50, 0).tolist() == [[0, 1], [0, 2], [1, 2]]


POINTS = (
    Point("0", 0.9, 1.0, 0.0), Point("1", 0.8, 0.6, 0.5), Point("2", 0.6, 0.4, 1.0),
    Point("9", 0.1, 0.7, 3.0),  # all wrong, hence alike again: no part of the frontier
)  # fmt: skip
GAINS = {
    "at a point": (0.6, 0.85, 0.05, "nan"),
    "between": (0.8, 0.9, 0.05, "nan"),
    "worse": (0.5, 0.5, -0.2, "nan"),
    "more novel": (0.3, 0.7, float("nan"), 0.1),
    "not finite": (float("nan"), 0.7, float("nan"), "nan"),
}


@pytest.mark.parametrize(("overlap", "accuracy", "gain", "at_least"), GAINS.values(), ids=GAINS)
def test_gains_are_interpolated_and_never_extrapolated(
    overlap: float, accuracy: float, gain: float, at_least: float
) -> None:
    found = gain_at_equal_novelty(Point("", accuracy, overlap, 1.0), Curve("noise", POINTS))
    assert found.gain == pytest.approx(gain, nan_ok=True)
    assert found.at_least == pytest.approx(float(at_least), nan_ok=True)
    assert bool(found.reason) == math.isnan(found.gain)


def test_equal_networks_gain_nothing_together() -> None:
    rng = np.random.default_rng(0)
    labels, one = rng.integers(0, 3, 50), rng.dirichlet(np.ones(3), 50)
    found = ensembled(np.repeat(one[None], 6, axis=0), labels, (2, 5, 10))
    assert found[2].gain == found[5].gain == 0
    assert found[2].accuracy == pytest.approx((one.argmax(axis=1) == labels).mean())
    assert math.isnan(found[10].gain)
    truth = 0.2 + 0.4 * np.eye(3)[labels]  # networks that are right on average
    noisy = truth + rng.normal(size=(40, 50, 3))
    found = ensembled(noisy, labels, (2, 20))
    assert found[20].gain > found[2].gain > 0
    alone = (noisy.argmax(axis=-1) == labels).mean()
    for of_size in found.values():  # of the same networks but for the draw of groups
        assert of_size.accuracy - of_size.gain == pytest.approx(alone, abs=0.02)


def test_gains_of_ensembles_are_told_beside_those_of_real_networks(
    reports: tuple[Report, ...],
) -> None:
    rich = reports[0]
    ours, real, _ = rich.ensembles
    assert ours.sizes == (2, 5, 10, 20)
    for ratios in (real.gain_ratios, real.accuracy_ratios):
        assert ratios[:3] == pytest.approx((1, 1, 1))
    assert ours.gain_ratios[:3] == pytest.approx(np.divide(ours.gains, real.gains)[:3])
    assert ours.accuracy_ratios[:3] == pytest.approx(
        np.divide(ours.accuracies, real.accuracies)[:3]
    )
    assert ours.gain_ratios[0] == pytest.approx(1, abs=0.5)
    assert ours.accuracy_ratios[2] == pytest.approx(1, abs=0.05)
    rows = [line.split("|")[1:-1] for line in generation_table([rich]).splitlines()]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if len(row) == 4}
    told = {
        "gain of 10-net ensembles ÷ gain of 10 real nets": f"{ours.gain_ratios[2]:.3f}",
        "accuracy of 10-net ensembles ÷ accuracy of 10 real nets": f"{ours.accuracy_ratios[2]:.3f}",
    }
    for name, ratio in told.items():
        assert cells[name] == ["1", "1.000", ratio]
    accuracies = [percent(each.accuracies[2]) for each in (real, ours)]
    assert cells["accuracy of 10-net ensembles, %"][1:] == accuracies


def test_no_ratio_to_a_gain_of_about_zero(runs: Runs) -> None:
    """Held-out members that are one network gain nothing together."""
    one = np.repeat(runs.weights[:1], 2 * SMALLEST, axis=0)
    alike = evaluator_of(runs, runs.weights[:30], one)
    noise = Curve("noise", (Point("0.1", 0.9, 0.9, 0.1),))
    found = _ensembles(alike, runs.weights[30:60], noise, alike.accuracies(runs.weights[30:60]))
    assert [math.isnan(share) for share in found[0].gain_ratios] == [True] * 4
    assert found[0].gains[2] > 0
    report = SimpleNamespace(ensembles=found)
    assert "Ensembles of 2, 5, 10, 20 real networks gain" in _without_gain(report)[0]
    assert _of_real("generated", 10, "gain_ratios")(report) == "–"
    alone = alike.real_accuracies.mean()
    assert found[0].accuracy_ratios[2] == pytest.approx(found[0].accuracies[2] / alone)


@pytest.mark.parametrize("seed", SEEDS)
def test_conditions_that_are_met_stand_out_of_the_shuffled(seed: int) -> None:
    rng = np.random.default_rng(seed)
    asked, free = rng.normal(size=(2, 100))
    met = rank_agreement("rate", asked, np.exp(asked) + 0.01 * free)
    assert met.agreement > 0.95
    assert met.agreement > met.shuffled_high > met.shuffled
    assert abs(met.shuffled) < 0.1
    assert abs(rank_agreement("rate", asked, free).agreement) < 0.4
    phases = rng.choice(["I", "II", "IV-B"], 90).tolist()
    got = [None, *phases[1:80], *rng.permutation(phases[80:])]
    found = class_agreement("phase", phases, got)
    assert found.missing == 1
    assert found.agreement > 0.85 > found.shuffled_high
    assert found.shuffled == pytest.approx(1 / 3, abs=0.1)


def test_conditions_without_spread_have_no_agreement() -> None:
    assert math.isnan(rank_agreement("rate", np.ones(5), np.arange(5.0)).agreement)
    assert rank_agreement("rate", np.array([np.nan, 1.0]), np.zeros(2)).missing == 1
    assert math.isnan(class_agreement("phase", [None], ["I"]).agreement)
    with pytest.raises(ConfigError, match="3 requests and 2 measured"):
        rank_agreement("rate", np.ones(3), np.ones(2))


def test_metrics_of_training_are_taken_on_labels_as_noisy_as_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = build_network(CONFIG.network, (1, 8, 8), 10)
    noise = np.array([0.0, 0.4, 0.2, 0.6])
    table = pd.DataFrame({"train_loss": 1 + noise, "data.label_noise": noise})
    part = Population(network, np.zeros((4, network.spec.size), np.float32), table)
    conditioning = conditioning_of(table, ["train_loss"])
    fits = SimpleNamespace(
        first=SimpleNamespace(conditioning=conditioning), asked=lambda rows: rows
    )
    monkeypatch.setattr(
        measured, "_metrics", lambda _setting, _weights, noise: pd.DataFrame({"train_loss": noise})
    )
    (found,) = measured.conditions_of(None, Parted(part, part, part), fits)
    assert found.agreement == pytest.approx(1)
    assert not measured._common_noise(part, 3).any()  # nothing was asked
    alike = replace(part, table=table.assign(**{"data.label_noise": 0.4}))
    np.testing.assert_allclose(measured._common_noise(alike, 3), 0.4)


def cells_like(weights: np.ndarray, pairs: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of networks whose first weight says which of two phases they have."""
    error = weights[:, :1]  # percent: 0 is fitted, 20 is not
    mc = np.where(error[pairs[:, 0]] > 0, 10.0, 0.0)
    return {
        "train_accuracy": 1 - error / 100, "test_accuracy": 0.9 - error / 100,
        "mode_connectivity": mc, "cka": np.full(mc.shape, 0.9),
    }  # fmt: skip


@pytest.fixture
def setting(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Where cells are measured by :func:`cells_like`."""
    monkeypatch.setattr(
        measured,
        "_measure",
        lambda _setting, weights, _noise, _groups, pairs: SimpleNamespace(
            arrays=cells_like(weights, pairs)
        ),
    )
    return SimpleNamespace(zoo=open_zoo(tiny_zoo))


@pytest.mark.parametrize(
    ("held_out", "names", "ceilings"),
    [
        ({"II": 4, "IV-B": 4}, "II, IV-B", [math.nan, math.nan]),
        ({"II": 6, "IV-B": 3}, "IV-B", [1.0, math.nan]),
        ({"II": 6, "boundary": 6}, "IV-B", [1.0, math.nan]),
    ],
)
def test_phases_with_few_real_members_have_no_ceiling(
    held_out: dict, names: str, ceilings: list, setting: SimpleNamespace
) -> None:
    network = build_network(CONFIG.network, (1, 8, 8), 10)

    def part(counts: dict) -> Population:
        phases = np.repeat(list(counts), list(counts.values()))
        values = np.where(phases == "II", 20.0, 0.0)[:, None].repeat(2, axis=1)
        return Population(network, values, pd.DataFrame({"phase": phases, "data.label_noise": 0.0}))

    train = part({"II": 20, "IV-B": 20})
    conditioning = conditioning_of(train.table, ["phase"])
    fits = SimpleNamespace(
        first=SimpleNamespace(conditioning=conditioning),
        asked=lambda rows: np.zeros((len(rows), 2)),
    )
    parts = Parted(train, train, part(held_out))
    found = measured._phases(setting, parts, fits, conditioning.quantities[0])
    assert found.agreement == 0.5
    assert math.isnan(found.ceiling)
    assert f"held-out members of {names} are too few for a cell" in found.how
    np.testing.assert_array_equal([one.ceiling for one in found.by_class], ceilings)
    nothing = part({"boundary": 9, "failed": 9})
    alone = conditioning_of(nothing.table, ["phase"])
    fits.first.conditioning = alone
    found = measured._phases(setting, Parted(nothing, nothing, nothing), fits, alone.quantities[0])
    assert math.isnan(found.agreement)


@pytest.mark.parametrize("obedient", [True, False])
def test_cells_that_were_asked_for_a_phase_stand_beside_real_ones(
    obedient: bool, setting: SimpleNamespace
) -> None:
    """One in ten members of IV-B is not fitted: most cells of five do without, some do not."""
    names = np.array(["II", "IV-B"])[np.arange(80) % 2]
    error = np.where((names == "II") | (np.arange(80) % 20 == 1), 20.0, 0.0)
    values = np.column_stack([error, error]).astype(np.float32)
    table = pd.DataFrame({"phase": names, "data.label_noise": 0.0})
    part = Population(build_network(CONFIG.network, (1, 8, 8), 10), values, table)
    conditioning = conditioning_of(table, ["phase"])

    def made(rows: np.ndarray) -> np.ndarray:
        asked = rows[:, 0] > 0 if obedient else np.zeros(len(rows), bool)  # for II
        return np.where(asked, 20.0, 0.0)[:, None].repeat(2, axis=1)

    fits = SimpleNamespace(first=SimpleNamespace(conditioning=conditioning), asked=made)
    found = measured._phases(setting, Parted(part, part, part), fits, conditioning.quantities[0])
    assert found.agreement == (1.0 if obedient else 0.5)
    assert found.shuffled == pytest.approx(0.5, abs=0.05)
    two, four = found.by_class
    assert (two.name, four.name) == ("II", "IV-B")
    assert two.cells == four.cells == (CELLS, CELLS)
    assert (two.agreement, two.ceiling, four.agreement) == (obedient, 1, 1)
    assert four.ceiling == pytest.approx(0.9**5, abs=0.3)
    assert found.ceiling == (1 + four.ceiling) / 2
    assert two.means["train_error"] == pytest.approx((20.0 * obedient, 20.0))
    assert four.means["train_error"] == pytest.approx((0.0, 2.0), abs=1.5)
    assert two.means["mode_connectivity"] == pytest.approx((10.0 * obedient, 10.0))


def test_cells_of_real_members_have_one_phase_and_nobody_twice() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"phase": [*rng.permutation(["I"] * 9 + ["II"] * 30), "IV-A"]})
    names, rows = real_cells(table, ["I"] * 3 + ["II"] * 3 + ["IV-A"] * 3)
    assert names == ["I"] * 3 + ["II"] * 3  # one member of IV-A makes no cell
    assert (table["phase"].to_numpy()[rows] == np.array(names)[:, None]).all()
    assert all(len(set(row)) == CELL_SIZE for row in rows.tolist())
    assert real_cells(table, ["IV-A"])[1].shape == (0, CELL_SIZE)


def test_costs_are_stored_with_the_zoo(tiny_zoo: Path) -> None:
    zoo = open_zoo(tiny_zoo)
    assert all(training_seconds(zoo, cohort) > 0 for cohort in zoo.cohorts)
    assert Cost(10.0, 0.5, 99.0, 0.1).break_even == math.inf
    assert Cost(10.0, 0.5, 99.0, 2.5).break_even == 5


# ------------------------------------------------------------------------------------- training
def test_good_starts_are_ahead_of_scratch(runs: Runs, parted: tuple[Offered, Evaluator]) -> None:
    offered, evaluator = parted
    given = offered.validation[:3]
    starts = {"generated": given, "nearest": evaluator.nearest_members(given)}
    config = CONFIG.model_copy(update={"grid": type(CONFIG.grid)()})
    found = compare_starts(
        config, runs.dataset, starts, evaluator.wrong, epochs=(0, 1, 3), rates=(1e-6, 0.1)
    )
    by_name = {start.name: start for start in found}
    assert list(by_name) == ["generated", "nearest", SCRATCH]
    right = 1 - evaluator.wrong(given)[:, 1::2].mean()
    assert by_name["generated"].accuracy[0] == pytest.approx(right)
    scratch = by_name[SCRATCH]
    assert scratch.rates[1:] == (0.1, 0.1)
    assert scratch.accuracy[0] < 0.4 < scratch.accuracy[2]
    assert by_name["generated"].accuracy[1] > scratch.accuracy[1]
    with pytest.raises(ConfigError, match="equally"):
        compare_starts(
            config, runs.dataset, {"a": given, "b": given[:2]}, evaluator.wrong, epochs=(0,)
        )


def test_starts_are_drawn_from_all_samples() -> None:
    rows, draws = np.arange(200, dtype=np.float32)[:, None], 400
    found = np.concatenate([drawn(rows, 20, seed) for seed in range(draws)])[:, 0].astype(int)
    assert all(len(set(each)) == 20 for each in found.reshape(draws, 20))
    often = np.bincount(found, minlength=200)
    assert (abs(often - draws / 10) < 5 * (draws * 0.1 * 0.9) ** 0.5).all()
    np.testing.assert_array_equal(drawn(rows, 20), drawn(rows, 20))


@pytest.mark.parametrize("seed", SEEDS)
def test_starts_that_are_not_finite_are_told_and_count(
    seed: int, runs: Runs, parted: tuple[Offered, Evaluator], monkeypatch: pytest.MonkeyPatch
) -> None:
    offered, evaluator = parted
    samples = evaluator.noisy_members(0.1, 6, seed)
    samples[seed], samples[seed + 2] = np.nan, 1e20  # finite, but what it says is not
    fine = evaluator.usable(samples)
    assert fine.sum() == 4
    quick = partial(compare_starts, epochs=(0, 1), rates=(0.1,))
    monkeypatch.setattr(judged_runs, "compare_starts", quick)
    ground = SimpleNamespace(
        evaluator=evaluator, reporter=silent, run=SimpleNamespace(zoo_config=CONFIG)
    )
    every, few = (
        {start.name: start for start in judged_runs._starts(ground, runs.dataset, given, "x")}
        for given in (samples, samples[fine])
    )
    [note] = judged_runs._not_finite(ground, runs.dataset, samples)
    assert note.startswith("2 of 6 samples that are trained on digits are not finite")
    assert judged_runs._not_finite(ground, runs.dataset, samples[fine]) == []
    assert {start.networks for start in every.values()} == {6}
    # Images come in another order to other networks, so that trained ones differ a little.
    ours, theirs = (each["generated"].accuracy for each in (every, few))
    assert ours[0] == pytest.approx(theirs[0] * 4 / 6)
    assert ours[1] == pytest.approx(theirs[1] * 4 / 6, abs=0.05)
    nearest_ones = evaluator.nearest_members(samples)
    np.testing.assert_array_equal(nearest_ones[fine], evaluator.nearest_members(samples[fine]))
    assert all((row == offered.train).all(axis=1).any() for row in nearest_ones)


def test_every_time_has_the_rate_that_is_best_then() -> None:
    right = np.zeros((3, 4, 2, 10), bool)  # rate, network, time, image
    right[1, :, 0, ::2] = right[2, :, 1, ::2] = True  # images that choose
    right[1, :3, 0, 1::2] = right[2, :, 1, 3::2] = True  # images that are reported
    right[0, ..., 1::2] = True  # better there, but nobody may look
    found = _start("generated", "digits", right, (0.01, 0.1, 1.0), (1, 25))
    assert found.rates == (0.1, 1.0)
    assert found.accuracy == pytest.approx((0.75, 0.8))
    assert found.deviation == pytest.approx((0.75**0.5 / 2, 0), abs=1e-12)


# ------------------------------------------------------------------------------ report and files
@pytest.fixture(scope="module")
def reports(parted: tuple[Offered, Evaluator], noise: Curve) -> tuple[Report, ...]:
    """A report with everything in it, one of few and bad samples, one of none that is finite."""
    offered, evaluator = parted
    accuracy = evaluator.accuracies(offered.validation)
    means = dict.fromkeys(("test_accuracy", "train_error", "mode_connectivity", "cka"), (0.5, 0.75))
    one = OfClass("II", (20, 19), 0.5, math.nan, means)
    conditions = (
        rank_agreement("test_accuracy", accuracy, accuracy),
        replace(class_agreement("phase", ["I", "II"], ["I", "I"], ceiling=0.9), by_class=(one,)),
    )
    average = evaluator.curve("average", {"2": offered.train[:10] / 2 + offered.train[1:11] / 2})
    landscape = {"hessian_trace": ([1.0, 2.0, 900.0], [3.0, 4.0])}
    cost = Cost(1.0, 0.001, 9.0, 0.5)
    start = Start("generated", "digits", (0.003, 0.1), (0, 1), (0.5, 0.75), (0.1, 0.1), 20)
    everything = Beside((average,), (start,), conditions, cost, landscape)
    seeds = np.arange(len(accuracy)) % 3
    rich = evaluate_samples(evaluator, offered.validation, seeds, "real", "", noise, everything)
    few = copies(offered, 0, 4)
    few[1] = np.nan
    few[2] *= 1e20  # finite weights, outputs that are not
    poor = evaluate_samples(evaluator, few, None, "poor", "best 4 of 9", noise)
    return rich, poor, evaluate_samples(evaluator, np.full((3, few.shape[1]), np.inf), noise=noise)


def test_networks_that_are_not_finite_are_counted(reports: tuple[Report, ...]) -> None:
    poor = reports[1]
    assert (poor.samples, poor.invalid) == (4, 2)
    assert sorted(poor.generated.accuracy)[:2] == [0, 0]
    assert sum(map(math.isnan, poor.generated.distance)) == 2
    assert poor.copying.duplicates == 1
    assert poor.novelty.accurate <= 0.5
    words = " ".join(poor.notes)
    for part in ("4 samples", "1 generator seed", "2 samples are not finite", "best 4 of 9"):
        assert part in words


def test_nothing_finite_is_reported_as_such(reports: tuple[Report, ...]) -> None:
    report = reports[2]
    assert report.invalid == report.samples == 3
    assert report.accuracy.best == report.novelty.all == 0
    assert math.isnan(report.copying.zu)
    assert [math.isnan(gain.gain) for gain in report.gains] == [True]


def test_reports_survive_json(reports: tuple[Report, ...]) -> None:
    text = to_json(reports)
    again = from_json(text)
    assert to_json(again) == text
    assert again[0].over_seeds("accuracy") == reports[0].over_seeds("accuracy")
    assert again[1].cost is again[0].plain_novelty is None  # the view is the plain images
    assert "as they are |" not in generation_table(again)
    with pytest.raises(ConfigError, match="evaluate-generator"):
        from_json("[{}]")


def test_a_page_a_table_and_a_json_are_written(reports: tuple[Report, ...], tmp_path: Path) -> None:
    paths = render(reports, tmp_path / "out")
    assert [path.name for path in paths] == [
        f"generation.{k}" for k in ("json", "md", "png", "svg")
    ]
    table, picture = paths[1].read_text(), paths[3].read_text()
    assert "| ZU, all samples | 0 |" in table
    assert "samples were selected: best 4 of 9" in table
    assert "| real: generated | digits | 50.0 | 75.0 (0.1) |" in table
    assert "| real: II | 20 (19) | 50.0 (–) | 0.5 (0.8) | 0.50 (0.75) |" in table
    for title in (
        "Accuracy and novelty",
        "Ensembles",
        "real: phase",
        "achieved; real: 0.90",
        "hessian trace",
        "Trained on",
        "Cost",
    ):
        assert title in picture
    assert from_json(paths[0].read_bytes())[0].name == "real"
    with pytest.raises(ConfigError, match="found none"):
        render([], tmp_path)


def test_each_population_has_a_held_out_column_a_gate_and_a_page(
    runs: Runs, reports: tuple[Report, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = split_runs(runs.ids, 0, Shares(0.45, 0.25))
    members = (runs.weights[parts.train[:15]], runs.weights[parts.held_out])
    evaluator = Evaluator(runs.network, *members, *exam_of(runs.dataset))
    noise = evaluator.noise_curve((0.0, 0.4), count=10)
    few = evaluate_samples(evaluator, runs.weights[parts.validation], name="few", noise=noise)
    rich, poor, _ = reports
    pages: list[list[str]] = []
    monkeypatch.setattr(files, "page", lambda group: pages.append([r.name for r in group]))
    monkeypatch.setattr(files, "save", lambda _, base: [base.with_name(f"{base.name}.png")])
    paths = render([rich, few, poor], tmp_path)
    assert pages == [["real", "poor"], ["few"]]
    assert [path.name for path in paths[2:]] == ["generation.png", "generation-2.png"]
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[3:-1]]
        for cells in (line.split("|") for line in paths[1].read_text().splitlines())
        if len(cells) == 9
    }
    ours, theirs = (f"held-out members against {r.members} training runs" for r in (rich, few))
    assert rows["measure"] == [ours, "real", "poor", theirs, "few"]
    assert rows["novelty-gated yield %"] == [
        percent(share)
        for share in (
            rich.novelty.nominal, rich.novelty.all, poor.novelty.all,
            few.novelty.nominal, few.novelty.all,
        )
    ]  # fmt: skip
    text = paths[1].read_text()
    for names, report in (("real, poor", rich), ("few", few)):
        assert f"Yield of {names}: accuracy ≥ {percent(report.novelty.gate.accuracy)} %" in text
    assert "training runs |" not in generation_table([rich, poor])


# ------------------------------------------------------------------------------------- bad input
def evaluator_of(runs: Runs, train: np.ndarray, held_out: np.ndarray) -> Evaluator:
    return Evaluator(runs.network, train, held_out, *exam_of(runs.dataset))


REFUSED: dict[str, tuple[Callable[[Runs], object], str]] = {
    "too small": (lambda runs: split_runs(runs.ids[:12]), "12 runs leave"),
    "shares": (lambda runs: split_runs(runs.ids, 0, Shares(0.8, 0.2)), "runs are held out"),
    "few members": (
        lambda runs: evaluator_of(runs, runs.weights, runs.weights[:2]),
        "found 2 held-out members",
    ),
    "diverged": (
        lambda runs: evaluator_of(runs, runs.weights * np.nan, runs.weights),
        "80 of 80 training members",
    ),
    "other network": (
        lambda runs: evaluator_of(runs, runs.weights[:, 1:], runs.weights),
        r"expected \[n, 760\]",
    ),
    "wrong samples": (
        lambda runs: evaluate_samples(runs.parted()[1], np.zeros((3, 7))),
        r"shape \[3, 7\], expected \[n, 760\]",
    ),
    "no samples": (
        lambda runs: evaluate_samples(runs.parted()[1], runs.weights[:0]),
        "found 0 samples",
    ),
    "seeds": (
        lambda runs: evaluate_samples(runs.parted()[1], runs.weights, np.arange(3)),
        "80 samples and 3 seeds",
    ),
}


@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_judged_is_refused(
    call: Callable[[Runs], object], words: str, runs: Runs
) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        call(runs)
    assert "\n" not in str(error.value)


def test_running_statistics_computed_anew_do_not_depend_on_those_given(runs: Runs) -> None:
    config = NetworkConfig(family="resnet", norm="batch", width=2, depth=1)
    network = build_network(config, (1, 8, 8), 10)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2 * SMALLEST, network.spec.size)).astype(np.float32)
    harmed, names = values.copy(), dict(network.spec.statistics)
    for parameter in network.spec.parameters:
        if parameter.name in names:
            place = slice(parameter.offset, parameter.offset + parameter.size)
            values[:, place], harmed[:, place] = 1.0, 1 + rng.random(parameter.size)
    sides = values[:SMALLEST], values[SMALLEST:]
    evaluator = Evaluator(network, *sides, *exam_of(runs.dataset))
    assert (evaluator.wrong(values) != evaluator.wrong(harmed)).any()
    anew = [evaluator.recalibrated_accuracies(side) for side in (values, harmed)]
    np.testing.assert_array_equal(*anew)


def test_outputs_that_overflow_are_seen() -> None:
    images = Images(np.ones((2, 1, 4, 4)), np.zeros(1), np.ones(1))
    values = vectors(70)
    values[[3, 69]] *= 1e25
    assert np.flatnonzero(~finite_outputs(NETWORK, values, images)).tolist() == [3, 69]
