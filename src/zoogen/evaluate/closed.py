"""Readers without gradient steps: constants, trees, ridge regression, scaled weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from zoogen.evaluate.inputs import joined, statistics, tensor_scales
from zoogen.evaluate.problem import Problem
from zoogen.evaluate.readers import Fitted, Options, Training

ABSENT = 1e-6  # probability of a class that no training row has
COMPONENTS = (4, 16, 64, 256)
STRENGTHS = tuple(10.0**k for k in range(-3, 5))  # of ridge, on targets and features of unit scale


def fit_mean(problem: Problem, options: Options, training: Training, seed: int) -> Fitted:
    """The same for every sample: the mean of the training targets, or frequencies of classes."""
    seen = problem.targets[problem.split.train]
    if problem.kind == "classification":
        counts = np.bincount(seen[:, 0].astype(int), minlength=problem.outputs)
        constant = np.log(np.maximum(counts / counts.sum(), ABSENT))
    else:
        constant = seen.mean(axis=0)
    outputs = np.tile(constant, (len(problem.targets), 1))
    return Fitted(outputs, constant.size, None, ())


# -------------------------------------------------------------------------------------- trees
def fit_statistics_trees(
    problem: Problem, options: Options, training: Training, seed: int
) -> Fitted:
    """Boosted trees on statistics of every tensor."""
    features = statistics(problem.samples)
    return _fit_trees(problem, features, np.zeros(features.shape[1], bool), options, seed)


def fit_hyper_parameters(
    problem: Problem, options: Options, training: Training, seed: int
) -> Fitted:
    """Boosted trees on how members were made; of the target itself, nothing."""
    table = hyper_parameters(problem)
    if table.empty:
        return fit_mean(problem, options, training, seed)
    columns = [_coded(table[name]) for name in table]
    features = np.stack([values for values, _ in columns], axis=1)
    return _fit_trees(problem, features, np.array([c for _, c in columns]), options, seed)


def hyper_parameters(problem: Problem) -> pd.DataFrame:
    """Columns of hyper-parameters that may be seen: those that are not the target itself.

    A column is the target if it bears its name, or if in the training rows it says the same: equal
    numbers, equal logarithms, or the same classes by other names.
    """
    table = problem.samples.table
    names = [name for name in problem.samples.hyper_parameters if not _is_target(name, problem)]
    return table[names]


def _is_target(column: str, problem: Problem) -> bool:
    if column == problem.name or column.rpartition(".")[2] == problem.name.rpartition(".")[2]:
        return True
    rows = problem.split.train
    values, targets = problem.samples.table[column].iloc[rows], problem.targets[rows, 0]
    if problem.kind == "classification":
        codes, kinds = pd.factorize(values, use_na_sentinel=False)
        pairs = len(np.unique(np.stack([codes, targets]), axis=1).T)
        return 1 < pairs == len(kinds) == len(np.unique(targets))
    if values.dtype == object or not pd.api.types.is_numeric_dtype(values) or not np.ptp(targets):
        return False
    with np.errstate(all="ignore"):
        forms = [values.to_numpy(float)]
        forms += [np.log(forms[0]), np.log10(forms[0]), np.log2(forms[0])]
    return any(np.allclose(form, targets, rtol=1e-6, atol=0) for form in forms)


def _coded(column: pd.Series) -> tuple[Float[np.ndarray, " n"], bool]:
    """Numbers as they are, names as numbers of names; and whether they were names."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(float), False
    codes, _ = pd.factorize(column.astype("string"), sort=True)
    return np.where(codes < 0, np.nan, codes), True


def _fit_trees(
    problem: Problem,
    features: Float[np.ndarray, "n f"],
    named: Bool[np.ndarray, " f"],
    options: Options,
    seed: int,
) -> Fitted:
    """One ensemble per target, or one for all classes; the best number of trees by validation."""
    ensembles = [
        _fit_ensemble(problem, features, named, column, options, seed)
        for column in range(problem.targets.shape[1])
    ]
    outputs = np.concatenate([outputs for outputs, _ in ensembles], axis=1)
    return Fitted(outputs, sum(count for _, count in ensembles), None, ())


