"""Data: where images come from, how they are split, and the batches a run trains on."""
