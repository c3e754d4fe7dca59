"""What a machine has: memory of its devices and room on its disk, as far as this process may use them."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from subcircuit.errors import UnknownName
from subcircuit.loading import DEVICES

__all__ = ["Machine"]

CGROUP = Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True)
class Machine:
    """Limits in bytes."""

    device: str  # cpu, cuda or mps
    memory: float  # of one device, as much of it as is free
    devices: int
    disk: float  # free where the run folder will be

    @classmethod
    def here(cls, device: str = "auto", folder: Path = Path()) -> "Machine":
        """This machine. `device` as `load` takes it; a folder that is not there yet is looked for upwards.

        Raises UnknownName for another device.
        """
        if device not in DEVICES:
            raise UnknownName("device", device, DEVICES)
        place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        disk = float(shutil.disk_usage(place).free)
        if device in ("auto", "cuda", "spread") and torch.cuda.is_available():
            count = torch.cuda.device_count()
            free = min(torch.cuda.mem_get_info(at)[0] for at in range(count))
            return cls("cuda", float(free), count, disk)
        if device in ("auto", "mps") and torch.backends.mps.is_available():
            return cls("mps", float(torch.mps.recommended_max_memory()), 1, disk)
        return cls("cpu", free_memory(), 1, disk)


def free_memory() -> float:
    """Bytes of main memory that this process may still take, a container's limit included."""
    free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for line in MEMORY.read_text().splitlines() if MEMORY.is_file() else ():
        if line.startswith("MemAvailable"):
            free = 1024.0 * int(line.split()[1])
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, float(int(limit) - int(used)))
