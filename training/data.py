"""Images: what they look like, Fashion-MNIST from its IDX files with the fixed split, and the order in which a run sees them."""

import gzip
import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

CLASSES = 10
VALIDATION = 5_000  # the last images of the training file; never trained or calibrated on
CLASS_NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


@dataclass(frozen=True)
class Spec:
    """What images look like; mean and deviation by channel are of the training pixels, on the scale 0..1."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        return len(self.mean)


FASHION = Spec(28, (0.286,), (0.353,))


@dataclass
class Images:
    """`pixels` [n, side, side, channels] u8 and `labels` [n] i64 on one device."""

    pixels: torch.Tensor
    labels: torch.Tensor
    spec: Spec = field(default=FASHION)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device), self.spec)


@dataclass
class Dataset:
    """The three parts of the data, and the SHA-256 of each uncompressed source file."""

    train: Images
    validation: Images
    test: Images
    hashes: dict[str, str]
    name: str
    classes: list[str]
    split: str


def read_idx(folder: Path, stem: str) -> tuple[np.ndarray, str]:
    """One IDX file of bytes, plain or gzipped: its array and the SHA-256 of the uncompressed file."""
    plain, packed = folder / stem, folder / f"{stem}.gz"
    if plain.exists():
        raw = plain.read_bytes()
    elif packed.exists():
        raw = gzip.decompress(packed.read_bytes())
    else:
        raise SystemExit(f"{packed} is missing: install the package dataset-fashion-mnist, or pass --data FOLDER")
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise SystemExit(f"{stem}: not an IDX file of unsigned bytes")
    rank = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    body = raw[4 + 4 * rank :]
    if len(body) != int(np.prod(shape)):
        raise SystemExit(f"{stem}: the header promises {shape}, the file holds {len(body)} bytes")
    return np.frombuffer(body, np.uint8).reshape(shape), hashlib.sha256(raw).hexdigest()


def load(folder: Path) -> Dataset:
    """All of Fashion-MNIST: 55,000 training, 5,000 validation and 10,000 test images."""
    arrays, hashes = {}, {}
    for part, stem in FILES.items():
        arrays[part], hashes[stem] = read_idx(folder, stem)
    pixels, labels = torch.tensor(arrays["train_images"])[..., None], torch.tensor(arrays["train_labels"]).long()
    cut = len(labels) - VALIDATION
    test = Images(torch.tensor(arrays["test_images"])[..., None], torch.tensor(arrays["test_labels"]).long())
    split = "validation: the last 5,000 images of the training file; training: those before; test: the official test file"
    return Dataset(Images(pixels[:cut], labels[:cut]), Images(pixels[cut:], labels[cut:]), test, hashes, "fashion-mnist",
                   CLASS_NAMES, split)


def synthetic(n: int = 512, spec: Spec = FASHION) -> Dataset:
    """Blurred class patterns with noise: enough to see that a run learns, for a smoke run without the data."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.rand(CLASSES, spec.channels, 7, 7, generator=generator)
    patterns = torch.nn.functional.interpolate(patterns, size=spec.side, mode="bilinear").permute(0, 2, 3, 1) * 255

    def part(count: int) -> Images:
        labels = torch.randint(CLASSES, (count,), generator=generator)
        noise = 40 * torch.randn(count, spec.side, spec.side, spec.channels, generator=generator)
        return Images((patterns[labels] + noise).clamp(0, 255).to(torch.uint8), labels, spec)

    return Dataset(part(n), part(n // 4), part(n // 2), {}, "synthetic", CLASS_NAMES, "drawn independently")


@lru_cache
def scale(spec: Spec, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation on a device; kept, because a captured step must not copy from the host."""
    return torch.tensor(spec.mean, dtype=dtype, device=device), torch.tensor(spec.std, dtype=dtype, device=device)


def normalise(pixels: torch.Tensor, spec: Spec, dtype=torch.float32) -> torch.Tensor:
    """Bytes [..., channels] to the model's input scale."""
    mean, std = scale(spec, dtype, pixels.device)
    return (pixels.to(dtype) / 255 - mean) / std


@lru_cache(maxsize=1)
def epoch_order(seed: int, epoch: int, n: int, batch: int, shift: int, side: int) -> torch.Tensor:
    """What one epoch shows, [steps, batch, 6] of (image, flipped, down, right, hole's row, hole's column); the last incomplete
    batch is left out.

    A function of (seed, epoch) alone: a resumed run continues exactly, and every model with one seed sees the same images
    in the same order with the same augmentation.
    """
    rng = np.random.default_rng([seed, epoch])
    steps = n // batch
    image = rng.permutation(n)[: steps * batch]
    flipped = rng.integers(0, 2, steps * batch)
    moved = rng.integers(-shift, shift + 1, (2, steps * batch))
    hole = rng.integers(0, side, (2, steps * batch))
    return torch.from_numpy(np.stack([image, flipped, *moved, *hole], axis=1)).reshape(steps, batch, 6)


def augmented(framed: torch.Tensor, order: torch.Tensor, spec: Spec, hole: int = 0) -> torch.Tensor:
    """The images that `order` [batch, 6] names, flipped, moved, and with a square of `hole` pixels at the mean (cut off at the
    border). `framed` has a black frame around each image, as wide as the farthest move."""
    image, flipped, down, right, row, column = order.unbind(1)
    line = torch.arange(spec.side, device=framed.device)
    margin = (framed.shape[1] - spec.side) // 2
    rows = margin + down[:, None] + line
    columns = margin + right[:, None] + torch.where(flipped[:, None] == 1, spec.side - 1 - line, line)
    x = normalise(framed[image[:, None, None], rows[:, :, None], columns[:, None, :]], spec)
    if hole == 0:
        return x
    within = lambda centre: (2 * (line - centre[:, None]) + 1).abs() <= hole
    return x.masked_fill((within(row)[:, :, None] & within(column)[:, None, :])[..., None], 0.0)


def frame(pixels: torch.Tensor, by: int) -> torch.Tensor:
    """`by` black pixels around each image, so that a move needs no branch."""
    return torch.nn.functional.pad(pixels, (0, 0, by, by, by, by))
