"""Landscape speed: zoogen's measurements beside plain PyTorch, one model after another.

    python benchmarks/landscape.py                 # 4 cells of 2 members: a minute or two
    python benchmarks/landscape.py --cohorts 13x3  # a cohort of configs/digits_mlp.toml

Trace, top eigenvalue, CKA and mode connectivity of the same trained members, in one interleaved
run. Both use the same probe sets, as many Hessian products (Hutchinson, then Lanczos), and for
each curve the same batches in the same order; random probes and start vectors are each one's own.
Each is a process of its own; the parent lets one work at a time, round after round. PyTorch takes
one thread or one per core, whichever is faster at its start; seconds of both cores count per CPU.
zoogen runs `measure_cohort`, as `zoogen measure` does, and with it gets losses, errors, linear
barriers, spectral densities and agreement, which PyTorch is not asked for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import machine
from train_throughput import Worker, timed

COHORTS = ("4x2",)  # cells × seeds
WIDTH, DEPTH, EPOCHS = 16, 2, 20
RATES = (0.003, 0.1)  # the cells span these learning rates, evenly in their logarithm
GROUPS = ("performance", "curvature", "connectivity", "similarity")
VARIANTS = ("loop", "zoogen")
POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)
STANDARD_ERRORS = 3.0  # between two traces, of their difference
# Relative for the eigenvalue; nats for the losses, percentage points for mc.
TOLERANCES = {"top": 0.02, "cka": 1e-4, "curve_loss": 1e-3, "mc": 0.5}


# --- the parent: prepares, lets workers run in turn, compares ------------------------------------


def main() -> None:
    """Run the benchmark or, as a child, one of its variants."""
    arguments = _arguments()
    if arguments.role == "prepare":
        prepare(arguments.cohorts[0], arguments.inputs)
    elif arguments.role:
        serve(arguments.role, arguments.cohorts[0], arguments.inputs)
    else:
        results = {cohort: measure(cohort, arguments.rounds) for cohort in arguments.cohorts}
        platform = results[arguments.cohorts[0]]["variants"]["zoogen"]["platform"]
        content = {"machine": machine.describe(), "cohorts": results}
        print(f"\n{machine.write(f'landscape_{platform}', content)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cohorts", nargs="+", default=COHORTS, help="as CELLSxSEEDS")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repeats (default 5)")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(cohort: str, rounds: int) -> dict[str, Any]:
    """All variants on one cohort: start, compare what they measure, time in turn."""
    with tempfile.TemporaryDirectory() as directory:
        inputs = Path(directory) / "inputs.npz"
        command = [
            sys.executable, __file__, "--cohorts", cohort, "--inputs", str(inputs), "--role",
        ]  # fmt: skip
        subprocess.run([*command, "prepare"], check=True)
        with np.load(inputs) as given:
            members, pairs = len(given["weights"]), len(given["pairs"])
        workers: dict[str, Worker] = {}
        try:
            for variant in VARIANTS:  # one after another: their first runs are timed
                workers[variant] = Worker([*command, variant])
                workers[variant].facts = workers[variant].answer()
            size = {"width": WIDTH, "depth": DEPTH, "members": members, "pairs": pairs}
            result = size | _measure(workers, members, rounds)
        finally:
            for worker in workers.values():
                worker.close()
    show(cohort, result)
    return result


def _measure(workers: dict[str, Worker], members: int, rounds: int) -> dict[str, Any]:
    found = {variant: worker.facts.pop("found") for variant, worker in workers.items()}
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant in VARIANTS:
            runs[variant].append(workers[variant].ask("run"))
    variants = {
        variant: _costs(workers[variant].facts, runs[variant], members) for variant in VARIANTS
    }
    return {
        "effort": variants["zoogen"].pop("effort"),
        "disagreement": compare(found["zoogen"], found["loop"]),
        "variants": variants,
        "zoogen_over_loop": _ratios(runs, variants),
    }


def compare(zoogen: dict[str, Any], loop: dict[str, Any]) -> dict[str, float]:
    """Largest differences over members, pairs and curve points; too large a one is an error."""
    a, b = ({name: np.array(values) for name, values in found.items()} for found in (zoogen, loop))
    difference = {name: np.abs(a[name] - b[name]) for name in ("trace", *TOLERANCES)}
    difference["trace"] /= np.hypot(a["trace_stderr"], b["trace_stderr"])
    difference["top"] /= np.abs(a["top"])
    worst = {name: float(values.max()) for name, values in difference.items()}
    for name, limit in {"trace": STANDARD_ERRORS, **TOLERANCES}.items():
        if not worst[name] <= limit:
            raise SystemExit(f"{name}: {worst[name]:.3g} apart, expected at most {limit:g}")
    return worst


def _costs(facts: dict[str, Any], runs: list[dict[str, float]], members: int) -> dict[str, Any]:
    """Seconds per member; the best round stands for the variant, the spread is kept."""
    return facts | {
        "first_seconds_per_member": facts["first_seconds"] / members,
        "seconds_per_member": machine.summary([run["wall"] / members for run in runs]),
        "cpu_seconds_per_member": machine.summary([run["cpu"] / members for run in runs]),
        "share_of_pairs": statistics.median(run["pairs"] / run["wall"] for run in runs),
        "compile_seconds": facts["first_seconds"] - min(run["wall"] for run in runs),
    }


def _ratios(runs: dict[str, list[dict[str, float]]], variants: dict[str, Any]) -> dict[str, Any]:
    """How many times zoogen is faster, by best rounds and round by round.

    ``members_to_repay_compiling``: from so many members on, zoogen is faster with compilation.
    """
    ratios: dict[str, Any] = {}
    loop, zoogen = (variants[variant] for variant in VARIANTS)
    for clock, name in (("wall", "seconds_per_member"), ("cpu", "cpu_seconds_per_member")):
        rounds = zip(runs["loop"], runs["zoogen"], strict=True)
        ratios[name] = {
            "of_best_rounds": loop[name]["best"] / zoogen[name]["best"],
            "of_rounds": sorted(a[clock] / b[clock] for a, b in rounds),
        }
    best = loop["seconds_per_member"]["best"]
    saved = best - zoogen["seconds_per_member"]["best"]
    ratios["with_compilation"] = best / zoogen["first_seconds_per_member"]
    ratios["members_to_repay_compiling"] = zoogen["compile_seconds"] / saved
    return ratios


def show(cohort: str, result: dict[str, Any]) -> None:
    """Print one cohort's table."""
    ratios = result["zoogen_over_loop"]
    print(f"\n{cohort}: {result['members']} MLPs of width {WIDTH} on digits, "
          f"{result['pairs']} pairs")  # fmt: skip
    print(f"{'variant':10s}{'ms/member':>10s}{'median':>9s}{'worst':>9s}{'CPU ms':>9s}"
          f"{'pairs':>7s}{'compile s':>11s}{'first ms/member':>17s}")  # fmt: skip
    for variant, v in result["variants"].items():
        wall, cpu = v["seconds_per_member"], v["cpu_seconds_per_member"]
        print(f"{variant:10s}{1e3 * wall['best']:10.1f}{1e3 * wall['median']:9.1f}"
              f"{1e3 * wall['worst']:9.1f}{1e3 * cpu['best']:9.1f}{v['share_of_pairs']:7.0%}"
              f"{v['compile_seconds']:11.1f}"
              f"{1e3 * v['first_seconds_per_member']:17.1f}")  # fmt: skip
    for name in ("seconds_per_member", "cpu_seconds_per_member"):
        best, rounds = ratios[name]["of_best_rounds"], ratios[name]["of_rounds"]
        print(f"zoogen, {name}: {best:.1f} × loop (rounds {rounds[0]:.1f} to {rounds[-1]:.1f})")
    print(f"with compilation {ratios['with_compilation']:.2f} × on this cohort; as fast from "
          f"{ratios['members_to_repay_compiling']:.0f} members on")  # fmt: skip
    differences = (f"{name} {value:.2g}" for name, value in result["disagreement"].items())
    print(f"largest differences: {', '.join(differences)}", flush=True)


