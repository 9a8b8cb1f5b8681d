"""`task=train` on the ranks that do not record it: the same steps, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lrexp.config.schema import Config
from lrexp.tasks.joining import join
from lrexp.tasks.train import build_trainer
from lrexp.train.agreement import Followed
from lrexp.train.signals import signals_stop

if TYPE_CHECKING:
    from lrexp.train.ranks import Ranks


class _Silent:
    """Records nothing."""

    def row(self, row: dict[str, float]) -> None: ...


def follow(config: Config, ranks: Ranks) -> NoReturn:
    """Train what the first rank trains.

    Its data are read when the first rank has them, so that one process downloads; and that one
    alone looks for leaks in them.

    Raises:
        Followed: when it is over.
        RankFailedError: when another rank failed.
    """
    with signals_stop() as asked:
        going_on = ranks.words.hear("built")
        unchecked = replace(config, data=replace(config.data, leak_check="skip"))
        trainer = build_trainer(unchecked, None, ranks=ranks)
        join(trainer, going_on)
        with ranks.together(asked):
            trainer.run(_Silent(), Path())
    raise Followed
