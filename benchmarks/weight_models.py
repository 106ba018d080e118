"""Times models of weights, forward and backward, beside the public PyTorch package `nfn`.

    pip install 'zoogen[nfn]'; python benchmarks/weight_models.py

Batches of 64 members. Both sides have equally many layers and channels, relu after each layer, and
the sum of squares of all pooled features as loss; nfn's first layer reads the same weights. Every
model runs in a process of its own, on one core and one thread; rounds of all models are
interleaved. `complete` has all maps; `position rank 1` keeps one feature per channel for all nine
positions of a kernel, and is no equal of nfn's. Time is CPU time of the process. Most memory is
that of the whole process, libraries included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import machine
import numpy as np

BATCH, CHANNELS, DEPTH = 64, 32, 5

# network → its weights as nfn wants them: shapes of weights, with a bias each
NETWORKS: dict[str, list[tuple[int, ...]]] = {
    "[2,32,32,1]": [(32, 2), (32, 32), (1, 32)],
    "cnn 16": [(16, 1, 3, 3), (16, 16, 3, 3), (16, 16, 3, 3), (10, 16)],
}
# model → its side and form
MODELS = {
    "zoogen HNP, complete": ("zoogen", {"terminals": "fixed"}),
    "nfn HNP": ("nfn", "HNPLinear"),
    "zoogen NP, complete": ("zoogen", {"terminals": "permutable"}),
    "nfn NP": ("nfn", "NPLinear"),
    "zoogen HNP, normalised": ("zoogen", {"terminals": "fixed", "normalise": True}),
    "zoogen HNP, position rank 1": ("zoogen", {"terminals": "fixed", "position_rank": 1}),
}
LEFT_OUT = {("[2,32,32,1]", "zoogen HNP, position rank 1")}  # has no kernels
PAIRS = {"zoogen HNP, complete": "nfn HNP", "zoogen NP, complete": "nfn NP"}


def main() -> None:
    """Print the table and write ``results/weight_models_cpu.json``; or measure one model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="processes per model, interleaved")
    parser.add_argument("--steps", type=int, default=10, help="steps per process")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "MODEL"), help="measure here")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments.steps)))
        return
    content = {
        "machine": machine.describe(),
        "nfn": metadata.version("nfn"),
        "batch": BATCH, "channels": CHANNELS, "layers": DEPTH,
        "unit": "CPU milliseconds per step (best, median and worst over all rounds); MB of the "
        "process; CPU seconds until the step is compiled",
        "networks": {name: compare(name, arguments) for name in NETWORKS},
    }  # fmt: skip
    print(machine.write("weight_models_cpu", content))


