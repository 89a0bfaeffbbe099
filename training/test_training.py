"""python3 -m unittest: the formula against loops, the approximations against their bounds, resuming against not stopping."""

import json
import math
import os
import tempfile
import unittest
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import approximations
import cifar
import data
from fold import LARGEST_DENOMINATOR, LARGEST_SCALED_SCORE, fold_scales
from model import EXACT, FAMILIES, Functions, Shape, Transformer
from ranges import Calibration, Polynomials, logits
from search import Latency, kept
from trainer import RunConfig, build_runs, train


def by_loops(weights: dict, image: np.ndarray, shape: Shape) -> np.ndarray:
    """The formula, written again with explicit indices: weights w_ij first, then the sum over values."""
    w = {name: value.detach().numpy() for name, value in weights.items()}
    side = shape.image.side
    framed = np.tile((0 - np.array(shape.image.mean)) / shape.image.std, (side + 4, side + 4, 1))
    framed[2:-2, 2:-2] = image
    across = (side - 4) // 4 + 1
    patches = [framed[4 * r : 4 * r + 8, 4 * c : 4 * c + 8].ravel() for r in range(across) for c in range(across)]
    x = np.array(patches) @ w["embed.weight"] + w["embed.position"]
    x -= x.mean(1, keepdims=True)
    tokens, head = len(x), shape.width // len(shape.heads[0])
    for i in range(shape.layers):
        p = f"layers.{i}."
        linear = lambda name, z: z @ w[f"{p}{name}.weight"] + w[f"{p}{name}.bias"]

        def norm(name, z):
            rows = [row / math.sqrt((row**2).mean() + shape.norm_eps) for row in z]
            return np.array(rows) * w[f"{p}{name}.gain"] + w[f"{p}{name}.bias"]

        u = norm("norm1", x)
        q, k, v = (linear(f"attention.{name}", u) for name in ("query", "key", "value"))
        mixed = np.zeros_like(x)
        for h, kind in enumerate(shape.heads[i]):
            block = slice(h * head, (h + 1) * head)
            for a in range(tokens):
                s = np.array([q[a, block] @ k[b, block] / math.sqrt(head) for b in range(tokens)])
                if kind == "power":
                    weight = s**shape.power / (tokens * (shape.eps + (s**shape.power).mean()))
                elif kind == "relu":
                    weight = np.maximum(s, 0) / (tokens * shape.eps + np.maximum(s, 0).sum())
                elif kind == "softmax":
                    weight = np.exp(s) / np.exp(s).sum()
                else:
                    weight = s / tokens
                mixed[a, block] = weight @ v[:, block]
        o = linear("attention.output", mixed)
        y = x + o - o.mean(1, keepdims=True)
        h = linear("ffn.in", norm("norm2", y))
        if shape.activations[i] == "quadratic":
            a0, a1, a2 = w[f"{p}ffn.activation"]
            h = a0 + a1 * h + a2 * h**2
        elif shape.activations[i] == "gelu":
            h = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))(h)
        f = linear("ffn.out", h)
        x = y + f - f.mean(1, keepdims=True)
    return x.mean(0) @ w["head.weight"] + w["head.bias"]


class Formula(unittest.TestCase):
    def test_forward_is_the_formula(self):
        torch.manual_seed(3)
        mixed = Shape(width=32, heads=[["relu", "scaled"], ["relu", "relu"], ["scaled", "scaled"]],
                      activations=["gelu", "none", "quadratic"], image=cifar.CIFAR)
        teacher = Shape(width=16, ffn=8, heads=[["softmax", "softmax"]], activations=["gelu"])
        for shape in (Shape(), Shape(power=4, heads=[["scaled", "power"]] * 2), mixed, teacher):
            model = Transformer(shape).double()
            with torch.no_grad():  # make gains, biases and coefficients count
                for parameter in model.parameters():
                    parameter += 0.05 * torch.randn_like(parameter)
            image = torch.randn(1, shape.image.side, shape.image.side, shape.image.channels, dtype=torch.float64)
            expected = by_loops(model.state_dict(), image[0].numpy(), shape)
            for functions in (EXACT, Functions()):  # the short cut and the long way
                found = model(image, functions)[0].detach().numpy()
                self.assertLess(np.abs(found - expected).max(), 1e-10)

    def test_names_and_shapes_are_the_format(self):
        d, f, c = 64, 128, data.CLASSES
        names = {"embed.weight": (64, d), "embed.position": (49, d), "head.weight": (d, c), "head.bias": (c,)}
        for norm in ("norm1", "norm2"):
            names |= {f"layers.0.{norm}.gain": (d,), f"layers.0.{norm}.bias": (d,)}
        for part in ("query", "key", "value", "output"):
            names |= {f"layers.0.attention.{part}.weight": (d, d), f"layers.0.attention.{part}.bias": (d,)}
        names |= {"layers.0.ffn.in.weight": (d, f), "layers.0.ffn.in.bias": (f,), "layers.0.ffn.activation": (3, f),
                  "layers.0.ffn.out.weight": (f, d), "layers.0.ffn.out.bias": (d,)}
        found = {name: tuple(value.shape) for name, value in Transformer(Shape()).state_dict().items()}
        self.assertEqual(found, names)


