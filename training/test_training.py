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
import data
from fold import LARGEST_DENOMINATOR, LARGEST_SCALED_SCORE, fold_scales
from model import EXACT, FAMILIES, PowerTransformer, Shape
from ranges import Calibration, Polynomials, logits
from trainer import RunConfig, train


def by_loops(weights: dict, image: np.ndarray, shape: Shape) -> np.ndarray:
    """The formula, written again with explicit indices: weights w_ij first, then the sum over values."""
    w = {name: value.detach().numpy() for name, value in weights.items()}
    framed = np.full((32, 32), (0 - data.MEAN) / data.STD)
    framed[2:30, 2:30] = image
    patches = [framed[4 * r : 4 * r + 8, 4 * c : 4 * c + 8].ravel() for r in range(7) for c in range(7)]
    x = np.array(patches) @ w["embed.weight"] + w["embed.position"]
    x -= x.mean(1, keepdims=True)
    tokens, head = len(x), shape.width // len(shape.heads)
    for i in range(shape.layers):
        p = f"layers.{i}."
        linear = lambda name, z: z @ w[f"{p}{name}.weight"] + w[f"{p}{name}.bias"]

        def norm(name, z):
            rows = [row / math.sqrt((row**2).mean() + shape.norm_eps) for row in z]
            return np.array(rows) * w[f"{p}{name}.gain"] + w[f"{p}{name}.bias"]

        u = norm("norm1", x)
        q, k, v = (linear(f"attention.{name}", u) for name in ("query", "key", "value"))
        mixed = np.zeros_like(x)
        for h, kind in enumerate(shape.heads):
            block = slice(h * head, (h + 1) * head)
            for a in range(tokens):
                s = np.array([q[a, block] @ k[b, block] / math.sqrt(head) for b in range(tokens)])
                if kind == "power":
                    weight = s**shape.power / (tokens * (shape.eps + (s**shape.power).mean()))
                else:
                    weight = s / tokens
                mixed[a, block] = weight @ v[:, block]
        o = linear("attention.output", mixed)
        y = x + o - o.mean(1, keepdims=True)
        h = linear("ffn.in", norm("norm2", y))
        a0, a1, a2 = w[f"{p}ffn.activation"]
        f = linear("ffn.out", a0 + a1 * h + a2 * h**2)
        x = y + f - f.mean(1, keepdims=True)
    return x.mean(0) @ w["head.weight"] + w["head.bias"]


class Formula(unittest.TestCase):
    def test_forward_is_the_formula(self):
        torch.manual_seed(3)
        for shape in (Shape(), Shape(layers=2, power=4, heads=["scaled", "power"])):
            model = PowerTransformer(shape).double()
            with torch.no_grad():  # make gains, biases and coefficients count
                for parameter in model.parameters():
                    parameter += 0.05 * torch.randn_like(parameter)
            image = torch.randn(1, data.SIDE, data.SIDE, dtype=torch.float64)
            found = model(image)[0].detach().numpy()
            expected = by_loops(model.state_dict(), image[0].numpy(), shape)
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
        found = {name: tuple(value.shape) for name, value in PowerTransformer(Shape()).state_dict().items()}
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
        model = PowerTransformer(shape).double()
        calibration = Calibration()
        exact = logits(model, dataset.train, calibration)
        ranges, largest = calibration.ranges(shape.layers)
        self.assertAlmostEqual(largest, exact.abs().max().item())
        found = logits(model, dataset.train, Polynomials(shape, ranges, first_norm=True))
        self.assertLess((found - exact).abs().max().item(), 0.1 * largest)


class Folding(unittest.TestCase):
    def test_scales_move_without_changing_the_function(self):
        torch.manual_seed(6)
        dataset, shape = data.synthetic(64), Shape(eps=0.0, heads=["power", "scaled", "power", "scaled"])
        model = PowerTransformer(shape).double()
        with torch.no_grad():
            model.layers[0].attention.query.weight *= 100
        before = logits(model, dataset.train, EXACT)
        after = fold_scales(model, dataset.train)
        self.assertLess((logits(model, dataset.train, EXACT) - before).abs().max().item(), 1e-9)
        for h, kind in enumerate(shape.heads):
            if kind == "power":
                self.assertLessEqual(after.high["0.denominator"][h].item(), LARGEST_DENOMINATOR * (1 + 1e-12))
                self.assertGreater(after.high["0.denominator"][h].item(), LARGEST_DENOMINATOR / 4)
            else:
                self.assertLessEqual(after.high["0.score"][h].item(), LARGEST_SCALED_SCORE * (1 + 1e-12))


class Shipped(unittest.TestCase):
    def test_reference_logits_follow_from_the_files_by_loops(self):
        folder = Path(__file__).parent.parent / "models" / "fashion-mnist-vit"
        try:
            dataset = data.load(Path(os.environ.get("DATA", "/usr/share/datasets/fashion-mnist")))
        except SystemExit as missing:
            self.skipTest(str(missing))
        layer = json.loads((folder / "config.json").read_text())["layers"][0]
        shape = Shape(heads=layer["heads"], power=layer["power"], eps=layer["eps"])
        weights = {name: value.double() for name, value in load_file(folder / "model.safetensors").items()}
        reference = json.loads((folder / "reference.json").read_text())
        for i in range(3):
            image = data.normalise(dataset.test.pixels[i], torch.float64).numpy()
            self.assertLess(np.abs(by_loops(weights, image, shape) - np.array(reference["logits"][i])).max(), 1e-10)


class Resuming(unittest.TestCase):
    def test_two_pieces_equal_one(self):
        dataset, shape = data.synthetic(96), Shape()
        configs = [RunConfig(family, seed=5, rate=1e-3, shift=1, epochs=2, batch=32) for family in FAMILIES]
        averages = []
        for limits in ([9], [0, 9]):
            with tempfile.TemporaryDirectory() as folder:
                for i, minutes in enumerate(limits):
                    train(configs, shape, dataset.train, "cpu", Path(folder), minutes, resume=i > 0)
                saved = torch.load(Path(folder) / "checkpoint.pt", weights_only=True)
                averages.append([run["average"] for run in saved["runs"]])
        for one, two in zip(*averages):
            for name in one:
                self.assertTrue(torch.equal(one[name], two[name]), name)


if __name__ == "__main__":
    unittest.main()
