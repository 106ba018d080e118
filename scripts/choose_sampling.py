"""Compare options of sampling on validation members and training images, nothing held-out.

    python scripts/choose_sampling.py RUN --zoo ZOO "noise=16 spread=1.5" "method=heun"

For each set of options: accuracy of samples on training images, the distance to the nearest
training member over that of validation members and its ZU, and the root mean square of the weights
over theirs. What is chosen here can be judged once by `zoogen evaluate-generator`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from zoogen.config import parse_options
from zoogen.evaluate.generation.evaluator import Evaluator, exam_of
from zoogen.evaluate.generation.judged import judge, scale_point
from zoogen.generators import open_run, parts_of
from zoogen.population import use_all_cores
from zoogen.zoo import open_zoo


def main() -> None:
    """Print a row for each set of options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("options", nargs="+", help="options of a sample, separated by spaces")
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=128)
    told = parser.parse_args()
    use_all_cores()
    run, zoo = open_run(told.run), open_zoo(told.zoo)
    parts, dataset = parts_of(run.config, zoo), zoo.dataset
    exam, probes = exam_of(replace(dataset, test=dataset.train))
    network, real = run.source.network, parts.validation
    evaluator = Evaluator(network, parts.train.values, real.values, exam, probes)
    rows = np.random.default_rng(0).integers(len(real), size=told.samples)
    conditions = run.conditioning.of_members(real.table.iloc[rows])
    length = np.square(real.values).mean()
    print(f"{'options':40} accuracy %    distance  ZU     rms")
    print(f"{'validation members':40} {100 * evaluator.real_accuracies.mean():.2f}")
    for text in told.options:
        made = run.sample_rows(conditions, 1, parse_options(text.split()))
        judged = judge(evaluator, made, None, text)
        (found,) = scale_point(evaluator, judged).by_seed
        right = 100 * judged.accuracy
        print(
            f"{text:40} {right.mean():.2f} ± {right.std():.2f}  {found.distance_ratio:.3f}     "
            f"{found.zu:5.2f}  {np.sqrt(np.square(made).mean() / length):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
