"""Readers: known answers, symmetry, what they may see, one program for all steps."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from zoogen.config import NetworkConfig
from zoogen.errors import ConfigError
from zoogen.evaluate import fitting
from zoogen.evaluate.closed import hyper_parameters
from zoogen.evaluate.fitting import Learner, Part, fit_learner
from zoogen.evaluate.inputs import standard_columns, statistics, unit_features
from zoogen.evaluate.objectives import Objective, mixable, objective_of, squared_error
from zoogen.evaluate.problem import Block, Problem, Samples, Split
from zoogen.evaluate.readers import Fitted, Training
from zoogen.evaluate.table import PARAMETER_READERS, RATES, READERS
from zoogen.evaluate.trained import augment_of, mlp_learner, stack_of
from zoogen.models import network_model
from zoogen.networks import build_network
from zoogen.params import Axis, ParamSpec
from zoogen.symmetry import Element, apply, random_element

SMALL = {"hidden": 32, "channels": 4, "depth": 2, "probes": 8, "trees": 60}
TRAINING = Training(steps=150, batch_size=32, looks=3)
SHAPE = (1, 1, 2)


# -------------------------------------------------------------------------------------- problems
def network(width=6, depth=2, activation="relu"):
    config = NetworkConfig(family="mlp", width=width, depth=depth, activation=activation)
    return build_network(config, SHAPE, 1)


def random_weights(spec, members, seed=0):
    """Weights of layers whose scales differ between members."""
    rng = np.random.default_rng(seed)
    draws = [
        rng.standard_normal((members, p.size))
        * np.exp(0.5 * rng.standard_normal((members, 1)))
        / np.sqrt(p.shape[-1])
        for p in spec.parameters
    ]
    return np.concatenate(draws, axis=1).astype(np.float32)


def problem_of(blocks, targets, classes=(), name="target", **columns):
    """A third of the rows is for the test."""
    count = len(targets)
    table = pd.DataFrame({"member": [f"m{i}" for i in range(count)]} | columns)
    table["cohort"] = np.repeat(
        [f"c{i}" for i in range(len(blocks))], [len(b.rows) for b in blocks]
    )
    probes = np.zeros((0, *SHAPE))
    samples = Samples(
        table, tuple(blocks), tuple(columns), probes, np.zeros(1), np.ones(1), excluded={}
    )
    order = np.random.default_rng(1).permutation(2 * count // 3)
    split = Split(order[10:], order[:10], np.arange(2 * count // 3, count))
    kind = "classification" if classes else "regression"
    return Problem(name, kind, samples, np.asarray(targets, float), tuple(classes), split)


def log_norm(spec, weights):
    first = spec.parameters[0]
    return np.log(np.linalg.norm(weights[:, : first.size], axis=1, keepdims=True))


@lru_cache
def norms():
    """Predict the norm of the first layer; the last 60 rows are the 60 before with other orders."""
    net = network()
    weights = random_weights(net.spec, 240)
    element = random_element(net.spec, 5, (60,), spread=0.0)
    weights[180:] = apply(net.spec, element, weights[120:180])
    block = Block(net, np.arange(240), weights)
    problem = problem_of([block], log_norm(net.spec, weights), rate=np.arange(240.0))
    return replace(problem, split=Split(np.arange(20, 120), np.arange(20), np.arange(120, 240)))


# Programs of these take more than a few seconds to compile.
LARGE = ("nfn-np", "universal", "tokens", "tokens-plain", "graph", "graph-forward", "signals",
         "signals-statistics")  # fmt: skip


def cases(names, *further):
    large = {*LARGE, *further}
    return [pytest.param(n, marks=pytest.mark.slow) if n in large else n for n in names]


def options(reader):
    large = {"channels": 16} if reader.fit.args[0].startswith("tokens") else {}
    return {name: value for name, value in (SMALL | large).items() if name in reader.space}


@lru_cache
def fitted(name: str) -> Fitted:
    return READERS[name].fit(norms(), options(READERS[name]), TRAINING, 3)


def share_explained(problem, outputs, rows=None):
    rows = problem.split.test if rows is None else rows
    left = np.square(outputs[rows] - problem.targets[rows]).mean()
    return 1 - left / problem.targets[rows].var()


# ------------------------------------------------------------------------------------- all readers
def poisoned(problem):
    targets = problem.targets.copy()
    targets[problem.split.test] = np.nan
    return replace(problem, targets=targets)


@pytest.mark.parametrize("name", cases(READERS))
def test_equal_seeds_give_equal_outputs_whatever_the_targets_of_test_rows(name: str) -> None:
    first = fitted(name)
    again = READERS[name].fit(poisoned(norms()), options(READERS[name]), TRAINING, 3)
    assert first.outputs.shape == (240, 1)
    assert np.isfinite(first.outputs).all()
    np.testing.assert_array_equal(first.outputs, again.outputs)
    assert (first.step_seconds is None) == (len(first.curve) == 0)


SEES_ORDER = {"flat-mlp", "flat-mlp-augmented", "flat-mlp-mixup", "pca-ridge", "tokens-plain"}


@pytest.mark.parametrize("name", cases(READERS))
def test_who_sees_the_order_of_units(name: str) -> None:
    outputs = fitted(name).outputs
    apart = np.abs(outputs[180:] - outputs[120:180]).max()
    assert (apart > 0.01) if name in SEES_ORDER else (apart < 1e-4)


# The least and the most that a reader explains of a norm; what can't see it explains nothing.
EXPLAINS = {
    "mean": (-1, 0.01), "hyper-parameters": (-1, 0.2), "flat-mlp": (-2, 0.6),
    "flat-mlp-augmented": (-1, 0.3), "flat-mlp-mixup": (-1, 0.3), "pca-ridge": (-1, 0.1),
    "statistics-trees": (0.8, 1), "statistics-mlp": (0.5, 1), "deepsets": (0.6, 1),
    "equivariant": (0.5, 1), "universal": (0.5, 1), "nfn-np": (0.5, 1), "graph": (0.5, 1),
    "graph-forward": (0.3, 1), "tokens": (0.5, 1), "tokens-plain": (0.2, 1),
    "signals": (-1, 0.4),  # of relu units they see the product of all layers' scales, not one
    "signals-statistics": (0.3, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", cases(EXPLAINS))
def test_a_norm_is_read_by_those_who_can_see_it(name: str) -> None:
    least, most = EXPLAINS[name]
    assert least <= share_explained(norms(), fitted(name).outputs) <= most


@pytest.mark.parametrize("seed", range(3))
def test_probes_read_what_members_compute(seed: int) -> None:
    net = network()
    weights = random_weights(net.spec, 300, seed)
    places = np.random.default_rng(0).uniform(-1, 1, (4, *SHAPE)).astype(np.float32)
    values = [net.apply(net.spec.unflatten(w), places).mean() for w in weights]
    targets = np.tanh(np.array(values))[:, None]
    problem = problem_of([Block(net, np.arange(300), weights)], targets)
    outputs = READERS["probes"].fit(problem, options(READERS["probes"]), TRAINING, seed).outputs
    assert share_explained(problem, outputs) > 0.8


@lru_cache
def widths():
    """Members of two widths, with rows in turn; the target is one plus the width's number."""
    nets = [network(width) for width in (1, 3)]
    blocks = [
        Block(net, np.arange(i, 120, 2), random_weights(net.spec, 60, i))
        for i, net in enumerate(nets)
    ]
    targets = 1.0 + np.arange(120)[:, None] % 2
    problem = problem_of(blocks, targets)
    problem.samples.table["cohort"] = np.tile(["narrow", "wide"], 60)
    return problem


