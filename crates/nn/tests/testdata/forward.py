"""Writes forward.json: a small random model with its calibrated ranges and logits, computed by numpy alone.

Run `python forward.py > forward.json` in this folder (numpy 2). Weights are multiples of 1/256, so they are exact in f32 and
short in JSON. The optimal errors of the inverse square root come from Lawson's iteration, not from Remez's exchange.
"""

import json

import numpy as np

rng = np.random.default_rng(20261124)
H, W, PATCH, STRIDE, PADDING, MEAN, STD = 6, 6, 4, 2, 1, 0.25, 0.5
T, D, F, C, NORM_EPS = 9, 8, 12, 3, 1e-3
LAYERS = [
    {"heads": ["power", "power", "power", "scaled"], "power": 2, "eps": 0.01, "activation": "quadratic"},
    {"heads": ["scaled", "power"], "power": 4, "eps": 0.05, "activation": "cubic"},
]
DEGREE = {"quadratic": 2, "cubic": 3, "quartic": 4}


def draw(*shape, mean=0.0, deviation=1.0):
    return np.round((mean + deviation * rng.standard_normal(shape)) * 256) / 256


def linear(name, rows, columns):
    return {f"{name}.weight": draw(rows, columns, deviation=rows**-0.5), f"{name}.bias": draw(columns, deviation=0.1)}


tensors = {"embed.weight": draw(PATCH**2, D, deviation=1 / PATCH), "embed.position": draw(T, D, deviation=0.5)}
for i, layer in enumerate(LAYERS):
    for norm in ("norm1", "norm2"):
        tensors |= {f"layers.{i}.{norm}.gain": draw(D, mean=1, deviation=0.1), f"layers.{i}.{norm}.bias": draw(D, deviation=0.1)}
    for role in ("query", "key", "value", "output"):
        tensors |= linear(f"layers.{i}.attention.{role}", D, D)
    tensors |= linear(f"layers.{i}.ffn.in", D, F) | linear(f"layers.{i}.ffn.out", F, D)
    tensors[f"layers.{i}.ffn.activation"] = draw(DEGREE[layer["activation"]] + 1, F, deviation=0.3)
tensors |= linear("head", D, C)
images = rng.integers(0, 256, (4, H, W))


def apply(name, x):
    return x @ tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def center(x):
    return x - x.mean(-1, keepdims=True)


def norm(name, x):
    variance = (x**2).mean(-1)
    return x / np.sqrt(variance + NORM_EPS)[:, None] * tensors[f"{name}.gain"] + tensors[f"{name}.bias"], variance


def forward(image):
    padded = np.pad((image / 255 - MEAN) / STD, PADDING, constant_values=-MEAN / STD)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (PATCH, PATCH))[::STRIDE, ::STRIDE]
    x = center(windows.reshape(T, PATCH**2) @ tensors["embed.weight"] + tensors["embed.position"])
    seen = []
    for i, layer in enumerate(LAYERS):
        heads, p = len(layer["heads"]), layer["power"]
        u, variance1 = norm(f"layers.{i}.norm1", x)
        q, k, v = (apply(f"layers.{i}.attention.{r}", u).reshape(T, heads, -1).swapaxes(0, 1) for r in ("query", "key", "value"))
        s = q @ k.swapaxes(1, 2) / np.sqrt(D // heads)
        denominator = layer["eps"] + (s**p).mean(-1)
        power = np.array([kind == "power" for kind in layer["heads"]])[:, None, None]
        w = np.where(power, s**p / (T * denominator[:, :, None]), s / T)
        o = (w @ v).swapaxes(0, 1).reshape(T, D)
        y = x + center(apply(f"layers.{i}.attention.output", o))
        n, variance2 = norm(f"layers.{i}.norm2", y)
        h = apply(f"layers.{i}.ffn.in", n)
        a = sum(c * h**e for e, c in enumerate(tensors[f"layers.{i}.ffn.activation"]))
        after = y + center(apply(f"layers.{i}.ffn.out", a))
        residual = max(np.abs(m).max() for m in (x, y, after))
        seen.append((np.abs(s).max((1, 2)), denominator.min(1), denominator.max(1), variance1, variance2, np.abs(h).max(), np.abs(v).max(), residual))
        x = after
    return apply("head", x.mean(0)), seen


def optimal_error(low, high, degree):
    """Least maximal |p(x) sqrt(x) - 1| by Lawson's weights; between its lower and upper bound after many rounds."""
    t = -np.cos(np.linspace(0, np.pi, 2001))
    root = np.sqrt((low + high + t * (high - low)) / 2)
    system = np.polynomial.chebyshev.chebvander(t, degree) * root[:, None]
    weight = np.ones_like(t) / len(t)
    for _ in range(4000):
        sw = np.sqrt(weight)
        c, *_ = np.linalg.lstsq(system * sw[:, None], sw, rcond=None)
        error = np.abs(system @ c - 1)
        weight *= error
        weight /= weight.sum()
    return float(error.max())


logits, seen = zip(*(forward(image) for image in images))
pair = lambda a: [float(np.min(a)), float(np.max(a))]
for i, layer in enumerate(LAYERS):
    score, low, high, variance1, variance2, activation, value, residual = zip(*(s[i] for s in seen))
    layer["ranges"] = {
        "score_abs_max": np.max(score, 0).tolist(),
        "denominator": np.stack([np.min(low, 0), np.max(high, 0)], 1).tolist(),
        "norm1_variance": pair(variance1), "norm2_variance": pair(variance2),
        "activation_abs_max": float(max(activation)), "value_abs_max": float(max(value)), "residual_abs_max": float(max(residual)),
    }
config = {
    "format": "cipherform.model/1", "name": "numpy-fixture", "random_weights": True,
    "input": {"kind": "image", "height": H, "width": W, "patch": PATCH, "stride": STRIDE, "padding": PADDING, "mean": MEAN, "std": STD},
    "classes": ["a", "b", "c"], "tokens": T, "width": D, "ffn": F, "norm_eps": NORM_EPS, "layers": LAYERS,
    "logit_abs_max": float(np.abs(logits).max()),
    "approximation": {"tolerance": 0.01, "widen_top": 2.0, "widen_bottom": 1.5},
}
intervals = [(0.1, 1.0, 3), (0.2, 9.0, 7), (0.05, 4.0, 15)]
print(json.dumps({
    "made_by": "crates/nn/tests/testdata/forward.py, numpy " + np.__version__,
    "config": config,
    "tensors": {name: {"shape": list(t.shape), "data": t.ravel().tolist()} for name, t in tensors.items()},
    "images": [image.ravel().tolist() for image in images],
    "logits": np.array(logits).tolist(),
    "inverse_sqrt": [{"low": a, "high": b, "degree": n, "error": optimal_error(a, b, n)} for a, b, n in intervals],
}))
