"""From trained runs to a model folder: choice by validation accuracy, calibration, substitution, test, files."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import approximations
from data import Dataset, Images
from fold import fold_scales
from model import EXACT, FAMILIES, Shape
from ranges import Polynomials, accuracy, calibrate, logits, worst_ratios

# Largest ratios max/min of the calibrated ranges for 6 levels of reciprocal and 4 of inverse square root, with a little room.
LIMITS = {"denominator": 72.0, "norm_variance": 23.0}
REFERENCE_IMAGES = 16


def averaged(state: dict, shape: Shape, images: Images) -> torch.nn.Module:
    """The averaged (f32) weights of a run, evaluated in float64; a power model's free scales are folded by `images`."""
    model = FAMILIES[state["config"]["family"]](shape)
    model.load_state_dict(state["average"])
    model = model.double().to(images.pixels.device).eval()
    if state["config"]["family"] == "power":
        fold_scales(model, images)
    return model


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.float().cpu().contiguous() for name, value in model.state_dict().items()}


def choose(runs: list[dict], dataset: Dataset, shape: Shape) -> tuple[dict, dict, list[dict]]:
    """The best baseline and the best Power-Softmax run, and what was seen of every run. Never looks at the test images.

    Among the Power-Softmax runs, those within LIMITS are preferred, then validation accuracy of the polynomial model decides.
    """
    tried = []
    for state in runs:
        model = averaged(state, shape, dataset.train)
        seen = {"run": state["config"], "validation": accuracy(model, dataset.validation, EXACT)}
        if state["config"]["family"] == "power":
            ranges, _ = calibrate(model, dataset.train).ranges(shape.layers)
            polynomials = Polynomials(shape, ranges)
            seen["validation_polynomial"] = accuracy(model, dataset.validation, polynomials)
            seen["ratios"] = worst_ratios(shape, ranges)
            seen["within_limits"] = all(seen["ratios"][key] <= LIMITS[key] for key in LIMITS)
            seen["levels"] = {name: d["levels"] for name, d in polynomials.describe().items()}
        tried.append(seen)
        print(json.dumps(seen), flush=True)

    def rank(i: int) -> tuple:
        seen = tried[i]
        return seen.get("within_limits", True), seen.get("validation_polynomial", seen["validation"])

    best = {family: max((i for i, r in enumerate(runs) if r["config"]["family"] == family), key=rank) for family in FAMILIES}
    return runs[best["baseline"]], runs[best["power"]], tried


def config_input(shape: Shape) -> dict:
    """The format cuts images itself: one mean and deviation of grey ones, three of colour ones."""
    image = shape.image
    levels = lambda each: each[0] if image.channels == 1 else list(each)
    return {"kind": "image", "height": image.side, "width": image.side, "patch": shape.patch, "stride": shape.stride,
            "padding": shape.padding, "mean": levels(image.mean), "std": levels(image.std)}


def config(dataset: Dataset, shape: Shape, ranges: list[dict], logit: float, difference: float, name: str) -> dict:
    return {
        "format": "cipherform.model/1",
        "name": name,
        "random_weights": False,
        "input": config_input(shape),
        "dataset": dataset.name,
        "classes": dataset.classes,
        "tokens": shape.tokens,
        "width": shape.width,
        "ffn": shape.ffn,
        "norm_eps": shape.norm_eps,
        "layers": [{"heads": heads, "power": shape.power, "eps": shape.eps, "activation": activation, "ranges": r}
                   for heads, activation, r in zip(shape.heads, shape.activations, ranges)],
        "logit_abs_max": logit,
        "logit_difference_max": difference,
        "approximation": {"tolerance": approximations.TOLERANCE, "widen_top": approximations.WIDEN_TOP,
                          "widen_bottom": approximations.WIDEN_BOTTOM},
    }


