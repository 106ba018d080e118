"""Training speed: zoogen beside a plain PyTorch loop and torch.func vmap, in one interleaved run.

    python benchmarks/train_throughput.py            # both networks: about ten minutes
    python benchmarks/train_throughput.py --networks mlp --rounds 2

Every variant is a process of its own (so that peak memory is its own) that prepares, compiles and
then waits; the parent lets one work at a time, round after round. All train the same members: the
same initial weights, images, batches in the same order, SGD with momentum 0.9, batch 64, float32.
zoogen runs the training program of `zoogen generate`, not a copy of it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import machine

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
BATCH, RATE, MOMENTUM = 64, 0.01, 0.9
# Losses of all variants are compared after so many steps. Rounding grows along a trajectory: after
# 100 steps of the CNN at rate 0.02, PyTorch with one thread and with two differ by 5e-3.
CHECK_STEPS = 50
TOLERANCE = 1e-3
FEW, MANY, SCALING_STEPS = 16, 256, 100  # members whose cost each is compared


class Workload(NamedTuple):
    """A network and how much of it one round trains.

    Attributes:
        network: section of the config.
        products: multiply-adds per image of the forward pass, one figure a layer.
        steps: of a member in a round of zoogen (one epoch), of the PyTorch loop and of vmap.
    """

    network: dict[str, Any]
    products: tuple[int, ...]
    steps: dict[str, int]

    @property
    def flop_per_step(self) -> float:
        """Of one training step: forward, weight gradients, input gradients but the first."""
        return 2.0 * BATCH * (3 * sum(self.products) - self.products[0])


WORKLOADS = {
    "mlp": Workload(
        {"family": "mlp", "width": 64, "depth": 2},
        (784 * 64, 64 * 64, 64 * 10),
        {"zoogen": 937, "loop": 400, "vmap": 60},
    ),
    "cnn": Workload(
        {"family": "cnn", "width": 16, "depth": 3},
        (13 * 13 * 16 * 9, 6 * 6 * 16 * 144, 2 * 2 * 16 * 144, 16 * 10),
        {"zoogen": 937, "loop": 100, "vmap": 10},
    ),
}
VARIANTS = ("loop-1", "loop-2", "vmap", "zoogen")


# --- the parent: prepares, lets workers run in turn, compares ------------------------------------


def main() -> None:
    """Run the benchmark or, as a child, one of its variants."""
    arguments = _arguments()
    if arguments.role == "prepare":
        prepare(WORKLOADS[arguments.networks[0]], arguments.inputs)
    elif arguments.role:
        serve(arguments.role, WORKLOADS[arguments.networks[0]], arguments.inputs)
    else:
        results = {name: measure(name, arguments.rounds) for name in arguments.networks}
        content = {"machine": machine.describe(), "batch": BATCH, "workloads": results}
        print(f"\n{machine.write(f'train_throughput_{backend(results)}', content)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=WORKLOADS, default=[*WORKLOADS])
    parser.add_argument("--rounds", type=int, default=7, help="interleaved repeats (default 7)")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def backend(results: dict[str, Any]) -> str:
    """``cpu`` or the accelerator's platform, for the file name."""
    return str(next(iter(results.values()))["variants"]["zoogen"]["platform"])


def measure(name: str, rounds: int) -> dict[str, Any]:
    """All variants of one network: start, compare losses, time in turn."""
    with tempfile.TemporaryDirectory() as directory:
        inputs = Path(directory) / "inputs.npz"
        subprocess.run(_command("prepare", name, inputs), check=True)
        workers: dict[str, Worker] = {}
        try:
            for variant in VARIANTS:  # one after another: vmap times its chunk sizes meanwhile
                workers[variant] = Worker(_command(variant, name, inputs))
                workers[variant].facts = workers[variant].answer()
            return _measure(name, workers, rounds)
        finally:
            for worker in workers.values():
                worker.close()


def _measure(name: str, workers: dict[str, Worker], rounds: int) -> dict[str, Any]:
    ready = {variant: worker.facts for variant, worker in workers.items()}
    disagreement = compare_losses({variant: facts["losses"] for variant, facts in ready.items()})
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    sizes: dict[str, list[float]] = {"few": [], "many": []}
    peaks = []
    for _ in range(rounds):
        for variant in VARIANTS:
            runs[variant].append(workers[variant].ask("run"))
        peaks.append(workers["zoogen"].ask("peak")["gflops"])
        for size, seconds in sizes.items():
            seconds.append(workers["zoogen"].ask(size)["cpu_per_step"])
    variants = {
        variant: _rates(ready[variant], runs[variant], workers[variant].ask("memory"))
        for variant in VARIANTS
    }
    result = _compare(WORKLOADS[name], variants, max(peaks))
    result |= {
        "loss_difference": disagreement,
        "cost_of_256_members_over_16": min(sizes["many"]) / min(sizes["few"]),
    }
    show(name, result)
    return result


