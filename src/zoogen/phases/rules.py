"""Rules: versioned TOML files of thresholds and where each came from, read, checked and written."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from zoogen.config import Section, refuse_other_kind
from zoogen.errors import ConfigError, NotFoundError
from zoogen.phases.knobs import Knob

PHASES = ("I", "II", "III", "IV-A", "IV-B")
CLASSES = (*PHASES, "boundary", "failed", "unlabelled")

_SHIPPED = resources.files("zoogen") / "rules"

Bounds = Annotated[tuple[float, float], Field(strict=False)]  # TOML arrays arrive as lists


class Cut(Section):
    """A fixed threshold.

    Attributes:
        value: the threshold.
        bounds: least and greatest value that a fit may give it; None: no fit moves it.
        source: where the numbers came from.
    """

    value: float
    bounds: Bounds | None = None
    source: str

    @model_validator(mode="after")
    def _inside(self) -> Cut:
        if self.bounds is not None and not self.bounds[0] <= self.value <= self.bounds[1]:
            raise ValueError(f"value {self.value:g} lies outside bounds {list(self.bounds)}")
        return self


class ConnectivityCut(Section):
    """The threshold of mode connectivity: fixed (``value``), or from its own bootstrap error.

    Attributes:
        value: fixed threshold; exactly one of ``value`` and ``estimate`` is given.
        estimate: ``bootstrap``: ``errors`` times the median standard error of the cells' mean
            connectivity below zero, at least ``least`` points below; under-fitted and fitted
            cells, whose errors differ widely, each get their own.
        errors: standard errors below zero at which a barrier is taken for real.
        least: percentage points that a barrier has at least.
        bounds: as in :class:`Cut`.
        source: where the numbers came from.
    """

    value: float | None = None
    estimate: Literal["bootstrap"] | None = None
    errors: float = Field(default=1.645, gt=0)
    least: float = Field(default=1.0, ge=0)
    bounds: Bounds | None = None
    source: str

    @model_validator(mode="after")
    def _one_way(self) -> ConnectivityCut:
        if (self.value is None) == (self.estimate is None):
            raise ValueError("expected exactly one of value and estimate")
        return self


class CkaCut(Section):
    """The CKA threshold: fixed (``value``), or estimated per zoo with a ``fallback``.

    Attributes:
        value: fixed threshold; exactly one of ``value`` and ``estimate`` is given.
        estimate: ``otsu``: the split of the IV cells' CKA that explains most of their variance.
        fallback: used when there are too few IV cells or, with a ``level``, no two groups.
        min_cells: fewest IV cells from which a threshold is estimated.
        min_side: fewest IV cells on either side of it.
        level: level of the test against one group; without it the estimate is always used.
        bounds: as in :class:`Cut`.
        source: where the numbers came from.
    """

    value: float | None = None
    estimate: Literal["otsu"] | None = None
    fallback: float | None = None
    min_cells: int = Field(default=8, ge=4)
    min_side: int = Field(default=2, ge=1)
    level: float | None = Field(default=None, gt=0, lt=1)
    bounds: Bounds | None = None
    source: str

    @model_validator(mode="after")
    def _one_way(self) -> CkaCut:
        if (self.value is None) == (self.estimate is None):
            raise ValueError("expected exactly one of value and estimate")
        if (self.estimate is None) != (self.fallback is None):
            raise ValueError("fallback: expected together with estimate, and only with it")
        return self


class Cuts(Section):
    """The thresholds: train error in percent, mode connectivity in points, CKA in 0..1."""

    train_error: Cut
    mode_connectivity: ConnectivityCut
    cka: CkaCut


class Vote(Section):
    """Top share of the bootstrap vote below which a cell is ``boundary``."""

    boundary: float = Field(ge=0, le=1)
    source: str


class Failure(Section):
    """A member fails at a train error of chance − ``margin`` (percentage points) or more."""

    margin: float = Field(ge=0, le=100)
    source: str


class Leaf(Section):
    """The advice of one leaf of a tree.

    Attributes:
        knob: which to turn.
        direction: which way: ``down`` or ``up`` in load or temperature.
        cells: fitted cells in the leaf.
        agreeing: those of them for which turning this knob is best.
    """

    knob: Knob
    direction: Literal["down", "up"]
    cells: int = Field(ge=0)
    agreeing: int = Field(ge=0)


class Score(Section):
    """How a tree did on cells that it was not fitted on.

    Attributes:
        data: what it was fitted on.
        cells: cells with a target.
        skipped: reason → cells without one.
        folds: of the cross-validation by cell.
        repeats: of the cross-validation, each with other folds.
        accuracy: share of held-out cells whose knob was predicted.
        baseline: share of all cells that have the most frequent knob.
        gain: accuracy minus baseline.
        gain_stderr: its standard error over cells.
        move_accuracy: share of held-out cells whose knob and direction were predicted.
        move_baseline: share of all cells that have the most frequent move.
    """

    data: str
    cells: int
    skipped: dict[str, int]
    folds: int
    repeats: int
    accuracy: float
    baseline: float
    gain: float
    gain_stderr: float
    move_accuracy: float
    move_baseline: float


class Tree(Section):
    """Which knob to turn, by the thresholds of the rule and one of the Hessian trace.

    Attributes:
        log_trace: threshold of the natural logarithm of the Hessian trace.
        leaves: name, of :data:`zoogen.phases.LEAVES` → advice; empty before a fit.
        otherwise: advice of leaves without a fitted cell.
        score: of the fit.
    """

    log_trace: Cut
    leaves: dict[str, Leaf] = Field(default_factory=dict)
    otherwise: Leaf | None = None
    score: Score | None = None


class Rule(Section):
    """A versioned rule file: which thresholds turn measurements into phases.

    Example:
        >>> load_rule("taxonomy").thresholds.train_error.value
        0.5
    """

    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    description: str = ""
    thresholds: Cuts
    vote: Vote
    failure: Failure
    tree: Tree | None = None

    @property
    def sha256(self) -> str:
        """Hash of the rule's content; comments and layout of its file do not count."""
        content = self.model_dump(mode="json", exclude_none=True)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def rule_names() -> list[str]:
    """Names of the rules that zoogen ships."""
    files = (file.name for file in _SHIPPED.iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def load_rule(rule: str | Path) -> Rule:
    """Read and check a rule.

    Args:
        rule: name of a shipped rule, or path of a TOML file (ends in ``.toml``).

    Raises:
        NotFoundError: if there is no such name or file.
        ConfigError: if the file is no TOML or no rule; the message names the first fault.
    """
    where, text = _read_rule(rule)
    try:
        table = tomllib.loads(text)
        refuse_other_kind(Rule, table, rule)
        return Rule.model_validate(table)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"rule {where}: no valid TOML: {error}; correct the file") from None
    except ValidationError as error:
        raise ConfigError(f"rule {where}: {_first_fault(error)}; correct the file") from None