# --- a worker ------------------------------------------------------------------------------------


def serve(role: str, cohort: str, inputs: Path) -> None:
    """Measure once, report what was found, then measure again whenever the parent asks."""
    given = dict(np.load(inputs))
    measurement = {"loop": torch_measurement, "zoogen": zoogen_measurement}[role]
    facts, work = measurement(cohort, given)
    begin = time.perf_counter()
    found, _ = work()
    facts |= {"first_seconds": time.perf_counter() - begin, "found": found}
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        pairs: list[float] = []
        run = timed(len(given["weights"]), lambda into=pairs: into.append(work()[1]))
        print(json.dumps(run | {"pairs": pairs[0]}), flush=True)


Work = Callable[[], tuple[dict[str, Any], float]]  # → what was found, seconds spent on pairs


# --- zoogen --------------------------------------------------------------------------------------


def setup(cohort: str) -> tuple[Any, Any]:
    """The cohort and its data."""
    from zoogen import population

    population.use_all_cores()
    from zoogen.config import Config
    from zoogen.data import load
    from zoogen.grid import expand

    cells, seeds = (int(count) for count in cohort.split("x"))
    config = Config.model_validate({
        "name": "benchmark",
        "data": {"source": "digits", "test_fraction": 0.25, "probe_examples": 512},
        "network": {"family": "mlp", "width": WIDTH, "depth": DEPTH},
        "train": {"momentum": 0.9, "batch_size": 64, "epochs": EPOCHS},
        "grid": {"seeds": seeds, "axes": {
            "train.learning_rate": np.geomspace(*RATES, cells).tolist(),
        }},
    })  # fmt: skip
    (expanded,) = expand(config).cohorts
    return expanded, load(config.data)


