"""Width transfer: models trained on narrow members read wide ones with the same function.

    python benchmarks/width_transfer.py

Members are random relu networks [2,w,w,1], the targets their outputs at four fixed inputs. Models
train at width 16 and are tested at width 16, and on the same test members after widenings that keep
the function: every hidden unit is copied and its outgoing weights are shared out among its copies.
`even` copies every unit equally often, `uneven` a random number of times. An equivariant stack is
built for one width and can't read another. R² is over all test members and targets, mean and
standard deviation over seeds of data and model.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
import jax
import jax.numpy as jnp
import machine
import numpy as np
import optax

from zoogen.config import NetworkConfig
from zoogen.models import (
    GraphBatch,
    GraphStack,
    SignalStack,
    fit_graph_standard,
    frame_of,
    graph_model,
    signal_model,
    standardise_graphs,
    unite,
)
from zoogen.networks import Network, build_network

WIDTH, WIDENED, BATCH = 16, (32, 128, 512), 64
PROBES = np.array([[1, 0], [0, 1], [-1, 1], [1, -2]], np.float32).reshape(4, 1, 1, 2)
STACKS: dict[str, GraphStack | SignalStack] = {
    "signals": SignalStack(32),
    **{
        f"{order}, {messages}": GraphStack(16, 2, order, messages)
        for order in ("forward", "together")
        for messages in ("mean", "sum")
    },
}


def main() -> None:
    """Print the table and write ``results/width_transfer.json``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    parser.add_argument("--train", type=int, default=4096, help="members to train on")
    parser.add_argument("--test", type=int, default=64, help="members to test on")
    parser.add_argument("--models", nargs="+", choices=list(STACKS), default=list(STACKS))
    arguments = parser.parse_args()
    rows: dict[str, Any] = {}
    for name in arguments.models:
        found = [scores(STACKS[name], seed, arguments) for seed in range(arguments.seeds)]
        rows[name] = {case: summary([one[case] for one in found]) for case in found[0]}
        print(name, {case: round(row["mean"], 4) for case, row in rows[name].items()}, flush=True)
    content = {"machine": machine.describe(), **vars(arguments), "width": WIDTH, "r2": rows}
    print(machine.write("width_transfer", content))


