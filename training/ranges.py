"""What keeps the ranges small (range loss), what measures them (calibration), and what uses them (polynomials)."""

import math

import torch
import torch.nn.functional as F

from approximations import InverseSqrt, Reciprocal
from data import Images, normalise
from model import Functions, Shape

EVALUATION_BATCH = 2_500


def layer_of(place: torch.nn.Module) -> int:
    return int(place.name.split(".")[0])


class RangeLoss(Functions):
    """Penalties that keep the server's functions on short intervals; one object a step.

    The bands are ratios max/min that cost nothing, around the geometric mean (per head). That of the first layer's norm1,
    which the client computes, is wider than the server's.
    """

    def __init__(self, shape: Shape, client_band: float = 24.0, norm_band: float = 18.0, denominator_band: float = 50.0,
                 activation: float = 6.0):
        self.client_band, self.norm_band = client_band, norm_band
        self.denominator_band, self.activation = denominator_band, activation
        self.shape = shape
        self.penalty: torch.Tensor | float = 0.0

    def band(self, rows: torch.Tensor, ratio: float) -> None:
        """`rows` [groups, values]: the mean square overshoot, and the largest one so that rare values feel it too."""
        logs = rows.log()
        over = F.relu((logs - logs.mean(1, keepdim=True).detach()).abs() - 0.5 * math.log(ratio))
        self.penalty = self.penalty + over.square().mean(1).sum() + 0.2 * over.amax(1).sum()

    def inverse_sqrt(self, place, variance, eps):
        band = self.client_band if place.name == "0.norm1_variance" else self.norm_band
        self.band((variance + eps).reshape(1, -1), band)
        return super().inverse_sqrt(place, variance, eps)

    def reciprocal(self, place, denominator):
        dividing = self.shape.dividing(layer_of(place))
        if dividing:  # a list as an index would be copied from the host, which a captured step cannot do
            heads = torch.stack([denominator[:, h].flatten() for h in dividing])
            self.band(heads, self.denominator_band)
        return super().reciprocal(place, denominator)

    def watch(self, place, what, value):
        if what == "activation":
            over = F.relu(value.abs() - self.activation)
            self.penalty = self.penalty + 4 * over.square().mean() + 0.01 * over.amax()


def summary(low: dict[str, torch.Tensor], high: dict[str, torch.Tensor], layers: int) -> tuple[list[dict], float]:
    """Smallest and largest values by name as the `ranges` of every layer in the form of config.json, and the largest logit."""

    def pair(name: str) -> list[float]:
        return [low[name][0].item(), high[name][0].item()]

    result = []
    for i in range(layers):
        p = f"{i}."
        result.append({
            "score_abs_max": high[p + "score"].tolist(),
            "denominator": torch.stack([low[p + "denominator"], high[p + "denominator"]], 1).tolist(),
            "norm1_variance": pair(p + "norm1_variance"),
            "norm2_variance": pair(p + "norm2_variance"),
            "activation_abs_max": high[p + "activation"][0].item(),
            "value_abs_max": high[p + "value"][0].item(),
            "residual_abs_max": high[p + "residual"][0].item(),
        })
    return result, high["logit"][0].item()


class Calibration(Functions):
    """Records the smallest and largest value met; per head for scores and denominators."""

    def __init__(self):
        self.low: dict[str, torch.Tensor] = {}
        self.high: dict[str, torch.Tensor] = {}

    def note(self, name: str, value: torch.Tensor, per_head: bool) -> None:
        rows = value.transpose(0, 1).flatten(1) if per_head else value.reshape(1, -1)
        low, high = rows.amin(1).cpu(), rows.amax(1).cpu()
        self.low[name] = torch.minimum(self.low.get(name, low), low)
        self.high[name] = torch.maximum(self.high.get(name, high), high)

    def inverse_sqrt(self, place, variance, eps):
        self.note(place.name, variance, per_head=False)
        return super().inverse_sqrt(place, variance, eps)

    def reciprocal(self, place, denominator):
        self.note(f"{place.name}denominator", denominator, per_head=True)
        return super().reciprocal(place, denominator)

    def watch(self, place, what, value):
        self.note(place.name + what, value.abs(), per_head=what == "score")
        if what == "logit":
            self.note("logit_difference", value.amax(-1) - value.amin(-1), per_head=False)

    def logit_difference(self) -> float:
        """The largest difference of two logits of one input: what an answer that is a label alone is planned for."""
        return self.high["logit_difference"][0].item()

    def ranges(self, layers: int) -> tuple[list[dict], float]:
        """The `ranges` of every layer in the form of config.json, and the largest logit."""
        return summary(self.low, self.high, layers)


class Polynomials(Functions):
    """Every division and inverse square root of the server as a polynomial.

    The first layer's norm1 stays exact unless `first_norm`: the client computes it before it encrypts.
    """

    def __init__(self, shape: Shape, ranges: list[dict], first_norm: bool = False):
        self.shape = shape
        self.reciprocals: dict[str, Reciprocal] = {}
        self.roots: dict[str, InverseSqrt] = {}
        for i, layer in enumerate(ranges):
            if shape.dividing(i):
                self.reciprocals[f"{i}.denominator"] = Reciprocal.fit([layer["denominator"][h] for h in shape.dividing(i)])
            for norm in ("norm1_variance", "norm2_variance"):
                if i or norm == "norm2_variance" or first_norm:
                    self.roots[f"{i}.{norm}"] = InverseSqrt.fit(*layer[norm], shape.norm_eps)

    def inverse_sqrt(self, place, variance, eps):
        root = self.roots.get(place.name)
        return super().inverse_sqrt(place, variance, eps) if root is None else root(variance + eps)

    def reciprocal(self, place, denominator):
        answer, dividing = torch.ones_like(denominator), self.shape.dividing(layer_of(place))
        if dividing:
            answer[:, dividing] = self.reciprocals[f"{place.name}denominator"](denominator[:, dividing])
        return answer

    def describe(self) -> dict:
        """Levels and largest relative error on the widened range, by place."""
        places = {**self.reciprocals, **self.roots}
        return {name: {"levels": fit.levels, "relative_error": fit.error} for name, fit in places.items()}


@torch.no_grad()
def logits(model: torch.nn.Module, images: Images, functions: Functions) -> torch.Tensor:
    """Logits of every image in the model's own precision, in slices that fit a small memory."""
    dtype = next(model.parameters()).dtype
    slices = images.pixels.split(EVALUATION_BATCH)
    return torch.cat([model(normalise(pixels, images.spec, dtype), functions) for pixels in slices])


def accuracy(model: torch.nn.Module, images: Images, functions: Functions) -> float:
    """Percent of the images whose largest logit is the label's."""
    return 100 * (logits(model, images, functions).argmax(1) == images.labels).double().mean().item()


def calibrate(model: torch.nn.Module, images: Images) -> Calibration:
    """The ranges over `images`."""
    calibration = Calibration()
    logits(model, images, calibration)
    return calibration


def worst_ratios(shape: Shape, ranges: list[dict]) -> dict[str, float]:
    """The two ratios that decide how many levels the encrypted run needs."""
    denominators = [layer["denominator"][h] for i, layer in enumerate(ranges) for h in shape.dividing(i)]
    variances = [layer["norm2_variance"] for layer in ranges] + [layer["norm1_variance"] for layer in ranges[1:]]
    return {
        "denominator": max((high / low for low, high in denominators), default=1.0),
        "norm_variance": max(high / low for low, high in variances),
    }
