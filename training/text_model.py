"""Transformers over word pieces or characters, in the model format: softmax, powers with and without division, shifts, masks,
norms before or after. One forward pass for training, calibration and polynomials. Parameter names are the exported tensors'.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from approximations import InverseSqrt, Reciprocal
from model import BoundedNorm, Functions, Linear, centre
from ranges import layer_of, summary


@dataclass
class TextShape:
    """Everything that decides the tensors' shapes and the formula."""

    vocabulary: int
    classes: int
    tokens: int = 64
    width: int = 128
    ffn: int = 512
    heads: int = 2
    layers: int = 2
    kind: str = "power"  # power, undivided, softmax
    power: int = 2
    shifted: bool = False
    post: bool = False
    causal: bool = False
    activation: str = "quadratic"  # or gelu
    eps: float = 1e-2
    norm_eps: float = 1e-3

    def as_dict(self) -> dict:
        return asdict(self)


class Live:
    """Which positions of a batch carry a token: `mask` [batch, tokens]. Functions of a text model know it."""

    mask: torch.Tensor | None = None


class Exact(Live, Functions):
    """The exact functions."""


class Blend(Exact):
    """Exact, on the way from softmax and GELU (share 0) to powers and polynomials (share 1)."""

    share: torch.Tensor | None = None


class TextRangeLoss(Blend):
    """Penalties as of `ranges.RangeLoss`, over live positions: hinge on the spread of the logarithms around their mean (per head
    for denominators), and on the activation's input."""

    def __init__(self, norm_band: float = 16.0, denominator_band: float = 30.0, activation: float = 5.0, client: str = ""):
        self.norm_band, self.denominator_band, self.activation, self.client = norm_band, denominator_band, activation, client
        self.penalty: torch.Tensor | float = 0.0

    def band(self, values: torch.Tensor, live: torch.Tensor, ratio: float) -> None:
        """`values` and `live` [groups, n]."""
        logs, weight = values.float().log(), live.float()
        count = weight.sum(1, keepdim=True).clamp(min=1)
        middle = ((logs * weight).sum(1, keepdim=True) / count).detach()
        over = F.relu((logs - middle).abs() - 0.5 * math.log(ratio)) * weight
        self.penalty = self.penalty + (over.square().sum(1, keepdim=True) / count).mean() + 0.02 * over.amax()

    def inverse_sqrt(self, place, variance, eps):
        if place.name != self.client:
            self.band((variance + eps).reshape(1, -1), self.mask.reshape(1, -1), self.norm_band)
        return super().inverse_sqrt(place, variance, eps)

    def reciprocal(self, place, denominator):
        heads = denominator.transpose(0, 1).flatten(1)
        live = self.mask[:, None].expand_as(denominator).transpose(0, 1).flatten(1)
        self.band(heads, live, self.denominator_band)
        return super().reciprocal(place, denominator)

    def watch(self, place, what, value):
        if what == "activation":
            over = F.relu(value.float().abs() - self.activation) * self.mask[..., None]
            self.penalty = self.penalty + 4 * over.square().mean() + 0.01 * over.amax()


class TextCalibration(Exact):
    """Smallest and largest values over live positions; per head for scores and denominators."""

    def __init__(self):
        self.low: dict[str, torch.Tensor] = {}
        self.high: dict[str, torch.Tensor] = {}

    def note(self, name: str, rows: torch.Tensor) -> None:
        """`rows` [groups, n]."""
        low, high = rows.amin(1).cpu().double(), rows.amax(1).cpu().double()
        self.low[name] = torch.minimum(self.low.get(name, low), low)
        self.high[name] = torch.maximum(self.high.get(name, high), high)

    def inverse_sqrt(self, place, variance, eps):
        self.note(place.name, variance[self.mask][None])
        return super().inverse_sqrt(place, variance, eps)

    def denominator(self, place, denominator):
        self.note(f"{place.name}denominator", denominator.transpose(1, 2)[self.mask].T)

    def reciprocal(self, place, denominator):
        self.denominator(place, denominator)
        return super().reciprocal(place, denominator)

    def watch(self, place, what, value):
        if what == "denominator":
            return self.denominator(place, value)
        if what == "score":  # [batch, heads, queries, keys], zero at masked keys
            rows = value.abs().amax(-1).transpose(1, 2)[self.mask].T
        elif what == "logit" and value.dim() == 2:
            rows = value.abs().reshape(1, -1)
        else:
            rows = value.abs()[self.mask].reshape(1, -1)
        self.note(place.name + what, rows)

    def ranges(self, layers: int) -> tuple[list[dict], float]:
        """As `ranges.Calibration.ranges`."""
        return summary(self.low, self.high, layers)


