"""One transformer whose heads and activations are chosen layer by layer, and the softmax baseline with plain norms.

Every function that encryption has to replace goes through a `Functions` object, so that training (range loss), calibration
and polynomial evaluation are the same forward pass with another `Functions`.
"""

import math
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

import data

DIVIDING = ("power", "relu")  # kinds of heads whose weights are divided by their sum
KINDS = (*DIVIDING, "scaled", "softmax")
ACTIVATIONS = ("quadratic", "gelu", "none")


@dataclass
class Shape:
    """Everything that decides the tensors' shapes and the formula."""

    width: int = 64
    ffn: int = 128
    heads: list[list[str]] = field(default_factory=lambda: [["power", "power", "power", "scaled"]])
    activations: list[str] = field(default_factory=list)
    power: int = 2
    eps: float = 1e-2
    norm_eps: float = 1e-3
    patch: int = 8
    stride: int = 4
    padding: int = 2
    image: data.Spec = data.FASHION

    def __post_init__(self):
        self.activations = self.activations or ["quadratic"] * self.layers
        assert len(self.activations) == self.layers and set(self.activations) <= set(ACTIVATIONS)

    @property
    def layers(self) -> int:
        return len(self.heads)

    @property
    def tokens(self) -> int:
        return ((self.image.side + 2 * self.padding - self.patch) // self.stride + 1) ** 2

    @property
    def patch_size(self) -> int:
        """Numbers in a patch."""
        return self.patch**2 * self.image.channels

    def dividing(self, layer: int) -> list[int]:
        """The heads of a layer that divide."""
        return [h for h, kind in enumerate(self.heads[layer]) if kind in DIVIDING]

    def as_dict(self) -> dict:
        return asdict(self)


class Functions:
    """The exact functions, watching nothing. `place` is the module that asks; its `name` says the layer, e.g. "0."."""

    def inverse_sqrt(self, place: nn.Module, variance: torch.Tensor, eps: float) -> torch.Tensor:
        """1/sqrt(variance + eps)."""
        return torch.rsqrt(variance + eps)

    def reciprocal(self, place: nn.Module, denominator: torch.Tensor) -> torch.Tensor:
        """1/denominator; [batch, heads, tokens], also asked for scaled heads, which ignore the answer."""
        return 1 / denominator

    def watch(self, place: nn.Module, what: str, value: torch.Tensor) -> None:
        """Sees a tensor whose size matters for the encoding."""


EXACT = Functions()


def centre(x: torch.Tensor) -> torch.Tensor:
    """Subtracts the mean over the width."""
    return x - x.mean(-1, keepdim=True)


class Linear(nn.Module):
    """x W + b with W [in, out]. `centred` makes every output sum to zero, by centring the weights: much less work than x's."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, centred: bool = False):
        super().__init__()
        bound = inputs**-0.5
        self.centred = centred
        self.weight = nn.Parameter(torch.empty(inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight, self.bias
        if self.centred:
            weight, bias = centre(weight), None if bias is None else centre(bias)
        return F.linear(x, weight.T, bias)


class Embedding(nn.Module):
    """Overlapping patches (row-major, channels innermost; black around the image), a linear map, learned positions."""

    def __init__(self, shape: Shape, centred: bool):
        super().__init__()
        self.shape, self.centred = shape, centred
        self.weight = Linear(shape.patch_size, shape.width, bias=False).weight
        self.position = nn.Parameter(0.2 * torch.randn(shape.tokens, shape.width))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        weight, position = (centre(self.weight), centre(self.position)) if self.centred else (self.weight, self.position)
        return patches(images, self.shape) @ weight + position


def patches(images: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Normalised images [n, side, side, channels] to patches [n, tokens, patch_size]."""
    black = data.normalise(torch.zeros(shape.image.channels, device=images.device), shape.image, images.dtype)
    framed = F.pad(images - black, (0, 0) + (shape.padding,) * 4) + black
    cut = framed.unfold(1, shape.patch, shape.stride).unfold(2, shape.patch, shape.stride)
    return cut.permute(0, 1, 2, 4, 5, 3).reshape(len(images), shape.tokens, -1)


class BoundedNorm(nn.Module):
    """LayerNorm of an already centred stream."""

    def __init__(self, shape: Shape, name: str):
        super().__init__()
        self.name, self.eps = name, shape.norm_eps
        self.gain, self.bias = nn.Parameter(torch.ones(shape.width)), nn.Parameter(torch.zeros(shape.width))

    def forward(self, x: torch.Tensor, functions: Functions) -> torch.Tensor:
        if functions is EXACT:  # one kernel; its own centring has nothing to do
            return F.layer_norm(x, x.shape[-1:], self.gain, self.bias, self.eps)
        inverse = functions.inverse_sqrt(self, x.square().mean(-1), self.eps)
        return x * inverse.unsqueeze(-1) * self.gain + self.bias


class Attention(nn.Module):
    """Heads of one dividing kind and scaled heads in one layer, or softmax heads only.

    The division comes after the values (the same sum, fewer divisions). When `searched`, every head is
    `alpha` times its own kind plus `1 - alpha` times a scaled head (MPCViT, arXiv 2211.13955).
    """

    def __init__(self, shape: Shape, name: str, heads: list[str], searched: bool = False):
        super().__init__()
        kinds = set(heads) - {"scaled"}
        if len(kinds) > 1 or not set(heads) <= set(KINDS) or ("softmax" in kinds and "scaled" in heads):
            raise ValueError(f"heads {heads}: one dividing kind and scaled heads, or softmax alone")
        self.name, self.heads, self.power, self.eps = name, len(heads), shape.power, shape.eps
        self.kind = kinds.pop() if kinds else "scaled"
        self.query, self.key, self.value = (Linear(shape.width, shape.width) for _ in range(3))
        self.output = Linear(shape.width, shape.width, centred=True)
        divides = torch.tensor([kind in DIVIDING for kind in heads])
        self.register_buffer("divides", divides.view(1, -1, 1, 1), persistent=False)
        self.alpha = nn.Parameter(torch.ones(self.heads)) if searched else None

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def raised(self, scores: torch.Tensor) -> torch.Tensor:
        """What a dividing head makes of its scores. A layer without one is asked too: encrypted, its slots go along as powers."""
        if self.kind == "relu":
            return F.relu(scores)
        square = scores * scores  # not `**`, which autocast would do in float32
        return square if self.power == 2 else square ** (self.power // 2)

    def forward(self, u: torch.Tensor, functions: Functions) -> torch.Tensor:
        q, k, v = self.split(self.query(u)), self.split(self.key(u)), self.split(self.value(u))
        if self.kind == "softmax":
            if functions is not EXACT:
                self.look(q, k, v, functions)
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = self.mix((q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2), v, functions)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def look(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, functions: Functions) -> None:
        """Shows what softmax heads do inside their one kernel."""
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
        functions.watch(self, "score", scores)
        functions.watch(self, "value", v)
        functions.reciprocal(self, (scores - scores.amax(-1, keepdim=True)).exp().mean(-1))

    def mix(self, scores: torch.Tensor, v: torch.Tensor, functions: Functions) -> torch.Tensor:
        functions.watch(self, "score", scores)
        functions.watch(self, "value", v)
        raised = self.raised(scores)
        mean = raised.mean(-1, dtype=torch.promote_types(raised.dtype, torch.float32))
        inverse = functions.reciprocal(self, self.eps + mean).unsqueeze(-1)
        if self.alpha is not None:
            alpha = self.alpha.view(1, -1, 1, 1)
            weights = raised * (alpha * inverse).to(raised.dtype) + scores * (1 - alpha).to(raised.dtype)
            return weights @ v / v.shape[-2]
        weights = torch.where(self.divides, raised, scores)
        inverse = torch.where(self.divides, inverse, torch.ones_like(inverse))
        return weights @ v * (inverse / v.shape[-2]).to(v.dtype)


class FeedForward(nn.Module):
    """Linear, activation, linear. The learned quadratic has coefficients per channel and starts near GELU.

    When `searched`, the activation is `beta` times GELU plus `1 - beta` times nothing (MPCViT+, by layer). "none" leaves one
    linear map, in two factors as long as it is trained.
    """

    def __init__(self, shape: Shape, name: str, activation: str, searched: bool = False):
        super().__init__()
        self.name, self.kind = name, activation
        first = Linear(shape.width, shape.ffn)
        self.add_module("in", first)  # its name in the format, which is no Python name: compilation stumbles over it
        self.__dict__["first"] = first
        if activation == "quadratic":
            self.activation = nn.Parameter(torch.tensor([0.12, 0.5, 0.17])[:, None].repeat(1, shape.ffn))
        self.out = Linear(shape.ffn, shape.width, centred=True)
        self.beta = nn.Parameter(torch.ones(1)) if searched else None

    def forward(self, x: torch.Tensor, functions: Functions) -> torch.Tensor:
        h = self.first(x)
        functions.watch(self, "activation", h)
        if self.kind == "quadratic":
            a0, a1, a2 = self.activation.to(h.dtype)
            h = a0 + h * (a1 + a2 * h)
        elif self.beta is not None:
            beta = self.beta.to(h.dtype)
            h = beta * F.gelu(h) + (1 - beta) * h
        elif self.kind == "gelu":
            h = F.gelu(h)
        return self.out(h)


class Layer(nn.Module):
    def __init__(self, shape: Shape, index: int, searched: bool):
        super().__init__()
        self.name = name = f"{index}."
        self.norm1, self.norm2 = BoundedNorm(shape, f"{name}norm1_variance"), BoundedNorm(shape, f"{name}norm2_variance")
        self.attention = Attention(shape, name, shape.heads[index], searched)
        activation = shape.activations[index]
        self.ffn = FeedForward(shape, name, activation, searched and activation == "gelu")

    def forward(self, x: torch.Tensor, functions: Functions) -> torch.Tensor:
        functions.watch(self, "residual", x)
        y = x + self.attention(self.norm1(x, functions), functions)
        functions.watch(self, "residual", y)
        x = y + self.ffn(self.norm2(y, functions), functions)
        functions.watch(self, "residual", x)
        return x


class Transformer(nn.Module):
    """Pre-norm, a centred residual stream, no final norm. Parameter names are the exported tensors' names."""

    name = ""

    def __init__(self, shape: Shape, searched: bool = False):
        super().__init__()
        self.embed = Embedding(shape, centred=True)
        self.layers = nn.ModuleList(Layer(shape, i, searched) for i in range(shape.layers))
        self.head = Linear(shape.width, data.CLASSES)

    def stream(self, images: torch.Tensor, functions: Functions = EXACT) -> torch.Tensor:
        """The residual stream after the last layer, [n, tokens, width]."""
        x = self.embed(images)
        for layer in self.layers:
            x = layer(x, functions) if functions is EXACT else layer.forward(x, functions)  # only the first may be compiled
        return x

    def classify(self, stream: torch.Tensor, functions: Functions = EXACT) -> torch.Tensor:
        logits = self.head(stream.mean(1))
        functions.watch(self, "logit", logits)
        return logits

    def forward(self, images: torch.Tensor, functions: Functions = EXACT) -> torch.Tensor:
        return self.classify(self.stream(images, functions), functions)


class SoftmaxLayer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.attention = Attention(shape, "", ["softmax"] * len(shape.heads[0]))
        self.expand, self.contract = Linear(shape.width, shape.ffn), Linear(shape.ffn, shape.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x), EXACT)
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class SoftmaxTransformer(nn.Module):
    """The baseline of the same shape: softmax, LayerNorm (with a final one), GELU."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.embed = Embedding(shape, centred=False)
        self.layers = nn.ModuleList(SoftmaxLayer(shape) for _ in range(shape.layers))
        self.norm, self.head = nn.LayerNorm(shape.width), Linear(shape.width, data.CLASSES)

    def forward(self, images: torch.Tensor, functions: Functions = EXACT) -> torch.Tensor:
        x = self.embed(images)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


FAMILIES = {"baseline": SoftmaxTransformer, "power": Transformer}