class Approximations(unittest.TestCase):
    def test_reciprocal_keeps_its_error_up_to_twice_the_top(self):
        fit = approximations.Reciprocal.fit([(0.02, 1.2), (0.5, 3.0)])
        self.assertLessEqual(fit.error, approximations.TOLERANCE)
        grid = torch.linspace(0, 1, 5001, dtype=torch.float64)
        x = fit.bottom + grid * (approximations.HEADROOM * fit.top - fit.bottom)
        self.assertLessEqual((fit(x) * x - 1).abs().max().item(), fit.error * (1 + 1e-9))

    def test_inverse_sqrt_equioscillates_within_its_error(self):
        for ratio in (3, 20, 100, 1000):
            fit = approximations.InverseSqrt.fit(0.1, 0.1 * ratio, 1e-3)
            steep = torch.logspace(math.log10(fit.low), math.log10(fit.high), 20_000, dtype=torch.float64)
            ends = 0.5 * (1 - torch.cos(torch.linspace(0, math.pi, 20_000, dtype=torch.float64)))
            x = torch.cat([steep, fit.low + ends * (fit.high - fit.low)]).clamp(fit.low, fit.high).sort().values
            error = (fit(x) * x.sqrt() - 1).numpy()
            self.assertLessEqual(np.abs(error).max(), 1.01 * fit.error)  # the fit sees a finite grid
            changes = np.count_nonzero(np.diff(np.sign(error)))
            self.assertGreaterEqual(changes, 2**fit.levels)  # degree + 1 zeros: no polynomial of the degree does better

    def test_substitution_changes_little_on_the_calibration_data(self):
        torch.manual_seed(4)
        dataset, shape = data.synthetic(64), Shape()
        model = Transformer(shape).double()
        calibration = Calibration()
        exact = logits(model, dataset.train, calibration)
        ranges, largest = calibration.ranges(shape.layers)
        self.assertAlmostEqual(largest, exact.abs().max().item())
        found = logits(model, dataset.train, Polynomials(shape, ranges, first_norm=True))
        self.assertLess((found - exact).abs().max().item(), 0.1 * largest)


class Folding(unittest.TestCase):
    def test_scales_move_without_changing_the_function(self):
        torch.manual_seed(6)
        dataset, shape = data.synthetic(64), Shape(eps=0.0, heads=[["power", "scaled", "power", "scaled"]])
        model = Transformer(shape).double()
        with torch.no_grad():
            model.layers[0].attention.query.weight *= 100
        before = logits(model, dataset.train, EXACT)
        after = fold_scales(model, dataset.train)
        self.assertLess((logits(model, dataset.train, EXACT) - before).abs().max().item(), 1e-9)
        for h, kind in enumerate(shape.heads[0]):
            if kind == "power":
                self.assertLessEqual(after.high["0.denominator"][h].item(), LARGEST_DENOMINATOR * (1 + 1e-12))
                self.assertGreater(after.high["0.denominator"][h].item(), LARGEST_DENOMINATOR / 4)
            else:
                self.assertLessEqual(after.high["0.score"][h].item(), LARGEST_SCALED_SCORE * (1 + 1e-12))


