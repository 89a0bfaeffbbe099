"""Trains the text models: BERT-tiny-HE and MiniLM-L6-HE on SST-2, a causal character model on the Brown corpus. See README.md.

    python3 text_data.py ... --out DATA     # once
    python3 text.py --data DATA --out FOLDER [--only tiny minilm characters]
    python3 text.py --smoke --data DATA
"""

import argparse
import json
import math
import os
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from text_data import CHARACTERS, Sentences, load_sst2
from text_export import export
from text_model import Blend, Exact, TextRangeLoss, TextShape, TextTransformer
from trainer import Stepper

SHORT, MANY, FEW = 24, 224, 32  # sentences a step: MANY of at most SHORT pieces, FEW longer ones
TEMPERATURE = 2.0
STALLED = 60  # seconds without progress after which the process ends: side by side, graphs have hung a card


@dataclass
class TextRun:
    """One training run."""

    label: str
    shape: TextShape
    seed: int
    steps: int
    rate: float
    weight_decay: float = 0.05
    warm_up: float = 0.05
    clip: float = 1.0
    average: float = 0.99
    drop: float = 0.15
    drop_tokens: float = 0.05
    smoothing: float = 0.05
    range_weight: float = 0.1
    blend: float = 0.0  # share of the steps over which softmax and GELU fade out
    half: bool = False
    distilled: bool = False  # logits, and streams where the teacher has the same width

    def as_dict(self) -> dict:
        return asdict(self)

    def build(self) -> TextTransformer:
        torch.manual_seed(self.seed)
        return TextTransformer(self.shape, self.drop, self.drop_tokens, unknown=1)


class TextStepper(Stepper):
    """Functions and precision of a text run."""

    def __init__(self, config: TextRun, device, start: dict | None = None):
        model = config.build()
        if start is not None:
            model.load_state_dict(start, strict=False)
        super().__init__(config, model, config.build(), config.steps, device)
        self.average.eval()

    def functions(self) -> Blend:
        c = self.config
        # Softmax has no range to keep; the first norm before attention is the client's.
        client = "" if c.shape.post else "0.norm1_variance"
        functions = Blend() if c.shape.kind == "softmax" else TextRangeLoss(client=client)
        if c.blend:
            functions.share = (self.step_number[0] / (c.blend * self.total)).clamp(max=1.0).float()
        return functions

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.half, cache_enabled=False)

    def with_penalty(self, loss: torch.Tensor, functions: Blend) -> torch.Tensor:
        return loss + self.config.range_weight * getattr(functions, "penalty", 0.0)


class Classifier(TextStepper):
    """A step on SST-2: cross entropy, and what a teacher says."""

    def __init__(self, config, device, sentences: Sentences, start=None, teacher=None, taught=None, sizes=(MANY, FEW)):
        super().__init__(config, device, start)
        self.sentences, self.teacher, self.taught, self.sizes = sentences, teacher, taught, sizes
        short = sentences.lengths <= SHORT
        self.groups = [torch.nonzero(short)[:, 0], torch.nonzero(~short)[:, 0]]

    def losses(self):
        c, shown, total = self.config, 0.0, 0.0
        for group, size, longest in zip(self.groups, self.sizes, (SHORT, self.sentences.ids.shape[1])):
            index = group[torch.randint(len(group), (size,), device=self.device)]
            ids, lengths, labels = (t[index] for t in (self.sentences.ids, self.sentences.lengths, self.sentences.labels))
            ids, functions, share = ids[:, :longest], self.functions(), size / sum(self.sizes)
            with self.autocast():
                streams = self.model.stream(ids, lengths, functions)
                logits = self.model.classify(streams[-1], functions).float()
            loss = F.cross_entropy(logits, labels, label_smoothing=c.smoothing)
            aim = loss
            if c.distilled:
                aim = 0.3 * loss + self.distance(ids, lengths, index, streams, logits, functions.mask)
            shown = shown + loss.detach() * share
            total = total + self.with_penalty(aim, functions) * share
        return shown, total

    def distance(self, ids, lengths, index, streams, logits, live) -> torch.Tensor:
        """Kullback-Leibler divergence from the teacher's logits, and relative squared distance from its streams."""
        apart = 0.0
        if self.teacher is not None:
            with torch.no_grad(), self.autocast():
                exact = Exact()
                wanted = self.teacher.stream(ids, lengths, exact)
                taught = self.teacher.classify(wanted[-1], exact).float()
            weight = live[..., None].float()
            far = lambda a, b: ((a.float() - b.float()).square() * weight).sum() / (b.float().square() * weight).sum()
            apart = sum(far(a, b) for a, b in zip(streams, wanted)) / len(wanted)
        else:
            taught = self.taught[index]
        soft = lambda x: F.log_softmax(x / TEMPERATURE, 1)
        return apart + TEMPERATURE**2 * F.kl_div(soft(logits), soft(taught), reduction="batchmean", log_target=True)


