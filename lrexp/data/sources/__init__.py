"""Sources: functions that open a data set. Their arguments are the settings of its option."""

from collections.abc import Callable

from lrexp.data.source import Source
from lrexp.data.sources.digits import digits
from lrexp.data.sources.torchvision_sets import mnist

SOURCES: dict[str, Callable[..., Source]] = {"digits": digits, "mnist": mnist}

__all__ = ["SOURCES", "digits", "mnist"]
