"""Times graph networks, signals and token models, beside the equivariant stack.

    python benchmarks/graph_models.py

Forward and backward. Batches of 64 members, heads for one number per network, sum of squares as
loss. Every model runs in a process of its own, on one core and one thread; rounds of all models are
interleaved. Time is CPU time of the process, most memory that of the whole process, libraries
included. Graph networks read batches of one spec, as mixed batches of the same number of edges cost
the same.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import jax
import jax.numpy as jnp
import machine
import numpy as np
from weight_models import NETWORKS, in_own_process, spec_of, summary

from zoogen.models import (
    GraphStack,
    Stack,
    TokenStack,
    frame_of,
    graph_model,
    network_model,
    signal_model,
    token_model,
    token_parameter_model,
    unite,
)
from zoogen.models.model import WeightModel
from zoogen.params import ParamSpec

BATCH = 64
Built = tuple[WeightModel, Any]  # a model and the batch that it reads


def graphs(order: Any, messages: Any) -> Callable[[ParamSpec, np.ndarray], Built]:
    """A graph network of 4 rounds."""

    def build(spec: ParamSpec, weights: np.ndarray) -> Built:
        model = graph_model(frame_of([spec]), 1, GraphStack(32, 4, order, messages))
        return model, unite(frame_of([spec]), [(spec, weights)])

    return build


# model → how it is built
MODELS: dict[str, Callable[[ParamSpec, np.ndarray], Built]] = {
    "equivariant stack 5×32": lambda s, w: (network_model(s, 1, Stack(depth=5)), w),
    "graph together mean 4×32": graphs("together", "mean"),
    "graph together sum 4×32": graphs("together", "sum"),
    "graph forward mean 4×32": graphs("forward", "mean"),
    "graph forward sum 4×32": graphs("forward", "sum"),
    "signals 32": lambda s, w: (signal_model(s, 1), w),
    "tokens units 4×64": lambda s, w: (token_model(s, 1), w),
    "tokens units, parameters 4×64": lambda s, w: (token_parameter_model(s), w),
    "tokens plain 4×64": lambda s, w: (token_model(s, 1, TokenStack("plain")), w),
    "tokens plain, window 16 4×64": lambda s, w: (
        token_model(s, 1, TokenStack("plain", window=16)), w),
}  # fmt: skip
REFERENCE = "equivariant stack 5×32"


def main() -> None:
    """Print the table and write ``results/graph_models_cpu.json``; or measure one model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="processes per model, interleaved")
    parser.add_argument("--steps", type=int, default=5, help="steps per process")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "MODEL"), help="measure here")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments.steps)))
        return
    content = {
        "machine": machine.describe(),
        "batch": BATCH,
        "unit": "CPU milliseconds per step (best, median and worst over all rounds); MB of the "
        "process; CPU seconds until the step is compiled; ratios to the equivariant stack",
        "networks": {name: compare(name, arguments) for name in arguments.networks},
    }
    print(machine.write("graph_models_cpu", content))


def compare(network: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All models on one network, round by round."""
    found: dict[str, list[dict[str, Any]]] = {model: [] for model in MODELS}
    for _ in range(arguments.rounds):
        for model in MODELS:
            found[model].append(in_own_process(network, model, arguments.steps, __file__))
    report: dict[str, Any] = {model: summary(rounds) for model, rounds in found.items()}
    for model, row in report.items():
        ratios = [
            float(np.median(mine["ms"]) / np.median(other["ms"]))
            for mine, other in zip(found[model], found[REFERENCE], strict=True)
        ]
        row["ratio"] = machine.summary(ratios)
        print(
            f"{network:13s}{model:31s}{row['weights']:9d}{row['ms']['median']:9.1f} ms"
            f"{row['compile_s']['median']:6.1f} s{row['peak_mb']['median']:7.0f} MB"
            f"{row['ratio']['median']:7.2f}",
            flush=True,
        )
    return report


def measure(network: str, model: str, steps: int) -> dict[str, Any]:
    """CPU milliseconds of each step, seconds of compilation, peak memory, number of weights."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    spec = spec_of(NETWORKS[network])
    weights = np.random.default_rng(0).standard_normal((BATCH, spec.size)).astype(np.float32)
    built, batch = MODELS[model](spec, weights)
    params = built.init(jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, batch)
    loss = jax.value_and_grad(lambda params, x: jnp.square(built.apply(params, x)).sum())
    begin = time.process_time()
    program = jax.jit(loss).lower(params, batch).compile()
    seconds, times = time.process_time() - begin, []
    for _ in range(steps + 1):
        begin = time.process_time()
        jax.block_until_ready(program(params, batch))
        times.append(1e3 * (time.process_time() - begin))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {"ms": times[1:], "compile_s": seconds, "peak_mb": peak, "weights": size}


if __name__ == "__main__":
    main()
