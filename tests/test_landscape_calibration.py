"""Calibration, margins and noisy labels of logits of known meaning."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.landscape.calibration import (
    MARGIN_QUANTILES,
    calibration_error,
    margin_quantiles,
    margins,
    noisy_label_scores,
)

error_of = jax.jit(calibration_error, static_argnums=2)
scores_of = jax.jit(noisy_label_scores)


def confident(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two classes, all for class 0, and labels."""
    logits = np.stack([np.log(confidence), np.log1p(-confidence)], axis=1)
    return logits.astype(np.float32), np.where(right, 0, 1)


@pytest.mark.parametrize(
    ("confidence", "accuracy", "error"),
    [([0.7], [0.7], 0), ([0.9], [0.6], 0.3), ([0.6], [0.8], 0.2), ([0.9, 0.6], [0.6, 0.8], 0.25)],
    ids=["calibrated", "over", "under", "both"],
)
def test_gap_between_confidence_and_accuracy(confidence, accuracy, error):
    each = 100
    right = np.concatenate([np.arange(each) < round(a * each) for a in accuracy])
    logits, labels = confident(np.repeat(confidence, each), right)
    # Over- and under-confidence in different bins do not cancel; in one bin they would.
    assert error_of(logits, labels) == pytest.approx(error, abs=1e-5)
    signed = abs(np.mean(accuracy) - np.mean(confidence))
    assert error_of(logits, labels, 1) == pytest.approx(signed, abs=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_drawn_from_the_probabilities_are_calibrated(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4000, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.random((4000, 1)) > p.cumsum(axis=1)).sum(axis=1)
    honest = error_of(jnp.asarray(logits), jnp.asarray(labels))
    boastful = error_of(jnp.asarray(4 * logits), jnp.asarray(labels))
    assert honest < 0.04 < 0.1 < boastful


def test_full_confidence_counts():
    logits, labels = jnp.array([[1e4, 0.0], [1e4, 0.0]]), jnp.array([0, 1])
    assert error_of(logits, labels) == 0.5


def test_margins_by_hand():
    logits = jnp.array([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0], [1.0, 1.0, 1.0]])
    assert margins(logits, jnp.array([0, 1, 2])).tolist() == [2, -3, 0]


def test_margins_are_positive_exactly_where_the_label_wins():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    found = np.asarray(margins(jnp.asarray(logits), jnp.asarray(labels)))
    np.testing.assert_array_equal(found > 0, logits.argmax(axis=1) == labels)


def test_quantiles_of_margins_per_member():
    values = np.stack([np.arange(11.0), np.full(11, np.nan), 2 * np.arange(11.0)])
    found = margin_quantiles(values)
    assert found.shape == (3, len(MARGIN_QUANTILES))
    np.testing.assert_allclose(found[2], 20 * np.array(MARGIN_QUANTILES))
    assert np.isnan(found[1]).all()


CLEAN, NOISY = np.array([0, 1, 2, 0]), np.array([0, 2, 1, 1])
EYE = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("given", "memorised", "recovered"),
    [([0, 2, 1, 1], 1, 0), ([0, 1, 2, 0], 0, 1), ([1, 2, 2, 2], 1 / 3, 1 / 3)],
    ids=["memoriser", "early learner", "between"],
)
def test_noisy_examples_are_memorised_or_recovered(given, memorised, recovered):
    scores = scores_of(EYE[given], NOISY, CLEAN)
    np.testing.assert_allclose(scores[:2], (memorised, recovered), atol=1e-6)
    shares = np.array(scores[:2])
    np.testing.assert_allclose(scores[2:], np.sqrt(shares * (1 - shares) / 2), atol=1e-6)


def test_what_is_undefined_is_nan():
    bad = np.where([[False, True, False], *[[False] * 3] * 3], np.nan, EYE[CLEAN])
    assert np.isnan(error_of(bad, CLEAN))
    assert np.isnan(margins(bad, CLEAN)[0])
    assert np.isnan(scores_of(bad, NOISY, CLEAN)).all()
    assert np.isnan(scores_of(EYE[CLEAN], CLEAN, CLEAN)).all()
