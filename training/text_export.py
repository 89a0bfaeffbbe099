"""From trained text runs to a model folder: fp16 weights, ranges on the training data, polynomials, accuracies, card."""

import json
import math

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import approximations
from export import span, write
from text_data import CHARACTERS, characters_tokenizer
from text_model import Exact, TextCalibration, TextPolynomials, TextShape, TextTransformer

CLASSES = ["negative", "positive"]


def folded(run) -> TextTransformer:
    """The averaged weights in float64 as they ship: gains of undivided heads in the values, everything rounded to fp16."""
    model = TextTransformer(run.config.shape)
    model.load_state_dict(run.average.state_dict())
    model = model.double().to(run.device).eval()
    with torch.no_grad():
        for layer in model.layers:
            attention = layer.attention
            if run.config.shape.kind == "undivided":
                gain = attention.gain.repeat_interleave(run.config.shape.width // run.config.shape.heads)
                attention.value.weight *= gain
                attention.value.bias *= gain
                attention.gain.fill_(1)
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    return model.requires_grad_(False)


def tensors(model: TextTransformer) -> dict[str, torch.Tensor]:
    return {n: t.half().cpu().contiguous() for n, t in model.state_dict().items() if not n.endswith("attention.gain")}


@torch.no_grad()
def logits(model: TextTransformer, sentences, functions, size: int = 1000) -> torch.Tensor:
    out = torch.zeros(len(sentences), model.shape.classes, dtype=torch.float64, device=sentences.ids.device)
    for part, rows in sentences.batches(size):
        out[rows] = model(part.ids, part.lengths, functions).double()
    return out


def percent(found: torch.Tensor, sentences) -> float:
    return round(100 * (found.argmax(1) == sentences.labels).double().mean().item(), 4)


@torch.no_grad()
def nats(model: TextTransformer, text: torch.Tensor, functions, most: int) -> float:
    """Mean cross entropy over windows side by side."""
    tokens = model.shape.tokens
    count = min((len(text) - 1) // tokens, most)
    total = 0.0
    for start in torch.arange(count, device=text.device).split(256):
        places = start[:, None] * tokens + torch.arange(tokens + 1, device=text.device)
        window = text[places].long()
        lengths = torch.full((len(start),), tokens, device=text.device)
        found = model(window[:, :-1], lengths, functions).double().flatten(0, 1)
        total += torch.nn.functional.cross_entropy(found, window[:, 1:].flatten(), reduction="sum").item()
    return total / (count * tokens)


def calibrated(model: TextTransformer, run_over) -> tuple[list[dict], float]:
    calibration = TextCalibration()
    run_over(calibration)
    return calibration.ranges(model.shape.layers)


def config(shape: TextShape, ranges: list[dict], logit: float, name: str, dataset: str) -> dict:
    structure = {"embedding_norm": True, "norm": "post" if shape.post else "pre", "parallel": False, "causal": shape.causal,
                 "pooling": "tokens" if shape.causal else "mean"}
    layer = {"heads": [shape.kind] * shape.heads, "power": shape.power, "eps": shape.eps}
    layer |= {"shifted": True} if shape.shifted else {}
    printable = ["newline" if c == "\n" else f"'{c}'" for c in CHARACTERS]
    return {
        "format": "cipherform.model/1", "name": name, "random_weights": False,
        "input": {"kind": "text", "vocabulary": shape.vocabulary}, "dataset": dataset,
        "classes": printable if shape.causal else CLASSES, "tokens": shape.tokens, "width": shape.width, "ffn": shape.ffn,
        "norm_eps": shape.norm_eps, "structure": structure,
        "layers": [layer | {"activation": shape.activation, "ranges": r} for r in ranges],
        "logit_abs_max": logit,
        "logit_difference_max": 2 * logit,  # a bound of what was met
        "approximation": {"tolerance": approximations.TOLERANCE, "widen_top": approximations.WIDEN_TOP,
                          "widen_bottom": approximations.WIDEN_BOTTOM},
    }


class Candidate:
    """One run, measured."""

    def __init__(self, work, run, text):
        self.run, self.model = run, folded(run)
        self.shape, self.polynomials, self.ranges = run.config.shape, None, None
        self.row = {"label": run.config.label, "seed": run.config.seed, "steps": run.total}
        self.measure_text(work, text) if self.shape.causal else self.measure_sentences(work)

    def substitute(self, run_over) -> None:
        self.ranges, self.logit = calibrated(self.model, run_over)
        self.polynomials = TextPolynomials(self.shape, self.ranges)
        self.row["levels"] = {name: d["levels"] for name, d in self.polynomials.describe().items()}

    def measure_sentences(self, work) -> None:
        self.row["held_out"] = percent(logits(self.model, work.held_out, Exact()), work.held_out)
        self.exact = logits(self.model, work.dev, Exact())
        self.row["dev"] = percent(self.exact, work.dev)
        self.score = self.row["held_out"]
        if self.shape.kind != "softmax":
            self.substitute(lambda functions: logits(self.model, work.train, functions))
            self.polynomial = logits(self.model, work.dev, self.polynomials)
            held_out = logits(self.model, work.held_out, self.polynomials)
            self.row |= {"held_out_polynomial": percent(held_out, work.held_out), "dev_polynomial": percent(self.polynomial, work.dev)}
            self.score = self.row["held_out_polynomial"]
            self.met, _ = calibrated(self.model, lambda functions: logits(self.model, work.dev, functions))

    def measure_text(self, work, text) -> None:
        most = 8 if work.smoke else 4000
        self.row["test_nats"] = nats(self.model, text["test"], Exact(), most)
        self.score = -self.row["test_nats"]
        if self.shape.kind != "softmax":
            self.substitute(lambda functions: nats(self.model, text["train"], functions, 2 * most))
            self.row["test_nats_polynomial"] = nats(self.model, text["test"], self.polynomials, most)
            self.met, _ = calibrated(self.model, lambda functions: nats(self.model, text["test"], functions, most))
        for key in ("test_nats", "test_nats_polynomial"):
            if key in self.row:
                self.row[key.replace("nats", "perplexity")] = math.exp(self.row[key])


def export(work, name: str, runs: list, seconds: float, teacher, text=None) -> None:
    """Measures every run and writes a folder for the best of each label that can run encrypted: NAME for the label whose circuits
    are the shallowest, NAME-LABEL for others. The best of a label is chosen on held-out sentences of the training file (on test
    text for characters, whose seeds differ in nothing else)."""
    candidates = [Candidate(work, run, text) for run in runs]
    rows = [c.row for c in candidates]
    for row in rows:
        print(name, json.dumps(row), flush=True)
    labels = [label for label in dict.fromkeys(c.row["label"] for c in candidates) if not label.startswith("softmax")]
    shallow = next((label for label in labels if label.startswith("undivided")), labels[0])
    for label in labels:
        best = max((c for c in candidates if c.row["label"] == label), key=lambda c: c.score)
        folder = name if label == shallow else f"{name}-{label.split()[0]}"
        write_folder(work, folder, best, rows, seconds, teacher)


def write_folder(work, name: str, best: Candidate, rows: list[dict], seconds: float, teacher) -> None:
    out = work.out / name
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors(best.model), out / "model.safetensors", metadata={"format": "pt"})
    back = load_file(out / "model.safetensors")
    assert all(torch.equal(t, back[n]) for n, t in tensors(best.model).items())
    causal = best.shape.causal
    dataset = "brown" if causal else "sst2"
    with safe_open(work.data / ("brown.safetensors" if causal else "sst2.safetensors"), "pt") as file:
        hashes = json.loads(file.metadata()["hashes"])
    counts = {p: len(getattr(work, p)) for p in ("train", "held_out", "dev")}
    counts = {"windows_of_test_text": 4000} if causal else counts
    card = {
        "format": "cipherform.card/1", "name": name,
        "dataset": {"name": dataset, "sha256": hashes, "counts": counts},
        "parameters": sum(t.numel() for t in back.values()), "shape": best.shape.as_dict(),
        "training": {"hardware": hardware(work.device), "torch": str(torch.__version__), "seconds_all_runs": round(seconds, 1),
                     "chosen": best.row, "run": best.run.config.as_dict(), "runs": rows},
        "accuracy": accuracy(work, best, rows, teacher),
        "polynomials": best.polynomials.describe(), "ranges": best.ranges, "logit_abs_max": best.logit, "logit_difference_max": 2 * best.logit, "ranges_met_on_test": best.met,
    }
    content = {"config.json": config(best.shape, best.ranges, best.logit, name, dataset), "card.json": card}
    if not causal:
        first = {"rows": "the first 16 of the development file", "labels": work.dev.labels[:16].tolist(),
                 "ids": [row[:n].tolist() for row, n in zip(work.dev.ids[:16], work.dev.lengths[:16])],
                 "logits": best.exact[:16].tolist(), "polynomial_logits": best.polynomial[:16].tolist()}
        content["reference.json"] = first
    write(out, content)
    tokenizer = json.dumps(characters_tokenizer(), ensure_ascii=False) if causal else (work.data / "tokenizer.json").read_text("utf-8")
    (out / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    (out / "card.md").write_text(markdown(card))


def hardware(device) -> str:
    return torch.cuda.get_device_name() if torch.device(device).type == "cuda" else "CPU"


def accuracy(work, best: Candidate, rows: list[dict], teacher) -> dict:
    softmax = [row for row in rows if row["label"] == "softmax"]
    keys = ("test_perplexity", "test_perplexity_polynomial") if best.shape.causal else ("dev", "dev_polynomial")
    found = {"exact": best.row[keys[0]], "polynomial": best.row[keys[1]], "softmax_same_training": [row[keys[0]] for row in softmax]}
    if teacher is not None:
        found["softmax_teacher"] = percent(logits(teacher, work.dev, Exact()), work.dev)
        same = best.exact.argmax(1) == best.polynomial.argmax(1)
        found["polynomial_agrees_with_exact"] = round(100 * same.double().mean().item(), 4)
    return found


def markdown(card: dict) -> str:
    """The card for people; every figure in it is in card.json."""
    s, t, a, d = card["shape"], card["training"], card["accuracy"], card["dataset"]
    what = "perplexity a character on test text" if s["causal"] else "accuracy on the 872 development sentences, %"
    lines = [
        f"# {card['name']}", "",
        f"A transformer of {card['parameters']:,} parameters (fp16) whose server part is polynomial: {s['layers']} layers, width "
        f"{s['width']}, {s['heads']} heads ({t['chosen']['label']}, p = {s['power']}), hidden width {s['ffn']}, {s['tokens']} tokens, "
        f"norms {'after' if s['post'] else 'before'}, learned quadratic activation, vocabulary {s['vocabulary']:,}.", "",
        f"## {what[0].upper()}{what[1:]}", "",
        "| model | |", "| --- | --- |",
        *([f"| fine-tuned MiniLM, the teacher | {a['softmax_teacher']:.2f} |"] if "softmax_teacher" in a else []),
        f"| softmax and GELU of this shape, trained the same way, by seed | {', '.join(f'{x:.2f}' for x in a['softmax_same_training'])} |",
        f"| this model, exact functions | {a['exact']:.2f} |", f"| this model, polynomials | {a['polynomial']:.2f} |", "",
        "Float64 in training/, on the fp16 weights of the file. Every run, with its seed, is in `card.json` (`training.runs`).", "",
        "## Data and training", "",
        f"- {d['name']}: {json.dumps(d['counts'])}; sha256 of the files in `card.json`. The run of this kind was chosen on held-out "
        "sentences of the training file." if not s["causal"] else f"- {d['name']}: {json.dumps(d['counts'])}, every twentieth text "
        "of the corpus is the test text; the seed was chosen there.",
        f"- {t['chosen']['steps']:,} steps, seed {t['chosen']['seed']}, {t['hardware']}, torch {t['torch']}; {t['seconds_all_runs']:.0f} s "
        f"for {len(t['runs'])} runs side by side.", "",
        "## Calibrated ranges", "", "On training data, not widened; beside them what test data met.", "",
        "| quantity | training | test |", "| --- | --- | --- |",
    ]
    for i, (train, met) in enumerate(zip(card["ranges"], card["ranges_met_on_test"])):
        widest = lambda r: max(r["denominator"], key=lambda pair: pair[1] / pair[0])
        lines.append(f"| layer {i} denominators, the widest head | {span(widest(train))} | {span(widest(met))} |")
        lines += [f"| layer {i} {norm} | {span(train[norm])} | {span(met[norm])} |" for norm in ("norm1_variance", "norm2_variance")]
        lines += [f"| layer {i} {key} | {train[key]:.4g} | {met[key]:.4g} |"
                  for key in ("activation_abs_max", "value_abs_max", "residual_abs_max")]
        lines.append(f"| layer {i} score_abs_max | {max(train['score_abs_max']):.4g} | {max(met['score_abs_max']):.4g} |")
    lines += ["", "| polynomial | levels | relative error on the widened range |", "| --- | --- | --- |"]
    lines += [f"| {n} | {p['levels']} | {p['relative_error']:.2g} |" for n, p in card["polynomials"].items()]
    return "\n".join(lines) + "\n"
