#!/usr/bin/env bash
# The shipped model from the data, in one command of at most 9 minutes on a GPU. OUT receives the model folder, the log and the
# checkpoint; if training reaches its time limit (exit status 3), run again with --resume.
set -euo pipefail
cd "$(dirname "$0")"
OUT=${OUT:?set OUT to the folder for the results}
export PYTHONUNBUFFERED=1
mkdir -p "$OUT"
timeout 540 python3 train.py --data "${DATA:-../.data/fashion-mnist}" --work "$OUT" --out "$OUT/model" --minutes "${MINUTES:-6.5}" \
  "$@" 2>&1 | tee -a "$OUT/train.log"