class Shipped(unittest.TestCase):
    def test_reference_logits_follow_from_the_files_by_loops(self):
        try:
            dataset = data.load(Path(os.environ.get("DATA", "/usr/share/datasets/fashion-mnist")))
        except SystemExit as missing:
            self.skipTest(str(missing))
        for name in ("fashion-mnist-vit", "mpcvit-fashion-mnist"):
            folder = Path(__file__).parent.parent / "models" / name
            layers = json.loads((folder / "config.json").read_text())["layers"]
            shape = Shape(heads=[layer["heads"] for layer in layers], power=layers[0]["power"], eps=layers[0]["eps"])
            weights = {name: value.double() for name, value in load_file(folder / "model.safetensors").items()}
            reference = json.loads((folder / "reference.json").read_text())
            for i in range(3):
                image = data.normalise(dataset.test.pixels[i], data.FASHION, torch.float64).numpy()
                self.assertLess(np.abs(by_loops(weights, image, shape) - np.array(reference["logits"][i])).max(), 1e-10)


class Search(unittest.TestCase):
    def test_shares_lead_from_one_model_to_the_other(self):
        """With alpha and beta 1 the searched model is the one whose heads divide, with 0 the one of scaled heads without GELU."""
        dividing = Shape(width=16, ffn=24, heads=[["relu"] * 4] * 2, activations=["gelu"] * 2)
        plain = Shape(width=16, ffn=24, heads=[["scaled"] * 4] * 2, activations=["none"] * 2)
        torch.manual_seed(7)
        searched = Transformer(dividing, searched=True).double()
        images = torch.randn(3, 28, 28, 1, dtype=torch.float64)
        for share, shape in ((1.0, dividing), (0.0, plain)):
            model = Transformer(shape).double()
            weights = {k: v for k, v in searched.state_dict().items() if not k.endswith(("alpha", "beta"))}
            model.load_state_dict(weights)
            with torch.no_grad():
                for layer in searched.layers:
                    layer.attention.alpha.fill_(share)
                    layer.ffn.beta.fill_(share)
                self.assertLess((searched(images) - model(images)).abs().max().item(), 1e-12)

    def test_latency_counts_rounds_once_a_layer(self):
        shape = Shape(width=16, ffn=24, heads=[["relu"] * 4] * 2, activations=["gelu"] * 2)
        model, latency = Transformer(shape, searched=True), Latency(head=1.0, layer=8.0, activation=0.5)
        with torch.no_grad():
            model.layers[0].attention.alpha.copy_(torch.tensor([1.0, 0.0, 0.0, 1.0]))
            model.layers[1].attention.alpha.zero_()
            model.layers[1].ffn.beta.zero_()
        # Two heads, one layer of two, one activation of two; a head with its part of the layer's rounds is 3.
        self.assertAlmostEqual(latency.penalty(model).item(), (2 * 1 + 8 + 0.5) / 3)

    def test_the_largest_shares_of_all_layers_are_kept(self):
        shares = [[0.9, 0.1, 0.5], [0.8, 0.7, 0.6]]
        self.assertEqual(kept(shares, 0.5), [[True, False, False], [True, True, False]])
        self.assertEqual(kept(shares, 0.1), [[True, False, False], [False, False, False]])
        self.assertEqual(kept(shares, 0.0), [[False] * 3] * 2)
        self.assertEqual(kept(shares, 1.0), [[True] * 3] * 2)


class Resuming(unittest.TestCase):
    def test_two_pieces_equal_one(self):
        dataset, shape = data.synthetic(96), Shape()
        configs = [RunConfig(family, seed=5, rate=1e-3, shift=1, epochs=2, batch=32) for family in FAMILIES]
        averages = []
        for limits in ([9], [0, 9]):
            with tempfile.TemporaryDirectory() as folder:
                for i, minutes in enumerate(limits):
                    train(build_runs(configs, shape, dataset.train, "cpu"), Path(folder), minutes, resume=i > 0)
                saved = torch.load(Path(folder) / "checkpoint.pt", weights_only=True)
                averages.append([run["average"] for run in saved["runs"]])
        for one, two in zip(*averages):
            for name in one:
                self.assertTrue(torch.equal(one[name], two[name]), name)


if __name__ == "__main__":
    unittest.main()
