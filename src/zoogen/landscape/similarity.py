"""Similarity of what two members compute and when they learn it, from logits on same examples."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import log_softmax
from scipy.stats import rankdata

from zoogen.landscape.stderr import mean_and_stderr


def linear_cka(
    x: Float[np.ndarray, "*q n d"], y: Float[np.ndarray, "*q n e"]
) -> Float[np.ndarray, "*q"]:
    """Linear centred kernel alignment of two sets of features of the same examples.

    In [0, 1]; 1 for features that are equal up to rotation, shift and scale. It is biased
    upwards where examples are few compared with features.

    Args:
        x, y: features, one row an example.

    Returns:
        The alignment; NaN where features are constant over the examples, or not finite.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(float(linear_cka(x, 7 - 2 * x)), 6)
        1.0

    Reference:
        Kornblith, Norouzi, Lee and Hinton, Similarity of neural network representations
        revisited, 2019.
    """
    x, y = _centred(x), _centred(y)
    scale = np.sqrt(_overlap(x, x) * _overlap(y, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(_overlap(x, y) / scale, 0, 1)


def _centred(x: Float[np.ndarray, "*q n d"]) -> Float[np.ndarray, "*q n d"]:
    """Features with zero mean over the examples; NaN where nothing but rounding is left."""
    x = np.asarray(x, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.abs(x).max(axis=(-2, -1), keepdims=True)
        x = x - x.mean(axis=-2, keepdims=True)
        constant = np.abs(x).max(axis=(-2, -1), keepdims=True) <= 1e-7 * largest
        return np.where(constant | ~np.isfinite(largest), np.nan, x)


def _overlap(x: Float[np.ndarray, "*q n d"], y: Float[np.ndarray, "*q n e"]) -> np.ndarray:
    product = np.matmul(np.swapaxes(x, -2, -1), y)
    return np.sum(product**2, axis=(-2, -1))


def prediction_agreement(
    x: Float[np.ndarray, "*q n k"], y: Float[np.ndarray, "*q n k"]
) -> Float[np.ndarray, "*q"]:
    """Share of examples to which two members give the same class; NaN where logits are not finite.

    Its error is that of a share, :func:`~zoogen.landscape.stderr.share_stderr`.

    Example:
        >>> float(prediction_agreement(np.eye(4), np.eye(4)[[0, 1, 2, 2]]))
        0.75

    Reference:
        Fort, Hu and Lakshminarayanan, Deep ensembles: a loss landscape perspective, 2019.
    """
    share = (x.argmax(axis=-1) == y.argmax(axis=-1)).mean(axis=-1)
    return np.where(_all_finite(x) & _all_finite(y), share, np.nan)


def _all_finite(x: Float[np.ndarray, "*q n k"]) -> Bool[np.ndarray, "*q"]:
    return np.isfinite(x).all(axis=(-2, -1))


def prediction_divergence(
    x: Float[np.ndarray, "*q n k"], y: Float[np.ndarray, "*q n k"]
) -> tuple[Float[np.ndarray, "*q"], Float[np.ndarray, "*q"]]:
    """Jensen–Shannon divergence of the class probabilities of two members, mean over examples.

    Args:
        x, y: logits.

    Returns:
        Mean, from 0 (equal) to ``log 2`` nats (no class in common), and its standard error over
        examples; NaN where logits are not finite.

    Example:
        >>> sure = np.array([[90.0, 0.0], [90.0, 0.0]])
        >>> mean, stderr = prediction_divergence(sure, sure[:, ::-1])
        >>> round(float(mean / np.log(2)), 6), round(float(stderr), 6)
        (1.0, 0.0)

    Reference:
        Lin, Divergence measures based on the Shannon entropy, 1991.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        p, q = (log_softmax(np.asarray(z, np.float64), axis=-1) for z in (x, y))
        middle = np.logaddexp(p, q) - np.log(2)
        halves = (np.sum(np.exp(a) * (a - middle), axis=-1) for a in (p, q))
        mean, stderr = mean_and_stderr(np.maximum(sum(halves) / 2, 0))
    finite = _all_finite(x) & _all_finite(y)
    return np.where(finite, mean, np.nan), np.where(finite, stderr, np.nan)


def accessibility(right: Float[np.ndarray, "*m s n"]) -> Float[np.ndarray, "*m s n"]:
    """How early each example was learnt, as far as is known at each snapshot.

    Args:
        right: 1 where a member classifies an example correctly, 0 where not, NaN if unknown.

    Returns:
        Share of the snapshots so far at which it was right, in [0, 1]; NaN from the first
        unknown one on.

    Example:
        >>> accessibility(np.array([[0.0, 1.0], [1.0, 1.0]])).tolist()
        [[0.0, 1.0], [0.5, 1.0]]

    Reference:
        Hacohen, Choshen and Weinshall, Let's agree to agree: neural networks share classification
        order on real datasets, 2020, who average over the members of an ensemble, too.
    """
    snapshots = np.arange(1, right.shape[-2] + 1)[:, None]
    return np.cumsum(right, axis=-2, dtype=np.float64) / snapshots


def rank_scores(values: Float[np.ndarray, "*m n"]) -> Float[np.ndarray, "*m n"]:
    """Ranks of values, equal ones sharing theirs, with mean 0 and variance 1 over the last axis.

    Products of the scores of two members average to their rank correlation.

    Args:
        values: NaN scores result where all are equal or one is not finite.

    Example:
        >>> rank_scores(np.array([5.0, 7.0, 7.0, 100.0])).round(3).tolist()
        [-1.414, 0.0, 0.0, 1.414]
    """
    ranks = rankdata(values, axis=-1, nan_policy="propagate")
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    spread = ranks.std(axis=-1, keepdims=True)
    return ranks / np.where(spread > 0, spread, np.nan)


def rank_correlation(
    x: Float[np.ndarray, "*q n"], y: Float[np.ndarray, "*q n"]
) -> tuple[Float[np.ndarray, "*q"], Float[np.ndarray, "*q"]]:
    """Spearman's rank correlation of two members' values of the same examples.

    Args:
        x, y: from :func:`rank_scores`.

    Returns:
        Correlation in [-1, 1] and its standard error over examples, from the influence of each
        one on a correlation of given ranks; NaN where a member's values are constant.

    Example:
        >>> scores = rank_scores(np.array([1.0, 2.0, 5.0]))
        >>> [round(float(each), 6) for each in rank_correlation(scores, -scores)]
        [-1.0, 0.0]

    Reference:
        Spearman, The proof and measurement of association between two things, 1904; for the
        error Hampel, The influence curve and its role in robust estimation, 1974.
    """
    correlation = np.mean(x * y, axis=-1)
    influence = x * y - correlation[..., None] * (x**2 + y**2) / 2
    return correlation, mean_and_stderr(influence)[1]