def prepare(name: str, inputs: Path) -> None:
    """Train the members and write them with all that PyTorch needs to measure them."""
    from zoogen.data import normalise
    from zoogen.keys import identity_words
    from zoogen.landscape import seed_pairs
    from zoogen.landscape.draws import curve_order
    from zoogen.train import block

    cohort, dataset = setup(name)
    recipe, effort = block.recipe_of(cohort.config, dataset), cohort.config.landscape
    trained = block.train_block(recipe, block.training_data(dataset, recipe), cohort.members)
    words = np.stack([identity_words(member.id) for member in cohort.members])
    pairs = seed_pairs([member.cell for member in cohort.members], effort.pairs)
    seen = dataset.train.first(recipe.training_size)
    curves = [
        curve_order(
            effort.seed, words[pair].ravel(), len(seen), effort.curve_epochs,
            effort.curve_batch_size,
        )
        for pair in pairs
    ]  # fmt: skip
    probes = dataset.probes(cohort.config.data)
    np.savez(
        inputs,
        weights=trained.weights[:, -1],
        words=words,
        pairs=pairs,
        order=np.stack([order for order, _ in curves]),
        times=np.stack([times for _, times in curves]),
        train=normalise(seen.images, dataset.mean, dataset.std),
        train_labels=seen.labels,
        test=normalise(probes[1].images, dataset.mean, dataset.std),
        probe=len(probes[0]),
        hessian_examples=effort.hessian_examples,
        hessian_probes=effort.hessian_probes,
        lanczos_steps=effort.lanczos_steps,
        curve_learning_rate=effort.curve_learning_rate,
        curve_weight_decay=effort.curve_weight_decay,
    )


def zoogen_measurement(name: str, given: dict[str, np.ndarray]) -> tuple[dict[str, Any], Work]:
    """`measure_cohort` on the whole cohort."""
    import jax

    cohort, dataset = setup(name)
    from zoogen.landscape import measure_cohort
    from zoogen.train import block

    config, network = cohort.config, block.recipe_of(cohort.config, dataset).net
    names = {
        "trace": "hessian_trace", "trace_stderr": "hessian_trace_stderr", "top": "hessian_top",
        "cka": "cka", "mc": "mode_connectivity", "curve_loss": "curve_train_loss",
    }  # fmt: skip

    def work() -> tuple[dict[str, Any], float]:
        found = measure_cohort(
            network, dataset, config.data, config.landscape, given["weights"][:, None],
            given["pairs"], np.zeros(len(given["weights"])), given["words"], GROUPS,
        )  # fmt: skip
        arrays = {name: found.arrays[metric][:, 0].tolist() for name, metric in names.items()}
        return arrays, found.info["seconds"]["pairs"]

    facts = {
        "platform": jax.default_backend(),
        "devices": jax.local_device_count(),
        "effort": config.landscape.model_dump(mode="json"),
    }
    return facts, work


# --- PyTorch -------------------------------------------------------------------------------------


def torch_measurement(_name: str, given: dict[str, np.ndarray]) -> tuple[dict[str, Any], Work]:
    """One model after another, then one pair after another."""
    import torch

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = {name: torch.from_numpy(np.asarray(values)).to(device)
               for name, values in given.items() if values.dtype != np.uint32}  # fmt: skip
    for name in ("order", "train_labels"):
        tensors[name] = tensors[name].long()

    def work() -> tuple[dict[str, Any], float]:
        members = [torch_member(w, tensors) for w in tensors["weights"]]
        begin = time.perf_counter()
        pairs = [torch_pair(q, pair, members, tensors) for q, pair in enumerate(given["pairs"])]
        seconds = time.perf_counter() - begin
        of_members = {name: [m[name] for m in members] for name in ("trace", "trace_stderr", "top")}
        return of_members | {name: [p[name] for p in pairs] for name in pairs[0]}, seconds

    def seconds_of_member(threads: int) -> float:
        torch.set_num_threads(threads)
        w = tensors["weights"][0]
        return min(timed(1, lambda: torch_member(w, tensors))["wall"] for _ in range(3))

    choices = {threads: seconds_of_member(threads) for threads in {1, machine.describe()["cores"]}}
    threads = min(choices, key=lambda count: choices[count])
    torch.set_num_threads(threads)
    return {"platform": device, "threads": threads, "seconds_of_curvature": choices}, work


