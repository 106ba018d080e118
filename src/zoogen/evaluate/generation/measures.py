"""Measures of a report on a generator: each with its ideal and what held-out members reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from zoogen.evaluate.generation.conditioning import Conditioned
from zoogen.evaluate.generation.report import Report, Spread

Row = Callable[[Report], str]
Rows = dict[str, tuple[str, Row | None, Row]]
"""Measure → its ideal, its value for held-out members, and its value for a generator."""


def number(value: float, digits: int = 2) -> str:
    """A number for a table; a dash where there is none.

    Example:
        >>> number(0.123), number(float("nan")), number(-0.0), number(float("inf"))
        ('0.12', '–', '0.00', '∞')
    """
    if math.isinf(value):
        return "∞"
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def percent(value: float) -> str:
    """A share in percent."""
    return number(100 * value, 1)


_ACCURACY: Rows = {
    "training runs / fits": ("", None, lambda r: f"{r.members} / {r.fits}"),
    "samples (not finite)": ("≥ 500 (0)", None, lambda r: f"{r.samples} ({r.invalid})"),
    "accuracy %, mean ± std": (
        "as held-out",
        lambda r: _spread(r.real_accuracy),
        lambda r: _spread(r.accuracy),
    ),
    "accuracy %, mean ± std over seeds": ("", None, lambda r: _over_seeds(r, "accuracy", 100)),
    "accuracy %, q10 / 50 / 90 / best": (
        "as held-out",
        lambda r: _quantiles(r, real=True),
        lambda r: _quantiles(r, real=False),
    ),
}  # fmt: skip
_COPYING: Rows = {
    "ZU, all samples": ("0", None, lambda r: number(r.copying.zu)),
    "ZU, mean ± std over seeds": ("0", None, lambda r: _over_seeds(r, "zu")),
    "distance to nearest training member ÷ held-out": (
        "1", lambda r: "1.00", lambda r: number(r.copying.distance_ratio),
    ),
    "duplicates %": ("0", None, lambda r: percent(r.copying.duplicates)),
    "largest overlap of wrong predictions, test images": (
        "as held-out",
        lambda r: number(r.copying.plain_overlap_held_out, 3),
        lambda r: number(r.copying.plain_overlap, 3),
    ),
    "… on the view of the gate": (
        "as held-out",
        lambda r: number(r.copying.overlap_held_out, 3),
        lambda r: number(r.copying.overlap, 3),
    ),
    "distance of functions ÷ held-out (ZU)": (
        "1 (0)", lambda r: "1.00",
        lambda r: f"{number(r.copying.functional_ratio)} ({number(r.copying.functional_zu)})",
    ),
}  # fmt: skip
_DIVERSITY: Rows = {
    "distance of pairs ÷ real": (
        "1", None,
        lambda r: number(r.diversity.distance_ratio) + _collapsed(r),
    ),
    "overlap of pairs ÷ real": ("1", None, lambda r: number(r.diversity.overlap_ratio)),
    "effective rank ÷ real": ("1", None, lambda r: number(r.diversity.rank_ratio)),
    "spread ÷ real, least to largest over tensors": (
        "1", None, lambda r: _range(r.diversity.spread_ratio.values()),
    ),
    "root mean square ÷ real, least to largest": (
        "1", None, lambda r: _range(r.diversity.size_ratio.values()),
    ),
}  # fmt: skip
_YIELD: Rows = {
    "novelty-gated yield %": (
        "as held-out", lambda r: percent(r.novelty.nominal), lambda r: percent(r.novelty.all),
    ),
    "yield %, mean ± std over seeds": ("", None, lambda r: _over_seeds(r, "novel_yield", 100)),
    "… accurate / distant / different %": (
        "", None,
        lambda r: " / ".join(
            map(percent, (r.novelty.accurate, r.novelty.distant, r.novelty.different))
        ),
    ),
    "distinct yield %: new to each other, too": (
        "as held-out", lambda r: percent(r.distinct.nominal), lambda r: percent(r.distinct.share),
    ),
    "distinct yield %, mean ± std over seeds, each by itself": (
        "", None, lambda r: _over_seeds(r, "distinct_yield", 100),
    ),
    "no repetition of another sample %, good or not": (
        "as held-out", lambda r: percent(r.distinct.real_apart),
        lambda r: percent(r.distinct.apart) + _collapsed(r),
    ),
}  # fmt: skip


def measures(reports: Sequence[Report]) -> Rows:
    """What every report has, then what hangs on baselines, sizes and conditions of these."""
    rows = _ACCURACY | _COPYING | _DIVERSITY | _YIELD
    if any(report.plain_novelty for report in reports):
        rows["yield %, overlaps on the test images as they are"] = (
            "as held-out", _plain("nominal"), _plain("all"),
        )  # fmt: skip
    if any(report.recalibrated for report in reports):
        rows["accuracy %, running statistics computed anew"] = (
            "", None, lambda r: _spread(r.recalibrated),
        )  # fmt: skip
    for name in dict.fromkeys(gain.baseline for report in reports for gain in report.gains):
        rows[f"gain over {name} at equal novelty, points"] = (
            "as held-out", _gain_over(name, real=True), _gain_over(name),
        )  # fmt: skip
    for size in reports[0].ensembles[0].sizes if reports[0].ensembles else ():
        rows[f"gain of {size}-net ensembles, points (of one noised net)"] = (
            "as held-out", _ensemble("real", size, "gains"), _generated_gain(size),
        )  # fmt: skip
        rows[f"gain of {size}-net ensembles ÷ gain of {size} real nets"] = (
            "1", _of_real("real", size, "gain_ratios"), _of_real("generated", size, "gain_ratios"),
        )  # fmt: skip
        rows[f"accuracy of {size}-net ensembles, %"] = (
            "as held-out", _ensemble("real", size, "accuracies"),
            _ensemble("generated", size, "accuracies"),
        )  # fmt: skip
        rows[f"accuracy of {size}-net ensembles ÷ accuracy of {size} real nets"] = (
            "1", _of_real("real", size, "accuracy_ratios"),
            _of_real("generated", size, "accuracy_ratios"),
        )  # fmt: skip
    for name in dict.fromkeys(c.name for report in reports for c in report.conditions):
        rows[f"requested against achieved {name} (shuffled, 97.5 %)"] = (
            "1", _ceiling(name), _agreement(name),
        )  # fmt: skip
    return rows


def _collapsed(report: Report) -> str:
    return " (collapsed)" if report.collapsed else ""


def _plain(quantity: str) -> Row:
    """Yield on the test images as they are, which may be the view of the gate already."""
    return lambda report: percent(getattr(report.plain_novelty or report.novelty, quantity))


def _spread(found: Spread | None) -> str:
    return "–" if found is None else f"{percent(found.mean)} ± {percent(found.std)}"


def _quantiles(report: Report, real: bool) -> str:
    of = report.real_accuracy if real else report.accuracy
    return " / ".join(map(percent, (of.q10, of.q50, of.q90, of.best)))


def _over_seeds(report: Report, quantity: str, scale: float = 1) -> str:
    mean, deviation = report.over_seeds(quantity)
    return f"{number(scale * mean)} ± {number(scale * deviation)} ({len(report.by_seed)})"


def _range(values: object) -> str:
    finite = sorted(v for v in values if math.isfinite(v))  # type: ignore[attr-defined]
    return f"{number(finite[0])} to {number(finite[-1])}" if finite else "–"


def _gain_over(name: str, real: bool = False) -> Row:
    def of(report: Report) -> str:
        gains = report.real_gains if real else report.gains
        gain = next((gain for gain in gains if gain.baseline == name), None)
        if gain is None:
            return "–"
        bounded = math.isfinite(gain.at_least)
        return f"≥ {percent(gain.at_least)}" if bounded else percent(gain.gain)

    return of


def _of_size(report: Report, source: str, size: int, quantity: str) -> float:
    """A quantity of :class:`Ensembles`; NaN where there is none."""
    return next(
        (
            value
            for found in report.ensembles
            if found.source.startswith(source)
            for k, value in zip(found.sizes, getattr(found, quantity), strict=True)
            if k == size
        ),
        math.nan,
    )


def _ensemble(source: str, size: int, quantity: str) -> Row:
    return lambda report: percent(_of_size(report, source, size, quantity))


def _of_real(source: str, size: int, quantity: str) -> Row:
    return lambda report: number(_of_size(report, source, size, quantity), 3)


def _generated_gain(size: int) -> Row:
    ours, noised = (_ensemble(source, size, "gains") for source in ("generated", "one net"))
    return lambda report: f"{ours(report)} ({noised(report)})"


def _agreement(name: str) -> Row:
    def of(report: Report) -> str:
        found = _condition(report, name)
        if found is None:
            return "–"
        return f"{number(found.agreement)} ({number(found.shuffled_high)})"

    return of


def _ceiling(name: str) -> Row:
    """What held-out members reach by what reads the quantity from weights, or votes on cells."""

    def of(report: Report) -> str:
        found = _condition(report, name)
        return "" if found is None or math.isnan(found.ceiling) else number(found.ceiling)

    return of


def _condition(report: Report, name: str) -> Conditioned | None:
    return next((found for found in report.conditions if found.name == name), None)
