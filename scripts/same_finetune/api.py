"""The same fine-tune in Python, as the command trains it."""

import lrexp

policy = ["lr_policy=layerwise_decay", "lr_policy.decay=0.5"]
optimizer = ["optimizer=sgd", "optimizer.lr=0.05", "optimizer.momentum=0.9"]
optimizer += ["optimizer.weight_decay=0.001"]
length = ["data.batch_size=16", "trainer.epochs=15"]
run = lrexp.run(["experiment=finetune_digits", *policy, *optimizer, *length, "logger=none"])
print(f"val accuracy {run.rows[-1]['val/accuracy']:.1%}")