def compare(network: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All models on one network, round by round."""
    models = [model for model in MODELS if (network, model) not in LEFT_OUT]
    found: dict[str, list[dict[str, Any]]] = {model: [] for model in models}
    for _ in range(arguments.rounds):
        for model in models:
            found[model].append(in_own_process(network, model, arguments.steps))
    report: dict[str, Any] = {model: summary(rounds) for model, rounds in found.items()}
    for model, row in report.items():
        ratio = {}
        if model in PAIRS:
            ratios = [
                float(np.median(mine["ms"]) / np.median(other["ms"]))
                for mine, other in zip(found[model], found[PAIRS[model]], strict=True)
            ]
            ratio = row["ratio_to_nfn"] = machine.summary(ratios)
        print(
            f"{network:13s}{model:29s}{row['weights']:9d}{row['ms']['median']:9.1f} ms"
            f"{row['compile_s']['median']:6.1f} s{row['peak_mb']['median']:7.0f} MB"
            f"{ratio.get('median', float('nan')):7.2f}",
            flush=True,
        )
    return report


def in_own_process(network: str, model: str, steps: int, script: str = __file__) -> dict[str, Any]:
    """Measure in a fresh process that has one core and one thread."""
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    threads = {"XLA_FLAGS": flags, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, script, "--one", network, model, "--steps", str(steps)]
    environment = {**os.environ, **threads}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # compile time is measured, too
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{model} on {network} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the report."""
    return {
        "weights": rounds[0]["weights"],
        "ms": machine.summary([ms for found in rounds for ms in found["ms"]]),
        "compile_s": machine.summary([found["compile_s"] for found in rounds]),
        "peak_mb": machine.summary([found["peak_mb"] for found in rounds]),
    }


def measure(network: str, model: str, steps: int) -> dict[str, Any]:
    """CPU milliseconds of each step, seconds of compilation, peak memory, number of weights."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    side, form = MODELS[model]
    shapes = NETWORKS[network]
    step, weights, seconds = (of_zoogen if side == "zoogen" else of_nfn)(shapes, form)
    step()
    times = []
    for _ in range(steps):
        begin = time.process_time()
        step()
        times.append(1e3 * (time.process_time() - begin))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ms": times, "compile_s": seconds, "peak_mb": peak, "weights": weights}


def of_zoogen(
    shapes: list[tuple[int, ...]], options: dict[str, Any]
) -> tuple[Callable[[], Any], int, float]:
    """One step of a stack without its head's hidden layer: it is the layers that are compared."""
    import jax
    import jax.numpy as jnp

    from zoogen.models import Stack
    from zoogen.models.equivariant import trunk
    from zoogen.models.heads import pooled
    from zoogen.models.model import in_chunks

    spec = spec_of(shapes)
    plain = Stack(channels=CHANNELS, depth=DEPTH, normalise=False)
    stack = trunk(spec, replace(plain, **options))
    features = in_chunks(
        lambda params, x: pooled(stack.leaves, stack.apply(params, x), ("mean",)),
        stack.footprint,
    )
    params = stack.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((BATCH, spec.size), np.float32))
    begin = time.process_time()
    loss = jax.value_and_grad(lambda params, x: jnp.square(features(params, x)).sum())
    program = jax.jit(loss).lower(params, x).compile()
    seconds = time.process_time() - begin
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return lambda: jax.block_until_ready(program(params, x)), size, seconds


def spec_of(shapes: list[tuple[int, ...]]) -> Any:
    """The spec of a network whose weights have these shapes, with a bias each."""
    from zoogen.params import Axis, ParamSpec

    axes: dict[str, tuple[Axis, ...]] = {}
    incoming = Axis(shapes[0][1])
    for i, (outputs, _, *kernel) in enumerate(shapes):
        units = Axis(outputs, f"hidden{i}" if i < len(shapes) - 1 else None)
        axes[f"{i}.weight"], axes[f"{i}.bias"] = (units, incoming, *map(Axis, kernel)), (units,)
        incoming = units
    return ParamSpec.build(axes)


def of_nfn(shapes: list[tuple[int, ...]], layer: str) -> tuple[Callable[[], Any], int, float]:
    """One step of nfn's layers; its tensors are ``[b c out in *kernel]``."""
    import torch
    from nfn import layers
    from nfn.common import ArraySpec, NetworkSpec, WeightSpaceFeatures

    torch.set_num_threads(1)
    torch.manual_seed(0)
    biases = [(shape[0],) for shape in shapes]
    spec = NetworkSpec([ArraySpec(s) for s in shapes], [ArraySpec(b) for b in biases])
    build = getattr(layers, layer)
    sizes = [1] + [CHANNELS] * DEPTH
    stack = torch.nn.ModuleList([build(spec, *sizes[i : i + 2]) for i in range(DEPTH)])
    pool = getattr(layers, layer.replace("Linear", "Pool"))(spec)
    x = [[torch.randn(BATCH, 1, *s) for s in group] for group in (shapes, biases)]

    def step() -> None:
        stack.zero_grad()
        features = WeightSpaceFeatures(*x)
        for one in stack:
            features = one(features).map(torch.relu)
        pool(features).square().sum().backward()

    return step, sum(p.numel() for p in stack.parameters()), 0.0


if __name__ == "__main__":
    main()
