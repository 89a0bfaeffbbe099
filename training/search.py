"""MPCViT's search (arXiv 2211.13955): which heads divide, which layers keep their GELU, and training what was found.

A searched run has a share `alpha` of every head and `beta` of every activation, with a penalty of their latency under two-party
computation; the largest shares are kept. What was found is trained from new weights with a softmax model as the teacher.
"""

import json
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

import torch
import torch._dynamo as dynamo
import torch.nn.functional as F

from data import Images, augmented
from model import EXACT, Shape, Transformer
from ranges import RangeLoss
from trainer import Run, RunConfig

RANGE_SLICE = 8  # one image in so many has its ranges looked at: whole batches would cost three times the step
LASSO = 1e-3  # of the loss, for the latency of one average head
LATENCIES = Path(__file__).parent / "latency.json"


@dataclass
class Latency:
    """Seconds that a choice adds to a layer: every dividing head, the first of them besides, and its activation."""

    head: float
    layer: float
    activation: float

    @staticmethod
    def read(shape: str, kind: str, network: str = "lan") -> "Latency":
        """Of a measured table; see measure_latency.py."""
        added = json.loads(LATENCIES.read_text())["shapes"][shape]["added_seconds"][network]
        return Latency(added["head"][kind], added["layer"][kind], added["activation"]["gelu"])

    def penalty(self, model: Transformer) -> torch.Tensor | float:
        """Latency of the shares, in units of an average head of a layer whose heads all divide.

        Rounds do not add up over heads: a layer's rounds are those of its slowest head. So a head pays for its bytes and
        work, and the layer once for having any: 1 - prod(1 - alpha).
        """
        total = 0.0
        for layer in model.layers:
            alpha, beta = layer.attention.alpha, layer.ffn.beta
            if alpha is not None:
                any_divides = 1 - reduce(torch.mul, (1 - alpha.abs().clamp(max=1)).unbind())  # prod() asks the host
                total = total + self.head * alpha.abs().sum() + self.layer * any_divides
            if beta is not None:
                total = total + self.activation * beta.abs().sum()
        heads = model.layers[0].attention.heads
        return total / (self.head + self.layer / heads)


@dataclass
class Point(RunConfig):
    """One run: an architecture from new weights, or a search over `heads` (all dividing) and GELUs."""

    label: str = ""
    heads: list[list[str]] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)
    mu: float | None = None
    searched: bool = False
    distilled: bool = False

    @property
    def name(self) -> str:
        return self.label

    def shape(self, shape: Shape) -> Shape:
        return replace(shape, heads=self.heads, activations=self.activations)


class Teacher:
    """Logits and last stream of a trained model for the images of one epoch, computed once for all students."""

    def __init__(self, model: Transformer, images: Images, framed: torch.Tensor):
        self.model, self.images, self.framed = model.eval().requires_grad_(False), images, framed
        self.epoch: int | None = None
        self.logits, self.stream = torch.empty(0), torch.empty(0)

    @torch.no_grad()
    def follow(self, epoch: int, order: torch.Tensor, hole: int) -> None:
        """`order` [steps, batch, 6] must be the same for every student."""
        if self.epoch == epoch:
            return
        steps, batch = order.shape[:2]
        if self.epoch is None:
            place = {"dtype": torch.bfloat16, "device": order.device}
            shape = self.model.embed.shape
            self.logits = torch.empty(steps, batch, self.model.head.weight.shape[1], **place)
            self.stream = torch.empty(steps, batch, shape.tokens, shape.width, **place)
        for step in range(steps):
            with torch.autocast(order.device.type, torch.bfloat16, cache_enabled=False):
                stream = self.model.stream(augmented(self.framed, order[step], self.images.spec, hole))
                self.stream[step], self.logits[step] = stream, self.model.classify(stream)
        self.epoch = epoch


class PointRun(Run):
    """Trains a `Point`."""

    def __init__(self, config: Point, shape: Shape, images: Images, framed: torch.Tensor, latency: Latency | None = None,
                 teacher: Teacher | None = None, compiled: bool = False):
        self.latency, self.teacher = latency, teacher
        super().__init__(config, config.shape(shape), images, framed)
        if compiled:
            dynamo.config.recompile_limit = 64  # one for each combination of heads and activation
            for layer in self.model.layers:
                layer.compile()

    def build(self) -> Transformer:
        return Transformer(self.shape, self.config.searched)

    def load_epoch(self, epoch: int) -> None:
        super().load_epoch(epoch)
        if self.config.distilled:
            self.teacher.follow(epoch, self.order, self.config.hole)

    def objective(self, images, labels):
        c = self.config
        stream = self.model.stream(images)
        logits = self.model.classify(stream)
        loss = F.cross_entropy(logits, labels, label_smoothing=c.smoothing)
        total = loss
        if c.family == "power":  # the exported format: its ranges must be within reach of polynomials
            ranges = RangeLoss(self.shape)
            self.model(images[: len(images) // RANGE_SLICE], ranges)
            total = total + c.range_weight * ranges.penalty
        if c.searched:
            total = total + LASSO * self.latency.penalty(self.model)
        if c.distilled:
            step = self.step_number % self.steps_per_epoch
            taught, wanted = (t.index_select(0, step)[0].float() for t in (self.teacher.logits, self.teacher.stream))
            total = total + F.cross_entropy(logits, taught.softmax(-1)) + F.mse_loss(stream.float(), wanted) / wanted.square().mean()
        return loss, total


def kept(shares: list[list[float]], part: float) -> list[list[bool]]:
    """The largest shares of all layers together: `part` of their number, rounded, at least one if `part` is not 0."""
    ranked = sorted(((-share, i, j) for i, layer in enumerate(shares) for j, share in enumerate(layer)))
    count = max(round(part * len(ranked)), int(part > 0))
    chosen = {(i, j) for _, i, j in ranked[:count]}
    return [[(i, j) in chosen for j in range(len(layer))] for i, layer in enumerate(shares)]


def shares(state: dict) -> tuple[list[list[float]], list[list[float]]]:
    """alpha and beta by layer of a finished search; beta is empty where nothing was searched."""
    average, layers = state["average"], len(state["config"]["heads"])
    of = lambda name: [average[key].tolist() for i in range(layers) if (key := f"layers.{i}.{name}") in average]
    return of("attention.alpha"), of("ffn.beta")
