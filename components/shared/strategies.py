"""Lightning's strategies with checkpoints of ours: one device, DDP, FSDP2.

All three give the same checkpoint: tensors of the model by name and of the optimizer by place, so that what was sharded
over many ranks is read by one, and the other way round. Lightning calls them at trainer.save_checkpoint and at
trainer.fit(ckpt_path=...).
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import empty as empty_sharded

from components.shared.checkpoints import Checkpoints, Reading
from components.shared.training_config import StrategyKind

TENSOR = "<tensor>"
"""Stands in an optimizer's state where a tensor was."""


class WholeStrategy(Strategy):
    """Saves and restores weights, optimizers and random numbers, beside all that Lightning keeps."""

    checkpoints: Checkpoints
    random_state: dict[str, Any] | None = None
    """Of the checkpoint that was read, to be set when the first batch is at hand; None: no checkpoint."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Weights are read in place, which is when they are where they belong."""
        return True

    @property
    def lightning_restore_optimizer(self) -> bool:
        """load_checkpoint does it."""
        return False

    def setup_environment(self) -> None:
        """Processes join; then the checkpoints know their ranks."""
        super().setup_environment()
        self.checkpoints.open()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's own tensors, sharded or not."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Any) -> dict[str, Tensor]:
        """As the optimizer has it."""
        return optimizer.state_dict()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Begin to write what Lightning has collected; only the name of the path counts."""
        model = checkpoint.pop("state_dict")
        tensors = {f"model/{name}": value for name, value in model.items()}
        optimizers = _take(checkpoint.pop("optimizer_states"), "optimizer", tensors)
        own = {"optimizers": optimizers, "rest": checkpoint, "random": random_state()}
        self.checkpoints.save(checkpoint["global_step"], tensors, own)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read weights and optimizers in place and return the rest.

        Raises ValueError when the checkpoint is damaged or of a model of other shapes.
        """
        reading = self.checkpoints.read(Path(checkpoint_path))
        assert self.lightning_module is not None
        tensors = {f"model/{name}": value for name, value in self.lightning_module.state_dict().items()}
        reading.fit({name: value.shape for name, value in tensors.items()}, "model/")
        reading.fill(tensors)
        like = next((value for value in tensors.values() if isinstance(value, DTensor)), None)
        state = {name: _place(reading, name, like) for name in reading.shapes("optimizer/")}
        reading.fill(state)
        for optimizer, kept in zip(self.optimizers, _put(reading.own["optimizers"], "optimizer", state), strict=True):
            optimizer.load_state_dict(kept)
        self.random_state = reading.own["random"] if reading.same_ranks else None
        return reading.own["rest"]

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        """load_checkpoint has done it."""

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """load_checkpoint has done it."""


class OneDevice(WholeStrategy, SingleDeviceStrategy):
    """This process alone."""


class Replicated(WholeStrategy, DDPStrategy):
    """DistributedDataParallel."""


class Sharded(WholeStrategy, ModelParallelStrategy):
    """FSDP2 over all ranks: the module's configure_model shards over device_mesh["data_parallel"]."""


def num_ranks() -> int:
    """Processes that launcher.py started for this training; 1 when it started none."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among them."""
    return int(os.environ.get("RANK", "0"))


def make_strategy(kind: StrategyKind, checkpoints: Checkpoints) -> WholeStrategy:
    """The strategy of a run; a process alone needs none but its device.

    Raises ValueError when there are several ranks and the kind is auto.
    """
    strategy: WholeStrategy
    if num_ranks() == 1:
        strategy = OneDevice(device=torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))
    elif kind is StrategyKind.ddp:
        strategy = Replicated()
    elif kind is StrategyKind.fsdp2:
        strategy = Sharded(data_parallel_size=num_ranks(), tensor_parallel_size=1)
    else:
        raise ValueError(f"trainer.strategy: got auto on {num_ranks()} ranks, wanted ddp or fsdp2")
    strategy.checkpoints = checkpoints
    return strategy


def whole(value: Tensor) -> Tensor:
    """A tensor that may be sharded, as a whole one, detached; every rank takes part."""
    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """A model's tensors, whole and on the CPU, on rank 0 even if it is sharded; {} on the others, which take part."""
    state = {}
    for name, value in model.state_dict().items():
        gathered = whole(value)
        if rank() == 0:
            state[name] = gathered.cpu()
    return state


def among_ranks(mean: Tensor, count: Tensor) -> Tensor:
    """This rank's part of a mean over the items of all ranks: the average of the parts over the ranks is that mean.

    DDP and FSDP2 average gradients, so a loss taken this way has the gradient of one process on all items.
    mean: scalar over `count` items of this rank; count: scalar, integer.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return mean
    total = count.clone()
    dist.all_reduce(total)
    return mean * (count * dist.get_world_size() / total)


def rank_mean(value: Tensor) -> Tensor:
    """The average of a scalar over the ranks, detached."""
    value = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def random_state() -> dict[str, Any]:
    """State of the global generators of torch, CUDA, numpy and Python."""
    name, keys, *others = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *others],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """The counterpart."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, *others = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *others))
    random.setstate(state["python"])


def _take(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The nested value with TENSOR in the place of tensors, which go to `tensors` by their way from the top."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return TENSOR
    if isinstance(value, dict):
        return {key: _take(inner, f"{name}/{key}", tensors) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_take(inner, f"{name}/{key}", tensors) for key, inner in enumerate(value))
    return value


def _put(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The counterpart."""
    if isinstance(value, dict):
        return {key: _put(inner, f"{name}/{key}", tensors) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_put(inner, f"{name}/{key}", tensors) for key, inner in enumerate(value))
    return tensors[name] if value == TENSOR else value


def _place(reading: Reading, name: str, like: DTensor | None) -> Tensor:
    """Room for a tensor of an optimizer: sharded as parameters are, unless it is a number such as Adam's step."""
    shape, dtype = reading.shapes(name)[name], reading.dtype(name)
    if like is None or len(shape) == 0:
        return torch.empty(shape, dtype=dtype)
    return empty_sharded(shape, dtype=dtype, device_mesh=like.device_mesh, placements=like.placements)