MIXED = [name for name, reader in READERS.items() if reader.mixed]
SEES_NO_WIDTH = {"mean", "hyper-parameters", "probes", "signals"}  # the last: sums, no counts
TELLS_WIDTHS = [name for name in MIXED if name not in SEES_NO_WIDTH]


@pytest.mark.parametrize("name", cases(MIXED))
def test_members_of_two_widths_stay_in_the_order_of_the_samples(name: str) -> None:
    outputs = READERS[name].fit(widths(), options(READERS[name]), TRAINING, 0).outputs
    assert outputs.shape == (120, 1)
    assert np.isfinite(outputs).all()
    if name in TELLS_WIDTHS:
        test = widths().split.test
        assert ((outputs > 1.5) == (widths().targets > 1.5))[test].mean() > 0.9


@lru_cache
def families():
    """A perceptron, a CNN and a transformer, whose heads are nested groups, with rows in turn; the
    target is the family's number. Of each, the last 10 are the 10 before in other orders."""
    configs = [
        NetworkConfig(width=4, depth=1),
        NetworkConfig(family="cnn", width=2, depth=2),
        NetworkConfig(family="vit", width=4, depth=1, heads=2),
    ]
    nets = [build_network(config, (1, 8, 8), 2) for config in configs]
    blocks = []
    for i, net in enumerate(nets):
        weights = random_weights(net.spec, 50, i)
        orders = random_element(net.spec, i, (10,)).permutations
        weights[40:] = apply(net.spec, Element(orders, {}), weights[30:40])
        blocks.append(Block(net, np.arange(i, 150, 3), weights))
    problem = problem_of(blocks, 1.0 + np.arange(150)[:, None] % 3, rate=np.arange(150.0))
    problem.samples.table["cohort"] = np.tile(["perceptron", "cnn", "transformer"], 50)
    return replace(problem, samples=replace(problem.samples, probes=np.zeros((0, 1, 8, 8))))