class Predictor(TextStepper):
    """A step on characters: the next one at each of `tokens` places of random windows."""

    def __init__(self, config, device, text: torch.Tensor, windows: int = 128):
        super().__init__(config, device)
        self.text, self.windows = text, windows
        self.lengths = torch.full((windows,), config.shape.tokens, device=device)
        self.places = torch.arange(config.shape.tokens + 1, device=device)

    def losses(self):
        start = torch.randint(len(self.text) - len(self.places), (self.windows, 1), device=self.device)
        window = self.text[start + self.places].long()
        functions = self.functions()
        with self.autocast():
            logits = self.model(window[:, :-1], self.lengths, functions).float()
        loss = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        return loss.detach(), self.with_penalty(loss, functions)


def advance(runs: list[Stepper], what: str) -> float:
    """Trains all runs side by side to their ends; seconds, captures included."""
    started, beat = time.monotonic(), [time.monotonic()]
    on_gpu, done = runs[0].device.type == "cuda", threading.Event()

    def watch() -> None:
        while not done.wait(2):
            if time.monotonic() - beat[0] > STALLED:
                print("no progress: giving up", flush=True)
                os._exit(7)

    if on_gpu:
        threading.Thread(target=watch, daemon=True).start()
    for run in runs:
        run.model.train()
        run.prepare()
        beat[0] = time.monotonic()
    for step in range(max(run.total for run in runs)):
        for run in runs:
            if step < run.total:
                run.advance()
        if on_gpu and step % 25 == 0:
            torch.cuda.synchronize()
            beat[0] = time.monotonic()
        if step % 400 == 0:
            print(f"{what}: step {step}, {time.monotonic() - started:.0f} s", flush=True)
    if on_gpu:
        torch.cuda.synchronize()
    done.set()
    for run in runs:
        run.graph = None
        run.average.eval()
    print(f"{what}: {len(runs)} runs in {time.monotonic() - started:.1f} s, losses "
          + " ".join(f"{run.loss_sum.item() / run.total:.3f}" for run in runs), flush=True)
    return time.monotonic() - started


def minilm_state(folder: Path) -> dict[str, torch.Tensor]:
    """all-MiniLM-L6-v2 under the names of the format."""
    w = {name: value.float() for name, value in load_file(folder / "minilm.safetensors").items()}
    e = "embeddings."
    state = {
        "embed.weight": w[e + "word_embeddings.weight"],
        "embed.position": w[e + "position_embeddings.weight"] + w[e + "token_type_embeddings.weight"][0],
        "embed.norm.gain": w[e + "LayerNorm.weight"], "embed.norm.bias": w[e + "LayerNorm.bias"],
    }
    linear = {"attention.query": "attention.self.query", "attention.key": "attention.self.key",
              "attention.value": "attention.self.value", "attention.output": "attention.output.dense",
              "ffn.in": "intermediate.dense", "ffn.out": "output.dense"}
    norms = {"norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm"}
    for i in range(6):
        for ours, theirs in linear.items():
            state[f"layers.{i}.{ours}.weight"] = w[f"encoder.layer.{i}.{theirs}.weight"].T.contiguous()
            state[f"layers.{i}.{ours}.bias"] = w[f"encoder.layer.{i}.{theirs}.bias"]
        for ours, theirs in norms.items():
            state[f"layers.{i}.{ours}.gain"] = w[f"encoder.layer.{i}.{theirs}.weight"]
            state[f"layers.{i}.{ours}.bias"] = w[f"encoder.layer.{i}.{theirs}.bias"]
    return state


def principal(table: torch.Tensor, width: int) -> torch.Tensor:
    """Word vectors in the directions in which they differ most."""
    table = table - table.mean(0)
    _, _, directions = torch.linalg.svd(table, full_matrices=False)
    return table @ directions[:width].T


def averaged(run: Stepper) -> TextTransformer:
    return run.average.eval()


