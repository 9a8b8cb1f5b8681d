"""Sources: functions that open a data set. Their arguments are the settings of its option."""

from collections.abc import Callable
from functools import partial

from lrexp.data.source import Source
from lrexp.data.sources.csv_table import csv_table
from lrexp.data.sources.digits import digits
from lrexp.data.sources.hf import hf
from lrexp.data.sources.imagefolder import imagefolder
from lrexp.data.sources.synthetic import synthetic
from lrexp.data.sources.torchvision_sets import KNOWN, torchvision_set

mnist = partial(torchvision_set, "mnist")
SOURCES: dict[str, Callable[..., Source]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": partial(torchvision_set, "fashion_mnist"),
    "cifar10": partial(torchvision_set, "cifar10"),
    "cifar100": partial(torchvision_set, "cifar100"),
    "hf": hf,
    "imagefolder": imagefolder,
    "csv": csv_table,
    "synthetic": synthetic,
}

# of the data sets whose YAML file states everything else
STATED_CLASS_NAMES = {name: known.class_names for name, known in KNOWN.items()}