@pytest.mark.parametrize("name", cases(MIXED, "probes"))
def test_three_families_are_read_together(name: str) -> None:
    """By one reader, in the order of the samples, whatever the order of their units."""
    problem = families()
    given = options(READERS[name]) | ({"depth": 1} if "depth" in READERS[name].space else {})
    outputs = READERS[name].fit(problem, given, TRAINING, 0).outputs
    assert outputs.shape == (150, 1)
    assert np.isfinite(outputs).all()
    if name != "hyper-parameters":  # which sees a rate of its own for each member
        np.testing.assert_allclose(outputs[120:], outputs[90:120], atol=1e-4)
    if name.startswith("statistics"):
        test = problem.split.test
        assert (np.round(outputs) == problem.targets)[test].mean() > 0.75


@pytest.mark.parametrize("name", [name for name in READERS if name not in MIXED])
def test_two_widths_are_refused_by_who_reads_one(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cohort 'narrow' with 7 .*'wide' with 25 .*graph.*padd"):
        READERS[name].fit(widths(), {}, TRAINING, 0)


def test_members_that_differ_in_the_activation_alone_are_read_together() -> None:
    nets = [network(activation=name) for name in ("relu", "tanh")]
    weights = random_weights(nets[0].spec, 90)
    blocks = [Block(net, np.arange(i, 90, 2), weights[i::2]) for i, net in enumerate(nets)]
    problem = problem_of(blocks, log_norm(nets[0].spec, weights))
    one = problem_of([Block(nets[0], np.arange(90), weights)], problem.targets)
    outputs = [READERS["pca-ridge"].fit(p, {}, TRAINING, 0).outputs for p in (problem, one)]
    np.testing.assert_array_equal(*outputs)


# ---------------------------------------------------------------------------------------- options
@lru_cache
def equivalents():
    """The last 60 members are the 60 before in other orders and scales."""
    problem = norms()
    net, weights = problem.samples.blocks[0].network, problem.samples.blocks[0].weights.copy()
    weights[180:] = apply(
        net.spec, random_element(net.spec, 5, (60,), spread=0.5), weights[120:180]
    )
    samples = replace(problem.samples, blocks=(Block(net, np.arange(240), weights),))
    return replace(problem, samples=samples)


@pytest.mark.parametrize(
    "name",
    [
        "flat-mlp", "pca-ridge", pytest.param("deepsets", marks=pytest.mark.slow),
        pytest.param("equivariant", marks=pytest.mark.slow), *cases(["tokens-plain", "graph"]),
    ],
)  # fmt: skip
def test_canonical_forms_of_equivalent_members_are_read_alike(name: str) -> None:
    apart = {}
    for canonical in (False, True):
        given = options(READERS[name]) | {"canonical": canonical}
        found = READERS[name].fit(equivalents(), given, Training(20, 32, 2), 0).outputs
        apart[canonical] = np.abs(found[180:] - found[120:180]).max() / found[120:180].std()
    assert apart[True] < 1e-3 < 0.01 < apart[False]


@pytest.mark.parametrize("name", ["equivariant", "nfn-np", "universal"])
def test_every_option_of_a_stack_has_an_effect(name: str) -> None:
    net = build_network(NetworkConfig(family="cnn", width=4, depth=2), (1, 8, 8), 10)
    space = {k: v for k, v in READERS[name].space.items() if k not in RATES and k != "canonical"}

    def parameters(given):
        form = "dws" if name == "equivariant" else name
        model = network_model(net.spec, 1, stack_of(form, given))
        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))

    first = {option: values[0] for option, values in space.items()}
    assert set(space) >= {"channels", "depth", "position_rank"}
    for option, values in space.items():
        assert len({parameters({**first, option: value}) for value in values}) == len(values)


