#!/usr/bin/env bash
# Every MPCViT point of both data sets. OUT receives a model folder with its card for each data set, the logs and the checkpoints.
# CIFAR names the archive of JPEG files (see README.md); arguments go to mpcvit.py, --resume continues a stopped run.
set -euo pipefail
cd "$(dirname "$0")"
OUT=${OUT:?set OUT to the folder for the results}
export PYTHONUNBUFFERED=1
mkdir -p "$OUT"
run() { # DATASET PATH
  python3 mpcvit.py --dataset "$1" --data "$2" --work "$OUT/work-$1" --out "$OUT/mpcvit-$1" "${@:3}" 2>&1 | tee -a "$OUT/$1.log"
}
run fashion-mnist "${FASHION:-/usr/share/datasets/fashion-mnist}" "$@"
run cifar10 "${CIFAR:?set CIFAR to the tar archive of CIFAR-10 as JPEG files}" "$@"
