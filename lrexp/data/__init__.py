"""Data: where images come from, how they are split, and the tensors a run trains on."""

from lrexp.data.dataset import Dataset, Split, make_dataset
from lrexp.data.sources import Source, digits, mnist

__all__ = ["Dataset", "Source", "Split", "digits", "make_dataset", "mnist"]