def export(work: Path, out: Path, dataset: Dataset, shape: Shape, device, name: str, notes: list[str]) -> dict:
    """Writes config.json, model.safetensors, card.json, card.md and reference.json to `out`; returns the card."""
    saved = torch.load(work / "checkpoint.pt", map_location="cpu", weights_only=True)
    parts = {part: getattr(dataset, part).to(device) for part in ("train", "validation", "test")}
    dataset = replace(dataset, **parts)
    baseline_run, power_run, tried = choose(saved["runs"], dataset, shape)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors(averaged(power_run, shape, dataset.train)), out / "model.safetensors", metadata={"format": "pt"})

    # Everything below is measured on the file that ships, read back.
    model = FAMILIES["power"](shape)
    model.load_state_dict(load_file(out / "model.safetensors"))
    model = model.double().to(device).eval()
    baseline = averaged(baseline_run, shape, dataset.train)
    calibration = calibrate(model, dataset.train)
    (ranges, logit), difference = calibration.ranges(shape.layers), calibration.logit_difference()
    test_ranges, _ = calibrate(model, dataset.test).ranges(shape.layers)
    server, everywhere = Polynomials(shape, ranges), Polynomials(shape, ranges, first_norm=True)
    exact_logits, polynomial_logits = (logits(model, dataset.test, f) for f in (EXACT, server))
    percent = lambda found: round(100 * (found.argmax(1) == dataset.test.labels).double().mean().item(), 4)
    counts = {part: len(getattr(dataset, part)) for part in parts}
    families = [state["config"]["family"] for state in saved["runs"]]
    batch = power_run["config"]["batch"]
    card = {
        "format": "cipherform.card/1",
        "name": name,
        "dataset": {"name": dataset.name, "sha256": dataset.hashes, "counts": counts,
                    "split": dataset.split},
        "parameters": sum(p.numel() for p in model.parameters()),
        "shape": shape.as_dict(),
        "training": {
            "hardware": saved["hardware"], "torch": saved["torch"], "seconds": round(saved["seconds"], 1),
            "steps": power_run["step"], "batch": batch, "runs": {f: families.count(f) for f in FAMILIES},
            "chosen_by": "validation accuracy (of the polynomial model for power), among power runs within the limits if any",
            "limits": LIMITS, "notes": notes, "baseline": baseline_run["config"], "power": power_run["config"], "tried": tried,
        },
        "accuracy_test_percent": {
            "images": counts["test"],
            "softmax_baseline": percent(logits(baseline, dataset.test, EXACT)),
            "power_softmax": percent(exact_logits),
            "polynomial": percent(polynomial_logits),
            "polynomial_with_norm1": percent(logits(model, dataset.test, everywhere)),
            "polynomial_agrees_with_power_softmax": round(
                100 * (exact_logits.argmax(1) == polynomial_logits.argmax(1)).double().mean().item(), 4),
        },
        "polynomials": everywhere.describe(),
        "ratios": worst_ratios(shape, ranges),
        "ranges": ranges,
        "logit_abs_max": logit,
        "logit_difference_max": difference,
        "ranges_met_on_test": test_ranges,
    }
    write(out, {"config.json": config(dataset, shape, ranges, logit, difference, name), "card.json": card,
                "reference.json": reference(dataset.test, exact_logits, polynomial_logits)})
    (out / "card.md").write_text(markdown(card))
    return card


def reference(test: Images, exact_logits: torch.Tensor, polynomial_logits: torch.Tensor) -> dict:
    return {
        "images": f"the first {REFERENCE_IMAGES} of the test file",
        "labels": test.labels[:REFERENCE_IMAGES].tolist(),
        "logits": exact_logits[:REFERENCE_IMAGES].tolist(),
        "polynomial_logits": polynomial_logits[:REFERENCE_IMAGES].tolist(),
    }


def write(out: Path, files: dict[str, dict]) -> None:
    for file, content in files.items():
        (out / file).write_text(json.dumps(content, indent=2) + "\n")