def test_tokens_with_positions_attend_in_windows(monkeypatch) -> None:
    seen = []

    def learner(spec, outputs, stack):
        seen.append(stack.window)
        return mlp_learner(spec.size, 4, outputs)

    monkeypatch.setattr("zoogen.evaluate.trained.token_learner", learner)
    for window in READERS["tokens-plain"].space["window"]:
        READERS["tokens-plain"].fit(norms(), {"window": window}, Training(1, 8, 1), 0)
    assert seen == [None, 16]


# --------------------------------------------------------------------------- closed-form readers
def rated(targets, classes=(), name="target", **columns):
    """Members without information, but for what the columns say."""
    net = network(width=2, depth=1)
    weights = np.random.default_rng(0).standard_normal((len(targets), net.spec.size))
    block = Block(net, np.arange(len(targets)), weights.astype(np.float32))
    return problem_of([block], np.reshape(targets, (-1, 1)), classes, name, **columns)


RATE = np.tile([1e-3, 1e-2, 1e-1, 1.0, 10.0], 60)
OPTIMISER = np.where(RATE > 0.05, "adam", "sgd")


@pytest.mark.parametrize(
    ("problem", "seen"),
    [
        (rated(np.sin(RATE), rate=RATE, name="accuracy"), ["rate"]),
        (rated(RATE, rate=RATE, name="speed"), []),
        (rated(np.log10(RATE), rate=RATE, name="speed"), []),
        (rated(np.sin(RATE), **{"train.rate": RATE, "width": RATE}, name="rate"), ["width"]),
        (rated(RATE > 0.05, ("no", "yes"), optimiser=OPTIMISER, rate=RATE), ["rate"]),
    ],
    ids=["another target", "equal", "logarithm", "name", "classes"],
)
def test_the_column_of_the_target_is_not_seen(problem: Problem, seen: list[str]) -> None:
    assert list(hyper_parameters(problem)) == seen
    outputs = READERS["hyper-parameters"].fit(problem, {"trees": 60}, TRAINING, 0).outputs
    if problem.kind == "regression":
        assert (share_explained(problem, outputs) > 0.95) == bool(seen)


def test_names_are_read_as_categories() -> None:
    kinds = np.tile(["b", "c", "a", "d"], 60)
    targets = np.tile([1.0, -1.0, 1.0, -1.0], 60)
    problem = rated(targets, kind=kinds)
    outputs = READERS["hyper-parameters"].fit(problem, {"trees": 60}, TRAINING, 0).outputs
    assert share_explained(problem, outputs) > 0.95


CLASSIFIERS = ["mean", "statistics-trees", "pca-ridge", "statistics-mlp"]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classes_that_no_training_row_has_are_improbable(name: str) -> None:
    net = network()
    weights = random_weights(net.spec, 150)
    classes = 2.0 * (weights[:, :1] > 0)  # of 0, 1, 2
    problem = problem_of([Block(net, np.arange(150), weights)], classes, ("a", "b", "c"))
    fit = READERS[name].fit(problem, options(READERS[name]), TRAINING, 0)
    logits = fit.outputs[problem.split.test]
    assert logits.shape[1] == 3
    assert (logits.argmax(axis=1) != 1).all()
    if name == "pca-ridge":
        assert (logits.argmax(axis=1) == classes[problem.split.test, 0]).mean() > 0.65
    if name == "mean":
        frequency = (problem.targets[problem.split.train] == 2).mean()
        assert np.exp(logits[0, 2]) == pytest.approx(frequency)


def test_statistics_of_a_tensor() -> None:
    shallow, deep = network(2, 1), network(2, 2)
    blocks = [Block(n, np.array([i]), np.arange(n.spec.size, dtype=np.float32)[None])
              for i, n in enumerate((shallow, deep))]  # fmt: skip
    values = statistics(problem_of(blocks, np.zeros((2, 1))).samples)
    assert values.shape == (2, 7 * 6)
    assert values[0, :7].tolist() == [1.5, 1.25, 0, 0.75, 1.5, 2.25, 3]  # of 0, 1, 2, 3
    assert np.isnan(values[0]).sum() == 14  # two tensors are missing
    assert not np.isnan(values[1]).any()


