"""The table of readers: what each sees and is, how it is fitted, and what may be tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from zoogen.errors import ConfigError
from zoogen.evaluate.readers import Fitted, Options, Reader, Training
from zoogen.evaluate.targets import Asks
from zoogen.lazy import Deferred

if TYPE_CHECKING:
    from zoogen.evaluate import closed, editing, probing, trained
    from zoogen.evaluate.problem import Problem
else:  # help shows the table, and needs no JAX
    closed, editing, probing, trained = (
        Deferred(f"zoogen.evaluate.{name}") for name in ("closed", "editing", "probing", "trained")
    )

Fit = Callable[["Problem", Options, Training, int], Fitted]

# Options from which tuning may choose; the first is the default.
RATES: dict[str, tuple[Any, ...]] = {
    "learning_rate": (1e-3, 3e-3, 3e-4),
    "weight_decay": (0.01, 0.3, 0.0),
}
TREES = {"learning_rate": (0.05, 0.1, 0.03), "leaves": (15, 31, 7), "trees": (300,)}
PERCEPTRON = RATES | {"hidden": (256, 512, 128)}
TOKENS = RATES | {"channels": (32, 16), "depth": (2, 3)}
# Where inputs and outputs are exchangeable they have no rank.
EXCHANGEABLE = RATES | {"channels": (32, 16), "depth": (4, 3), "position_rank": (1, 3)}
STACK = EXCHANGEABLE | {"terminal_rank": (16, 4)}
CANONICAL: dict[str, tuple[Any, ...]] = {"canonical": (False, True)}
GRAPH = RATES | {"channels": (16, 32), "depth": (4, 2)}
SWEEPS = RATES | {"channels": (16, 32), "depth": (2, 1)}
SIGNALS: dict[str, tuple[Any, ...]] = {
    "learning_rate": (3e-3, 1e-3, 1e-2), "weight_decay": (0.01, 0.3, 0.0), "channels": (64, 32),
}  # fmt: skip


def _reader(
    name: str,
    definition: str,
    fit: Fit,
    space: Mapping[str, tuple[Any, ...]] | None = None,
    mixed: bool = False,
    told: bool = False,
) -> tuple[str, Reader]:
    space = space or {}
    return name, Reader(definition, partial(_fit, name, fit, space), space, mixed, told)


def _fit(
    name: str,
    fit: Fit,
    space: Mapping[str, tuple[Any, ...]],
    problem: Problem,
    options: Options,
    training: Training,
    seed: int,
) -> Fitted:
    """Fit with defaults for the options that are not given, after the checks all readers share,
    and with ``canonical`` on canonical forms of the members."""
    from zoogen.evaluate.inputs import in_canonical_form, refuse_unfit

    unknown = sorted(options.keys() - space.keys())
    if unknown:
        raise ConfigError(
            f"reader {name!r}: no option {unknown[0]!r}; expected one of {list(space)}"
        )
    refuse_unfit(problem, name)
    given = {option: values[0] for option, values in space.items()} | dict(options)
    if given.pop("canonical", False):
        problem = replace(problem, samples=in_canonical_form(problem.samples))
    return fit(problem, given, training, seed)


READERS: dict[str, Reader] = dict(
    [
        _reader(
            "mean",
            "The mean of the training targets, or frequencies of the classes: sees no member.",
            closed.fit_mean,
            mixed=True,
        ),
        _reader(
            "hyper-parameters",
            "Gradient-boosted trees on how members were made, never on the target itself: the "
            "ceiling of what needs no weights.",
            closed.fit_hyper_parameters,
            TREES,
            mixed=True,
        ),
        _reader(
            "statistics-trees",
            "Gradient-boosted trees on mean, variance and quantiles 0, 25, 50, 75 and 100 % of "
            "every tensor (Unterthiner et al., 2020).",
            closed.fit_statistics_trees,
            TREES,
            mixed=True,
        ),
        _reader(
            "statistics-mlp",
            "A perceptron on the same statistics (Unterthiner et al., 2020).",
            trained.fit_statistics_mlp,
            PERCEPTRON,
            mixed=True,
        ),
        _reader(
            "flat-mlp",
            "A perceptron on the flat weights, each tensor over its root mean square.",
            trained.fit_flat_mlp,
            PERCEPTRON | CANONICAL,
        ),
        _reader(
            "flat-mlp-augmented",
            "The same, in training with units in a new random order (and signs) at each step.",
            partial(trained.fit_flat_mlp, change="orders"),
            PERCEPTRON,
        ),
        _reader(
            "flat-mlp-mixup",
            "The same, on convex combinations of aligned training members and of their targets "
            "(Shamsian et al., 2024).",
            partial(trained.fit_flat_mlp, change="mixtures"),
            PERCEPTRON,
        ),
        _reader(
            "pca-ridge",
            "Ridge or logistic regression on principal components of the flat weights; number and "
            "penalty by validation.",
            closed.fit_pca_ridge,
            CANONICAL,
        ),
        _reader(
            "deepsets",
            "One perceptron per layer on each unit (its bias, its weights at fixed places, mean "
            "and deviation of its other weights), means over units, a perceptron on those "
            "(Zaheer et al., 2017).",
            trained.fit_deep_sets,
            RATES | {"hidden": (128, 256, 64)} | CANONICAL,
        ),
        _reader(
            "probes",
            "A perceptron on the members' outputs at learned inputs, which a linear generator "
            "makes: sees no weight (Kahana et al., 2024).",
            probing.fit_probes,
            RATES | {"probes": (64, 128)},
            mixed=True,
        ),
        _reader(
            "equivariant",
            "Equivariant layers and an invariant head (Navon et al., 2023); each layer is complete "
            "for what it reads and returns, which is per channel one number for every input or "
            "output of a parameter, or where they are more 16 learned sums (`terminal_rank`), and "
            "one sum of all kernel positions (`position_rank`).",
            trained.fit_equivariant,
            STACK | CANONICAL,
        ),
        _reader(
            "nfn-np",
            "The same with exchangeable inputs and outputs, without norms (Zhou et al., 2023).",
            partial(trained.fit_equivariant, form="nfn-np"),
            EXCHANGEABLE | CANONICAL,
        ),
        _reader(
            "universal",
            "The same with exchangeable inputs and outputs, residual (Zhou, Finn and Harrison, "
            "2024).",
            partial(trained.fit_equivariant, form="universal"),
            EXCHANGEABLE | CANONICAL,
        ),
        _reader(
            "tokens",
            "A transformer over units, attending along weights: no order of units is seen.",
            trained.fit_tokens,
            TOKENS | CANONICAL,
        ),
        _reader(
            "tokens-plain",
            "A transformer over units with their weights as tokens and with positions, in training "
            "in a new random order at each step (Schürholt, Mahoney and Borth, 2024).",
            partial(trained.fit_tokens, form="plain"),
            TOKENS | {"window": (None, 16)} | CANONICAL,
        ),
        _reader(
            "graph",
            "Messages along the network's own edges, all at once (Kofinas et al., 2024; Lim et "
            "al., 2023).",
            trained.fit_graph,
            GRAPH | CANONICAL,
            mixed=True,
        ),
        _reader(
            "graph-forward",
            "The same, in sweeps from inputs to outputs and back.",
            partial(trained.fit_graph, order="forward"),
            SWEEPS | CANONICAL,
            mixed=True,
        ),
        _reader(
            "signals",
            "Vectors sent through the network along its own weights, there and back; signs and "
            "positive scales of units are unseen (Kalogeropoulos et al., 2024).",
            trained.fit_signals,
            SIGNALS,
            mixed=True,
        ),
        _reader(
            "signals-statistics",
            "The same, and beside them statistics of every tensor, which see scales: no order of "
            "units is seen.",
            trained.fit_signals_and_statistics,
            SIGNALS,
            mixed=True,
        ),
    ]
)

# For targets with one number per parameter.
PARAMETER_READERS: dict[str, Reader] = dict(
    [
        _reader("zero", "Zero for every parameter.", closed.fit_zero, mixed=True),
        _reader(
            "linear",
            "A factor per tensor times the weights themselves, by least squares.",
            closed.fit_linear,
        ),
        _reader(
            "equivariant-parameters",
            "What equivariant layers, as those of the reader `equivariant`, add to `linear`, "
            "parameter by parameter (Navon et al., 2023).",
            trained.fit_equivariant_parameters,
            STACK,
        ),
        _reader(
            "signals-parameters",
            "What products of vectors sent through the network along its own weights add to "
            "`linear`.",
            trained.fit_signal_parameters,
            SIGNALS,
        ),
    ]
)

# For targets that an edited network shall compute.
EDITORS: dict[str, Reader] = dict(
    [
        _reader("zero", "No change of the weights.", editing.fit_unedited),
        _reader(
            "floor",
            "Each network trained on its own target, those of test samples included: what the "
            "architecture can show, no competitor.",
            editing.fit_floor,
            told=True,
        ),
        _reader(
            "linear",
            "A factor per tensor times the weights, the same for all networks.",
            editing.fit_factors,
        ),
        _reader(
            "equivariant-parameters",
            "Equivariant layers, as those of the reader `equivariant`, that return a change of "
            "every parameter (Navon et al., 2023).",
            editing.fit_equivariant_edit,
            STACK,
        ),
        _reader(
            "equivariant-parameters-oce",
            "The same with changes for several copies of the network, whose mean function counts "
            "(OCE, 2026).",
            editing.fit_equivariant_edit,
            STACK | {"networks": (4, 8)},
        ),
        _reader(
            "tokens-parameters",
            "A transformer over units, attending along weights, that returns a change of every "
            "parameter.",
            editing.fit_token_edit,
            TOKENS,
        ),
        _reader(
            "signals-parameters",
            "Vectors sent through the network along its own weights: a change of a weight is made "
            "of products of those at its ends.",
            editing.fit_signal_edit,
            SIGNALS,
        ),
        _reader(
            "signals-parameters-oce",
            "The same with changes for several copies of the network, whose mean function counts.",
            editing.fit_signal_edit,
            SIGNALS | {"networks": (4, 8)},
        ),
    ]
)

READERS_OF: Mapping[Asks, Mapping[str, Reader]] = {
    "network": READERS, "update": PARAMETER_READERS, "edit": EDITORS,
}  # fmt: skip
"""What a target asks for → its readers."""
