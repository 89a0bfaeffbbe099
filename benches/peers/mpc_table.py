"""Our operators beside the peers', as a Markdown table, from the files that `scripts/mpc-peers` leaves in a folder."""

import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
ours = {row["name"]: row for row in json.loads((folder / "ours.json").read_text())["rows"]}
peers: dict[str, dict[str, dict]] = {}
for file in ("spu.jsonl", "crypten.jsonl"):
    for line in (folder / file).read_text().splitlines():
        row = json.loads(line)
        peers.setdefault(row["name"], {})[row["framework"]] = row


def cell(sent: int, rounds: int, ms: float, error: float) -> str:
    return f"{sent / 1e6:.2f} / {rounds} / {ms:.0f} / {error:.1e}"


print("MB sent by the party that sends more / rounds (SPU: messages) / ms / largest error\n")
print("| | ours | dealer, MB, both | SPU | CrypTen |\n| --- | ---: | ---: | ---: | ---: |")
for name, found in peers.items():
    row = ours[name]
    dealt = (row["offline_server"] + row["offline_client"]) / 1e6
    own = cell(max(row["server_sent"], row["client_sent"]), row["rounds"], row["wall_ms"], row["max_error"])
    theirs = [cell(*(found[f][key] for key in ("sent", "rounds", "ms", "error"))) if f in found else "-" for f in ("SPU", "CrypTen")]
    print(f"| {name} | {own} | {dealt:.2f} | {theirs[0]} | {theirs[1]} |")