def test_features_of_units_move_with_them() -> None:
    heads, dims, stream = Axis(2, "heads"), Axis(6, "dims"), Axis(5, "stream")
    maps = Axis(3, "maps")
    spec = ParamSpec.build(
        {
            "conv": (maps, Axis(2), Axis(3), Axis(3)), "dense": (stream, Axis(12, "maps", block=4)),
            "key": (dims, stream), "scale": (heads,), "square": (stream, stream),
            "output": (Axis(2), stream), "bias": (Axis(2),),
        },
        parents={"dims": ("heads", 2)},
    )  # fmt: skip
    weights = np.random.default_rng(0).standard_normal((4, spec.size))
    element = random_element(spec, 1, (4,), spread=0.0)
    groups, rest = unit_features(spec, weights)
    moved, same = unit_features(spec, apply(spec, element, weights))
    np.testing.assert_array_equal(rest, same)
    assert {name: values.shape[1:] for name, values in groups.items()} == {
        "maps": (3, 18 + 2 * 4), "stream": (5, 2 * 4 + 2 + 2 * 2 + 2), "dims": (6, 2),
        "heads": (2, 1),
    }  # fmt: skip
    for name, values in groups.items():
        order = element.permutations[name][..., None]
        np.testing.assert_allclose(moved[name], np.take_along_axis(values, order, 1), atol=1e-12)


def test_standard_columns() -> None:
    values = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, 2.0], [1e9, 5.0, 4.0]])
    scaled = standard_columns(values, np.array([0, 1]))
    assert scaled.tolist() == [[-1, 0, 0], [1, 0, 0], [10, 0, 0]]


