"""What Lightning says that nobody asked."""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator

NOISE = (
    "GPU available|TPU available|HPU available|Tip:|litlogger|litmodels|LeafSpec|many workers"
    "|batch indices|Checkpoint directory|Experiment logs directory|logging interval|eval mode"
    "|Restor|Loaded model weights|Trainer already configured|`Trainer.fit` stopped|Seed set"
    "|sync_dist=True|tensorboardX|LOCAL_RANK|CUDA_VISIBLE|Starting with v|is not resumable"
    "|Detected pickle protocol|callbacks used to create the checkpoint|Initializing distributed|distributed_backend|dirpath has changed"
)


@contextlib.contextmanager
def quiet(pattern: str = NOISE) -> Iterator[None]:
    """Lightning's advice and announcements are left out, warnings and errors of substance are not."""
    noise = re.compile(pattern)

    def of_substance(record: logging.LogRecord) -> bool:
        return not noise.search(record.getMessage())

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(of_substance)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f"(?s).*({pattern})")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(of_substance)


_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "lightning.pytorch",
    "lightning.fabric",
)