def compare_losses(losses: dict[str, list[float]]) -> float:
    """Largest difference between variants after the same steps; more than 1e-3 is an error."""
    counts = min(len(values) for values in losses.values())
    table = np.array([values[:counts] for values in losses.values()])
    difference = float(np.ptp(table, axis=0).max())
    if not difference <= TOLERANCE:
        raise SystemExit(f"losses differ by {difference:.2g} after {CHECK_STEPS} steps: {losses}")
    return difference


def _rates(
    ready: dict[str, Any], runs: list[dict[str, float]], memory: dict[str, float]
) -> dict[str, Any]:
    """Seconds → rates; the best round stands for the variant, the spread is kept."""
    facts = {key: value for key, value in ready.items() if key != "losses"}
    return facts | memory | {
        "steps_per_second": max(run["steps"] / run["wall"] for run in runs),
        "steps_per_cpu_second": max(run["steps"] / run["cpu"] for run in runs),
        "microseconds_per_step": machine.summary(
            [1e6 * run["wall"] / run["steps"] for run in runs]
        ),
    }  # fmt: skip


def _compare(
    workload: Workload, variants: dict[str, dict[str, Any]], peak: float
) -> dict[str, Any]:
    loops = [variants["loop-1"], variants["loop-2"]]
    for variant in variants.values():
        variant["gflops"] = variant["steps_per_second"] * workload.flop_per_step / 1e9
        variant["share_of_peak"] = variant["gflops"] / peak
    ratios = {
        rate: {
            "loop": variants["zoogen"][rate] / max(loop[rate] for loop in loops),
            "vmap": variants["zoogen"][rate] / variants["vmap"][rate],
        }
        for rate in ("steps_per_second", "steps_per_cpu_second")
    }
    return {
        "network": workload.network,
        "mflop_per_step": workload.flop_per_step / 1e6,
        "matrix_product_peak_gflops": peak,
        "variants": variants,
        "zoogen_over": ratios,
    }


def show(name: str, result: dict[str, Any]) -> None:
    """Print one network's table."""
    print(f"\n{name}: {result['network']}, batch {BATCH}, float32")
    print(f"{'variant':10s}{'steps/s':>10s}{'/CPU-s':>10s}{'GFLOP/s':>10s}{'of peak':>9s}"
          f"{'compile s':>11s}{'peak MB':>9s}")  # fmt: skip
    for variant, v in result["variants"].items():
        print(f"{variant:10s}{v['steps_per_second']:10.0f}{v['steps_per_cpu_second']:10.0f}"
              f"{v['gflops']:10.1f}{v['share_of_peak']:9.0%}{v['compile_seconds']:11.1f}"
              f"{v['peak_mb']:9.0f}")  # fmt: skip
    for rate, ratio in result["zoogen_over"].items():
        print(f"zoogen, {rate}: {ratio['loop']:.2f} × loop, {ratio['vmap']:.2f} × vmap")
    print(f"{MANY} members cost {result['cost_of_256_members_over_16']:.3f} × {FEW} per member; "
          f"losses agree to {result['loss_difference']:.1e}")  # fmt: skip


def _command(role: str, name: str, inputs: Path) -> list[str]:
    return [
        sys.executable, __file__, "--role", role, "--networks", name, "--inputs", str(inputs),
    ]  # fmt: skip


class Worker:
    """A child process that answers one line of JSON to each line it is sent."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.facts: dict[str, Any] = {}

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended: {' '.join(self._process.args)}")
        return dict(json.loads(line))

    def ask(self, question: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(question, file=self._process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# --- a worker ------------------------------------------------------------------------------------

Answers = dict[str, Callable[[], dict[str, Any]]]


def serve(role: str, workload: Workload, inputs: Path) -> None:
    """Prepare a variant, report its losses, then answer the parent's questions."""
    given = dict(np.load(inputs))
    build = {"loop": torch_loop, "vmap": torch_vmap, "zoogen": zoogen_program}
    kind, _, threads = role.partition("-")
    begin = time.perf_counter()
    facts, answers = build[kind](workload, given, int(threads or 0))
    print(json.dumps({"prepare_seconds": time.perf_counter() - begin} | facts), flush=True)
    answers["memory"] = lambda: {
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    }
    for line in sys.stdin:
        print(json.dumps(answers[line.strip()]()), flush=True)