class TextPolynomials(Exact):
    """Every division and inverse square root of the server as a polynomial on the widened ranges."""

    def __init__(self, shape: TextShape, ranges: list[dict]):
        self.reciprocals: dict[str, Reciprocal] = {}
        self.roots: dict[str, InverseSqrt] = {}
        for i, layer in enumerate(ranges):
            if shape.kind == "power":
                self.reciprocals[f"{i}."] = Reciprocal.fit(layer["denominator"])
            for norm in ("norm1_variance", "norm2_variance"):
                if i or norm == "norm2_variance" or shape.post:
                    self.roots[f"{i}.{norm}"] = InverseSqrt.fit(*layer[norm], shape.norm_eps)

    def inverse_sqrt(self, place, variance, eps):
        root = self.roots.get(place.name)
        return super().inverse_sqrt(place, variance, eps) if root is None else root(variance + eps)

    def reciprocal(self, place, denominator):
        return self.reciprocals[place.name](denominator)

    def describe(self) -> dict:
        places = {f"{name}denominator": fit for name, fit in self.reciprocals.items()} | self.roots
        return {name: {"levels": fit.levels, "relative_error": fit.error} for name, fit in places.items()}


class TokenEmbedding(nn.Module):
    """Vectors of word pieces, positions, a norm: the client's part."""

    def __init__(self, shape: TextShape):
        super().__init__()
        self.eps = shape.norm_eps
        self.weight = nn.Parameter(0.05 * torch.randn(shape.vocabulary, shape.width))
        self.position = nn.Parameter(0.02 * torch.randn(shape.tokens, shape.width))
        self.norm = nn.Module()
        self.norm.gain, self.norm.bias = nn.Parameter(torch.ones(shape.width)), nn.Parameter(torch.zeros(shape.width))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = F.embedding(ids, self.weight) + self.position[: ids.shape[1]]
        return F.layer_norm(x, x.shape[-1:], self.norm.gain, self.norm.bias, self.eps)


class TextAttention(nn.Module):
    """Heads of one kind. The mean of powers is over the keys that a query sees, and so is the weight of undivided ones."""

    def __init__(self, shape: TextShape, name: str, drop: float):
        super().__init__()
        self.name, self.shape, self.drop = name, shape, drop
        self.query, self.key, self.value = (Linear(shape.width, shape.width) for _ in range(3))
        self.output = Linear(shape.width, shape.width, centred=not shape.post)
        if shape.shifted:
            self.shift = nn.Parameter(torch.ones(shape.heads))
        if shape.kind == "undivided":
            self.gain = nn.Parameter(torch.ones(shape.heads))  # part of the values when exported

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.shape.heads, -1)).transpose(1, 2)

    def weights(self, scores: torch.Tensor, seen: torch.Tensor, functions: Functions) -> torch.Tensor:
        """`seen` [batch, 1, 1 or queries, keys] is 1 where a query sees a key."""
        count = seen.sum(-1, keepdim=True).clamp(min=1)
        base = scores
        if self.shape.shifted:
            base = scores / self.shape.power + self.shift.view(-1, 1, 1)
        raised = (base * seen).square()
        if self.shape.power == 4:
            raised = raised.square()
        raised = raised / count
        denominator = raised.sum(-1) + self.shape.eps
        if self.shape.kind == "undivided":
            functions.watch(self, "denominator", denominator)
            return raised * self.gain.view(-1, 1, 1)
        return raised * functions.reciprocal(self, denominator).unsqueeze(-1)

    def forward(self, u: torch.Tensor, seen: torch.Tensor, functions: Functions) -> torch.Tensor:
        q, k, v = self.split(self.query(u)), self.split(self.key(u)), self.split(self.value(u))
        scores = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32)) / math.sqrt(q.shape[-1])
        functions.watch(self, "score", scores * seen)
        functions.watch(self, "value", v.transpose(1, 2).flatten(2))
        share = getattr(functions, "share", None)
        if self.shape.kind == "softmax" or share is not None:
            soft = scores.masked_fill(seen == 0, -1e4).softmax(-1)
        if self.shape.kind == "softmax":
            weights = soft
        else:
            weights = self.weights(scores, seen.to(scores.dtype), functions)
            if share is not None:
                weights = torch.lerp(soft, weights, share)
        weights = F.dropout(weights, self.drop, self.training)
        return self.output((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2))


