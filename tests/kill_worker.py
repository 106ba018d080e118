"""Generate zoos while being killed: prints what was found after every SIGKILL as JSON.

Usage: python kill_worker.py CONFIG DIRECTORY KILLS. Each attempt is a forked child, so that
it starts with everything imported but JAX not yet started.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from zoogen import factory, present, store
from zoogen.train import block
from zoogen.zoo import open_zoo


def attempt(config: Path, zoo: Path, delay: float) -> bool:
    """Run `generate` in a child and kill it after a delay; whether it finished before."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        block.SPAN_SECONDS, block.CHECKPOINT_SECONDS = 1e-6, 0.2
        factory.generate(config, zoo)
        os._exit(0)
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise RuntimeError(f"generate failed with status {status}")
            return True
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main(config: Path, directory: Path, kills: int) -> None:
    rng = random.Random(0)
    found: dict = {"kills": 0, "unreadable": [], "damaged": [], "hashes": []}
    zoo, number = directory / "0.zarr", 0
    while found["kills"] < kills:
        if attempt(config, zoo, rng.uniform(0.5, 8.0)):
            found["hashes"].append(open_zoo(zoo).reader.manifest.content_hash())
            number += 1
            zoo = directory / f"{number}.zarr"
            continue
        found["kills"] += 1
        if not (zoo / "manifest.json").exists():
            continue  # killed before the first commit
        try:
            present.info_text(open_zoo(zoo))
            found["damaged"] += [str(p) for p in store.verify(zoo) if p.kind == "damaged"]
        except Exception as error:
            found["unreadable"].append(repr(error))
    attempt(config, zoo, 600.0)
    found["hashes"].append(open_zoo(zoo).reader.manifest.content_hash())
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
