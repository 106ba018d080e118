"""Runs put in order: fits of one generator, and generators that saw few and many training runs."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from zoogen.data import Dataset
from zoogen.errors import ConfigError
from zoogen.generators import Run
from zoogen.generators.path import METHODS
from zoogen.generators.sight import EXAMPLES

Values = Float32[np.ndarray, "n p"]
WARM_UP = 64  # networks that are sampled before the time is taken, to compile
TESTED = re.compile(r"\btest_\w+")  # columns that are taken on test images


class Samples(NamedTuple):
    """Networks of all seeds of a generator.

    Attributes:
        weights: one row a network.
        of_seed: seed of each: of its fit where there are several, else of the sample.
        seconds: that sampling took once the program was compiled.
    """

    weights: Values
    of_seed: Int[np.ndarray, " n"]
    seconds: float


class Fits(NamedTuple):
    """Runs that differ in the seed of the fit alone: one generator, fitted several times.

    Attributes:
        runs: its fits.
        options: of sampling, in place of those of the runs.
        place: where the first run lies, if another generator has the same name.
    """

    runs: tuple[Run, ...]
    options: Mapping[str, Any] = MappingProxyType({})
    place: str = ""

    @property
    def first(self) -> Run:
        """A run that stands for all where the seed does not matter."""
        return self.runs[0]

    @property
    def name(self) -> str:
        """Of the generator: what the names of its runs begin with."""
        first, *others = (run.config.name for run in self.runs)
        while others and not all(name.startswith(first) for name in others):
            first = first[:-1]
        name = first.rstrip("-_. ") or self.first.config.name
        return f"{name} in {self.place}" if self.place else name

    @property
    def members(self) -> int:
        """Training runs that it saw."""
        return int(self.first.facts["members"]["train"])

    @property
    def title(self) -> str:
        """What tells it apart from the same generator with fewer or more of them."""
        return f"{self.name}, {self.members} training runs"

    @property
    def seconds(self) -> float:
        """Mean over fits of the time that one took."""
        return float(np.mean([run.facts["fit"]["seconds"] for run in self.runs]))

    @property
    def notes(self) -> tuple[str, ...]:
        """What its seeds are seeds of, how it was sampled where not as its runs say, and what it
        was told of test images."""
        told = ", ".join(f"{name} = {value}" for name, value in self.options.items())
        tested = ", ".join(self._tested)
        return (
            self._seeds,
            *([f"sampled with {told}"] if told else []),
            *self._looks,
            *([f"its config names {tested}, which is taken on test images"] if tested else []),
        )

    @property
    def _looks(self) -> list[str]:
        """What a sample costs in gradients, where it is told labels as training is."""
        options = self.first.sampling(self.options)
        if not options.get("gradients"):
            return []
        train = self.first.source.dataset().train
        images = min(EXAMPLES, len(train))
        evaluations = options["path_steps"] * METHODS[options["method"]]
        epochs = images * evaluations / len(train)
        return [
            f"every sample reads gradients of {images} labelled training images {evaluations} "
            f"times, as many as {epochs:.1f} epochs of training"
        ]

    @property
    def _tested(self) -> list[str]:
        """Columns taken on test images by which members were chosen, or that are conditions."""
        config = self.first.config
        return sorted(
            set(TESTED.findall(" ".join([*config.conditions, config.population.where or ""])))
        )

    @property
    def _seeds(self) -> str:
        if not self.first.generator.trained:
            return "seeds are of the samples; the fit draws nothing at random"
        if len(self.runs) > 1:
            return f"seeds are of {len(self.runs)} fits"
        return (
            "seeds are of the samples; the generator was fitted once. Give runs that differ in "
            "training.seed, too"
        )

    def sampled(
        self, count: int, seeds: int, done: Callable[[float], None] = lambda networks: None
    ) -> Samples:
        """Unselected samples, dealt out over fits, or over seeds of the samples of a single one.

        Args:
            count: of all.
            seeds: of the samples, where there is one fit.
            done: called with the number of networks just made.
        """
        several = len(self.runs) > 1
        groups = len(self.runs) if several else seeds
        group = np.arange(count) % groups
        weights = np.empty((count, self.first.source.network.spec.size), np.float32)
        counts = np.bincount(group).tolist()
        for run in self.runs:
            if run.generator.trained:  # others have no program of their own
                run.sample(min(counts[0], WARM_UP), 0, options=self.options)
        begin = time.perf_counter()
        for number, size in enumerate(counts):
            run = self.runs[number] if several else self.first
            weights[group == number] = run.sample(size, number, options=self.options)
            done(size)
        names = np.array([run.config.training.seed for run in self.runs])
        return Samples(weights, names[group] if several else group, time.perf_counter() - begin)

    def told(self, dataset: Dataset, count: int) -> Values:
        """Networks of the first fit, told of another data set."""
        return self.first.sample(count, options=self.options, dataset=dataset)

    def asked(self, rows: Float32[np.ndarray, "n e"], seed: int = 0) -> Values:
        """One network a condition vector, dealt out over fits, each with noise of its own."""
        weights = np.empty((len(rows), self.first.source.network.spec.size), np.float32)
        for number, run in enumerate(self.runs):
            mine = slice(number, None, len(self.runs))
            if len(rows[mine]):
                weights[mine] = run.sample_rows(rows[mine], seed + number, self.options)
        return weights


def generators_of(
    runs: Sequence[Run], options: Mapping[str, Any] = MappingProxyType({})
) -> list[tuple[Fits, ...]]:
    """Runs by generator, and of each from few to many training runs.

    Runs whose configs differ in ``training.seed`` alone are fits of one generator; those that
    differ in ``population.members`` are the same one with fewer or more training runs. Names do not
    count.

    Args:
        runs: in any order.
        options: of sampling, in place of those of the runs.

    Raises:
        ConfigError: if there is no run, or two are the same fit.
    """
    if not runs:
        raise ConfigError("evaluation: found no run, expected at least one")
    found: dict[str, dict[int, list[Run]]] = {}
    for run in runs:
        points = found.setdefault(_identity(run), {})
        fits = points.setdefault(int(run.facts["members"]["train"]), [])
        same = [other for other in fits if other.config.training.seed == run.config.training.seed]
        if same:
            raise ConfigError(
                f"evaluation: {run.path} and {same[0].path} are the same fit; give runs that "
                "differ in training.seed"
            )
        fits.append(run)
    generators = [
        tuple(Fits(tuple(points[members]), options) for members in sorted(points))
        for points in found.values()
    ]
    return _told_apart(generators)


def _told_apart(generators: list[tuple[Fits, ...]]) -> list[tuple[Fits, ...]]:
    """Those that have a name in common, by the directory of their first run."""
    names = Counter(points[-1].name for points in generators)
    return [
        tuple(
            fits._replace(place=fits.first.path.name if names[points[-1].name] > 1 else "")
            for fits in points
        )
        for points in generators
    ]


def _identity(run: Run) -> str:
    table = run.config.model_dump(mode="json") | {"options": run.options}
    del table["name"], table["population"]["members"], table["training"]["seed"]
    return json.dumps(table, sort_keys=True)
