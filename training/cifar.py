"""CIFAR-10 from a tar archive of JPEG files: the fixed split. See README.md for what these pixels are."""

import hashlib
import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from data import Dataset, Images, Spec

CIFAR = Spec(32, (0.491, 0.482, 0.446), (0.245, 0.243, 0.261))
VALIDATION = 500  # the last images of every class, by name
SHIFT, HOLE = 4, 10  # augmentation: farthest move, side of the square that is masked


def load(archive: Path) -> Dataset:
    """`train|test/CLASS/NAME.jpg`, 5,000 and 1,000 a class: 45,000 training, 5,000 validation, 10,000 test images."""
    from PIL import Image  # nothing else needs it

    raw = archive.read_bytes()
    files = []
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".jpg"):
                files.append((*member.name.split("/")[-3:], tar.extractfile(member).read()))
    files.sort(key=lambda file: file[:3])
    classes = sorted({file[1] for file in files})
    parts: dict[str, list] = {"train": [], "validation": [], "test": []}
    for number, name in enumerate(classes):
        inside = lambda part: [(file[3], number) for file in files if file[:2] == (part, name)]
        train, test = inside("train"), inside("test")
        if (len(train), len(test)) != (5_000, 1_000):
            raise SystemExit(f"{archive}: {len(train)} and {len(test)} images of {name}, expected 5,000 and 1,000")
        parts["train"] += train[:-VALIDATION]
        parts["validation"] += train[-VALIDATION:]
        parts["test"] += test
    decode = lambda item: np.asarray(Image.open(io.BytesIO(item[0])).convert("RGB"))

    def images(items: list) -> Images:
        with ThreadPoolExecutor() as pool:
            pixels = np.stack(list(pool.map(decode, items)))
        return Images(torch.from_numpy(pixels), torch.tensor([label for _, label in items]), CIFAR)

    split = "validation: the last 500 training files of every class by name; training: the others; test: the test files"
    return Dataset(*(images(items) for items in parts.values()), {archive.name: hashlib.sha256(raw).hexdigest()},
                   "cifar10-jpeg", classes, split)