class TextFeedForward(nn.Module):
    def __init__(self, shape: TextShape, name: str):
        super().__init__()
        self.name, self.kind = name, shape.activation
        self.add_module("in", Linear(shape.width, shape.ffn))
        self.out = Linear(shape.ffn, shape.width, centred=not shape.post)
        if self.kind == "quadratic":
            self.activation = nn.Parameter(torch.tensor([0.12, 0.5, 0.17])[:, None].repeat(1, shape.ffn))

    def forward(self, x: torch.Tensor, functions: Functions) -> torch.Tensor:
        h = getattr(self, "in")(x)
        functions.watch(self, "activation", h)
        if self.kind == "gelu":
            return self.out(F.gelu(h))
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        a0, a1, a2 = self.activation
        y = a0 + h * (a1 + a2 * h)
        share = getattr(functions, "share", None)
        return self.out(y if share is None else torch.lerp(F.gelu(h), y, share))


class TextNorm(BoundedNorm):
    """`BoundedNorm` that centres where the stream is not."""

    def __init__(self, shape: TextShape, name: str):
        super().__init__(shape, name)
        self.post = shape.post

    def forward(self, x: torch.Tensor, functions: Functions) -> torch.Tensor:
        if type(functions) in (Exact, Blend):  # one kernel
            return F.layer_norm(x, x.shape[-1:], self.gain, self.bias, self.eps)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return super().forward(centre(x) if self.post else x, functions)


class TextLayer(nn.Module):
    def __init__(self, shape: TextShape, index: int, drop: float):
        super().__init__()
        self.name = name = f"{index}."
        self.post, self.drop = shape.post, drop
        self.norm1, self.norm2 = TextNorm(shape, f"{name}norm1_variance"), TextNorm(shape, f"{name}norm2_variance")
        self.attention, self.ffn = TextAttention(shape, name, drop), TextFeedForward(shape, name)

    def forward(self, x: torch.Tensor, seen: torch.Tensor, functions: Functions) -> torch.Tensor:
        dropped = lambda branch: F.dropout(branch, self.drop, self.training)
        if self.post:
            y = x + dropped(self.attention(x, seen, functions))
            functions.watch(self, "residual", y)
            y = self.norm1(y, functions)
            x = y + dropped(self.ffn(y, functions))
            functions.watch(self, "residual", x)
            return self.norm2(x, functions)
        functions.watch(self, "residual", x)
        y = x + dropped(self.attention(self.norm1(x, functions), seen, functions))
        functions.watch(self, "residual", y)
        x = y + dropped(self.ffn(self.norm2(y, functions), functions))
        functions.watch(self, "residual", x)
        return x


class TextTransformer(nn.Module):
    """Logits [batch, classes] of the mean over live tokens, or [batch, tokens, classes] when causal. `drop` and `drop_tokens`
    (replaced by `unknown`) are for training."""

    name = ""

    def __init__(self, shape: TextShape, drop: float = 0.0, drop_tokens: float = 0.0, unknown: int = 0):
        super().__init__()
        self.shape, self.drop, self.drop_tokens, self.unknown = shape, drop, drop_tokens, unknown
        self.embed = TokenEmbedding(shape)
        self.layers = nn.ModuleList(TextLayer(shape, i, drop) for i in range(shape.layers))
        self.head = Linear(shape.width, shape.classes)

    def stream(self, ids: torch.Tensor, lengths: torch.Tensor, functions: Functions) -> list[torch.Tensor]:
        """The stream after each layer."""
        live = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
        functions.mask = live
        if self.training and self.drop_tokens:
            ids = torch.where(torch.rand(ids.shape, device=ids.device) < self.drop_tokens, self.unknown, ids)
        x = self.embed(ids)
        if not self.shape.post:
            x = centre(x)
        x = F.dropout(x, self.drop, self.training) * live[..., None]
        seen = live[:, None, None, :].to(x.dtype)
        if self.shape.causal:
            seen = seen * torch.ones(ids.shape[1], ids.shape[1], dtype=x.dtype, device=ids.device).tril()
        streams = []
        for layer in self.layers:
            x = layer(x, seen, functions)
            streams.append(x)
        return streams

    def classify(self, x: torch.Tensor, functions: Functions) -> torch.Tensor:
        if not self.shape.causal:
            weight = functions.mask[..., None].to(x.dtype)
            x = (x * weight).sum(1) / weight.sum(1)
        logits = self.head(x)
        functions.watch(self, "logit", logits)
        return logits

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor, functions: Functions | None = None) -> torch.Tensor:
        functions = Exact() if functions is None else functions
        return self.classify(self.stream(ids, lengths, functions)[-1], functions)
