"""Data: where images come from, how they are split, and the batches a run trains on."""

from lrexp.data.dataset import Chosen, Dataset, Split, choose, make_dataset
from lrexp.data.source import Source
from lrexp.data.sources import SOURCES
from lrexp.data.transforms import Augment

__all__ = ["SOURCES", "Augment", "Chosen", "Dataset", "Source", "Split", "choose", "make_dataset"]
