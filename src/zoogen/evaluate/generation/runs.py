"""Judge a fitted run on its population: samples, baselines, starts, conditions, cost."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float32, Int

from zoogen.config import LandscapeConfig
from zoogen.data import Dataset
from zoogen.errors import ConfigError, ConflictError
from zoogen.evaluate.generation.conditioning import Conditioned, class_agreement, rank_agreement
from zoogen.evaluate.generation.cost import Cost, training_seconds
from zoogen.evaluate.generation.evaluator import Evaluator, exam_of
from zoogen.evaluate.generation.novelty import Curve
from zoogen.evaluate.generation.protocol import Beside, evaluate_samples
from zoogen.evaluate.generation.report import Report
from zoogen.evaluate.generation.starts import Start, compare_starts
from zoogen.generators import (
    GENERATORS,
    Effort,
    Fittable,
    Parted,
    Request,
    Run,
    parts_of,
    population_digest,
)
from zoogen.keys import identity_words
from zoogen.landscape import measure_cohort
from zoogen.population import use_all_cores
from zoogen.progress import Reporter, silent
from zoogen.zoo import Zoo

CURVE_COUNT = 100  # networks of each setting of a baseline
STARTS = 20  # networks that are trained on
SHOWN = ("train_loss", "hessian_trace", "hessian_top", "weight_norm")
BASELINES: dict[str, tuple[str, str, tuple[float, ...]]] = {
    # curve → generator, option, its values
    "average, aligned": ("average", "members", (2, 3, 5, 10)),
    "PCA-Gaussian": ("pca-gaussian", "components", (16, 64, 256)),
    "kernel density": ("kde", "components", (16, 64, 256)),
    "Gaussian per parameter": ("gaussian", "", (0,)),
    "permuted copies": ("permuted", "", (0,)),
}
"""Curves besides noise."""

Values = Float32[np.ndarray, "n p"]


def evaluate_run(
    run: Run, zoo: Zoo, samples: int = 501, seeds: int = 3, reporter: Reporter = silent
) -> Report:
    """Judge a run by the whole protocol, on unselected samples.

    Args:
        run: fitted on ``zoo``.
        zoo: complete; its held-out members are real, its training members may be copied.
        samples: networks to judge, over all seeds.
        seeds: of the samples.
        reporter: shows progress; silent by default.

    Raises:
        ConflictError: if the run was fitted on another population.
        ConfigError: if there are fewer samples than seeds.
        DataUnavailableError: if the data set can't be had.
    """
    if not 1 <= seeds <= samples:
        raise ConfigError(
            f"evaluation: found {samples} samples and {seeds} seeds, expected at least one sample "
            "for each seed"
        )
    use_all_cores()
    parts = _same_population(run, zoo)
    dataset = zoo.dataset
    evaluator = Evaluator(
        run.source.network, parts.train.values, parts.held_out.values, *exam_of(dataset)
    )
    with reporter("evaluate", 5, "parts") as done:
        of_seed = np.arange(samples) % seeds
        weights, seconds = _sampled(run, of_seed)
        done(1)
        curves = tuple(_curves(evaluator, run, parts))
        done(1)
        starts = _starts(evaluator, run, dataset, weights)
        done(1)
        conditions, landscape = _measured(run, parts, dataset, weights)
        done(1)
        cost = _cost(run, zoo, parts, seconds / samples)
        beside = Beside(curves, starts, conditions, cost, landscape)
        report = evaluate_samples(evaluator, weights, of_seed, run.config.name, beside=beside)
        done(1)
    note = "seeds are of the samples; the generator was fitted once"
    return replace(report, notes=(*report.notes, note))


def _same_population(run: Run, zoo: Zoo) -> Parted:
    parts = parts_of(run.config, zoo)
    if population_digest(parts) != run.facts["population_sha256"]:
        raise ConflictError(
            f"{run.path}: was fitted on zoo {run.facts['zoo']!r} with other members than those of "
            f"{zoo.path}; give the zoo that it was fitted on"
        )
    return parts


def _sampled(run: Run, of_seed: Int[np.ndarray, " n"]) -> tuple[Values, float]:
    """Samples of all seeds, and the seconds that they took once the program was compiled."""
    weights = np.empty((len(of_seed), run.source.network.spec.size), np.float32)
    counts = np.bincount(of_seed)
    run.sample(int(counts[0]), 0)
    begin = time.perf_counter()
    for seed, count in enumerate(counts.tolist()):
        weights[of_seed == seed] = run.sample(count, seed)
    return weights, time.perf_counter() - begin


# -------------------------------------------------------------------------------------- baselines
def _curves(evaluator: Evaluator, run: Run, parts: Parted) -> Iterator[Curve]:
    told = [
        Fittable(part, np.zeros((len(part), 0), np.float32))
        for part in (parts.train, parts.validation)
    ]
    open_ = np.zeros((CURVE_COUNT, 0), np.float32)
    for name, (kind, option, values) in BASELINES.items():
        generator, settings = GENERATORS[kind], {}
        members = round(generator.options.get("share", 1) * len(parts.train))
        most = min(members, parts.train.network.spec.size)
        for value in values:
            if option and not value < most:  # fewer members have fewer components
                continue
            options = {**generator.options, **({option: int(value)} if option else {})}
            state = generator.fit(told[0], told[1], options, Effort())
            request = Request(0, CURVE_COUNT, open_)
            settings[f"{value:g}"] = generator.sample(run.source, state, options, request)
        yield evaluator.curve(name, settings)


def _starts(evaluator: Evaluator, run: Run, dataset: Dataset, weights: Values) -> tuple[Start, ...]:
    usable = weights[evaluator.usable(weights)][:STARTS]
    if not len(usable):
        return ()
    starts = {"generated": usable, "nearest": evaluator.nearest_members(usable)}
    return compare_starts(run.zoo_config, dataset, starts, evaluator.wrong)


# -------------------------------------------------------------------------- conditions, landscape
def _measured(
    run: Run, parts: Parted, dataset: Dataset, weights: Values
) -> tuple[tuple[Conditioned, ...], dict[str, tuple[list[float], list[float]]]]:
    """What was asked for beside what came, and the landscape of generated beside real networks.

    Requests are the conditions of held-out members, so that they are possible together.
    """
    ours = _metrics(run, dataset, weights[:CURVE_COUNT])
    shown = [name for name in SHOWN if name in ours and name in parts.held_out.table]
    landscape = {
        name: (ours[name].tolist(), parts.held_out.table[name].dropna().tolist()) for name in shown
    }
    if not run.conditioning.quantities:
        return (), landscape
    rng = np.random.default_rng(0)
    rows = rng.integers(len(parts.held_out), size=2 * CURVE_COUNT)
    wanted = parts.held_out.table.iloc[rows]
    asked = run.sample_rows(run.conditioning.of_members(wanted), seed=0)
    found = _metrics(run, dataset, asked)
    conditions = [
        rank_agreement(name, wanted[name].to_numpy(float), found[name].to_numpy(float))
        if not quantity.classes
        else class_agreement(name, wanted[name].tolist(), found[name].tolist())
        for quantity in run.conditioning.quantities
        if (name := quantity.name) in found
    ]
    return tuple(conditions), landscape


def _metrics(run: Run, dataset: Dataset, weights: Values) -> pd.DataFrame:
    """Metrics of single networks, as a zoo would store them."""
    settings = run.zoo_config.landscape.model_dump(mode="json")
    groups = ("performance", "curvature", "weights")
    landscape = LandscapeConfig.model_validate({**settings, "metrics": groups})
    measured = measure_cohort(
        network=run.source.network,
        dataset=dataset,
        data=run.zoo_config.data,
        landscape=landscape,
        weights=np.asarray(weights)[:, None],
        pairs=np.zeros((0, 2), int),
        label_noise=np.zeros(len(weights), np.float32),
        member_words=np.stack([identity_words(f"sample {n}") for n in range(len(weights))]),
        on_share=lambda share: None,
    )
    columns = {
        name: values[:, -1]
        for name, values in measured.arrays.items()
        if measured.dims[name] == ("member", "snapshot")
    }
    return pd.DataFrame(columns)


# -------------------------------------------------------------------------------------------- cost
def _cost(run: Run, zoo: Zoo, parts: Parted, sample_seconds: float) -> Cost:
    each = {str(c): training_seconds(zoo, str(c)) for c in parts.train.table["cohort"].unique()}
    seconds = parts.train.table["cohort"].astype(str).map(each)
    total = float(seconds.sum(skipna=False))
    return Cost(
        fit_seconds=run.facts["fit"]["seconds"],
        sample_seconds=sample_seconds,
        population_seconds=total,
        fresh_seconds=total / len(seconds) if math.isfinite(total) else math.nan,
        device=jax.local_devices()[0].device_kind,
    )
