"""Motion capture: people who walk and run, as the angles of their joints.

Source: Carnegie Mellon University Motion Capture Database, mocap.cs.cmu.edu.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..batch import Clock, Names, Paths, stack
from .files import CMU_MOTION, find

STILL = (24, 25, 31, 32)  # channels that never move; what they hold is rounding, below 1e-12

Part = Literal["train", "validation", "test", "all"]


def cmu_motion(
    subject: Literal["09", "35"] = "35", part: Part = "all", still: bool = False
) -> Paths:
    """Trials of one person, the angles of the joints: 23 x 300 frames ("35") or 10 x 120 ("09").

    Values are as published: deviations from the mean over all frames of the person. Time is in
    seconds, 0.01 s a frame.

    Args:
        subject: number of the person in the database: "35" walks, "09" runs.
        part: "train", "validation", "test" as published, or "all" of them in this order.
        still: keep the four channels that never move: 50 channels instead of 46.
    """
    parts = ("train", "validation", "test") if part == "all" else (part,)
    with np.load(find("cmu_motion", CMU_MOTION[subject]), allow_pickle=False) as arrays:
        step = float(arrays["dt"])
        return stack([_trials(p, torch.from_numpy(arrays[p]), step, still) for p in parts])


def _trials(part: str, x: Tensor, step: float, still: bool) -> Paths:
    """One part: x (trials, frames, 50)."""
    kept = [d for d in range(x.shape[-1]) if still or d not in STILL]
    x = x[..., kept].float()
    names = Names(
        tuple(f"{part}-{i:02d}" for i in range(len(x))),
        tuple(f"joint_{d:02d}" for d in kept),
        Clock("float"),
    )
    t = (torch.arange(x.shape[1], dtype=torch.float64) * step).repeat(len(x), 1)
    return Paths(t, x, torch.ones_like(x, dtype=torch.bool), names=names)
