"""Scores: how near predictions are to the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from scipy import stats
from sklearn import metrics

from zoogen.evaluate.problem import Kind

SCORES: Mapping[str, Mapping[str, str]] = {
    "regression": {
        "tau": "Kendall's rank correlation τ-b: 1 for the same order",
        "spearman": "Spearman's rank correlation",
        "r2": "1 − mean squared error / variance of the targets; 0 for their mean",
        "mae": "mean absolute error, in the target's unit",
    },
    "edit": {
        "psnr": "−10 log10 of the mean squared error, in dB; white is 1",
        "mse": "mean squared error over pixels and samples",
    },
    "classification": {
        "accuracy": "share of samples with the right class",
        "macro_f1": "F1, mean over the classes that occur",
    },
}
"""Kind of target → score → what it is."""

CHOOSES = {"regression": "r2", "edit": "psnr", "classification": "accuracy"}
"""Kind of target → score of the validation samples by which the best trial is chosen."""


LEAST = 1e-12  # mean squared error below which there is only rounding


def scores(
    kind: Kind, targets: Float[np.ndarray, "n t"], outputs: Float[np.ndarray, "n o"]
) -> dict[str, float]:
    """All scores of a kind.

    Several targets a sample are compared entry by entry, as one long list, without ranks. A
    constant prediction has no order, its rank correlations are 0.

    Args:
        kind: of the target.
        targets: numbers, or one column with numbers of classes.
        outputs: predicted numbers, or logits of the classes.

    Example:
        >>> targets = np.array([[0.0], [1], [2], [5]])
        >>> scores("regression", targets, targets + 1)["tau"]
        1.0
        >>> scores("classification", np.array([[0.0], [1.0]]), np.array([[2.0, 1.0], [3.0, 0.0]]))
        {'accuracy': 0.5, 'macro_f1': 0.3333333333333333}
    """
    if kind == "classification":
        truth, guess = targets[:, 0].astype(int), outputs.argmax(axis=1)
        return {
            "accuracy": float(metrics.accuracy_score(truth, guess)),
            "macro_f1": float(metrics.f1_score(truth, guess, average="macro", zero_division=0)),
        }
    truth, guess = targets.reshape(-1), outputs.reshape(-1)
    if kind == "edit":
        mse = float(metrics.mean_squared_error(truth, guess))
        return {"psnr": -10 * math.log10(max(mse, LEAST)), "mse": mse}
    single = targets.shape[1] == 1
    found = {
        **(_ranks(truth, guess) if single else {}),
        "r2": metrics.r2_score(truth, guess) if len(truth) > 1 else float("nan"),
        "mae": metrics.mean_absolute_error(truth, guess),
    }
    return {name: float(value) for name, value in found.items()}


def _ranks(truth: Float[np.ndarray, " n"], guess: Float[np.ndarray, " n"]) -> dict[str, float]:
    if len(truth) < 2 or np.ptp(guess) == 0 or np.ptp(truth) == 0:
        return {"tau": 0.0, "spearman": 0.0}
    return {
        "tau": stats.kendalltau(truth, guess).statistic,
        "spearman": stats.spearmanr(truth, guess).statistic,
    }
