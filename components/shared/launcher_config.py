"""Settings of how a training stage is started; light, for a room's config.py."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class LauncherKind(Enum):
    """What starts a stage."""

    in_process = "in_process"
    """The process that was asked to."""
    torchrun = "torchrun"
    """Ranks through torch.distributed.run, on this machine and on those where its command is given by hand."""
    slurm = "slurm"
    """Ranks through torch.distributed.run on every machine of one Slurm job, which is watched."""


@dataclass(kw_only=True)
class SlurmConfig:
    """What a Slurm job asks for; used by the launcher `slurm` alone."""

    partition: str
    """Partition (queue) of the cluster; empty: the cluster's default."""
    time_limit: str
    """Longest run of a job as sbatch reads it, such as 2-00:00:00; empty: the partition's own."""
    gpus_per_node: int
    """GPUs of a machine that are asked for; 0 asks for none (CPU, or a cluster that does not count them)."""
    cpus_per_node: int
    """Cores of a machine that are asked for; 0 takes whole machines for itself."""
    options: list[str]
    """Further options of sbatch, such as --account=speech or --mem=0."""
    poll_s: float
    """Seconds between two looks at the job."""


@dataclass(kw_only=True)
class LauncherConfig:
    """How a training stage is started; it does not change what the stage reads."""

    kind: LauncherKind
    """in_process, torchrun or slurm."""
    num_processes: int
    """Ranks on each machine; one a GPU."""
    num_nodes: int
    """Machines; they share the project's folder. 1 with in_process."""
    slurm: SlurmConfig
    """The job, when kind is slurm."""
