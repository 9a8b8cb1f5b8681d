#!/usr/bin/env bash
# Draws the picture of docs/benchmark.md from real runs: best validation loss against the base rate, by policy.
#   bash scripts/finetune_picture.sh [FILE.png]
set -euo pipefail
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
file="${1:-scripts/finetune_digits.png}"
folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
bash scripts/run.sh -m experiment=finetune_digits logger=none seed=0,1,2,3,4 \
  lr_policy=uniform,layerwise_decay,per_layer,freeze_backbone \
  optimizer.lr=0.003,0.01,0.03,0.1,0.3 hydra.sweep.dir="$folder/sweep"
.venv/bin/python -m lrexp report "$folder/sweep"
cp "$folder/sweep/plots/lr_monitor.png" "$file"
