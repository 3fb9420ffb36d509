"""The states of the random number generators: kept with a run, put back as it goes on."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class KeepRandomState(Callback):
    """Puts the states of the random number generators into checkpoints, and back as training goes on.

    One state per process: torch's on the CPU and on the device, Python's and numpy's.
    """

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        own = random_state(pl_module.device)
        states: list[Any] = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, own)
        checkpoint["random_states"] = states

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.states = checkpoint.get("random_states", [])

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.restore(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.restore(trainer)  # a run stopped inside an epoch goes on without the hook above

    def restore(self, trainer: L.Trainer) -> None:
        if trainer.global_rank < len(self.states):
            restore_random_state(self.states[trainer.global_rank], trainer.strategy.root_device)
        self.states = []


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of all generators, as tensors and plain values."""
    name, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["torch"].cpu())
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
