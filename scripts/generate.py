"""Generate a zoo on an accelerator or in a batch job: a thin entry point for schedulers.

    python scripts/generate.py configs/fashion_mnist_cnn.toml zoos/fashion.zarr --size small

All local devices are used. Killed by the scheduler, the job is resumed by the same command.
"""

import sys

from zoogen.cli import main

if __name__ == "__main__":
    config, out, *options = sys.argv[1:]
    main(["generate", config, "--out", out, *options])