def torch_logits(w: Any, images: Any) -> Any:
    """Logits of a multilayer perceptron with flat weights."""
    from torch.nn.functional import linear, relu

    x, begin = images.flatten(1), 0
    outputs = [*[WIDTH] * DEPTH, 10]
    for layer, width in enumerate(outputs):
        middle = begin + width * x.shape[1]
        weight, bias = w[begin:middle].view(width, -1), w[middle : middle + width]
        x = linear(x, weight, bias)
        x = relu(x) if layer < DEPTH else x
        begin = middle + width
    return x


def torch_member(w: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Trace, top eigenvalue and test logits of one model.

    The graph of the gradient is built once and used for every product.
    """
    import torch
    from torch.nn.functional import cross_entropy

    w, n = w.clone().requires_grad_(), min(int(given["hessian_examples"]), int(given["probe"]))
    loss = cross_entropy(torch_logits(w, given["train"][:n]), given["train_labels"][:n])
    (gradient,) = torch.autograd.grad(loss, w, create_graph=True)

    def product(v: Any) -> Any:
        return torch.autograd.grad(gradient, w, v, retain_graph=True)[0]

    signs = torch.randint(0, 2, (int(given["hessian_probes"]), w.numel()), device=w.device)
    samples = torch.stack([v @ product(v) for v in 2.0 * signs - 1])
    with torch.no_grad():
        logits = torch_logits(w, given["test"])
    return {
        "trace": float(samples.mean()),
        "trace_stderr": float(samples.std()) / len(samples) ** 0.5,
        "top": torch_top(product, torch.randn_like(w), int(given["lanczos_steps"])),
        "logits": logits,
    }


def torch_top(product: Callable[[Any], Any], start: Any, steps: int) -> float:
    """Largest eigenvalue: Lanczos, every vector made orthogonal to all before it, twice."""
    import torch

    basis = torch.zeros(steps, start.numel(), device=start.device)
    form = torch.zeros(steps, steps, dtype=torch.float64, device=start.device)
    q = start / start.norm()
    for i in range(steps):
        basis[i] = q
        r = product(q)
        form[i, i] = q @ r
        known = basis[: i + 1]
        for _ in range(2):
            r = r - known.T @ (known @ r)
        norm = r.norm()
        if i + 1 < steps:
            form[i, i + 1] = form[i + 1, i] = norm
        q = r / norm
    return float(torch.linalg.eigvalsh(form)[-1])


def torch_pair(
    q: int, pair: Sequence[int], members: Sequence[dict[str, Any]], given: dict[str, Any]
) -> dict[str, Any]:
    """CKA of two models, and their connectivity with the losses along the curve."""
    import torch
    from torch.nn.functional import cross_entropy

    i, j = (int(member) for member in pair)
    start, end = given["weights"][i], given["weights"][j]
    control = torch_curve(start, end, given["order"][q], given["times"][q].tolist(), given)
    probe, losses, errors = int(given["probe"]), [], []
    images, labels = given["train"][:probe], given["train_labels"][:probe]
    with torch.no_grad():
        for t in POINTS:
            w = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
            logits = torch_logits(w, images)
            losses.append(float(cross_entropy(logits, labels)))
            errors.append(100 * float((logits.argmax(1) != labels).float().mean()))
        cka = torch_cka(members[i]["logits"], members[j]["logits"])
    return {"cka": cka, "mc": connectivity(errors), "curve_loss": losses}


def torch_curve(
    start: Any, end: Any, order: Any, times: Sequence[float], given: dict[str, Any]
) -> Any:
    """Control point of the Bézier curve: SGD with momentum, a batch and a point of it a step."""
    import torch
    from torch.nn.functional import cross_entropy

    control = ((start + end) / 2).requires_grad_()
    optimizer = torch.optim.SGD(
        [control], lr=float(given["curve_learning_rate"]), momentum=0.9,
        weight_decay=float(given["curve_weight_decay"]),
    )  # fmt: skip
    images, labels = given["train"], given["train_labels"]
    for index, t in zip(order, times, strict=True):
        w = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
        optimizer.zero_grad()
        cross_entropy(torch_logits(w, images[index]), labels[index]).backward()
        optimizer.step()
    return control.detach()


def torch_cka(x: Any, y: Any) -> float:
    """Linear centred kernel alignment of logits."""
    x, y = x - x.mean(0), y - y.mean(0)
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def connectivity(errors: Sequence[float]) -> float:
    """Mean end error minus the inner one farthest from it; of equally far ones the higher."""
    gains = [(errors[0] + errors[-1]) / 2 - error for error in errors[1:-1]]
    return max(gains, key=lambda gain: (round(abs(gain), 4), -gain))


if __name__ == "__main__":
    main()
