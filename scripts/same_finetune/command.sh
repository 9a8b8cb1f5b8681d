#!/usr/bin/env bash
# The same fine-tune as a command. What follows it goes to the command: bash command.sh seed=1
set -euo pipefail
python -m lrexp experiment=finetune_digits lr_policy=layerwise_decay lr_policy.decay=0.5 \
    optimizer=sgd optimizer.lr=0.05 optimizer.momentum=0.9 optimizer.weight_decay=0.001 \
    data.batch_size=16 trainer.epochs=15 logger=none "$@"