def markdown(card: dict) -> str:
    """The card for people; every figure in it is in card.json."""
    t, a, d = card["training"], card["accuracy_test_percent"], card["dataset"]
    lines = [
        f"# {card['name']}", "",
        f"A vision transformer of {card['parameters']:,} parameters whose server part is polynomial: {len(card['shape']['heads'])} "
        f"layer(s), width {card['shape']['width']}, heads {'; '.join(', '.join(h) for h in card['shape']['heads'])}, power p = {card['shape']['power']}, "
        f"hidden width {card['shape']['ffn']}, learned quadratic activation, bounded LayerNorm.", "",
        "## Accuracy", "",
        f"All {a['images']:,} images of the test file, float64.", "",
        "| model | test accuracy, % |", "| --- | --- |",
        f"| softmax, LayerNorm, GELU: same shape, epochs, augmentation and number of tries | {a['softmax_baseline']:.2f} |",
        f"| Power-Softmax, exact division and roots | {a['power_softmax']:.2f} |",
        f"| fully polynomial (norm1 of the first layer exact: the client computes it) | {a['polynomial']:.2f} |",
        f"| fully polynomial, norm1 included | {a['polynomial_with_norm1']:.2f} |", "",
        f"The polynomial model gives the label of the exact one on {a['polynomial_agrees_with_power_softmax']:.2f} % of them.", "",
        "## Data and training", "",
        f"- Dataset: {d['name']}; {d['counts']['train']:,} training, {d['counts']['validation']:,} validation, "
        f"{d['counts']['test']:,} test images. {d['split']}.",
        f"- {t['steps']:,} steps of {t['batch']} images; runs tried: {t['runs']['baseline']} baseline, {t['runs']['power']} power; "
        f"chosen by {t['chosen_by']}. The test images had no part in it.",
        *(f"- {note}" for note in t["notes"]),
        f"- Chosen: power seed {t['power']['seed']}, rate {t['power']['rate']:g}, shift {t['power']['shift']}; baseline seed "
        f"{t['baseline']['seed']}, rate {t['baseline']['rate']:g}, shift {t['baseline']['shift']}. All runs and their validation "
        "accuracies are in `card.json`.",
        f"- Hardware: {t['hardware']}, torch {t['torch']}; {t['seconds']:.0f} s for all runs side by side.",
        "- Weights: running average of the training weights, f32; then the queries of each head scaled by a power of two "
        "(`training/fold.py`). Everything below and above is measured on the result.", "",
        "## Calibrated ranges", "",
        f"Over the {d['counts']['train']:,} training images, not widened. Polynomials are fitted on ranges widened at the top by "
        f"{approximations.WIDEN_TOP:g} and at the bottom by {approximations.WIDEN_BOTTOM:g}; the reciprocal holds up to twice "
        "that top.", "",
        "| quantity | training | met on test |", "| --- | --- | --- |",
    ]
    for i, (train, test) in enumerate(zip(card["ranges"], card["ranges_met_on_test"])):
        for h, kind in enumerate(card["shape"]["heads"][i]):
            lines.append(f"| layer {i} head {h} ({kind}) eps + mean s^p | {span(train['denominator'][h])} | {span(test['denominator'][h])} |")
        for norm in ("norm1_variance", "norm2_variance"):
            lines.append(f"| layer {i} {norm} | {span(train[norm])} | {span(test[norm])} |")
        for key in ("activation_abs_max", "value_abs_max", "residual_abs_max"):
            lines.append(f"| layer {i} {key} | {train[key]:.4g} | {test[key]:.4g} |")
        scores = lambda r: ", ".join(f"{v:.4g}" for v in r["score_abs_max"])
        lines.append(f"| layer {i} score_abs_max by head | {scores(train)} | {scores(test)} |")
    lines += [f"| logit_abs_max | {card['logit_abs_max']:.4g} | |", f"| logit_difference_max | {card['logit_difference_max']:.4g} | |", "", "| polynomial | levels | relative error on the widened range |",
              "| --- | --- | --- |"]
    lines += [f"| {n} | {p['levels']} | {p['relative_error']:.2g} |" for n, p in card["polynomials"].items()]
    lines += ["", "## Files", "",
              "`config.json` and `model.safetensors` are the model; `card.json` holds every figure of this card; `reference.json` holds "
              "labels and float64 logits (exact and polynomial) of the first test images, to check another implementation against."]
    return "\n".join(lines) + "\n"


def span(pair: list[float]) -> str:
    return f"{pair[0]:.4g} .. {pair[1]:.4g} (ratio {pair[1] / pair[0]:.1f})"
