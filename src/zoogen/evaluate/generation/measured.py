"""What is measured on generated networks: their landscape, and whether they are what was asked for.

Three ways, from direct to indirect. Metrics of single networks are measured as a zoo measures its
members. A phase belongs to a cell of networks: some are sampled with one request and labelled
together, by the rule of the zoo (``phased``). What training was like can't be measured on a network
that was never trained: it is read from the weights by a model that learned to on the training
members.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from threadpoolctl import threadpool_limits

from zoogen.config import LandscapeConfig
from zoogen.data import Dataset
from zoogen.evaluate.generation.conditioning import Conditioned, class_agreement, rank_agreement
from zoogen.evaluate.generation.fits import Fits, Values
from zoogen.evaluate.generation.phased import (
    CELL_SIZE,
    PHASE,
    Cells,
    cell_agreement,
    labelled,
    pairs_of,
    real_cells,
    requests,
)
from zoogen.generators import Parted, Population, Run
from zoogen.generators.conditions import Quantity
from zoogen.keys import identity_words
from zoogen.landscape import Measurement, measure_cohort
from zoogen.zoo import Zoo

MEASURED = 100  # networks whose landscape is measured
ASKED = 200  # networks that are asked for what held-out members are
SHOWN = ("train_loss", "hessian_trace", "hessian_top", "weight_norm")
SINGLE = ("performance", "curvature", "weights")  # groups of metrics of one network
TREES = 200

Noise = Float32[np.ndarray, " n"]


class Setting(NamedTuple):
    """Where networks are measured; ``done`` is called with the number of them just measured."""

    run: Run
    zoo: Zoo
    dataset: Dataset
    done: Callable[[float], None] = lambda networks: None


def to_measure(fits: Fits, held_out: Population, samples: int) -> int:
    """Networks that :func:`landscape_of` and :func:`conditions_of` measure, of so many samples."""
    asked = fits.first.conditioning.quantities
    wanted = [name for q in asked if q.name == PHASE for name in requests(q.classes)]
    real = real_cells(held_out.table, wanted)[0] if wanted else []
    cells = len(wanted) + len(real)
    return min(MEASURED, samples) + (ASKED if asked else 0) + CELL_SIZE * cells


def landscape_of(
    setting: Setting, held_out: Population, weights: Values
) -> dict[str, tuple[list[float], list[float]]]:
    """Metric → values of the first ``MEASURED`` generated networks, and of held-out members."""
    first = weights[:MEASURED]
    ours = _metrics(setting, first, _common_noise(held_out, len(first)))
    shown = [name for name in SHOWN if name in ours and name in held_out.table]
    return {name: (ours[name].tolist(), held_out.table[name].dropna().tolist()) for name in shown}


def conditions_of(setting: Setting, parts: Parted, fits: Fits) -> tuple[Conditioned, ...]:
    """For every condition of a generator, what was asked for beside what came.

    Requests are the conditions of held-out members, so that they are possible together; phases are
    asked for alone.
    """
    conditioning = fits.first.conditioning
    if not conditioning.quantities:
        return ()
    rows = np.random.default_rng(0).integers(len(parts.held_out), size=ASKED)
    wanted = parts.held_out.table.iloc[rows]
    asked = fits.asked(conditioning.of_members(wanted))
    found = _metrics(setting, asked, wanted["data.label_noise"].to_numpy(np.float32))
    return tuple(
        _conditioned(quantity, setting, parts, fits, wanted, asked, found)
        for quantity in conditioning.quantities
    )


def _conditioned(
    quantity: Quantity,
    setting: Setting,
    parts: Parted,
    fits: Fits,
    wanted: pd.DataFrame,
    asked: Values,
    found: pd.DataFrame,
) -> Conditioned:
    name = quantity.name
    if name == PHASE:
        return _phases(setting, parts, fits, quantity)
    if name in found:
        requested = wanted[name].to_numpy(float)
        return rank_agreement(name, requested, found[name].to_numpy(float), how="measured")
    return _read(quantity, parts, wanted, asked)


def _common_noise(members: Population, count: int) -> Noise:
    """Label noise of networks that were not asked for any: that of the members where all have the
    same, else none."""
    found = members.table["data.label_noise"].unique()
    return np.full(count, found[0] if len(found) == 1 else 0, np.float32)


def _metrics(setting: Setting, weights: Values, noise: Noise) -> pd.DataFrame:
    """Metrics of single networks, as a zoo would store them."""
    measured = _measure(setting, weights, noise, SINGLE, np.zeros((0, 2), int))
    columns = {
        name: values[:, -1]
        for name, values in measured.arrays.items()
        if measured.dims[name] == ("member", "snapshot")
    }
    return pd.DataFrame(columns)


def _measure(
    setting: Setting, weights: Values, noise: Noise, groups: tuple[str, ...], pairs: np.ndarray
) -> Measurement:
    """Metrics of training on the labels that members with this noise saw."""
    config = setting.run.zoo_config
    landscape = LandscapeConfig.model_validate(
        {**config.landscape.model_dump(mode="json"), "metrics": groups}
    )
    return measure_cohort(
        network=setting.run.source.network,
        dataset=setting.dataset,
        data=config.data,
        landscape=landscape,
        weights=np.asarray(weights)[:, None],
        pairs=pairs,
        label_noise=np.nan_to_num(noise),
        member_words=np.stack([identity_words(f"sample {n}") for n in range(len(weights))]),
        on_share=lambda share: setting.done(share * len(weights)),
    )


# ------------------------------------------------------------------------------------------ phases
def _phases(setting: Setting, parts: Parted, fits: Fits, quantity: Quantity) -> Conditioned:
    """Cells of networks that were asked for one phase, and of held-out members that have it."""
    wanted = requests(quantity.classes)
    if not wanted:  # training members are at boundaries, all of them
        return class_agreement(PHASE, [], [])
    names, members = real_cells(parts.held_out.table, wanted)
    rows = [fits.first.conditioning.of_wish({PHASE: name}, CELL_SIZE) for name in wanted]
    noise = _common_noise(parts.train, 1)[0]
    asked = _cells(setting, wanted, fits.asked(np.concatenate(rows)), noise)
    held_out = parts.held_out.values[members.ravel()]
    real = _cells(setting, names, held_out, noise) if names else asked.none
    return cell_agreement(asked, real)


def _cells(setting: Setting, names: Sequence[str], weights: Values, noise: np.float32) -> Cells:
    """Cells of networks, one after another, with the phase that each is wanted in."""
    groups = ("performance", "connectivity", "similarity")
    everywhere = np.full(len(weights), noise, np.float32)
    found = _measure(setting, weights, everywhere, groups, pairs_of(len(names)))
    return labelled(names, found.arrays, setting.zoo)


# ------------------------------------------------------------------------------- what was training
def _read(quantity: Quantity, parts: Parted, wanted: pd.DataFrame, asked: Values) -> Conditioned:
    """Read from statistics of the weights by trees; on held-out members stands how well they do."""
    name, model = quantity.name, ExtraTreesClassifier if quantity.classes else ExtraTreesRegressor
    reader = model(TREES, random_state=0, min_samples_leaf=2)
    targets = [_targets(quantity, part.table[name]) for part in (parts.train, parts.held_out)]
    known = pd.notna(targets[0])
    with threadpool_limits(1):
        reader.fit(_statistics(parts.train)[known], targets[0][known])
        read_held_out = reader.predict(_statistics(parts.held_out))
        usable = np.isfinite(asked).all(axis=1)
        place = Population(parts.train.network, np.where(usable[:, None], asked, 0), wanted)
        achieved = reader.predict(_statistics(place))
    how = "read from the weights by trees"
    if quantity.classes:
        ceiling = float((read_held_out == targets[1]).mean())
        kept = [value if fine else None for value, fine in zip(achieved, usable, strict=True)]
        return class_agreement(name, wanted[name].tolist(), kept, how=how, ceiling=ceiling)
    requested = _targets(quantity, wanted[name])
    ceiling = float(spearmanr(targets[1], read_held_out, nan_policy="omit").statistic)
    achieved = np.where(usable, achieved, np.nan)
    return rank_agreement(name, requested, achieved, how=how, ceiling=ceiling)


def _targets(quantity: Quantity, column: pd.Series) -> np.ndarray:
    if quantity.classes:
        return column.to_numpy(object)
    values = column.to_numpy(float)
    return np.log10(values) if quantity.logarithmic else values


def _statistics(part: Population) -> Float[np.ndarray, "n f"]:
    """Mean, deviation and quantiles of every tensor; no order of units matters."""
    features = []
    for tensor in part.network.spec.unflatten(part.values).values():
        flat = np.asarray(tensor, np.float64).reshape(len(part), -1)
        features += [flat.mean(axis=1), flat.std(axis=1), np.linalg.norm(flat, axis=1)]
        features += list(np.quantile(flat, (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0), axis=1))
    return np.clip(np.stack(features, axis=1), -1e6, 1e6)
