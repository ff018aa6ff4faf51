"""Launchers for settings made in tests."""

from __future__ import annotations

from components.shared.launcher_config import LauncherConfig, LauncherKind, SlurmConfig

SLURM = SlurmConfig(partition="", time_limit="", gpus_per_node=0, cpus_per_node=0, options=[], poll_s=0.5)
IN_PROCESS = LauncherConfig(kind=LauncherKind.in_process, num_processes=1, num_nodes=1, slurm=SLURM)
