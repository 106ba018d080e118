"""Neural collapse of constructed simplices, and its invariances."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from zoogen.landscape.collapse import Collapse, class_statistics, neural_collapse

K, D, PER_CLASS = 4, 9, 50
RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.normal(size=(D, K)))[0]
SIMPLEX = ((np.eye(K) - 1 / K) * np.sqrt(K / (K - 1))) @ BASIS.T  # unit vectors, widest angles
LABELS = np.tile(np.arange(K), PER_CLASS)

take = jax.jit(class_statistics)


def collapse_of(
    features: np.ndarray, classifier: np.ndarray, labels: np.ndarray = LABELS
) -> Collapse:
    logits = (features @ classifier.T).astype(np.float32)
    statistics = take(features.astype(np.float32), logits, labels)
    return neural_collapse(*map(np.asarray, statistics), classifier)


def test_a_simplex_is_fully_collapsed_wherever_it_lies():
    found = collapse_of(3 * SIMPLEX[LABELS] + 0.7, 5 * SIMPLEX)
    np.testing.assert_allclose(found, 0, atol=1e-5)


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_variability_of_a_noisy_simplex(noise):
    # Opposite deviations along every axis: a covariance of noise² without sampling error.
    steps = noise * np.sqrt(D) * np.r_[np.eye(D), -np.eye(D)]
    features = np.concatenate([mean + steps for mean in SIMPLEX])
    found = collapse_of(features, SIMPLEX, np.repeat(np.arange(K), 2 * D))
    assert found.variability == pytest.approx(noise**2 * (K - 1) ** 2 / K, rel=1e-4)
    np.testing.assert_allclose(found[1:5], 0, atol=1e-5)


def test_unequal_lengths_and_angles_show():
    stretched = SIMPLEX * np.array([[1], [1], [1], [3]])
    found = collapse_of(stretched[LABELS], stretched)
    assert found.variability == pytest.approx(0, abs=1e-8)
    assert min(found.norm_spread, found.angle_spread, found.angle_excess) > 0.05


@pytest.mark.parametrize(
    ("classifier", "duality"),
    [(SIMPLEX, 0), (-SIMPLEX, 4), (np.roll(SIMPLEX, 1, axis=0), 2 + 2 / (K - 1))],
    ids=["dual", "opposite", "other classes"],
)
def test_duality_and_disagreement_with_the_classifier(classifier, duality):
    found = collapse_of(SIMPLEX[LABELS], classifier)
    assert found.duality == pytest.approx(duality, abs=1e-5)
    assert found.disagreement == (0 if duality == 0 else 1)


@pytest.fixture(scope="module")
def loose() -> tuple[np.ndarray, np.ndarray]:
    means = 2 * np.arange(1, K + 1)[:, None] / K * SIMPLEX + 0.5  # of different lengths
    return means[LABELS] + 0.6 * RNG.normal(size=(len(LABELS), D)), RNG.normal(size=(K, D))


def test_rotations_shifts_and_scales_change_nothing(loose):
    features, classifier = loose
    rotation = np.linalg.qr(RNG.normal(size=(D, D)))[0]
    a = collapse_of(features, classifier)
    b = collapse_of(7 * features @ rotation, 2 * classifier @ rotation)
    np.testing.assert_allclose(a, b, rtol=1e-3)
    assert 0 < a.disagreement < 1
    shifted = collapse_of(features + 1, classifier)
    np.testing.assert_allclose(a[:5], shifted[:5], rtol=1e-3)


def test_more_examples_of_one_class_change_nothing(loose):
    features, classifier = loose
    again = np.r_[np.arange(len(LABELS)), *[np.flatnonzero(LABELS == 0)] * 2]
    a, b = (
        collapse_of(features, classifier),
        collapse_of(features[again], classifier, LABELS[again]),
    )
    np.testing.assert_allclose(a[:5], b[:5], rtol=1e-3)


def test_statistics_are_those_of_their_definition(loose):
    features, classifier = loose
    found = take(features.astype(np.float32), (features @ classifier.T).astype(np.float32), LABELS)
    parts = [features[k == LABELS] for k in range(K)]
    means = np.array([part.mean(axis=0) for part in parts])
    within = np.mean([np.cov(part.T, bias=True) for part in parts], axis=0)
    nearest = np.linalg.norm(features[:, None] - means, axis=-1).argmin(axis=1)
    np.testing.assert_allclose(found.means, means, atol=1e-5)
    np.testing.assert_allclose(found.within, within, atol=1e-5)
    share = np.mean(nearest != (features @ classifier.T).argmax(axis=1))
    assert found.disagreement == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("defect", ["missing class", "nan", "one point", "dead"])
def test_what_is_undefined_is_nan_and_leaves_others_alone(defect, loose):
    features, classifier = loose
    labels = LABELS
    if defect == "missing class":
        labels = np.where(LABELS == 2, 1, LABELS)
    bad = {
        "missing class": features,
        "nan": np.where(np.arange(D) == 1, np.nan, features),
        "one point": np.full_like(features, 1 / 3),
        "dead": np.zeros_like(features),
    }[defect]
    both = [
        take(x.astype(np.float32), (x @ classifier.T).astype(np.float32), y)
        for x, y in ((features, LABELS), (bad, labels))
    ]
    stacked = [np.stack(leaves) for leaves in zip(*both, strict=True)]
    found = neural_collapse(*stacked, np.stack([classifier, classifier]))
    assert np.isfinite([x[0] for x in found]).all()
    assert np.isnan([x[1] for x in found]).all()
