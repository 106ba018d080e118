"""The report on one generator: numbers with their meaning, to JSON and back without loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from pydantic import ConfigDict, TypeAdapter, ValidationError

from zoogen.errors import ConfigError
from zoogen.evaluate.generation.conditioning import Conditioned
from zoogen.evaluate.generation.copying import Copying
from zoogen.evaluate.generation.cost import Cost
from zoogen.evaluate.generation.distinct import Distinct
from zoogen.evaluate.generation.diversity import Diversity
from zoogen.evaluate.generation.novelty import Curve, Gain, Point, Yield
from zoogen.evaluate.generation.starts import Start


@dataclass(frozen=True)
class Spread:
    """Test accuracies of networks: mean, standard deviation, quantiles and the best."""

    mean: float
    std: float
    q10: float
    q50: float
    q90: float
    best: float


def spread_of(values: Float[np.ndarray, " n"]) -> Spread:
    """What accuracies are like.

    Example:
        >>> spread_of(np.array([0.0, 1.0])).q50
        0.5
    """
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9]).tolist()
    return Spread(float(values.mean()), float(values.std()), low, middle, high, float(values.max()))


@dataclass(frozen=True)
class SeedResults:
    """What the samples of one seed of the generator reach, by themselves."""

    seed: int
    samples: int
    accuracy: float
    zu: float
    distance_ratio: float
    overlap: float
    novel_yield: float
    distinct_yield: float


@dataclass(frozen=True)
class Scaled:
    """What a generator reaches that was fitted on so many runs, all judged by the same held-out
    members.

    Attributes:
        members: training runs.
        zu: of all samples, against these training runs.
        distinct: yield of all samples that differ from each other, and that of held-out members.
        nominal: yield of held-out members against these training runs.
        by_seed: the main figures for each seed.
    """

    members: int
    zu: float
    distinct: Distinct
    nominal: float
    by_seed: tuple[SeedResults, ...]


def over_seeds(results: Sequence[SeedResults], quantity: str) -> tuple[float, float]:
    """Mean and standard deviation of a quantity of :class:`SeedResults` over seeds."""
    values = np.array([getattr(result, quantity) for result in results])
    deviation = values.std(ddof=1) if len(values) > 1 else np.nan
    return float(values.mean()), float(deviation)


@dataclass(frozen=True)
class Ensembles:
    """Ensembles of networks from one source.

    Attributes:
        source: of the networks.
        alone: mean accuracy of single ones.
        sizes: networks in an ensemble.
        gains: of ensembles of each size, over the mean accuracy of their networks.
        gain_ratios: gains ÷ those of ensembles of as many held-out members; NaN where these gain
            less than one test image, so that there is nothing to compare with.
        accuracies: of the ensembles.
        accuracy_ratios: accuracies ÷ those of ensembles of as many held-out members.
    """

    source: str
    alone: float
    sizes: tuple[int, ...]
    gains: tuple[float, ...]
    gain_ratios: tuple[float, ...]
    accuracies: tuple[float, ...]
    accuracy_ratios: tuple[float, ...]


@dataclass(frozen=True)
class Landscape:
    """A metric of the landscape around generated and around real networks."""

    metric: str
    generated: tuple[float, ...]
    real: tuple[float, ...]


@dataclass(frozen=True)
class Networks:
    """One number a network: accuracy, distance to the nearest training member ÷ the held-out
    median, largest overlap of wrong predictions with a training member; NaN where not finite."""

    accuracy: tuple[float, ...]
    distance: tuple[float, ...]
    overlap: tuple[float, ...]


@dataclass(frozen=True)
class Report:
    """The whole protocol for one generator.

    Attributes:
        name: of the generator.
        population: digits that tell apart by which members and test images it was judged; the
            gates and held-out figures of two reports are the same where these are.
        members: training runs that it saw.
        fits: of the generator, with other seeds.
        samples: that were judged, of all fits.
        invalid: of these, with weights or outputs that are not finite.
        selection: how samples were chosen; empty for unselected ones.
        notes: what falls short of the protocol.
        view: images on which overlaps are taken, and ``leak``, the share of near copies (training
            members with noise 0.05) that pass the gate of overlaps there.
        accuracy, real_accuracy: of samples and of held-out members.
        recalibrated: accuracy after running statistics of norms are computed anew on training
            images; ``None`` for networks without them.
        copying, diversity, novelty, distinct: see there.
        plain_novelty: yield with overlaps on the test images as they are; ``None`` where the view
            is just these.
        collapsed: whether samples repeat each other, which ``novelty`` does not see; a note says
            how.
        by_seed: the main figures for each generator seed.
        scaling: the same from few to many training runs; empty where there is one number of them.
        place: of the generator in the plane of accuracy and novelty.
        curves, gains: of baselines, and what is gained over them at equal novelty.
        real_gains: what held-out members gain over them: all that there is to gain.
        ensembles: of samples, of held-out members, of noised copies of one training member.
        starts, conditions, cost, landscape: empty where they were not measured.
        generated, held_out: one number a network, for pictures.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_inf_nan="strings")

    name: str
    population: str
    members: int
    fits: int
    samples: int
    invalid: int
    selection: str
    notes: tuple[str, ...]
    view: str
    leak: float
    accuracy: Spread
    real_accuracy: Spread
    recalibrated: Spread | None
    copying: Copying
    diversity: Diversity
    novelty: Yield
    plain_novelty: Yield | None
    distinct: Distinct
    collapsed: bool
    by_seed: tuple[SeedResults, ...]
    scaling: tuple[Scaled, ...]
    place: Point
    curves: tuple[Curve, ...]
    gains: tuple[Gain, ...]
    real_gains: tuple[Gain, ...]
    ensembles: tuple[Ensembles, ...]
    starts: tuple[Start, ...]
    conditions: tuple[Conditioned, ...]
    cost: Cost | None
    landscape: tuple[Landscape, ...]
    generated: Networks
    held_out: Networks

    def over_seeds(self, quantity: str) -> tuple[float, float]:
        """Mean and standard deviation of a quantity of :class:`SeedResults` over seeds."""
        return over_seeds(self.by_seed, quantity)


def by_population(reports: Sequence[Report]) -> list[list[Report]]:
    """Reports that share gates and held-out figures, together; in the order of the first ones."""
    groups: dict[str, list[Report]] = {}
    for report in reports:
        groups.setdefault(report.population, []).append(report)
    return list(groups.values())


def to_json(reports: Sequence[Report]) -> str:
    """Reports as JSON text; numbers that are not finite are the strings ``NaN``, ``Infinity``."""
    return _adapter().dump_json(tuple(reports), indent=1).decode() + "\n"


def from_json(text: str | bytes) -> tuple[Report, ...]:
    """Reports from what :func:`to_json` wrote.

    Raises:
        ConfigError: if the text holds anything else.
    """
    try:
        return _adapter().validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "text"
        raise ConfigError(
            f"reports on generators: {where}: {first['msg']}; write the file anew with "
            "`zoogen evaluate-generator`"
        ) from None


def _adapter() -> TypeAdapter[tuple[Report, ...]]:
    return TypeAdapter(tuple[Report, ...])
