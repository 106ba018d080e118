"""Judge fitted runs on their population: samples, baselines, starts, conditions, cost, scaling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from zoogen.data import Dataset
from zoogen.errors import ConfigError, ConflictError
from zoogen.evaluate.generation.behaviour import wrong_predictions
from zoogen.evaluate.generation.cost import Cost, training_seconds
from zoogen.evaluate.generation.evaluator import NOISED, PREPARED, SIGMAS, Evaluator, exam_of
from zoogen.evaluate.generation.fits import Fits, Samples, Values, generators_of
from zoogen.evaluate.generation.judged import judge, scale_point
from zoogen.evaluate.generation.measured import (
    Setting,
    conditions_of,
    landscape_of,
    to_measure,
)
from zoogen.evaluate.generation.novelty import Curve
from zoogen.evaluate.generation.protocol import Beside, evaluate_samples
from zoogen.evaluate.generation.report import Report, Scaled
from zoogen.evaluate.generation.starts import EPOCHS, Start, compare_starts, drawn
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
from zoogen.population import use_all_cores
from zoogen.progress import Reporter, silent
from zoogen.zoo import Zoo

CURVE_COUNT = 100  # networks of each setting of a baseline
STARTS = 20  # networks that are trained on
BASELINES: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    # curve → generator, options of its settings
    "average, aligned": ("average", tuple({"members": k} for k in (2, 3, 5, 10))),
    "midpoint, raw": ("average", ({"members": 2, "aligned": False},)),
    "PCA-Gaussian": ("pca-gaussian", tuple({"components": k} for k in (16, 64, 256))),
    "kernel density": ("kde", tuple({"components": k} for k in (16, 64, 256))),
    "Gaussian per parameter": ("gaussian", ({},)),
    "permuted copies": ("permuted", ({},)),
    "fresh training": ("train", ({},)),
}
"""Curves besides noise."""


@dataclass(frozen=True)
class Ground:
    """A population as some runs saw it; what several need of it is computed once.

    Attributes:
        run: one of those.
        zoo: of the members.
        dataset: that they were trained on.
        parts: of the population.
        reporter: shows progress of what is computed once.
    """

    run: Run
    zoo: Zoo
    dataset: Dataset
    parts: Parted
    reporter: Reporter = silent

    @cached_property
    def evaluator(self) -> Evaluator:
        """Judges samples."""
        train, held_out = self.parts.train.values, self.parts.held_out.values
        found = Evaluator(self.run.source.network, train, held_out, *exam_of(self.dataset))
        name = f"real networks, {len(train)} training runs"
        with self.reporter(name, len(PREPARED), "parts") as done:
            found.prepare(done)
        return found

    @cached_property
    def baselines(self) -> tuple[Curve, ...]:
        """Of training members with noise, and of all others."""
        evaluator, settings = self.evaluator, _settings(self.parts)
        count = NOISED * len(SIGMAS) + CURVE_COUNT * sum(map(len, settings.values()))
        name = f"baselines, {evaluator.members} training runs"
        with self.reporter(name, count, "networks") as done:
            noise = evaluator.noise_curve(done=done)
            return noise, *_curves(evaluator, self.run, self.parts, settings, noise, done)


def evaluate_runs(
    runs: Sequence[Run],
    zoo: Zoo,
    samples: int = 501,
    seeds: int = 3,
    reporter: Reporter = silent,
    others: Sequence[Dataset] = (),
    options: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Report, ...]:
    """Judge runs by the whole protocol, on unselected samples.

    Runs that differ in the seed of the fit alone are judged together as one generator. Of runs that
    differ in the number of their training members, too, the one that saw most is judged by all, and
    its report tells what the others reach.

    Args:
        runs: fitted on ``zoo``, with the same held-out members.
        zoo: complete; its held-out members are real, its training members may be copied.
        samples: networks of each generator to judge, over all seeds.
        seeds: of the samples, where there is one fit.
        reporter: shows progress; silent by default.
        others: data sets that no member saw, on which samples are trained, too; generators that
            look at images are told of them.
        options: of sampling, in place of those of the runs, such as ``guidance``; the report says
            so.

    Returns:
        A report a generator, in the order of the runs.

    Raises:
        ConflictError: if a run was fitted on another population.
        ConfigError: if there are fewer samples than seeds, two runs are the same fit, runs have
            different held-out members, an option is none of sampling, or another data set has
            other images or classes.
        DataUnavailableError: if the data set can't be had.
    """
    generators = generators_of(runs, options)
    for run in runs:
        run.sampling(options)
        for other in others:
            run.told(other)
    most = max([seeds, *(len(fits.runs) for points in generators for fits in points)])
    if not 1 <= seeds <= most <= samples:
        raise ConfigError(
            f"evaluation: found {samples} samples and {most} seeds, expected at least one sample "
            "for each seed"
        )
    use_all_cores()
    grounds = _grounds(runs, zoo, reporter)
    return tuple(
        _report(points, grounds, samples, seeds, others, reporter) for points in generators
    )


def _grounds(runs: Sequence[Run], zoo: Zoo, reporter: Reporter) -> Mapping[str, Ground]:
    """Population digest → what runs on it are judged by."""
    found: dict[str, Ground] = {}
    for run in runs:
        if run.facts["population_sha256"] not in found:
            parts = _same_population(run, zoo)
            found[run.facts["population_sha256"]] = Ground(run, zoo, zoo.dataset, parts, reporter)
    first, *others = found.values()
    for other in others:
        if not first.parts.held_out.table.index.equals(other.parts.held_out.table.index):
            raise ConfigError(
                f"evaluation: {first.run.path} and {other.run.path} have different held-out "
                "members; give runs whose [population] differs in members alone"
            )
    return found


def _ground_of(fits: Fits, grounds: Mapping[str, Ground]) -> Ground:
    return grounds[fits.first.facts["population_sha256"]]


def _same_population(run: Run, zoo: Zoo) -> Parted:
    parts = parts_of(run.config, zoo) if run.facts["zoo"] == zoo.name else None
    if parts is None or population_digest(parts) != run.facts["population_sha256"]:
        raise ConflictError(
            f"{run.path}: was fitted on zoo {run.facts['zoo']!r} with other members than those of "
            f"{zoo.path}; give the zoo that it was fitted on"
        )
    return parts


def _report(
    points: tuple[Fits, ...],
    grounds: Mapping[str, Ground],
    samples: int,
    seeds: int,
    others: Sequence[Dataset],
    reporter: Reporter,
) -> Report:
    """On the fits with most training members, and on those with fewer."""
    scaling = [
        _scaled(fits, _ground_of(fits, grounds), samples, seeds, reporter) for fits in points[:-1]
    ]
    fits = points[-1]
    ground = _ground_of(fits, grounds)
    found = _sampled(fits, samples, seeds, reporter)
    noise, *curves = ground.baselines
    begun = [(ground.dataset, drawn(found.weights, STARTS))]
    begun += [(other, fits.told(other, STARTS)) for other in others]
    starts = [start for each in begun for start in _starts(ground, *each, fits.name)]
    spoilt = [note for each in begun for note in _not_finite(ground, *each)]
    count = to_measure(fits, ground.parts.held_out, samples)
    with reporter(f"metrics of {fits.name}", count, "networks") as done:
        setting = Setting(fits.first, ground.zoo, ground.dataset, done)
        conditions = conditions_of(setting, ground.parts, fits)
        landscape = landscape_of(setting, ground.parts.held_out, found.weights)
    beside = Beside(
        curves=tuple(curves),
        starts=tuple(starts),
        conditions=conditions,
        cost=_cost(fits, ground, found.seconds / samples),
        landscape=landscape,
        fits=len(fits.runs),
        notes=(*fits.notes, *spoilt),
    )
    with reporter(f"judgement of {fits.title}", samples, "networks") as done:
        report = evaluate_samples(
            ground.evaluator, found.weights, found.of_seed, fits.name, "", noise, beside
        )
        done(samples)
    own = Scaled(
        report.members, report.copying.zu, report.distinct, report.novelty.nominal, report.by_seed
    )
    return replace(report, scaling=(*scaling, own)) if scaling else report


def _sampled(fits: Fits, samples: int, seeds: int, reporter: Reporter) -> Samples:
    with reporter(f"samples of {fits.title}", samples, "networks") as done:
        return fits.sampled(samples, seeds, done)


def _scaled(fits: Fits, ground: Ground, samples: int, seeds: int, reporter: Reporter) -> Scaled:
    found = _sampled(fits, samples, seeds, reporter)
    evaluator = ground.evaluator
    with reporter(f"judgement of {fits.title}", samples, "networks") as done:
        point = scale_point(evaluator, judge(evaluator, found.weights, found.of_seed, fits.name))
        done(samples)
    return point


# -------------------------------------------------------------------------------------- baselines
Choices = Mapping[str, Sequence[Mapping[str, Any]]]


def _settings(parts: Parted) -> Choices:
    """Curve → options of those settings that there are members enough for."""
    found = {}
    for name, (kind, choices) in BASELINES.items():
        kept = round(GENERATORS[kind].options.get("share", 1) * len(parts.train))
        most = min(kept, parts.train.network.spec.size)
        found[name] = [choice for choice in choices if (_varied(choice) or 0) < most]
    return found


def _varied(choice: Mapping[str, Any]) -> int | None:
    """What tells the settings of a baseline apart, if anything does."""
    found: int | None = choice.get("members", choice.get("components"))
    return found


def _curves(
    evaluator: Evaluator,
    run: Run,
    parts: Parted,
    settings: Choices,
    noise: Curve,
    done: Callable[[float], None],
) -> Iterator[Curve]:
    """Those of averages begin with the members, so that a gain over them is defined for copies."""
    told = [
        Fittable(part, np.zeros((len(part), 0), np.float32))
        for part in (parts.train, parts.validation)
    ]
    request = Request(0, CURVE_COUNT, np.zeros((CURVE_COUNT, 0), np.float32))
    members = next(replace(point, setting="1") for point in noise.points if point.setting == "0")
    for name, (kind, _) in BASELINES.items():
        generator, points = GENERATORS[kind], [members] if kind == "average" else []
        for choice in settings[name]:
            options = {**generator.options, **choice}
            state = generator.fit(told[0], told[1], options, Effort())
            made = generator.sample(run.source, state, options, request)
            points.append(evaluator.point(made, str(_varied(choice) or 0)))
            done(CURVE_COUNT)
        yield Curve(name, tuple(points))


def _starts(ground: Ground, dataset: Dataset, weights: Values, name: str) -> tuple[Start, ...]:
    """Training on a data set from samples, and from the members nearest to them."""
    starts = {"generated": weights, "nearest": ground.evaluator.nearest_members(weights)}
    exam, _ = exam_of(dataset)

    def wrong(values: Values) -> Bool[np.ndarray, "n b"]:
        return wrong_predictions(ground.evaluator.network, values, *exam)

    with ground.reporter(f"starts from {name} on {dataset.name}", EPOCHS[-1], "epochs") as done:
        return compare_starts(ground.run.zoo_config, dataset, starts, wrong, done=done)


def _not_finite(ground: Ground, dataset: Dataset, weights: Values) -> list[str]:
    """What is said of samples that are trained on and are no networks."""
    count = int((~ground.evaluator.usable(weights)).sum())
    return [
        f"{count} of {len(weights)} samples that are trained on {dataset.name} are not finite: "
        "they count as accuracy 0 at first, beside a random training member each"
    ] * bool(count)


# -------------------------------------------------------------------------------------------- cost
def _cost(fits: Fits, ground: Ground, sample_seconds: float) -> Cost:
    table = ground.parts.train.table
    each = {str(c): training_seconds(ground.zoo, str(c)) for c in table["cohort"].unique()}
    total = float(table["cohort"].astype(str).map(each).sum(skipna=False))
    return Cost(
        fit_seconds=fits.seconds,
        sample_seconds=sample_seconds,
        population_seconds=total,
        fresh_seconds=total / len(table) if math.isfinite(total) else math.nan,
        device=jax.local_devices()[0].device_kind,
    )
