"""Model folders of the searched networks, from the weights of a finished search. See README.md.

    python3 export_points.py --dataset fashion-mnist|cifar10 --data PATH --weights FILE --card card.json --out FOLDER [--only NAME]
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import cifar
import data
from data import Dataset, Images
from export import config, tensors, write
from model import Transformer
from mpcvit import SPOKEN, Task, task
from ranges import calibrate

FAMILY = {"power2": "power"} | {spoken: name for name, spoken in SPOKEN.items()}  # the format's names of a card's words


def first(images: Images, count: int) -> Images:
    """`count` images spread evenly, so that every class is among them."""
    at = torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()
    return replace(images, pixels=images.pixels[at], labels=images.labels[at])


def export(point: dict, weights: dict, work: Task, dataset: Dataset, count: int, out: Path) -> None:
    """One folder: weights, and ranges over `count` training images."""
    words = lambda names: [FAMILY.get(name, name) for name in names]
    shape = replace(work.shape, heads=[words(layer) for layer in point["heads"]], activations=words(point["activations"]))
    out.mkdir(parents=True, exist_ok=True)
    model = Transformer(shape)
    model.load_state_dict(weights)
    save_file(tensors(model), out / "model.safetensors", metadata={"format": "pt"})
    model.load_state_dict(load_file(out / "model.safetensors"))
    ranges, logit = calibrate(model.eval(), first(dataset.train, count)).ranges(shape.layers)
    write(out, {"config.json": config(dataset, shape, ranges, logit, out.name)})
    print(out, json.dumps({"logit": logit, "score": max(max(r["score_abs_max"]) for r in ranges)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=["fashion-mnist", "cifar10"], required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the IDX files, or tar archive of the JPEG files")
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint.pt of the second stage, or tensors by name of the run")
    parser.add_argument("--card", type=Path, required=True, help="card.json of the search")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model folders")
    parser.add_argument("--images", type=int, default=5_000, help="training images that give the ranges")
    parser.add_argument("--only", action="append", help="name of a run; may be repeated")
    options = parser.parse_args()
    work = task(options.dataset)
    dataset = data.load(options.data) if options.dataset == "fashion-mnist" else cifar.load(options.data)
    saved = torch.load(options.weights, map_location="cpu", weights_only=True)
    if "runs" in saved:
        saved = {run["config"]["label"]: run["average"] for run in saved["runs"]}
    for point in json.loads(options.card.read_text())["points"]:
        name = point["name"]
        if name in saved and name in (options.only or saved) and point["distilled"]:
            words = name.replace(",", "").replace(" ", "-").lower()
            export(point, saved[name], work, dataset, options.images, options.out / f"mpcvit-{work.name}-{words}")


if __name__ == "__main__":
    main()