def _fit_ensemble(
    problem: Problem,
    features: Float[np.ndarray, "n f"],
    named: Bool[np.ndarray, " f"],
    column: int,
    options: Options,
    seed: int,
) -> tuple[Float[np.ndarray, "n o"], int]:
    """Predictions, and numbers in the nodes of the trees that they come from."""
    train, targets = problem.split.train, problem.targets[:, column]
    if len(np.unique(targets[train])) == 1:
        constant = fit_mean(problem, {}, Training(), seed)
        at = slice(None) if problem.kind == "classification" else slice(column, column + 1)
        return constant.outputs[:, at], 1
    classes = problem.kind == "classification"
    build = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    model = build(
        learning_rate=options["learning_rate"], max_iter=options["trees"],
        max_leaf_nodes=options["leaves"], l2_regularization=1.0, early_stopping=False,
        min_samples_leaf=min(20, max(1, len(train) // 20)), random_state=seed,
        categorical_features=named if named.any() else None,
    )  # fmt: skip
    best, least, used = None, np.inf, 0
    with threadpool_limits(1):  # threads that wait for each other cost more than trees this small
        model.fit(features[train], targets[train])
        for number, outputs in enumerate(_stages(model, features, problem), start=1):
            error = _error(problem, outputs, column)
            if best is None or error < least:
                best, least, used = outputs, error, number
    nodes = sum(2 * tree.nodes.size for trees in model._predictors[:used] for tree in trees)
    return np.asarray(best), nodes


def _stages(
    model: object, features: Float[np.ndarray, "n f"], problem: Problem
) -> Iterator[Float[np.ndarray, "n o"]]:
    """Predictions of the first tree, of the first two, and so on."""
    if isinstance(model, HistGradientBoostingRegressor):
        yield from (outputs[:, None] for outputs in model.staged_predict(features))
    elif isinstance(model, HistGradientBoostingClassifier):
        for probabilities in model.staged_predict_proba(features):
            yield _logits(probabilities, model.classes_, problem.outputs)


def _logits(
    probabilities: Float[np.ndarray, "n k"], classes: Float[np.ndarray, " k"], outputs: int
) -> Float[np.ndarray, "n o"]:
    logits = np.full((len(probabilities), outputs), np.log(ABSENT))
    logits[:, classes.astype(int)] = np.log(np.maximum(probabilities, ABSENT))
    return logits


def _error(problem: Problem, outputs: Float[np.ndarray, "n o"], column: int) -> float:
    """Of validation rows: squared error of one target, or cross-entropy."""
    rows = problem.split.validation
    wanted, found = problem.targets[rows, column], outputs[rows]
    if problem.kind == "regression":
        return float(np.square(found[:, 0] - wanted).mean())
    total = np.logaddexp.reduce(found, axis=1)
    return float((total - found[np.arange(len(rows)), wanted.astype(int)]).mean())


# -------------------------------------------------------------------------------------- ridge
def fit_pca_ridge(problem: Problem, options: Options, training: Training, seed: int) -> Fitted:
    """Ridge (for classes, logistic) regression on principal components of the weights.

    Number of components and strength of the penalty are those with the least validation error.
    """
    spec, weights = joined(problem.samples, "pca-ridge")
    train = problem.split.train
    scaled = weights / tensor_scales(spec, weights[train])
    if not scaled[train].std(axis=0).any():
        return fit_mean(problem, options, training, seed)
    most = min(max(COMPONENTS), len(train) - 1, spec.size)
    pca = PCA(max(1, most), svd_solver="randomized", random_state=seed).fit(scaled[train])
    scores = pca.transform(scaled)
    scores /= scores[train].std(axis=0).max()
    best, least, used = None, np.inf, 0
    for count, strength in product(sorted({min(c, most) for c in COMPONENTS}), STRENGTHS):
        outputs = _linear(problem, scores[:, :count], strength)
        errors = [_error(problem, outputs[:, at], column) for column, at in _columns(problem)]
        if best is None or np.mean(errors) < least:
            best, least, used = outputs, float(np.mean(errors)), count
    return Fitted(np.asarray(best), used * (spec.size + problem.outputs), None, ())


def _columns(problem: Problem) -> list[tuple[int, slice]]:
    """Columns of targets, and the outputs that answer them."""
    if problem.kind == "classification":
        return [(0, slice(None))]
    return [(i, slice(i, i + 1)) for i in range(problem.targets.shape[1])]


def _linear(
    problem: Problem, features: Float[np.ndarray, "n f"], strength: float
) -> Float[np.ndarray, "n o"]:
    train = problem.split.train
    if problem.kind == "regression":
        model = Ridge(alpha=strength).fit(features[train], problem.targets[train])
        return np.asarray(model.predict(features)).reshape(len(features), -1)
    classes = problem.targets[train, 0].astype(int)
    if len(np.unique(classes)) == 1:
        return fit_mean(problem, {}, Training(), 0).outputs
    with warnings.catch_warnings():  # what has not converged is judged by its error like the rest
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=1 / strength, max_iter=200).fit(features[train], classes)
    return _logits(model.predict_proba(features), model.classes_, problem.outputs)


# ------------------------------------------------------------------------------ per parameter
def fit_zero(problem: Problem, options: Options, training: Training, seed: int) -> Fitted:
    """Zero for every parameter."""
    return Fitted(np.zeros_like(problem.targets), 0, None, ())


def fit_linear(problem: Problem, options: Options, training: Training, seed: int) -> Fitted:
    """A factor per tensor times the weights themselves, by least squares."""
    spec, weights = joined(problem.samples, "linear")
    train, outputs = problem.split.train, np.zeros_like(problem.targets)
    for parameter in spec.parameters:
        at = slice(parameter.offset, parameter.offset + parameter.size)
        seen, wanted = weights[train, at].astype(float), problem.targets[train, at]
        factor = (seen * wanted).sum() / (np.square(seen).sum() or 1)
        outputs[:, at] = factor * weights[:, at]
    return Fitted(outputs, len(spec.parameters), None, ())