def _read_rule(rule: str | Path) -> tuple[str, str]:
    if str(rule).endswith(".toml"):
        try:
            return str(rule), Path(rule).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ConfigError(f"rule {rule}: no UTF-8 text; give a TOML file") from None
        except OSError as error:
            raise NotFoundError(
                f"rule {rule}: {error.strerror}; give a readable TOML file or one of {rule_names()}"
            ) from None
    names = rule_names()
    if str(rule) not in names:
        near = difflib.get_close_matches(str(rule), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "give one of these or a path to a .toml"
        raise NotFoundError(f"rule {str(rule)!r}: not found; zoogen ships {names}; {hint}")
    shipped = _SHIPPED / f"{rule}.toml"
    return repr(str(rule)), shipped.read_text(encoding="utf-8")


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"{key}: missing"
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    return f"{key}: found {fault['input']!r}, {fault['msg'].removeprefix('Value error, ')}"


def rule_toml(rule: Rule) -> str:
    """A rule as the text of a TOML file that :func:`load_rule` reads back as the same rule.

    Example:
        >>> Rule.model_validate(tomllib.loads(rule_toml(load_rule("adaptive")))).name
        'adaptive'
    """
    return "\n".join(_toml_lines(rule.model_dump(mode="json", exclude_none=True))).strip() + "\n"


def _toml_lines(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Values first, then tables: TOML's order."""
    for key, value in table.items():
        if not isinstance(value, Mapping):
            # JSON's strings, numbers, booleans and lists of them are TOML's, too.
            yield f"{_toml_key(key)} = {json.dumps(value, ensure_ascii=False)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner = f"{path}{_toml_key(key)}"
            if not value or any(not isinstance(entry, Mapping) for entry in value.values()):
                yield from ("", f"[{inner}]")
            yield from _toml_lines(value, f"{inner}.")


def _toml_key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "")
    return key if bare.isascii() and bare.isalnum() else json.dumps(key, ensure_ascii=False)
