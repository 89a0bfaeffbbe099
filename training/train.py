"""Trains the shipped Fashion-MNIST model and its softmax baseline, and writes the model folder. See README.md.

    python3 train.py --data FOLDER --work FOLDER --out FOLDER [--minutes 9] [--resume]
    python3 train.py --smoke
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

import torch

import data
from export import export
from model import FAMILIES, Shape
from trainer import UNFINISHED, RunConfig, build_runs, train

NAME = "fashion-mnist-vit"
GRID = {"seed": [1, 2, 3], "rate": [4e-3, 6e-3, 1e-2], "shift": [0]}  # the same for both families


def grid(epochs: int) -> list[RunConfig]:
    """Every combination of GRID for every family: equal effort for the baseline."""
    points = itertools.product(FAMILIES, *GRID.values())
    return [RunConfig(family, **dict(zip(GRID, values)), epochs=epochs) for family, *values in points]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"), help="folder of the four IDX files")
    parser.add_argument("--work", type=Path, help="folder of the checkpoint")
    parser.add_argument("--out", type=Path, help="model folder to write")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--minutes", type=float, default=9, help="stop training with a checkpoint after this long")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --work")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the model card; may be repeated")
    parser.add_argument("--smoke", action="store_true", help="the whole pipeline on a CPU in a minute, on synthetic images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if not options.smoke and (options.work is None or options.out is None):
        parser.error("--work and --out are needed (or --smoke)")
    return options


def smoke() -> None:
    """Two short runs, interrupted once, then exported; fails if they do not learn or the polynomials do not agree."""
    dataset, shape = data.synthetic(), Shape()
    configs = [RunConfig(family, seed=0, rate=4e-3, shift=1, epochs=10, batch=64) for family in FAMILIES]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        runs = lambda: build_runs(configs, shape, dataset.train, "cpu")
        if train(runs(), work, minutes=0.0, resume=False):
            raise SystemExit("the smoke run should have stopped at its time limit")
        train(runs(), work, minutes=5, resume=True)
        card = export(work, work / "model", dataset, shape, "cpu", "smoke", [])
    found = card["accuracy_test_percent"]
    print(json.dumps(found))
    if min(found["power_softmax"], found["softmax_baseline"]) < 60 or found["polynomial_agrees_with_power_softmax"] < 95:
        raise SystemExit("the smoke run did not reach what it must")
    print("smoke run passed")


def main() -> None:
    options = arguments()
    if options.smoke:
        return smoke()
    torch.backends.cuda.matmul.allow_tf32 = True
    options.work.mkdir(parents=True, exist_ok=True)
    dataset, shape = data.load(options.data), Shape()
    runs = build_runs(grid(options.epochs), shape, dataset.train, options.device)
    if not train(runs, options.work, options.minutes, options.resume):
        sys.stdout.flush()
        os._exit(UNFINISHED)  # graphs need no orderly teardown, and the time limit is near
    torch.backends.cuda.matmul.allow_tf32 = False
    card = export(options.work, options.out, dataset, shape, options.device, NAME, options.note)
    print(json.dumps(card["accuracy_test_percent"], indent=2))


if __name__ == "__main__":
    main()
