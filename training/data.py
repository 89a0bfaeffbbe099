"""Fashion-MNIST from its IDX files: checked reading, the fixed split, and the order in which a run sees the images."""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

MEAN, STD = 0.286, 0.353  # of the training pixels, on the scale 0..1
SIDE, CLASSES = 28, 10
VALIDATION = 5_000  # the last images of the training file; never trained or calibrated on
CLASS_NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


@dataclass
class Images:
    """`pixels` [n, 28, 28] u8 and `labels` [n] i64 on one device."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass
class Dataset:
    """The three parts of the data, and the SHA-256 of each uncompressed source file."""

    train: Images
    validation: Images
    test: Images
    hashes: dict[str, str]
    name: str


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
    pixels, labels = torch.tensor(arrays["train_images"]), torch.tensor(arrays["train_labels"]).long()
    cut = len(labels) - VALIDATION
    test = Images(torch.tensor(arrays["test_images"]), torch.tensor(arrays["test_labels"]).long())
    return Dataset(Images(pixels[:cut], labels[:cut]), Images(pixels[cut:], labels[cut:]), test, hashes, "fashion-mnist")


def synthetic(n: int = 512) -> Dataset:
    """Blurred class patterns with noise: enough to see that a run learns, for a smoke run without the data."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.rand(CLASSES, 1, 7, 7, generator=generator)
    patterns = torch.nn.functional.interpolate(patterns, size=SIDE, mode="bilinear")[:, 0] * 255

    def part(count: int) -> Images:
        labels = torch.randint(CLASSES, (count,), generator=generator)
        noise = 40 * torch.randn(count, SIDE, SIDE, generator=generator)
        return Images((patterns[labels] + noise).clamp(0, 255).to(torch.uint8), labels)

    return Dataset(part(n), part(n // 4), part(n // 2), {}, "synthetic")


def normalise(pixels: torch.Tensor, dtype=torch.float32) -> torch.Tensor:
    """Bytes to the model's input scale."""
    return (pixels.to(dtype) / 255 - MEAN) / STD


def epoch_order(seed: int, epoch: int, n: int, batch: int, shift: int) -> torch.Tensor:
    """What one epoch shows, [steps, batch, 4] of (image, flipped, down, right); the last incomplete batch is left out.

    A function of (seed, epoch) alone: a resumed run continues exactly, and every model with one seed sees the same images
    in the same order with the same augmentation.
    """
    rng = np.random.default_rng([seed, epoch])
    steps = n // batch
    image = rng.permutation(n)[: steps * batch]
    flipped = rng.integers(0, 2, steps * batch)
    moved = rng.integers(-1, 2, (2, steps * batch)) * shift
    return torch.from_numpy(np.stack([image, flipped, *moved], axis=1)).reshape(steps, batch, 4)


def augmented(framed: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """The images that `order` [batch, 4] names, flipped and moved. `framed` has one black pixel around each image."""
    image, flipped, down, right = order.unbind(1)
    line = torch.arange(SIDE, device=framed.device)
    rows = 1 + down[:, None] + line
    columns = 1 + right[:, None] + torch.where(flipped[:, None] == 1, SIDE - 1 - line, line)
    return normalise(framed[image[:, None, None], rows[:, :, None], columns[:, None, :]])


def frame(pixels: torch.Tensor) -> torch.Tensor:
    """One black pixel around each image, so that a move by one pixel needs no branch."""
    return torch.nn.functional.pad(pixels, (1, 1, 1, 1))