def timed(steps: int, work: Callable[[], Any]) -> dict[str, float]:
    """Wall and CPU seconds of ``steps`` member-steps."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {
        "steps": steps,
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
    }


def dataset() -> Any:
    """Fashion-MNIST from the Debian package `dataset-fashion-mnist`, else noise of its shape."""
    from zoogen.config import DataConfig
    from zoogen.data import load

    if FASHION_MNIST.is_dir():
        return load(DataConfig(source="idx", path=str(FASHION_MNIST)))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "noise.npz"
        images = rng.integers(0, 256, (60_000, 28, 28), np.uint8)
        np.savez(path, images=images, labels=rng.integers(0, 10, 60_000))
        return load(DataConfig(source="npz", path=str(path)))


# --- (c) zoogen ----------------------------------------------------------------------------------


class Setup(NamedTuple):
    """zoogen's own objects for a number of members."""

    recipe: Any
    program: Any
    data: Any
    members: Any
    state: Any


def setup(workload: Workload, members: int) -> Setup:
    """The objects that `zoogen generate` would train a cohort with."""
    from zoogen import population

    population.use_all_cores()
    from zoogen.config import Config
    from zoogen.grid import expand
    from zoogen.train import block
    from zoogen.train.program import make_program

    config = Config.model_validate({
        "name": "benchmark",
        "network": workload.network,
        "train": {"learning_rate": RATE, "momentum": MOMENTUM, "batch_size": BATCH, "epochs": 1},
        "grid": {"seeds": members},
    })  # fmt: skip
    (cohort,) = expand(config).cohorts
    loaded = dataset()
    recipe = block.recipe_of(cohort.config, loaded)
    given, program = block.member_input(cohort.members), make_program(recipe)
    state = program.start(given, None)
    return Setup(recipe, program, block.training_data(loaded, recipe), given, state)


def prepare(workload: Workload, inputs: Path) -> None:
    """Write what PyTorch needs to train the same members: weights, batches, images."""
    import jax
    import jax.numpy as jnp

    from zoogen.data import normalise
    from zoogen.keys import Purpose, key_for
    from zoogen.train.shuffle import round_keys, shuffled

    recipe, _, data, members, state = setup(workload, FEW)
    places = jnp.arange(recipe.training_size)

    def order(words: Any) -> Any:
        key = key_for(recipe.root, words, Purpose.ORDER)
        return shuffled(round_keys(jax.random.fold_in(key, 0)), places, recipe.training_size)

    np.savez(
        inputs,
        weights=recipe.net.spec.flatten(state.params),
        order=jax.lax.map(order, members.words),
        images=normalise(data.images, data.mean, data.std),
        labels=data.labels,
    )


def zoogen_program(
    workload: Workload, _given: dict[str, np.ndarray], _threads: int
) -> tuple[dict[str, Any], Answers]:
    """The compiled program of a cohort."""
    import jax
    import jax.numpy as jnp

    from zoogen.networks.layers import chosen
    from zoogen.train.program import Span

    few, many = setup(workload, FEW), setup(workload, MANY)

    def advance(s: Setup, begin: int, stop: int, state: Any = None) -> Any:
        state = s.state if state is None else state
        span = Span(jnp.int32(begin), jnp.int32(stop))
        return jax.block_until_ready(s.program.advance((s.members, state), (s.data, span)))

    begin = time.perf_counter()
    advance(few, 0, 1)
    compile_seconds = time.perf_counter() - begin
    advance(many, 0, 1)
    before = advance(few, 0, CHECK_STEPS - 1)
    after = advance(few, CHECK_STEPS - 1, CHECK_STEPS, before)
    facts = {
        "compile_seconds": compile_seconds,
        "losses": (after.loss_sum - before.loss_sum)[:, 0].tolist(),
        "platform": jax.default_backend(),
        "devices": jax.local_device_count(),
        "formulations": chosen(),
    }

    def cost(s: Setup, members: int) -> dict[str, float]:
        run = timed(members * SCALING_STEPS, lambda: advance(s, 0, SCALING_STEPS))
        return {"cpu_per_step": run["cpu"] / run["steps"]}

    steps = workload.steps["zoogen"]
    return facts, {
        "run": lambda: timed(steps * FEW, lambda: advance(few, 0, steps)),
        "few": lambda: cost(few, FEW),
        "many": lambda: cost(many, MANY),
        "peak": matrix_product_peak,
    }


def matrix_product_peak(size: int = 1024, products: int = 8) -> dict[str, float]:
    """GFLOP/s of large float32 matrix products on all devices at once."""
    import jax
    import jax.numpy as jnp

    from zoogen.population import over_members

    multiply = over_members(
        lambda a, b: jax.lax.fori_loop(0, products, lambda _, x: 1e-3 * (b @ x), a)
    )
    devices = jax.local_device_count()
    stacked, shared = jnp.ones((devices, size, size)), jnp.ones((size, size))
    jax.block_until_ready(multiply(stacked, shared))
    best = min(
        timed(1, lambda: jax.block_until_ready(multiply(stacked, shared)))["wall"] for _ in range(3)
    )
    return {"gflops": 2.0 * size**3 * products * devices / best / 1e9}


