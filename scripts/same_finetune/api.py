"""The same fine-tune in Python, as the command trains it."""

import lrexp

run = lrexp.run(
    "experiment=finetune_digits lr_policy=layerwise_decay lr_policy.decay=0.5"
    " optimizer=sgd optimizer.lr=0.05 optimizer.momentum=0.9 optimizer.weight_decay=0.001"
    " data.batch_size=16 trainer.epochs=15 logger=none"
)
print(f"val accuracy {run.rows[-1]['val/accuracy']:.1%}")
