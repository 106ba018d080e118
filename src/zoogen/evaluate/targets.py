"""Targets: what readers predict, in one table; hyper-parameters and metrics follow by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from zoogen.config import HYPER_PARAMETERS
from zoogen.errors import ConfigError, NotFoundError
from zoogen.landscape import METRICS
from zoogen.phases import PHASES

if TYPE_CHECKING:
    import pandas as pd

    from zoogen.evaluate.problem import Kind
    from zoogen.evaluate.samples import Selection
    from zoogen.evaluate.splits import Level
    from zoogen.zoo import Zoo

DECADE = 10.0  # positive values that span more are read on a logarithmic scale
_ERRORS = ("_stderr", "_residual")
FLOOR = 0.1  # where zero stands on it, in units of the smallest positive value

Read = Callable[["Zoo", "pd.DataFrame"], "pd.Series"]
Asks = Literal["network", "update", "edit"]
"""What a reader returns for a sample: something about the network, a number for each of its
parameters, or what the network computes after a change of its parameters."""


@dataclass(frozen=True)
class Target:
    """What a reader predicts.

    Attributes:
        kind: ``regression``, ``classification`` or ``edit``.
        unit: of numbers; empty for pure ones.
        level: ``cell`` if all members of a cell have the same one, ``image`` if all that show one
            image have.
        definition: in one line.
        read: ``(zoo, table of a selection) → one value a sample``, NaN or None where it is
            missing.
        log: whether the logarithm (base 10) of the number is predicted.
        asks: what a reader returns for a sample; of updates and edits ``read`` gives no target.
    """

    kind: Kind
    unit: str
    level: Level
    definition: str
    read: Read
    log: bool = False
    asks: Asks = "network"


class Answers(NamedTuple):
    """The targets of a selection.

    Attributes:
        chosen: samples that have one.
        values: one row a sample; numbers, or one column with the number of the class.
        classes: their names; empty for regression.
    """

    chosen: Selection
    values: Float[np.ndarray, "n t"]
    classes: tuple[str, ...]


# ---------------------------------------------------------------------------------------- reading
def _column(zoo: Zoo, table: pd.DataFrame, name: str) -> pd.Series:
    if name not in table:
        raise NotFoundError(_lacks(zoo, name, table))
    return table[name]


def _phase(zoo: Zoo, table: pd.DataFrame) -> pd.Series:
    """Phases at the end; None for classes that are none."""
    found = _column(zoo, table, "phase")
    return found.where(found.isin(PHASES))


def _member_metric(zoo: Zoo, table: pd.DataFrame, name: str) -> pd.Series:
    """A metric of members (or pairs: the mean over a cell's pairs) at each sample's time."""
    import pandas as pd

    parts = []
    for cohort, own in table.groupby("cohort", sort=False):
        metric = zoo.reader.read_metric(str(cohort), name)
        if metric.pairs is None:
            values = metric.values[own["row"].to_numpy(), own["position"].to_numpy()]
        else:
            values = _of_cells(zoo, str(cohort), own, name)
        parts.append(pd.Series(np.asarray(values, float), index=own.index))
    return pd.concat(parts).reindex(table.index)


def _of_cells(zoo: Zoo, cohort: str, table: pd.DataFrame, name: str) -> Float[np.ndarray, " n"]:
    import pandas as pd

    metric = zoo.reader.read_metric(cohort, name)
    places, owners = zoo.owners(cohort, metric)
    cells = zoo.reader.members(cohort)["cell"].loc[owners[:, 0]].to_numpy()
    means = pd.DataFrame(metric.values[places]).groupby(cells).mean()
    rows, columns = means.index.get_indexer(table["cell"]), table["position"].to_numpy()
    return np.where(rows < 0, np.nan, means.to_numpy(float)[rows, columns])


def _metric(name: str, log: bool = False) -> Target:
    known = METRICS[name]
    level: Level = "cell" if "pair" in known.axes else "member"
    definition = known.definition + (", mean over the pairs of a cell" if level == "cell" else "")
    read = partial(_member_metric, name=name)
    return Target("regression", known.unit, level, definition, read, log)


def _none(zoo: Zoo, table: pd.DataFrame) -> pd.Series:
    import pandas as pd

    return pd.Series(0.0, index=table.index)


TARGETS: Mapping[str, Target] = {
    "test_accuracy": _metric("test_accuracy"),
    "generalisation_gap": _metric("generalisation_gap"),
    "hessian_trace": _metric("hessian_trace", log=True),
    "mode_connectivity": _metric("mode_connectivity"),
    "phase": Target(
        "classification", "", "cell", "phase of the member's cell at the end of training", _phase
    ),
    "epoch": Target(
        "regression", "epochs", "member", "epochs of training behind the weights",
        partial(_column, name="epoch"),
    ),
    "label": Target(
        "classification", "", "image", "class of the image that the network encodes",
        partial(_column, name="label"),
    ),
    "next_update": Target(
        "regression", "", "member",
        "change of every weight from the sample's snapshot to the next one", _none,
        asks="update",
    ),
    "dilate": Target(
        "edit", "brightness", "image",
        "pixels of the image that the network encodes, after a 3×3 maximum filter; the network's "
        "weights are changed so that it shows them", _none, asks="edit",
    ),
}  # fmt: skip
"""Name → :class:`Target`; every hyper-parameter, metric and column of members is one, too."""


_OF_IMAGES = [name for name, target in TARGETS.items() if target.level == "image"]


def target_of(zoo: Zoo, name: str, table: pd.DataFrame) -> Target:
    """The target of a name.

    Args:
        zoo: that it is asked of.
        name: in :data:`TARGETS`, a hyper-parameter by its dotted key, a metric of members or
            pairs, or another column of the zoo's members.
        table: of a selection of the zoo.

    Raises:
        NotFoundError: if the zoo has no such target, with the names of those that it has.
    """
    available = available_targets(zoo, table)
    if name not in available:
        raise NotFoundError(_lacks(zoo, name, table))
    if name in TARGETS:
        return TARGETS[name]
    if name in METRICS and name not in table:
        return _metric(name)
    return _of_column(name, table[name])


def available_targets(zoo: Zoo, table: pd.DataFrame) -> list[str]:
    """Names of the targets that a zoo has; errors of metrics are none."""
    measured = [n for n in zoo.metric_names() if n in METRICS and _is_scalar(n)]
    measured = [n for n in measured if not n.endswith(_ERRORS)]
    dotted = [n for n in table if "." in n and table[n].nunique(dropna=False) > 1]
    columns = [n for n in ("phase", "label", "epoch") if n in table]
    enough = [len(zoo.snapshots(cohort)) > 1 for cohort in zoo.cohorts]
    edits = ["dilate"] if zoo.config.network.fits_image else []
    return [*columns, *(["next_update"] if all(enough) else []), *edits, *dotted, *measured]


def _is_scalar(name: str) -> bool:
    return METRICS[name].axes in (("member", "snapshot"), ("pair", "snapshot"))


def _lacks(zoo: Zoo, name: str, table: pd.DataFrame) -> str:
    has = available_targets(zoo, table)
    near = difflib.get_close_matches(name, has, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    if name in _OF_IMAGES and name not in has:
        hint = ", which needs members that encode an image each (docs/inr.md)"
    elif name in HYPER_PARAMETERS:
        hint = ", which does not vary in these members"
    elif name in METRICS:
        hint = "; `zoogen measure` takes it" if _is_scalar(name) else ", one number a sample"
    return f"{zoo.path}: no target {name!r}{hint}; this zoo has: {', '.join(has)}"


def _of_column(name: str, values: pd.Series) -> Target:
    """A hyper-parameter: words are classes, positive numbers over decades have a logarithm."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    read, definition = partial(_column, name=name), f"hyper-parameter {name}"
    if not is_numeric_dtype(values) or is_bool_dtype(values):
        return Target("classification", "", "member", definition, read)
    known = values.dropna()
    positive = known[known > 0]
    log = bool((known >= 0).all() and positive.max() > DECADE * positive.min())
    return Target("regression", "", "member", definition, read, log)


# ---------------------------------------------------------------------------------------- answers
def answers(target: Target, name: str, zoo: Zoo, chosen: Selection) -> Answers:
    """Read a target; samples without one are left out and counted.

    On a logarithmic scale zero stands a decade below the smallest positive value; negative numbers
    have no place.

    Args:
        target: what to read.
        name: of the target, for messages.
        zoo: of the samples.
        chosen: the samples.

    Raises:
        ConfigError: if the samples that are left have one value only, so that there is nothing to
            predict.
    """
    values = target.read(zoo, chosen.table)
    unknown = values.isna().to_numpy()
    if name == "phase":
        for word in sorted(set(chosen.table["phase"][unknown].astype(str))):
            rows = (chosen.table["phase"].astype(str) == word).to_numpy() & unknown
            values, chosen, unknown = _drop(values, chosen, unknown, rows, f"phase {word}")
    values, chosen, _ = _drop(values, chosen, unknown, unknown, f"no {name}")
    if target.kind == "classification":
        names = values.astype(str)
        classes = tuple(sorted(set(names), key=_natural))
        codes = names.map({word: code for code, word in enumerate(classes)})
        _refuse_constant(name, chosen, codes.to_numpy(float))
        return Answers(chosen, codes.to_numpy(float)[:, None], classes)
    numbers = values.astype(float)
    if target.log:
        negative = (numbers < 0).to_numpy()
        numbers, chosen, _ = _drop(numbers, chosen, negative, negative, f"negative {name}")
        numbers = np.log10(numbers.clip(lower=FLOOR * numbers[numbers > 0].min()))
    if target.asks == "network":
        _refuse_constant(name, chosen, numbers.to_numpy())
    return Answers(chosen, numbers.to_numpy()[:, None], ())


def _drop(
    values: pd.Series,
    chosen: Selection,
    unknown: Bool[np.ndarray, " n"],
    rows: Bool[np.ndarray, " n"],
    reason: str,
) -> tuple[pd.Series, Selection, Bool[np.ndarray, " n"]]:
    """Leave out rows of a selection, and of what stands beside it."""
    return values[~rows].reset_index(drop=True), chosen.without(rows, reason), unknown[~rows]


def _natural(word: str) -> tuple[float, str]:
    """Numbers in their order, then words."""
    try:
        return float(word), ""
    except ValueError:
        return float("inf"), word


def _refuse_constant(name: str, chosen: Selection, values: Float[np.ndarray, " n"]) -> None:
    if len(values) and np.ptp(values) > 0:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in chosen.excluded.items())
    raise ConfigError(
        f"target {name!r}: the {len(values)} samples left have at most one value "
        f"(left out: {reasons or 'none'}), nothing to predict; choose another target or `where`"
    )
