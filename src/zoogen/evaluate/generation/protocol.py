"""The protocol: from the weights that a generator made to the report on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

from zoogen.evaluate.generation.conditioning import Conditioned
from zoogen.evaluate.generation.copying import copying, relative_distances
from zoogen.evaluate.generation.cost import Cost
from zoogen.evaluate.generation.diversity import diversity
from zoogen.evaluate.generation.ensembles import SIZES, Ensembled
from zoogen.evaluate.generation.evaluator import Evaluator
from zoogen.evaluate.generation.judged import Judged, by_seed, distinct_yield, judge
from zoogen.evaluate.generation.neighbours import Nearest
from zoogen.evaluate.generation.novelty import (
    Curve,
    Point,
    Yield,
    gain_at_equal_novelty,
    novelty_yield,
)
from zoogen.evaluate.generation.report import (
    Ensembles,
    Landscape,
    Networks,
    Report,
    Spread,
    spread_of,
)
from zoogen.evaluate.generation.starts import Start

ENOUGH_SAMPLES, ENOUGH_SEEDS = 500, 3
COLLAPSED = 0.5  # of the distance of real pairs, of the samples that pass, or of what is real


@dataclass(frozen=True)
class Beside:
    """What is reported beside the samples themselves; what is left out is left out of the report.

    Attributes:
        curves: of baselines, besides noise, from ``Evaluator.curve``.
        starts: from :func:`~zoogen.evaluate.generation.starts.compare_starts`.
        conditions: from ``rank_agreement`` and ``class_agreement``.
        cost: of generating, and of training fresh networks.
        landscape: metric → values of generated networks and of real ones.
        fits: of the generator.
        notes: of what falls short, beside those that are found here.
    """

    curves: tuple[Curve, ...] = ()
    starts: tuple[Start, ...] = ()
    conditions: tuple[Conditioned, ...] = ()
    cost: Cost | None = None
    landscape: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    fits: int = 1
    notes: tuple[str, ...] = ()


def evaluate_samples(
    evaluator: Evaluator,
    weights: Float[np.ndarray, "n p"],
    seeds: Int[np.ndarray, " n"] | None = None,
    name: str = "generator",
    selection: str = "",
    noise: Curve | None = None,
    beside: Beside = Beside(),
) -> Report:
    """Judge the samples of a generator by the whole protocol.

    Networks whose weights or outputs are not finite are counted: they have accuracy 0, pass no
    gate, and take no part in distances.

    Args:
        evaluator: holds training and held-out members and the test images.
        weights: all samples that were made, not the best of them.
        seeds: of the generator, one per sample; one seed for all by default.
        name: of the generator.
        selection: how samples were chosen, if they were, and on which data.
        noise: from ``Evaluator.noise_curve``, where samples of several generators are judged; it is
            computed without it.
        beside: further parts of the report.

    Returns:
        The report. Its ``notes`` say what falls short of the protocol.

    Raises:
        ConfigError: see :func:`~zoogen.evaluate.generation.judged.judge`.
    """
    judged = judge(evaluator, weights, seeds, name)
    noise = evaluator.noise_curve() if noise is None else noise
    report = _judgement(evaluator, judged, name, (noise, *beside.curves))
    collapse = _collapse(report)
    return replace(
        report,
        fits=beside.fits,
        selection=selection,
        notes=(*collapse, *_notes(report, selection), *beside.notes),
        collapsed=bool(collapse),
        ensembles=_ensembles(evaluator, judged.weights[judged.usable], noise, judged.accuracy),
        starts=beside.starts,
        conditions=beside.conditions,
        cost=beside.cost,
        landscape=tuple(
            Landscape(metric, tuple(map(float, ours)), tuple(map(float, others)))
            for metric, (ours, others) in beside.landscape.items()
        ),
    )


def _judgement(
    evaluator: Evaluator, judged: Judged, name: str, curves: tuple[Curve, ...]
) -> Report:
    """What networks themselves tell; all that stands beside them is empty."""
    accuracy, found, real = judged.accuracy, judged.finite, evaluator.real_neighbours
    place = _point(name, accuracy, found, real)
    real_place = _point("held-out members", evaluator.real_accuracies, real, real)
    return Report(
        name=name,
        population=evaluator.population,
        members=evaluator.members,
        fits=1,
        samples=len(accuracy),
        invalid=int((~judged.usable).sum()),
        selection="",
        notes=(),
        view=evaluator.view.words,
        leak=evaluator.view.leak,
        accuracy=spread_of(accuracy),
        real_accuracy=spread_of(evaluator.real_accuracies),
        recalibrated=_recalibrated(evaluator, judged.weights),
        copying=copying(found, real),
        diversity=diversity(evaluator.network.spec, judged.known, evaluator.real),
        novelty=novelty_yield(accuracy, judged.found, evaluator.real_accuracies, real),
        plain_novelty=_plain(evaluator, judged),
        distinct=distinct_yield(evaluator, judged),
        collapsed=False,
        by_seed=by_seed(evaluator, judged),
        scaling=(),
        place=place,
        curves=curves,
        gains=tuple(gain_at_equal_novelty(place, curve) for curve in curves),
        real_gains=tuple(gain_at_equal_novelty(real_place, curve) for curve in curves),
        ensembles=(),
        starts=(),
        conditions=(),
        cost=None,
        landscape=(),
        generated=_networks(accuracy, judged.found, real),
        held_out=_networks(evaluator.real_accuracies, real, real),
    )


def _plain(evaluator: Evaluator, judged: Judged) -> Yield | None:
    """Yield with overlaps on the test images as they are, where the gate takes others."""
    if not evaluator.view.level:
        return None
    found, real = (n._replace(overlap=n.plain) for n in (judged.found, evaluator.real_neighbours))
    return novelty_yield(judged.accuracy, found, evaluator.real_accuracies, real)


def _collapse(report: Report) -> tuple[str, ...]:
    """Why samples are repetitions of each other; nothing where they are not."""
    ratio, passed = report.diversity.distance_ratio, report.novelty.all
    found = report.distinct
    if ratio < COLLAPSED:
        return (
            f"collapsed: pairs of samples are {ratio:.2f} times as far apart as real ones; yield "
            "does not see it, distinct yield does",
        )
    if found.share < COLLAPSED * passed:
        return (
            f"repeats itself: {100 * passed:.1f} % of samples pass the gate, but only "
            f"{100 * found.share:.1f} % differ from each other, too",
        )
    if found.apart < COLLAPSED * found.real_apart:
        return (
            f"repeats itself: {100 * found.apart:.1f} % of all samples, good or not, differ from "
            f"each other; of held-out members {100 * found.real_apart:.1f} % do",
        )
    return ()


def _notes(report: Report, selection: str) -> tuple[str, ...]:
    """What falls short of the protocol."""
    notes, seeds = [], len(report.by_seed)
    if report.samples < ENOUGH_SAMPLES:
        notes.append(f"{report.samples} samples; the protocol asks for at least {ENOUGH_SAMPLES}")
    if seeds < ENOUGH_SEEDS:
        notes.append(f"{seeds} generator seed(s); the protocol asks for at least {ENOUGH_SEEDS}")
    if report.invalid:
        notes.append(f"{report.invalid} samples are not finite; they count as accuracy 0")
    if selection:
        notes.append(f"samples were selected: {selection}")
    return tuple(notes)


def _recalibrated(evaluator: Evaluator, weights: np.ndarray) -> Spread | None:
    if not evaluator.network.spec.statistics:
        return None
    return spread_of(evaluator.recalibrated_accuracies(weights))


def _point(setting: str, accuracy: np.ndarray, found: Nearest, real: Nearest) -> Point:
    empty = not found.overlap.size
    return Point(
        setting,
        float(accuracy.mean()),
        float("nan") if empty else float(found.overlap.mean()),
        float("nan") if empty else float(np.median(relative_distances(found, real))),
    )


def _networks(accuracy: np.ndarray, found: Nearest, real: Nearest) -> Networks:
    distance = relative_distances(found, real)
    return Networks(*(tuple(map(float, each)) for each in (accuracy, distance, found.overlap)))


def _ensembles(
    evaluator: Evaluator, values: np.ndarray, noise: Curve, accuracy: np.ndarray
) -> tuple[Ensembles, ...]:
    """Of generated networks, real ones, and noised copies of one that are about as accurate."""
    mixed = values[np.random.default_rng(0).permutation(len(values))]  # of all seeds
    target = float(accuracy.mean())
    noisy = [point for point in noise.points if float(point.setting) > 0] or list(noise.points)
    sigma = float(min(noisy, key=lambda point: abs(point.accuracy - target)).setting)
    copies = evaluator.noisy_members(sigma, 2 * max(SIZES), member=0)
    every = (
        ("generated", evaluator.accuracies(mixed), evaluator.ensembled(mixed)),
        ("real", evaluator.real_accuracies, evaluator.real_ensembled),
        (
            f"one net with noise {sigma:g}",
            evaluator.accuracies(copies),
            evaluator.ensembled(copies),
        ),
    )
    return tuple(_ensembles_of(evaluator, *each) for each in every)


def _ensembles_of(
    evaluator: Evaluator, source: str, alone: np.ndarray, found: Mapping[int, Ensembled]
) -> Ensembles:
    pairs = list(zip(found.values(), evaluator.real_ensembled.values(), strict=True))
    return Ensembles(
        source=source,
        alone=float(alone.mean()) if len(alone) else math.nan,
        sizes=tuple(found),
        gains=tuple(ours.gain for ours, _ in pairs),
        gain_ratios=tuple(
            ours.gain / real.gain if real.gain >= evaluator.one_image else math.nan
            for ours, real in pairs
        ),
        accuracies=tuple(ours.accuracy for ours, _ in pairs),
        accuracy_ratios=tuple(ours.accuracy / real.accuracy for ours, real in pairs),
    )
