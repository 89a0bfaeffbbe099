"""MPCViT on one data set: search, training of what was found and of the baselines, cards, one exported model. See README.md.

    python3 mpcvit.py --dataset fashion-mnist|cifar10 --data PATH --work FOLDER --out FOLDER [--epochs 60 100] [--resume]
    python3 mpcvit.py --smoke
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import cifar
import data
from data import Dataset, Images
from export import config, reference, tensors, write
from fold import fold_scales
from model import EXACT, Shape, Transformer
from ranges import Polynomials, accuracy, calibrate, logits
from search import LASSO, LATENCIES, Latency, Point, PointRun, Teacher, kept, shares
from trainer import UNFINISHED, frame, train

MUS = [0.1, 0.3, 0.5, 0.7, 1.0]
EXPORTED = "power2 square mu 0.5"
SPOKEN = {"scaled": "scale", "quadratic": "square"}  # names of `cipherform mpc run`, where they differ


@dataclass
class Task:
    """A data set with the shape and the settings of its models."""

    name: str
    shape: Shape
    settings: dict


def task(name: str) -> Task:
    if name == "fashion-mnist":
        shape = Shape(heads=[["relu"] * 4] * 2)
        return Task(name, shape, {"rate": 4e-3, "shift": 0, "batch": 512})
    shape = Shape(width=192, ffn=384, heads=[["relu"] * 4] * 6, image=cifar.CIFAR)
    return Task(name, shape, {"rate": 1.5e-3, "shift": cifar.SHIFT, "hole": cifar.HOLE, "batch": 512})


def points(work: Task, seed: int, epochs: int, half: bool) -> dict[str, Point]:
    """The runs of the first stage by label: the teacher and the two searches."""
    layers, heads = work.shape.layers, len(work.shape.heads[0])
    shared = {"seed": seed, "epochs": epochs, "half": half, **work.settings}
    every = lambda kind: [[kind] * heads] * layers
    runs = [
        Point(family="exact", label="softmax, the teacher", heads=every("softmax"), activations=["gelu"] * layers, **shared),
        Point(family="exact", label="search relu", heads=every("relu"), activations=["gelu"] * layers, searched=True, **shared),
        Point(family="power", label="search power2", heads=every("power"), activations=["quadratic"] * layers, searched=True, **shared),
    ]
    return {run.label: run for run in runs}


def found(work: Task, searched: dict[str, dict], seed: int, epochs: int, half: bool) -> list[Point]:
    """The runs of the second stage: baselines, MPCViT for every mu, MPCViT+ with half of the GELUs, and what the model
    format can hold (powers and a learned quadratic)."""
    layers, heads = work.shape.layers, len(work.shape.heads[0])
    shared = {"seed": seed, "epochs": epochs, "half": half, "distilled": True, **work.settings}
    alphas, betas = shares(searched["search relu"])
    powers, _ = shares(searched["search power2"])
    choose = lambda found, mu, kind: [[kind if keep else "scaled" for keep in layer] for layer in kept(found, mu)]
    gelu, quadratic = ["gelu"] * layers, ["quadratic"] * layers
    halved = ["gelu" if keep else "none" for [keep] in kept(betas, 0.5)]
    exact = lambda label, heads, activations, mu=None: Point(
        family="exact", label=label, heads=heads, activations=activations, mu=mu, **shared)
    power = lambda label, heads, mu: Point(family="power", label=label, heads=heads, activations=quadratic, mu=mu, **shared)
    return [
        exact("softmax", [["softmax"] * heads] * layers, gelu),
        exact("scale", [["scaled"] * heads] * layers, gelu, 0.0),
        *(exact(f"relu mu {mu:g}", choose(alphas, mu, "relu"), gelu, mu) for mu in MUS),
        *(exact(f"relu mu {mu:g}, half of the GELUs", choose(alphas, mu, "relu"), halved, mu) for mu in (0.1, 0.5)),
        power(EXPORTED, choose(powers, 0.5, "power"), 0.5),
    ]


def trained(state: dict, shape: Shape, device) -> Transformer:
    """The averaged weights of a run, in float64."""
    settings = state["config"]
    shape = replace(shape, heads=settings["heads"], activations=settings["activations"])
    model = Transformer(shape, settings["searched"])
    model.load_state_dict(state["average"])
    return model.double().to(device).eval()


def spoken(name: str, power: int) -> str:
    return f"power{power}" if name == "power" else SPOKEN.get(name, name)


def extremes(model: Transformer, shape: Shape, images: Images) -> dict:
    """What the two-party circuit assumes: its row sums, scores, features and stream have bounds."""
    seen = calibrate(model, images)
    largest = lambda what: max(v.max().item() for key, v in seen.high.items() if key.endswith(what))
    sums = [(seen.low[f"{i}.denominator"][h].item(), seen.high[f"{i}.denominator"][h].item())
            for i in range(shape.layers) for h in shape.dividing(i)]
    return {
        "images": len(images),
        "row_sum": [shape.tokens * min(s[0] for s in sums), shape.tokens * max(s[1] for s in sums)] if sums else None,
        "score_abs_max": largest("score"), "value_abs_max": largest("value"),
        "activation_abs_max": largest("activation"), "residual_abs_max": largest("residual"),
    }


def point(state: dict, work: Task, dataset: Dataset) -> dict:
    """What the card says of one run."""
    settings, model = state["config"], trained(state, work.shape, dataset.test.pixels.device)
    shape = model.embed.shape
    kinds = [[spoken(kind, shape.power) for kind in layer] for layer in shape.heads]
    measured = {
        "name": settings["label"],
        "kind": next((kind for layer in kinds for kind in layer if kind != "scale"), "scale"),
        "mu": settings["mu"],
        "heads": kinds,
        "activations": [spoken(kind, 0) for kind in shape.activations],
        "eps_row_sum": shape.eps * shape.tokens,
        "seed": settings["seed"], "steps": state["step"], "epochs": state["step"] / (len(dataset.train) // settings["batch"]),
        "distilled": settings["distilled"],
        "accuracy_percent": {part: accuracy(model, getattr(dataset, part), EXACT) for part in ("validation", "test")}
        | {"images": len(dataset.test)},
    }
    if settings["family"] == "exact" and measured["kind"] != "softmax":  # of powers, what is exported says it: scales get folded
        measured["met_on_validation"] = extremes(model, shape, dataset.validation)
    print(json.dumps({key: measured[key] for key in ("name", "accuracy_percent")}), flush=True)
    return measured


def export(state: dict, work: Task, dataset: Dataset, out: Path, name: str) -> dict:
    """Writes the model folder without its card, as export.py does for the shipped model; returns what it measured."""
    model = trained(state, work.shape, dataset.test.pixels.device)
    fold_scales(model, dataset.train)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors(model), out / "model.safetensors", metadata={"format": "pt"})
    shape = model.embed.shape
    model = Transformer(shape)  # everything below is measured on the file, read back
    model.load_state_dict(load_file(out / "model.safetensors"))
    model = model.double().to(dataset.test.pixels.device).eval()
    calibration = calibrate(model, dataset.train)
    ranges, logit = calibration.ranges(shape.layers)
    polynomials = Polynomials(shape, ranges)
    exact_logits, polynomial_logits = (logits(model, dataset.test, f) for f in (EXACT, polynomials))
    write(out, {"config.json": config(dataset, shape, ranges, logit, calibration.logit_difference(), name),
                "reference.json": reference(dataset.test, exact_logits, polynomial_logits)})
    percent = lambda answers: 100 * (answers.argmax(1) == dataset.test.labels).double().mean().item()
    return {
        "point": state["config"]["label"],
        "test_percent": percent(exact_logits),
        "test_percent_polynomial": percent(polynomial_logits),
        "labels_that_agree_percent": 100 * (exact_logits.argmax(1) == polynomial_logits.argmax(1)).double().mean().item(),
        "polynomials": polynomials.describe(),
        "logit_abs_max": logit,
    }


def read(folder: Path) -> tuple[dict, dict[str, dict]]:
    saved = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    return saved, {run["config"]["label"]: run for run in saved["runs"]}


def search_and_train(work: Task, dataset: Dataset, folder: Path, out: Path, epochs: tuple[int, int], minutes: tuple[float, float],
                     device, seed: int = 1, resume: bool = False, half: bool = True, compiled: bool = False,
                     notes: tuple[str, ...] = (), network: str = "lan") -> tuple[dict, bool]:
    """Both stages and the card; false if a stage stopped at its time limit (the card then says how far it came)."""
    dataset = replace(dataset, **{part: getattr(dataset, part).to(device) for part in ("train", "validation", "test")})
    framed = frame(dataset.train.pixels, work.settings["shift"])
    folders = [folder / "search", folder / "retrain"]
    for each in folders:
        each.mkdir(parents=True, exist_ok=True)
    first = points(work, seed, epochs[0], half)
    latencies = {f"search {kind}": Latency.read(work.name, kind, network) for kind in ("relu", "power2")}
    runs = [PointRun(p, work.shape, dataset.train, framed, latencies.get(label), compiled=compiled) for label, p in first.items()]
    finished = train(runs, folders[0], minutes[0], resume)
    del runs
    search, searched = read(folders[0])
    teacher = Teacher(trained(searched["softmax, the teacher"], work.shape, device).float(), dataset.train, framed)
    runs = [PointRun(p, work.shape, dataset.train, framed, None, teacher, compiled)
            for p in found(work, searched, seed, epochs[1], half)]
    finished = train(runs, folders[1], minutes[1], resume) and finished
    del runs, teacher
    retrain, states = read(folders[1])
    torch.backends.cuda.matmul.allow_tf32 = False
    name = f"mpcvit-{work.name}"
    exported = export(states[EXPORTED], work, dataset, out, name)
    shape = work.shape
    card = {
        "format": "cipherform.card/1",
        "name": name,
        "dataset": {"name": dataset.name, "sha256": dataset.hashes, "split": dataset.split,
                    "counts": {part: len(getattr(dataset, part)) for part in ("train", "validation", "test")}},
        "shape": {"tokens": shape.tokens, "width": shape.width, "ffn": shape.ffn, "heads": len(shape.heads[0]),
                  "layers": shape.layers, "patch": shape.patch, "stride": shape.stride, "padding": shape.padding,
                  "eps": shape.eps, "norm_eps": shape.norm_eps, "image": asdict(shape.image)},
        "training": {"hardware": retrain["hardware"], "torch": retrain["torch"], "finished": finished,
                     "seconds_search": round(search["seconds"], 1), "seconds_retraining": round(retrain["seconds"], 1),
                     "epochs_planned": list(epochs), "settings": work.settings, "bfloat16": half, "lasso": LASSO, "notes": list(notes)},
        "latency": {"source": LATENCIES.name, "network": network, **{label: asdict(latency) for label, latency in latencies.items()}},
        "search": {label: dict(zip(("alpha", "beta"), shares(searched[label]))) for label in latencies},
        "exported": exported,
        "points": [point(state, work, dataset) for state in (searched["softmax, the teacher"], *states.values())],
    }
    write(out, {"card.json": card})
    (out / "card.md").write_text(markdown(card))
    return card, finished


def markdown(card: dict) -> str:
    """The card for people; every figure in it is in card.json."""
    shape, training, exported = (card[key] for key in ("shape", "training", "exported"))
    counts = card["dataset"]["counts"]
    epochs = {p["distilled"]: p["epochs"] for p in card["points"]}
    typical = max(p["accuracy_percent"]["test"] for p in card["points"]) / 100
    error = 100 * (typical * (1 - typical) / counts["test"]) ** 0.5
    lines = [
        f"# {card['name']}", "",
        f"MPCViT's search (arXiv 2211.13955) on {card['dataset']['name']}: {shape['layers']} layers of {shape['heads']} heads, width "
        f"{shape['width']}, hidden width {shape['ffn']}, {shape['tokens']} tokens. The weights here are those of "
        f"\"{exported['point']}\": heads and activations that the model format holds.", "",
        f"{counts['train']:,} training, {counts['validation']:,} validation, {counts['test']:,} test images; "
        f"{card['dataset']['split']}. Accuracy over all of them, float64, averaged weights.", "",
        f"Teacher and searches {epochs[False]:.0f} epochs, the rest {epochs[True]:.0f} epochs with the teacher's logits and last stream; "
        f"one seed; {training['hardware']}, {training['seconds_search']:.0f} + {training['seconds_retraining']:.0f} s side by side. "
        f"Short schedules: compare the rows with each other; the standard error of a test accuracy is {error:.1f} points.", "", *(f"- {note}" for note in training["notes"]), "",
        "| run | dividing heads | activations | validation, % | test, % | smallest row sum |", "| --- | --- | --- | --- | --- | --- |",
    ]
    for p in card["points"]:
        dividing = " ".join(str(sum(kind != "scale" for kind in layer)) for layer in p["heads"])
        activations = ", ".join(f"{p['activations'].count(a)} {a}" for a in dict.fromkeys(p["activations"]))
        sums = (p.get("met_on_validation") or {}).get("row_sum")
        percent = p["accuracy_percent"]
        lines.append(f"| {p['name']} | {dividing} | {activations} | {percent['validation']:.2f} | {percent['test']:.2f} | "
                     f"{f'{sums[0]:.3g}' if sums else ''} |")
    lines += ["", f"Exported: {exported['test_percent']:.2f} % with exact functions, {exported['test_percent_polynomial']:.2f} % with the "
              f"polynomials of an encrypted run; the labels agree on {exported['labels_that_agree_percent']:.2f} %."]
    return "\n".join(lines) + "\n"


def smoke() -> None:
    """Both kinds of images, tiny shapes, interrupted and resumed; fails if nothing is learnt."""
    for name, spec in (("fashion-mnist", data.FASHION), ("cifar10", cifar.CIFAR)):
        work = task(name)
        heads = [["relu"] * 4] * 2
        work = replace(work, shape=replace(work.shape, width=16, ffn=32, heads=heads, activations=["gelu"] * 2),
                       settings={**work.settings, "batch": 64, "rate": 6e-3})
        dataset = data.synthetic(512, spec)
        with tempfile.TemporaryDirectory() as folder:
            begin = lambda minutes, resume: search_and_train(work, dataset, Path(folder), Path(folder) / "model", (6, 10), minutes,
                                                             "cpu", resume=resume)
            _, finished = begin((9, 0.0), False)
            if finished:
                raise SystemExit("the smoke run should have stopped at its time limit")
            card, finished = begin((9, 9), True)
            sizes = {file.name: file.stat().st_size for file in (Path(folder) / "model").iterdir()}
        worst = min(point["accuracy_percent"]["test"] for point in card["points"])
        agreed = card["exported"]["labels_that_agree_percent"]
        print(name, f"worst point {worst:.1f} %, polynomials agree on {agreed:.1f} %", json.dumps(card["search"]), sizes)
        if not finished or worst < 40 or agreed < 90:
            raise SystemExit("the smoke run did not reach what it must")
    print("smoke run passed")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=["fashion-mnist", "cifar10"])
    parser.add_argument("--data", type=Path, help="folder of the IDX files, or tar archive of the JPEG files")
    parser.add_argument("--work", type=Path, help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, help="model folder to write")
    parser.add_argument("--epochs", type=int, nargs=2, default=(60, 100), help="of search and teacher, of training what was found")
    parser.add_argument("--minutes", type=float, nargs=2, default=(1e3, 1e3), help="limits of the two stages")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoints in --work")
    parser.add_argument("--network", choices=["lan", "wan"], default="lan", help="whose latency weighs the search")
    parser.add_argument("--compile", action="store_true", help="compile the layers: faster steps, minutes of compilation")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the card; may be repeated")
    parser.add_argument("--smoke", action="store_true", help="everything on a CPU in a minute, on synthetic images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if not options.smoke and None in (options.dataset, options.data, options.work, options.out):
        parser.error("--dataset, --data, --work and --out are needed (or --smoke)")
    return options


def main() -> None:
    options = arguments()
    if options.smoke:
        return smoke()
    torch.backends.cuda.matmul.allow_tf32 = True
    load = data.load if options.dataset == "fashion-mnist" else cifar.load
    card, finished = search_and_train(
        task(options.dataset), load(options.data), options.work, options.out, tuple(options.epochs), tuple(options.minutes),
        options.device, options.seed, options.resume, compiled=options.compile, notes=options.note, network=options.network)
    print(markdown(card))
    if not finished:
        sys.stdout.flush()
        os._exit(UNFINISHED)  # graphs need no orderly teardown


if __name__ == "__main__":
    main()