# --- (a) and (b) PyTorch -------------------------------------------------------------------------


def torch_tensors(given: dict[str, np.ndarray]) -> tuple[Any, Any, Any]:
    """Normalised images, labels and batch order on PyTorch's device."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = ("images", "labels", "order")
    images, labels, order = (torch.from_numpy(given[name]).to(device) for name in names)
    return images, labels.long(), order.long()


def torch_model(workload: Workload, given: dict[str, np.ndarray], member: int) -> Any:
    """One member as an ordinary module with its initial weights."""
    import torch
    from torch import nn

    width = workload.network["width"]
    if workload.network["family"] == "mlp":
        layers = [
            nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 10),
        ]  # fmt: skip
    else:
        layers = [
            nn.Conv2d(1, width, 3, 2), nn.ReLU(), nn.Conv2d(width, width, 3, 2), nn.ReLU(),
            nn.Conv2d(width, width, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(width, 10),
        ]  # fmt: skip
    model = nn.Sequential(*layers)
    nn.utils.vector_to_parameters(torch.from_numpy(given["weights"][member]), model.parameters())
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def batches(order: Any, steps: int) -> Iterator[Any]:
    """Indices of each step, ``[..., 64]``."""
    for step in range(steps):
        yield order[..., step * BATCH : (step + 1) * BATCH]


def torch_loop(
    workload: Workload, given: dict[str, np.ndarray], threads: int
) -> tuple[dict[str, Any], Answers]:
    """(a) One model after another."""
    import torch

    torch.set_num_threads(threads)
    images, labels, order = torch_tensors(given)

    def train(member: int, steps: int) -> float:
        model = torch_model(workload, given, member)
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
        loss_of = torch.nn.CrossEntropyLoss()
        for index in batches(order[member], steps):
            optimizer.zero_grad()
            loss = loss_of(model(images[index]), labels[index])
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    steps = workload.steps["loop"]
    facts = {
        "compile_seconds": 0.0,
        "losses": [train(member, CHECK_STEPS) for member in range(2)],
        "threads": threads,
    }
    return facts, {"run": lambda: timed(steps, lambda: train(0, steps))}


def torch_vmap(
    workload: Workload, given: dict[str, np.ndarray], _threads: int
) -> tuple[dict[str, Any], Answers]:
    """(b) torch.func over a chunk of members; chunk and threads are the fastest of a few."""
    import torch

    images, labels, order = torch_tensors(given)

    def train(members: int, steps: int) -> list[float]:
        losses = None
        update = vmapped_step(workload, given, members)
        for index in batches(order[:members], steps):
            losses = update(images[index], labels[index])
        return losses.tolist()

    def seconds_per_step(choice: tuple[int, int]) -> float:
        chunk, threads = choice
        torch.set_num_threads(threads)
        train(chunk, 2)
        return min(timed(1, lambda: train(chunk, 6))["wall"] for _ in range(3)) / chunk

    chunk, threads = min([(c, t) for c in (2, 4, 8, 16) for t in (1, 2)], key=seconds_per_step)
    torch.set_num_threads(threads)
    steps = workload.steps["vmap"]
    facts = {
        "compile_seconds": 0.0,
        "losses": train(max(chunk, 2), CHECK_STEPS),
        "chunk": chunk,
        "threads": threads,
    }
    calls = FEW // chunk

    def run() -> None:
        for _ in range(calls):
            train(chunk, steps)

    return facts, {"run": lambda: timed(steps * chunk * calls, run)}


def vmapped_step(
    workload: Workload, given: dict[str, np.ndarray], members: int
) -> Callable[[Any, Any], Any]:
    """``(images [m b c h w], labels [m b]) → losses [m]``; keeps weights and momenta."""
    import torch
    from torch.func import functional_call, grad_and_value, stack_module_state, vmap
    from torch.nn.functional import cross_entropy

    models = [torch_model(workload, given, member) for member in range(members)]
    params, buffers = stack_module_state(models)
    params = {name: value.detach() for name, value in params.items()}
    momenta = {name: torch.zeros_like(value) for name, value in params.items()}
    skeleton = models[0]

    def loss(params: Any, buffers: Any, x: Any, y: Any) -> Any:
        return cross_entropy(functional_call(skeleton, (params, buffers), (x,)), y)

    gradient = vmap(grad_and_value(loss))

    def update(x: Any, y: Any) -> Any:
        gradients, losses = gradient(params, buffers, x, y)
        values: Sequence[Any] = [*momenta.values()]
        torch._foreach_mul_(values, MOMENTUM)
        torch._foreach_add_(values, [gradients[name] for name in momenta])
        torch._foreach_add_([*params.values()], values, alpha=-RATE)
        return losses

    return update


if __name__ == "__main__":
    main()
