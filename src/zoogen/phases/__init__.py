"""Phases: a rule (data) turns measurements of cells into labels with a confidence and a reason.

Everything here works on plain arrays and tables, so that anyone's measurements can be labelled.
Load is data over capacity, temperature the noise of training. The phases are those of Yang et
al. (2021), *Taxonomizing local versus global structure in neural network loss landscapes*:
I under-fitted and under-sized, II under-fitted, III under-sized, IV-A over-fitted,
IV-B generalising.
"""

from typing import TYPE_CHECKING

from zoogen.lazy import lazily

if TYPE_CHECKING:
    from zoogen.phases.covered import Coverage, coverage, phase_names, remedy, tally
    from zoogen.phases.knobs import DIRECTIONS, grows
    from zoogen.phases.labels import BEFORE, Labels, label
    from zoogen.phases.rules import (
        CLASSES,
        PHASES,
        CkaCut,
        ConnectivityCut,
        Cut,
        Leaf,
        Rule,
        Score,
        Tree,
        load_rule,
        rule_names,
        rule_toml,
    )
    from zoogen.phases.thresholds import Threshold
    from zoogen.phases.tree import LEAVES, advise, cells_of, fit_tree, read_measurements, targets
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__all__ = [
    "BEFORE",
    "CLASSES",
    "DIRECTIONS",
    "LEAVES",
    "PHASES",
    "CkaCut",
    "ConnectivityCut",
    "Coverage",
    "Cut",
    "Labels",
    "Leaf",
    "Rule",
    "Score",
    "Threshold",
    "Tree",
    "advise",
    "cells_of",
    "coverage",
    "fit_tree",
    "grows",
    "label",
    "load_rule",
    "phase_names",
    "read_measurements",
    "remedy",
    "rule_names",
    "rule_toml",
    "tally",
    "targets",
]