class Work:
    """Data, device, sizes and results of one call."""

    def __init__(self, options: argparse.Namespace):
        self.device, self.smoke, self.out, self.data = options.device, options.smoke, options.out, options.data
        self.train, self.held_out, self.dev = (s.to(self.device) for s in load_sst2(options.data))
        if self.smoke:
            few = torch.arange(64, device=self.device)
            self.train, self.held_out, self.dev = (s.take(few) for s in (self.train, self.held_out, self.dev))
        self.minilm = minilm_state(options.data)
        self.vocabulary = len(self.minilm["embed.weight"])
        self.sizes = (4, 2) if self.smoke else (MANY, FEW)

    def steps(self, count: int) -> int:
        return 3 if self.smoke else count

    def teacher(self) -> tuple[TextTransformer, TextRun]:
        """MiniLM with softmax, fine-tuned."""
        shape = TextShape(self.vocabulary, 2, width=384, ffn=1536, heads=12, layers=6, kind="softmax", post=True,
                          activation="gelu", norm_eps=1e-5)
        config = TextRun("teacher", shape, 0, self.steps(900), 1.2e-4, weight_decay=0.01, warm_up=0.1, drop=0.1, drop_tokens=0.0,
                         smoothing=0.0, half=True)
        run = Classifier(config, self.device, self.train, self.minilm, sizes=self.sizes)
        self.seconds = advance([run], "teacher")
        return averaged(run).requires_grad_(False), config

    def minilm_runs(self, teacher: TextTransformer, like: TextRun) -> list[Classifier]:
        """Students that start from the teacher's weights; the softmax ones are what the others are compared with."""
        power = replace(like.shape, kind="power", shifted=True, activation="quadratic")
        shapes = {"softmax": like.shape, "power p2 shifted": power, "undivided p4 shifted": replace(power, kind="undivided", power=4)}
        base = replace(like, steps=self.steps(1178), rate=2e-4, range_weight=0.05, distilled=True)
        configs = [replace(base, label=label, shape=shape, seed=seed, blend=0.0 if label == "softmax" else 0.2)
                   for label, shape in shapes.items() for seed in (1, 2)]
        return [Classifier(c, self.device, self.train, teacher.state_dict(), teacher, sizes=self.sizes) for c in configs]

    def tiny_runs(self, teacher: TextTransformer) -> list[Classifier]:
        """From new weights and MiniLM's word vectors, with the teacher's logits."""
        taught = torch.zeros(len(self.train), 2, device=self.device)
        with torch.no_grad():
            for part, rows in self.train.batches(2000):
                taught[rows] = teacher(part.ids, part.lengths)
        shape = TextShape(self.vocabulary, 2, shifted=True)
        shapes = {"softmax": replace(shape, kind="softmax", activation="gelu", shifted=False), "power p2 shifted": shape,
                  "undivided p2 shifted": replace(shape, kind="undivided")}
        vectors = {"embed.weight": principal(self.minilm["embed.weight"], shape.width)}
        configs = [TextRun(label, shape, seed, self.steps(1600), 1e-3, distilled=True) for label, shape in shapes.items()
                   for seed in (1, 2)]
        return [Classifier(c, self.device, self.train, vectors, taught=taught, sizes=self.sizes) for c in configs]

    def character_runs(self, text: torch.Tensor) -> list[Predictor]:
        shape = TextShape(len(CHARACTERS), len(CHARACTERS), heads=4, causal=True)
        shapes = {"softmax": replace(shape, kind="softmax", activation="gelu"), "power p2": shape}
        configs = [TextRun(label, shape, seed, self.steps(5000), 2e-3, drop=0.0, drop_tokens=0.0, weight_decay=0.01)
                   for label, shape in shapes.items() for seed in (1, 2)]
        return [Predictor(c, self.device, text, 4 if self.smoke else 128) for c in configs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what text_data.py wrote")
    parser.add_argument("--out", type=Path, help="folder for the model folders")
    parser.add_argument("--only", nargs="+", default=["minilm", "tiny", "characters"], help="the models to make")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything on a few sentences; checks nothing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.out = options.out or options.data / "smoke"
    torch.backends.cuda.matmul.allow_tf32 = True
    work = Work(options)
    teacher, config = work.teacher()
    if "tiny" in options.only:
        runs = work.tiny_runs(teacher)
        export(work, "bert-tiny-he", runs, advance(runs, "tiny"), teacher)
    if "characters" in options.only:
        text = {part: t.to(work.device) for part, t in load_file(work.data / "brown.safetensors").items()}
        runs = work.character_runs(text["train"])
        export(work, "characters-he", runs, advance(runs, "characters"), None, text)
    if "minilm" in options.only:
        runs = work.minilm_runs(teacher, config)
        export(work, "minilm-l6-he", runs, advance(runs, "minilm"), teacher)


if __name__ == "__main__":
    main()
