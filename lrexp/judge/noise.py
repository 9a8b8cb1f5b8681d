"""What chance alone can do to a mean, and when that cannot be told.

Every ± of the project is a standard error, or says what it is. A number is *changed* where it is
further from zero than chance explains, *within noise* where it is not, which proves nothing, and
one *cannot tell* where its error is not known well enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

CHANGED, WITHIN, UNKNOWN = "changed", "within noise", "cannot tell"
FEW_GROUPS = 30  # with fewer, Student's t of G − 1 degrees of freedom takes the place of 2
TOO_FEW_GROUPS = 6  # 5 groups cover 90 % of what they should cover 95 % of
LARGEST_SHARE = 0.3  # of the images in one group: beyond it no error can be trusted


@dataclass(frozen=True)
class Sample:
    """What a mean was taken over: images, or groups of images that are alike."""

    units: int  # how many are independent
    grouped: bool = False
    largest: float = 0.0  # share of the images that lie in the largest group

    @classmethod
    def of(cls, images: int, groups: np.ndarray | None) -> Sample:
        """Of so many images, and the codes (images,) of their groups if there are any."""
        if groups is None:
            return cls(images)
        import numpy as np

        sizes = np.bincount(groups)
        return cls(int(np.count_nonzero(sizes)), True, float(sizes.max() / images))

    @classmethod
    def of_file(cls, saved: Any) -> Sample | None:
        """As summary.json has it; None where it has none."""
        if not isinstance(saved, Mapping) or not isinstance(saved.get("units"), int):
            return None
        largest = saved.get("largest")
        share = float(largest) if isinstance(largest, int | float) else 0.0
        return cls(saved["units"], saved.get("grouped") is True, share)

    @property
    def unjudged(self) -> str:
        """Why an error over it cannot be trusted; empty where it can."""
        what = "group" if self.grouped else "image"
        if self.units < 2:
            return f"there is but one {what}"
        if self.grouped and self.largest > LARGEST_SHARE:
            return f"one group holds {100 * self.largest:.0f} % of the images"
        return ""

    @property
    def caution(self) -> str:
        """What to know of an error over it; empty for nothing."""
        if self.grouped and self.units < TOO_FEW_GROUPS:
            return f"{self.units} groups are few: the error is likely too small"
        return ""

    def bound(self, one_sided: float = 0.025) -> float:
        """So many standard errors chance exceeds with this probability, on one side; 2 at least.

        It is Student's t with `units` − 1 degrees of freedom; NaN where no error can be trusted.
        """
        if self.unjudged:
            return math.nan
        if one_sided == 0.025 and not (self.grouped and self.units < FEW_GROUPS):
            return 2.0
        from scipy.special import stdtrit

        return max(2.0, float(stdtrit(self.units - 1, 1 - one_sided)))


def judged(value: float, se: float, bound: float) -> str:
    """Whether a number differs from zero by more than noise: CHANGED, WITHIN or UNKNOWN.

    Args:
        value: what was measured.
        se: its standard error.
        bound: so many of them chance explains; NaN for an error that cannot be trusted.

    >>> judged(0.3, 0.1, 2), judged(-0.3, 0.1, 2), judged(0.2, 0.1, 2), judged(0.3, 0.1, math.nan)
    ('changed', 'changed', 'within noise', 'cannot tell')
    """
    if not math.isfinite(value) or not math.isfinite(se) or math.isnan(bound):
        return UNKNOWN
    return CHANGED if abs(value) > bound * se else WITHIN