def summary(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation over seeds."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=len(values) > 1))}


def network_of(width: int) -> Network:
    """A relu network [2,w,w,1]."""
    return build_network(NetworkConfig(width=width, activation="relu"), (1, 1, 2), 1)


def random_members(seed: int, count: int) -> np.ndarray:
    """Weights of variance 2 / fan-in, biases of variance 0.1."""
    rng, spec = np.random.default_rng(seed), network_of(WIDTH).spec
    parts = {
        p.name: np.sqrt(2 / p.shape[1] if len(p.shape) > 1 else 0.1)
        * rng.standard_normal((count, *p.shape))
        for p in spec.parameters
    }
    return np.asarray(spec.flatten(parts), np.float32)


def widened(values: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Weights of the network in which unit i of each hidden layer stands ``copies[i]`` times."""
    spec, wide = network_of(WIDTH).spec, network_of(int(copies.sum())).spec
    parts = {}
    for name, part in spec.unflatten(values).items():
        for place, axis in enumerate(spec[name].axes):
            if axis.group is not None:
                shared = part if place == 0 else part / copies
                part = shared.repeat(copies, axis=1 + place)
        parts[name] = part
    return np.asarray(wide.flatten(parts), np.float32)


def targets_of(values: np.ndarray) -> np.ndarray:
    """Outputs at the probes ``[m 4]``."""
    network = network_of(WIDTH)

    def outputs(params: Any) -> jax.Array:
        return network.apply(params, jnp.asarray(PROBES))[:, 0]

    return np.asarray(jax.jit(jax.vmap(outputs))(network.spec.unflatten(jnp.asarray(values))))


def scores(
    stack: GraphStack | SignalStack, seed: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """R² on test members at every width."""
    begin = time.perf_counter()
    train, test = (random_members(100 * seed + i, n)
                   for i, n in enumerate((arguments.train, arguments.test)))  # fmt: skip
    targets = targets_of(train)
    mean, deviation = targets.mean(axis=0), targets.std(axis=0)
    predict = trained(stack, seed, train, (targets - mean) / deviation, arguments.steps)
    expected = (targets_of(test) - mean) / deviation
    rng, found = np.random.default_rng(seed), {}
    for width in (WIDTH, *WIDENED):
        even = np.full(WIDTH, width // WIDTH)
        found[f"even {width}"] = r2(predict(widened(test, even), width), expected)
    for width in WIDENED:
        uneven = 1 + rng.multinomial(width - WIDTH, rng.dirichlet(np.ones(WIDTH)))
        found[f"uneven {width}"] = r2(predict(widened(test, uneven), width), expected)
    print(f"  seed {seed}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    return found


def r2(found: np.ndarray, expected: np.ndarray) -> float:
    """Share of the variance that is explained."""
    residual = np.square(found - expected).sum()
    return float(1 - residual / np.square(expected - expected.mean(axis=0)).sum())


class Model(NamedTuple):
    """A model of members of any width.

    Attributes:
        init: ``key → params``.
        read: ``(weights [m p], width) → what apply reads``.
        apply: ``width → (params, what was read) → outputs [m o]``.
    """

    init: Callable[[jax.Array], Any]
    read: Callable[[np.ndarray, int], Any]
    apply: Callable[[int], Callable[[Any, Any], jax.Array]]


def model_of(stack: GraphStack | SignalStack, values: np.ndarray, outputs: int) -> Model:
    """The model of a stack; graphs are standardised as these training members are."""
    spec = network_of(WIDTH).spec
    frame = frame_of([spec])
    if isinstance(stack, SignalStack):

        def signals(width: int) -> Callable[[Any, Any], jax.Array]:
            return signal_model(network_of(width).spec, outputs, stack, frame=frame).apply

        init = signal_model(spec, outputs, stack, frame=frame).init
        return Model(init, lambda weights, _: jnp.asarray(weights), signals)
    graphs = graph_model(frame, outputs, stack)
    standard = fit_graph_standard(unite(frame, [(spec, values[:1024])]), stack.messages)

    def read(weights: np.ndarray, width: int) -> GraphBatch:
        batch = unite(frame, [(network_of(width).spec, weights)], pad=width == WIDTH)
        return standardise_graphs(standard, batch)

    return Model(graphs.init, read, lambda _: graphs.apply)


def trained(
    stack: GraphStack | SignalStack, seed: int, values: np.ndarray, targets: np.ndarray, steps: int
) -> Callable[[np.ndarray, int], np.ndarray]:
    """A model fitted by Adam; it maps weights of any width to predictions."""
    model = model_of(stack, values, targets.shape[1])
    apply = model.apply(WIDTH)
    optimiser = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    @jax.jit
    def step(params: Any, state: Any, batch: Any, y: jax.Array) -> tuple[Any, Any]:
        slope = jax.grad(lambda p: jnp.square(apply(p, batch) - y).mean())(params)
        updates, state = optimiser.update(slope, state)
        return optax.apply_updates(params, updates), state

    params = jax.jit(model.init)(jax.random.key(seed))
    state = optimiser.init(params)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = rng.choice(len(values), BATCH, replace=False)
        params, state = step(params, state, model.read(values[rows], WIDTH), targets[rows])

    def predict(weights: np.ndarray, width: int) -> np.ndarray:
        run = jax.jit(model.apply(width))
        batches = (model.read(some, width) for some in few(weights, width))
        return np.concatenate([np.asarray(run(params, batch)) for batch in batches])

    return predict


def few(weights: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Members that fit side by side."""
    size = max(1, min(64, 2**19 // width**2))
    yield from (weights[i : i + size] for i in range(0, len(weights), size))


if __name__ == "__main__":
    main()
