"""What ranks run on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import parse_flag_from_env


@dataclass(frozen=True)
class Device:
    """What one rank may fill."""

    kind: str
    name: str
    bytes: int


def ranks() -> int:
    """Processes of this launch, as torchrun and accelerate say it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device() -> Device:
    """What this rank will train on: its GPU, or its share of the machine's memory."""
    if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        found = torch.cuda.get_device_properties(int(os.environ.get("LOCAL_RANK", "0")))
        return Device("cuda", found.name, int(found.total_memory))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Device("cpu", "this machine" if here == 1 else f"this machine, shared by {here} ranks,", _machine_bytes() // here)


def _machine_bytes() -> int:
    """Physical memory, or what a container is given of it."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_number(Path("/sys/fs/cgroup/memory.max")), _number(Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))]
    return min([physical, *(limit for limit in limits if limit is not None)])


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no such control group, or "max"
        return None
