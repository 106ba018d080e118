"""The datacard: what a zoo holds, where it came from and what it can't show, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from zoogen.landscape import METRICS
from zoogen.phases import PHASES, tally
from zoogen.report.axes import Axis, value_text
from zoogen.report.data import PHASE_NAMES, ReportData

_MANY = 32  # values of an axis that are listed


def datacard(data: ReportData, figures: Sequence[str] = ()) -> str:
    """The card of a zoo as Markdown.

    Args:
        data: what to say.
        figures: stems of the figures beside the card.
    """
    middle: list[tuple[str, list[str]]] = [
        ("## Phases", [*_figure_links(figures), "", *_phase_tables(data)])
    ]
    if data.recipe:
        links = [f"![{stem}]({stem}.png)" for stem in figures]
        middle = [
            ("## Recipe", [f"- {line}" for line in data.recipe]),
            ("## Images", [*links, "", *_quality_table(data)]),
        ]
    sections = [
        (f"# {data.name}", [data.description] if data.description else []),
        ("## What it is", _what(data)),
        *middle,
        ("## Grid", _table(["axis", "key", "values"], [_axis_row(a, data) for a in data.axes])),
        ("## Measurements", _measurements(data)),
        ("## How to load", _loading(data)),
        ("## Format", ["A Zarr v3 group with `members.parquet` and `manifest.json`; xarray opens "
                       "its arrays. `zoogen verify` checks every byte against the manifest."]),
        ("## Provenance", _table(["what", "value"], list(data.provenance.items()))),
        ("## Licence of the data set", [data.licence]),
        ("## Known limits", [f"- {limit}" for limit in data.limits]),
    ]  # fmt: skip
    parts = ["\n\n".join(filter(None, [head, "\n".join(body)])) for head, body in sections]
    return "\n\n".join(parts) + "\n"


def _what(data: ReportData) -> list[str]:
    facts = {
        "Data set": data.dataset,
        "Network": data.network,
        "Training": data.training,
        "Size": f"{len(data.members)} members in {len(data.cells)} cells",
        "Diverged": f"{data.members['diverged'].sum()} members"
        + ("" if data.recipe else "; those that failed otherwise sit at chance"),
        "Numbers below": data.snapshot,
    }
    return [f"- **{name}**: {text}" for name, text in facts.items()]


def _figure_links(figures: Sequence[str]) -> list[str]:
    links = [f"![{stem}]({stem}.png)" for stem in figures]
    if any(stem.startswith("phase_diagram") for stem in figures):
        return links
    return ["No diagram: the config names no load or no temperature axis.", *links]


def _phase_tables(data: ReportData) -> list[str]:
    counts = tally(data.cells["phase"], data.members["phase"])
    rows = [
        (name, PHASE_NAMES[name], cells, f"{share:.1%}", members, f"{part:.1%}")
        for name, cells, share, members, part in counts.rows()
    ]
    empty = f" No cell in phase {', '.join(counts.empty)}." if counts.empty else ""
    return [
        *_table(["phase", "meaning", "cells", "share", "members", "share"], rows),
        "",
        f"Entropy over the five phases: {counts.entropy:.2f} of {np.log2(len(PHASES)):.2f} bits."
        + empty,
        "",
        *(f"- {line}" for line in data.rule),
    ]


def _quality_table(data: ReportData) -> list[str]:
    """PSNR of the images by split and class."""
    if "psnr" not in data.members:
        return []
    rows = []
    for (split, label), members in data.members.groupby(["split", "label"], sort=True):
        spread = _quantiles(members["psnr"].to_numpy(float), [0, 0.05, 0.5, 1])
        rows.append((split, label, len(members), *spread))
    head = ["split", "label", "members", "least PSNR [dB]", "5 %", "median", "greatest"]
    return _table(head, rows)


def _axis_row(axis: Axis, data: ReportData) -> tuple[str, str, str]:
    hint = f" [{axis.arrow}]" if axis.arrow else ""
    return f"{axis.role}: {axis.label}{hint}", f"`{axis.key}`", _values_text(data.cells[axis.key])


def _values_text(values: pd.Series) -> str:
    """All values, or least, median and greatest of many numbers."""
    found = sorted(set(values))
    if len(found) > _MANY:
        low, middle, high = map(value_text, (found[0], found[len(found) // 2], found[-1]))
        return f"{low} to {high}, median {middle} ({len(found)} values)"
    return ", ".join(map(value_text, found))


def _measurements(data: ReportData) -> list[str]:
    """Metrics of members from the members, those of pairs from the cells' means over pairs."""
    head = ["metric", "unit", "over", "measured", "least", "median", "greatest", "median error",
            "definition"]  # fmt: skip
    of_members = _ranges(data.members, "members", "member")
    return _table(head, of_members + _ranges(data.cells, "cells", "pair"))


def _ranges(table: pd.DataFrame, over: str, axis: str) -> list[tuple[str, ...]]:
    """One row a metric over an axis: unit, count, least, median, greatest of finite values, error.

    Metrics that are the error of another one have no row of their own.
    """
    rows = []
    for name in table:
        if name not in METRICS or METRICS[name].axes[0] != axis or METRICS[name].is_error:
            continue
        metric, values = METRICS[name], table[name].to_numpy(float)
        count = f"{np.isfinite(values).sum()} of {len(values)}"
        spread = _quantiles(values, [0, 0.5, 1])
        errors = table[metric.error].to_numpy(float) if metric.error in table else np.empty(0)
        rows.append(
            (
                f"`{name}`",
                metric.unit,
                over,
                count,
                *spread,
                *_quantiles(errors, [0.5]),
                metric.definition,
            )
        )
    return rows


def _quantiles(values: Float[np.ndarray, " n"], at: Sequence[float]) -> list[str]:
    finite = values[np.isfinite(values)]
    return [f"{v:.4g}" for v in np.quantile(finite, at)] if finite.size else ["–"] * len(at)


def _loading(data: ReportData) -> list[str]:
    reading = ["weights = zoo.weights(snapshot=-1, where=\"phase == 'IV-B'\")"]
    if data.recipe:
        reading = [
            "weights = zoo.weights(where=\"split == 'train'\")  # zoo.targets(…): their images",
            "picture = zoo[0].image()  # [c h w]; zoo.members['label']: what it shows",
        ]
    return [
        "```python",
        "import zoogen",
        f'zoo = zoogen.open_zoo("{data.location}")  # zoo.members, zoo.cells: DataFrames',
        *reading,
        "```",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines]
