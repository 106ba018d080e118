"""Cells of networks that were asked for a phase, beside cells of real members that have it.

A phase belongs to a cell. The rule of the zoo votes on cells of a few networks here, of many there,
and a vote of few errs. So cells of held-out members are judged in the same way: as many of the same
size, each drawn from all that have the phase, which is what a perfect generator would make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from zoogen import phases
from zoogen.evaluate.generation.conditioning import Conditioned, OfClass, class_agreement
from zoogen.landscape import seed_pairs
from zoogen.zoo import Zoo

PHASE = "phase"
CELLS, CELL_SIZE, CELL_PAIRS = 20, 5, 5  # cells for each phase, their networks, pairs of these
MEASURED = ("train_accuracy", "test_accuracy", "mode_connectivity", "cka")


class Cells(NamedTuple):
    """Cells of ``CELL_SIZE`` networks, one after another.

    Attributes:
        wanted: phase that each was asked for, or that its members have.
        found: phase by the rule.
        metrics: name → values of the networks or pairs of each; errors and accuracies in percent.
    """

    wanted: tuple[str, ...]
    found: tuple[str, ...]
    metrics: Mapping[str, Float[np.ndarray, "cell n"]]

    @property
    def none(self) -> Cells:
        """None of these cells."""
        return Cells((), (), {name: values[:0] for name, values in self.metrics.items()})

    def of(self, name: str) -> Shaped[np.ndarray, " cell"]:
        """Whether cells were asked for this phase."""
        return np.array(self.wanted, object) == name

    def share(self, name: str) -> float:
        """Of the cells asked for a phase, how many have it; NaN without any."""
        found = np.array(self.found, object)[self.of(name)]
        return float((found == name).mean()) if len(found) else float("nan")


def requests(classes: Sequence[str]) -> list[str]:
    """The phase that each cell is asked for, of those that some training member has."""
    return [name for name in classes if name in phases.PHASES for _ in range(CELLS)]


def real_cells(
    table: pd.DataFrame, wanted: Sequence[str], seed: int = 0
) -> tuple[list[str], Int[np.ndarray, "cell n"]]:
    """Members of one phase, drawn cell by cell: the phase of each cell, and rows of its members.

    Phases with fewer members than a cell has are left out.

    Args:
        table: rows of members.
        wanted: the phase of each cell.
        seed: of the draw.

    Example:
        >>> table = pd.DataFrame({"phase": ["I"] * 5 + ["II"] * 4})
        >>> names, rows = real_cells(table, ["I", "II"])
        >>> names, sorted(rows[0].tolist())
        (['I'], [0, 1, 2, 3, 4])
    """
    rng = np.random.default_rng(seed)
    places = {name: np.flatnonzero(table[PHASE] == name) for name in wanted}
    kept = [name for name in wanted if len(places[name]) >= CELL_SIZE]
    rows = [rng.choice(places[name], CELL_SIZE, replace=False) for name in kept]
    return kept, np.array(rows, int).reshape(-1, CELL_SIZE)


def pairs_of(cells: int) -> Int[np.ndarray, "q 2"]:
    """Pairs of networks to compare, as many in each cell."""
    return seed_pairs([str(n // CELL_SIZE) for n in range(cells * CELL_SIZE)], CELL_PAIRS)


def labelled(
    wanted: Sequence[str], arrays: Mapping[str, Float[np.ndarray, "n s"]], zoo: Zoo
) -> Cells:
    """Cells by the rule of a zoo, with the thresholds that it found there.

    Args:
        wanted: phase of each cell.
        arrays: metrics of their networks and of the pairs of :func:`pairs_of`, as measured.
        zoo: whose rule it is.
    """
    by_cell = {name: arrays[name][:, -1].reshape(len(wanted), -1) for name in MEASURED}
    error = 100 * (1 - by_cell.pop("train_accuracy"))
    by_cell["test_accuracy"] = 100 * by_cell["test_accuracy"]
    labels = phases.label(
        error,
        by_cell["mode_connectivity"],
        by_cell["cka"],
        _rule_of(zoo),
        failed=np.isnan(error),
        chance_error=100 * (1 - zoo.facts["dataset"]["chance_accuracy"]),
        pairs=pairs_of(1),
    )
    return Cells(tuple(wanted), tuple(labels.phase.tolist()), {**by_cell, "train_error": error})


def cell_agreement(asked: Cells, real: Cells) -> Conditioned:
    """What was asked for beside what came, in all and phase by phase.

    Args:
        asked: of generated networks.
        real: of held-out members.
    """
    how = (
        f"cells of {CELL_SIZE} networks, labelled by the rule of the zoo; those of held-out "
        "members are drawn from all that have the phase"
    )
    names = dict.fromkeys(asked.wanted)
    few = [name for name in names if name not in real.wanted]
    if few:
        how += f"; held-out members of {', '.join(few)} are too few for a cell"
    known = np.array(real.found, object) == np.array(real.wanted, object)
    ceiling = float("nan") if few else float(known.mean())  # of the same phases, or none
    found = class_agreement(PHASE, asked.wanted, asked.found, how=how, ceiling=ceiling)
    return replace(found, by_class=tuple(_of_class(name, asked, real) for name in names))


def _of_class(name: str, asked: Cells, real: Cells) -> OfClass:
    means = {
        metric: (_mean(values[asked.of(name)]), _mean(real.metrics[metric][real.of(name)]))
        for metric, values in asked.metrics.items()
    }
    cells = int(asked.of(name).sum()), int(real.of(name).sum())
    return OfClass(name, cells, asked.share(name), real.share(name), means)


def _mean(values: Float[np.ndarray, "cell n"]) -> float:
    """Over what is finite; NaN where nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _rule_of(zoo: Zoo) -> phases.Rule:
    """The rule that labelled the zoo, with the thresholds that it found there."""
    labels = zoo.reader.labels()
    rule = phases.load_rule(zoo.config.phases.rule)
    stored = {} if labels is None else labels.info["thresholds"]
    cuts = {
        name: {"value": stored[name]["value"], "source": "as the zoo was labelled"}
        for name in ("train_error", "mode_connectivity", "cka")
        if name in stored
    }
    thresholds = rule.thresholds.model_dump(exclude_none=True) | cuts
    return phases.Rule.model_validate(
        {**rule.model_dump(exclude_none=True), "thresholds": thresholds}
    )
