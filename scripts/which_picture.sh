#!/usr/bin/env bash
# Asks the README's question and draws its picture: the policies' differences with their intervals.
#   bash scripts/which_picture.sh [FILE.png]
set -euo pipefail
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
file="${1:-scripts/which_digits.png}"
folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
bash scripts/run.sh which experiment=finetune_digits \
  --policies uniform,layerwise_decay,per_layer,freeze_backbone,lp_ft --margin 0.02 \
  logger=none hydra.run.dir="$folder/which"
.venv/bin/python -m lrexp report "$folder/which"
cp "$folder/which/plots/forest.png" "$file"
