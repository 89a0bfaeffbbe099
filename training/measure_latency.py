"""What a choice adds to a layer's latency between two parties, measured with `cipherform mpc run`, into latency.json.

    python3 measure_latency.py --binary ../target/release/cipherform [--runs 9] [--rounds 3]

Both parties in one process, dealer mode, one block of the shape, the emulated networks of the program; the fastest run of all
rounds counts.
"""

import argparse
import json
import platform
import subprocess
import tempfile
from pathlib import Path

SHAPES = {
    "fashion-mnist": {"tokens": 49, "width": 64, "hidden": 128},
    "cifar10": {"tokens": 64, "width": 192, "hidden": 384},
}
NETWORKS = ["lan", "wan"]
HEADS = 4
KINDS = ["relu", "power2"]


def block(options: argparse.Namespace, shape: dict, network: str, heads: list[str], activation: str) -> dict:
    """Seconds of the client, online; bytes sent by both and rounds of one block."""
    best: dict = {}
    for _ in range(options.rounds):
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            sizes = [word for key, value in shape.items() for word in (f"--{key}", str(value))]
            command = [options.binary, "mpc", "run", "--blocks", "1", "--classes", "0", "--output", "logits", *sizes, "--heads",
                       ",".join(heads), "--activation", activation, "--network", network, "--runs", str(options.runs), "--json",
                       file.name]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            report = json.loads(Path(file.name).read_text())
        client, server = report["summary"]["client"], report["summary"]["server"]
        found = {"seconds": min(report["client"]["runs_ms"]) / 1e3, "sent": [server["sent"], client["sent"]], "rounds": client["rounds"],
                 "offline": [server["offline_received"], client["offline_received"]]}
        if not best or found["seconds"] < best["seconds"]:
            best = found
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    shapes = {}
    for name, shape in SHAPES.items():
        blocks, added = {}, {}
        for network in NETWORKS:
            some = lambda kind, count: [kind] * count + ["scale"] * (HEADS - count)
            variants = {"scale, gelu": (some("scale", 0), "gelu"), "scale, square": (some("scale", 0), "square"),
                        "scale, relu": (some("scale", 0), "relu")}
            variants |= {f"{count} {kind}, gelu": (some(kind, count), "gelu") for kind in KINDS for count in (1, HEADS)}
            seen = {variant: block(options, shape, network, *choice) for variant, choice in variants.items()}
            seconds = {variant: measured["seconds"] for variant, measured in seen.items()}
            plain = seconds["scale, gelu"]
            head = {kind: (seconds[f"{HEADS} {kind}, gelu"] - seconds[f"1 {kind}, gelu"]) / (HEADS - 1) for kind in KINDS}
            added[network] = {
                "head": head,
                "layer": {kind: max(seconds[f"1 {kind}, gelu"] - plain - head[kind], 0.0) for kind in KINDS},
                # Against the cheapest activation there is: a block without one is not a thing the program runs.
                "activation": {"gelu": plain - min(seconds["scale, square"], seconds["scale, relu"])},
            }
            blocks[network] = seen
        shapes[name] = {**shape, "heads": HEADS, "blocks": blocks, "added_seconds": added}
        print(name, json.dumps(added, indent=1), flush=True)
    source = {
        "measured_with": f"cipherform mpc run, one block, both parties in one process, fastest of {options.rounds} x {options.runs} runs",
        "networks": "lan 384 MB/s and 0.3 ms, wan 44 MB/s and 40 ms round trip, emulated; online time of the client",
        "machine": f"{platform.machine()}, {platform.processor() or 'shared'}",
    }
    path = Path(__file__).parent / "latency.json"
    path.write_text(json.dumps({"source": source, "shapes": shapes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
