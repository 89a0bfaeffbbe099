"""The two models: the Power-Softmax transformer that can be evaluated encrypted, and its softmax baseline.

Every function that encryption has to replace goes through a `Functions` object, so that training (range loss), calibration
and polynomial evaluation are the same forward pass with another `Functions`.
"""

import math
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

import data


@dataclass
class Shape:
    """Everything that decides the tensors' shapes and the formula."""

    width: int = 64
    ffn: int = 128
    heads: list[str] = field(default_factory=lambda: ["power", "power", "power", "scaled"])
    power: int = 2
    eps: float = 1e-2
    norm_eps: float = 1e-3
    layers: int = 1
    patch: int = 8
    stride: int = 4
    padding: int = 2

    @property
    def tokens(self) -> int:
        return ((data.SIDE + 2 * self.padding - self.patch) // self.stride + 1) ** 2

    def as_dict(self) -> dict:
        return asdict(self)


class Functions:
    """The exact functions, watching nothing. `name` is the layer and the place, e.g. "0.norm2_variance"."""

    def inverse_sqrt(self, name: str, variance: torch.Tensor, eps: float) -> torch.Tensor:
        """1/sqrt(variance + eps)."""
        return torch.rsqrt(variance + eps)

    def reciprocal(self, name: str, denominator: torch.Tensor) -> torch.Tensor:
        """1/denominator; [batch, heads, tokens], also asked for scaled heads, which ignore the answer."""
        return 1 / denominator

    def watch(self, name: str, value: torch.Tensor) -> None:
        """Sees a tensor whose size matters for the encoding."""


EXACT = Functions()


def centre(x: torch.Tensor) -> torch.Tensor:
    """Subtracts every token's mean over the width."""
    return x - x.mean(-1, keepdim=True)


class Linear(nn.Module):
    """x W + b with W [in, out]."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class Embedding(nn.Module):
    """Overlapping patches (the frame is black: padding comes after normalisation), a linear map, learned positions."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.weight = Linear(shape.patch**2, shape.width, bias=False).weight
        self.position = nn.Parameter(0.2 * torch.randn(shape.tokens, shape.width))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        black = (0 - data.MEAN) / data.STD
        framed = F.pad(images, (self.shape.padding,) * 4, value=black)
        patches = framed.unfold(1, self.shape.patch, self.shape.stride).unfold(2, self.shape.patch, self.shape.stride)
        return patches.reshape(len(images), self.shape.tokens, -1) @ self.weight + self.position


class BoundedNorm(nn.Module):
    """LayerNorm of an already centred stream."""

    def __init__(self, shape: Shape, name: str):
        super().__init__()
        self.name, self.eps = name, shape.norm_eps
        self.gain, self.bias = nn.Parameter(torch.ones(shape.width)), nn.Parameter(torch.zeros(shape.width))

    def forward(self, x: torch.Tensor, functions: Functions) -> torch.Tensor:
        inverse = functions.inverse_sqrt(self.name, x.square().mean(-1), self.eps)
        return x * inverse.unsqueeze(-1) * self.gain + self.bias


class Attention(nn.Module):
    """Power-Softmax and scaled heads in one layer; the division comes after the values (the same sum, fewer divisions)."""

    def __init__(self, shape: Shape, name: str, softmax: bool):
        super().__init__()
        self.name, self.heads, self.power, self.eps, self.softmax = name, len(shape.heads), shape.power, shape.eps, softmax
        self.query, self.key, self.value, self.output = (Linear(shape.width, shape.width) for _ in range(4))
        powered = torch.tensor([kind == "power" for kind in shape.heads])
        self.register_buffer("powered", powered.view(1, -1, 1, 1), persistent=False)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, u: torch.Tensor, functions: Functions) -> torch.Tensor:
        q, k, v = self.split(self.query(u)), self.split(self.key(u)), self.split(self.value(u))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if self.softmax:
            mixed = scores.softmax(-1) @ v
        else:
            functions.watch(f"{self.name}score", scores)
            functions.watch(f"{self.name}value", v)
            raised = scores**self.power
            inverse = functions.reciprocal(f"{self.name}denominator", self.eps + raised.mean(-1)).unsqueeze(-1)
            mixed = torch.where(self.powered, raised, scores) @ v
            mixed = mixed * torch.where(self.powered, inverse, torch.ones_like(inverse)) / u.shape[1]
        return self.output(mixed.transpose(1, 2).flatten(2))


class Quadratic(nn.Module):
    """The hidden layer: linear, learned quadratic activation per channel, linear. Starts near GELU."""

    def __init__(self, shape: Shape, name: str):
        super().__init__()
        self.name = name
        self.add_module("in", Linear(shape.width, shape.ffn))
        self.activation = nn.Parameter(torch.tensor([0.12, 0.5, 0.17])[:, None].repeat(1, shape.ffn))
        self.out = Linear(shape.ffn, shape.width)

    def forward(self, x: torch.Tensor, functions: Functions) -> torch.Tensor:
        h = self.get_submodule("in")(x)
        functions.watch(f"{self.name}activation", h)
        a0, a1, a2 = self.activation
        return self.out(a0 + h * (a1 + a2 * h))


class PowerLayer(nn.Module):
    def __init__(self, shape: Shape, index: int):
        super().__init__()
        name = f"{index}."
        self.name = name
        self.norm1, self.norm2 = BoundedNorm(shape, f"{name}norm1_variance"), BoundedNorm(shape, f"{name}norm2_variance")
        self.attention, self.ffn = Attention(shape, name, softmax=False), Quadratic(shape, name)

    def forward(self, x: torch.Tensor, functions: Functions) -> torch.Tensor:
        functions.watch(f"{self.name}residual", x)
        y = x + centre(self.attention(self.norm1(x, functions), functions))
        functions.watch(f"{self.name}residual", y)
        x = y + centre(self.ffn(self.norm2(y, functions), functions))
        functions.watch(f"{self.name}residual", x)
        return x


class PowerTransformer(nn.Module):
    """Pre-norm, a centred residual stream, no final norm. Parameter names are the exported tensors' names."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.embed = Embedding(shape)
        self.layers = nn.ModuleList(PowerLayer(shape, i) for i in range(shape.layers))
        self.head = Linear(shape.width, data.CLASSES)

    def forward(self, images: torch.Tensor, functions: Functions = EXACT) -> torch.Tensor:
        x = centre(self.embed(images))
        for layer in self.layers:
            x = layer(x, functions)
        logits = self.head(x.mean(1))
        functions.watch("logit", logits)
        return logits


class SoftmaxLayer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.attention = Attention(shape, "", softmax=True)
        self.expand, self.contract = Linear(shape.width, shape.ffn), Linear(shape.ffn, shape.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x), EXACT)
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class SoftmaxTransformer(nn.Module):
    """The baseline of the same shape: softmax, LayerNorm (with a final one), GELU."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.embed = Embedding(shape)
        self.layers = nn.ModuleList(SoftmaxLayer(shape) for _ in range(shape.layers))
        self.norm, self.head = nn.LayerNorm(shape.width), Linear(shape.width, data.CLASSES)

    def forward(self, images: torch.Tensor, functions: Functions = EXACT) -> torch.Tensor:
        x = self.embed(images)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


FAMILIES = {"baseline": SoftmaxTransformer, "power": PowerTransformer}