# --------------------------------------------------------------------------------- per parameter
@lru_cache
def shrunk():
    """A step that shrinks one tensor, lets another grow, and leaves the others."""
    net = network()
    weights = random_weights(net.spec, 90)
    weights[60:] = apply(net.spec, random_element(net.spec, 7, (30,), spread=0.0), weights[30:60])
    steps = np.zeros_like(weights)
    for name, factor in (("hidden0.weight", -0.01), ("hidden1.weight", 0.03)):
        p = net.spec[name]
        steps[:, p.offset : p.offset + p.size] = factor * weights[:, p.offset : p.offset + p.size]
    problem = problem_of([Block(net, np.arange(90), weights)], steps, name="next_update")
    return replace(problem, split=Split(np.arange(20), np.arange(20, 30), np.arange(30, 90)))


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("zero", 1, 1), ("linear", 0, 1e-9), ("equivariant-parameters", 0, 0.2),
        pytest.param("signals-parameters", 0, 0.01, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_change_of_every_parameter(name: str, least: float, most: float) -> None:
    problem = shrunk()
    reader = PARAMETER_READERS[name]
    outputs = reader.fit(problem, options(reader), TRAINING, 0).outputs
    wrong = np.square(outputs - problem.targets)[30:].sum()
    assert least <= wrong / np.square(problem.targets[30:]).sum() <= most
    spec = problem.samples.blocks[0].spec
    element = random_element(spec, 7, (30,), spread=0.0)
    moved = apply(spec, element, outputs[30:60])
    np.testing.assert_allclose(outputs[60:], moved, atol=1e-5 * np.abs(problem.targets).max())


def pulled():
    """A step that moves each unit's bias by the mean of its incoming weights: no factor of a tensor
    tells it, the mean along an axis does. All members have one scale, since layers divide by it."""
    net = network()
    weights = np.random.default_rng(0).standard_normal((90, net.spec.size)).astype(np.float32)
    steps = np.zeros_like(weights)
    weight, bias = (net.spec[f"hidden1.{name}"] for name in ("weight", "bias"))
    incoming = weights[:, weight.offset : weight.offset + weight.size]
    means = incoming.reshape(len(steps), *weight.shape).mean(axis=2)
    steps[:, bias.offset : bias.offset + bias.size] = -0.1 * means
    problem = problem_of([Block(net, np.arange(90), weights)], steps, name="next_update")
    return replace(problem, split=shrunk().split)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("linear", 0.9, 1.1), ("equivariant-parameters", 0, 0.5),
        pytest.param("signals-parameters", 0, 0.5, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_change_that_is_not_proportional_needs_the_layers(
    name: str, least: float, most: float
) -> None:
    problem, reader = pulled(), PARAMETER_READERS[name]
    given = options(reader) | ({"learning_rate": 1e-2} if reader.space else {})
    outputs = reader.fit(problem, given, TRAINING, 0).outputs
    assert least <= 1 - share_explained(problem, outputs) <= most


def test_numbers_per_network_are_no_numbers_per_parameter() -> None:
    with pytest.raises(ConfigError, match="has 1 numbers a sample, expected 67, one per parameter"):
        PARAMETER_READERS["equivariant-parameters"].fit(norms(), {}, TRAINING, 0)


# ---------------------------------------------------------------------------------------- fitting
def objective(targets, loss=squared_error):
    return Objective(loss, targets, lambda y: y)


def line(traces=None):
    """Linear regression from zero."""

    def outputs(params, parts):
        if traces is not None:
            traces.append(len(parts))
        return jnp.concatenate(parts) @ params

    return Learner(lambda key: jnp.zeros((3, 1)), outputs)


def noisy_line(count=200):
    rng = np.random.default_rng(0)
    inputs, slope = rng.standard_normal((count, 3)), np.array([[1.0], [-2.0], [0.5]])
    return inputs, inputs @ slope, Split(np.arange(100), np.arange(100, 150), np.arange(150, count))


def test_linear_regression_is_solved_by_one_program_per_use() -> None:
    traces: list[int] = []
    inputs, targets, split = noisy_line()
    rows = np.random.default_rng(1).permutation(200)
    parts = [Part(rows[:50], inputs[rows[:50]]), Part(rows[50:], inputs[rows[50:]])]
    training, learner = Training(400, 16, 8), line(traces)
    fits = [
        fit_learner(learner, parts, objective(targets), split, training, seed, rate, 0.0)
        for seed, rate in ((0, 0.05), (1, 0.02))
    ]
    assert len(traces) == 2  # one for steps, one for predictions, whatever the rate and the seed
    for fit in fits:
        np.testing.assert_allclose(fit.outputs, targets, atol=1e-3)
        assert fit.parameters == 3
        assert [step for step, *_ in fit.curve] == list(range(50, 401, 50))


def test_the_weights_of_the_best_look_count() -> None:
    """Validation targets lie half-way: training passes them and goes on."""
    inputs, targets, split = noisy_line()
    targets[split.validation] *= 0.5
    fit = fit_learner(
        line(), [Part(np.arange(200), inputs)], objective(targets), split, Training(400, 16, 20), 0,
        0.02, 0.0,
    )  # fmt: skip
    errors = [error for *_, error in fit.curve]
    found = np.square(fit.outputs - targets)[split.validation].mean()
    assert found == pytest.approx(min(errors), rel=1e-5)
    assert errors[-1] > 2 * min(errors)


def test_a_training_that_diverges_ends_with_finite_outputs() -> None:
    inputs, targets, split = noisy_line()
    fit = fit_learner(
        line(), [Part(np.arange(200), inputs)], objective(targets), split, Training(40, 16, 4), 0,
        np.inf,
    )  # fmt: skip
    assert len(fit.curve) == 1
    assert np.isfinite(fit.outputs).all()


def test_every_batch_has_all_parts_and_weights_undo_the_rounding() -> None:
    sizes, rng = (7, 500, 93, 0), np.random.default_rng(0)
    begins = np.cumsum([0, *sizes])
    parts = [Part(np.arange(a, b), None) for a, b in pairwise(begins)]
    batches = fitting._Batches.of(parts, np.arange(600), 32, rng)
    assert batches.counts == [1, 27, 5, 0]
    by_part = np.split(batches.weights, np.cumsum(batches.counts)[:-1])
    np.testing.assert_allclose([w.sum() * 600 for w in by_part], sizes, rtol=1e-5)
    seen = np.concatenate([batches.next(1)[1].ravel() for _ in range(37)])
    assert np.bincount(seen, minlength=500).tolist().count(2) == 37 * 27 - 500  # order after order


def test_a_loss_of_ones_own() -> None:
    """The loss lives where the model's outputs do, here in a function of them."""
    inputs, targets, split = noisy_line()
    fit = fit_learner(
        line(), [Part(np.arange(200), inputs)],
        objective(np.exp(targets), lambda y, t: jnp.square(y - jnp.log(t)).mean(axis=1)),
        split, Training(400, 16, 8), 0, 0.05, 0.0,
    )  # fmt: skip
    np.testing.assert_allclose(fit.outputs, targets, atol=1e-3)


def test_standard_targets_are_those_of_training_rows() -> None:
    problem = poisoned(norms())
    train = problem.split.train
    scaled = objective_of(problem)
    assert abs(scaled.targets[train].mean()) < 1e-12
    assert scaled.targets[train].std() == pytest.approx(1)
    np.testing.assert_allclose(scaled.restore(scaled.targets)[train], problem.targets[train])


def test_shares_of_classes_cost_what_classes_cost() -> None:
    problem = rated(np.arange(240) % 3, ("a", "b", "c"))
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((240, 3)), jnp.float32)
    costs = [
        goal.loss(logits, jnp.asarray(goal.targets, jnp.float32))
        for goal in (objective_of(problem), mixable(problem))
    ]
    np.testing.assert_allclose(*costs, rtol=1e-6)


@pytest.mark.slow  # drawing shares compiles for seconds
def test_a_mixture_of_equivalent_members_is_one_of_them() -> None:
    """Aligned members of one orbit are equal, so that mixing leaves the member, in a new order."""
    spec = network().spec
    member = jnp.asarray(np.tile(random_weights(spec, 1), (8, 1)))
    targets, change = jnp.arange(8.0)[:, None], jax.jit(augment_of(spec, "mixtures"))
    for seed in range(3):
        (mixed,), shares = change(jax.random.key(seed), (member,), targets)
        np.testing.assert_allclose(np.sort(mixed), np.sort(member), rtol=1e-5)
        assert np.abs(mixed - member).max() > 0.1
        assert 0 <= shares.min() < shares.max() <= 7
        assert (shares != jnp.round(shares)).any()


# ---------------------------------------------------------------------------- unusual and bad input
@pytest.mark.parametrize(
    "name", cases(["statistics-trees", "pca-ridge", "deepsets", "equivariant"])
)
def test_units_alone_and_constants_are_no_problem(name: str) -> None:
    net = network(width=1)
    weights = np.zeros((30, net.spec.size), np.float32)
    problem = problem_of([Block(net, np.arange(30), weights)], np.full((30, 1), 2.0))
    outputs = READERS[name].fit(problem, options(READERS[name]), Training(4, 8, 2), 0).outputs
    np.testing.assert_allclose(outputs, 2.0)


def broken(problem, row=0):
    block = problem.samples.blocks[0]
    weights = block.weights.copy()
    weights[row, 3] = np.inf
    return replace(
        problem, samples=replace(problem.samples, blocks=(replace(block, weights=weights),))
    )


def other_shapes(problem):
    net = build_network(NetworkConfig(width=6), (1, 1, 3), 1)
    blocks = (Block(net, np.arange(0), np.zeros((0, net.spec.size))), *problem.samples.blocks)
    return replace(problem, samples=replace(problem.samples, blocks=blocks))


def without_validation(problem):
    return replace(problem, split=problem.split.__class__(np.arange(9), np.arange(0), np.arange(9)))


def unknown_target(problem):
    targets = problem.targets.copy()
    targets[problem.split.train[2]] = np.nan
    return replace(problem, targets=targets)


@pytest.mark.parametrize(
    ("change", "name", "given", "message"),
    [
        (broken, "mean", {}, "weights of 1 of 240 samples are not finite, first of member 'm0'"),
        (unknown_target, "mean", {}, "'target' of 1 of 100 train rows is not finite, .*'m22'"),
        (without_validation, "mean", {}, "the split has no validation rows"),
        (other_shapes, "probes", {}, r"one input and output shape, found \(\(1, 1, 3\), 1\)"),
        (lambda p: p, "flat-mlp", {"widht": 3}, "no option 'widht'; expected .*'hidden'"),
    ],
)
def test_bad_input_is_named(change, name, given, message) -> None:
    with pytest.raises(ConfigError, match=message):
        READERS[name].fit(change(norms()), given, TRAINING, 0)
