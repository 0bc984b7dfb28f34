"""What a process and its children cost: CPU time and memory, read from the kernel.

Linux tells both in /proc, at no cost to who is measured; elsewhere `ps` is asked. Children count as their parent's,
because some subjects keep a master that does nothing and a worker that does the work.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_KIB = 1024
_SMAPS_LINE = re.compile(r"^(Rss|Pss):\s+(\d+) kB", re.MULTILINE)
_CLOCK = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")


class Memory(NamedTuple):
    """`pss_bytes`: pages shared with others are counted in part. Where the kernel does not tell, it is `rss_bytes`."""

    rss_bytes: int
    pss_bytes: int


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for child, parent in _parents():
        children[parent].append(child)
    found, new = [pid], [pid]
    while new:
        new = [child for parent in new for child in children[parent]]
        found += new
    return found


def cpu_s(pids: list[int]) -> float:
    """User and system time of the processes so far, with that of children who have ended and were waited for."""
    return sum(_proc_cpu_s(pid) if _PROC.is_dir() else _ps_cpu_s(pid) for pid in pids)


def memory(pids: list[int]) -> Memory:
    """What the processes hold in memory together."""
    each = [_proc_memory(pid) if _PROC.is_dir() else _ps_memory(pid) for pid in pids]
    return Memory(sum(one.rss_bytes for one in each), sum(one.pss_bytes for one in each))


def _parents() -> list[tuple[int, int]]:
    if not _PROC.is_dir():
        lines = _ps("-axo", "pid=,ppid=").splitlines()
        return [(int(pid), int(parent)) for pid, parent in (line.split() for line in lines)]
    found = []
    for entry in _PROC.iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else []
        if fields:
            found.append((int(entry.name), int(fields[1])))
    return found


def _stat(pid: int) -> list[str]:
    """The fields after the name of the program, which may contain anything. None for a process that is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text[text.rindex(")") + 2 :].split()


def _proc_cpu_s(pid: int) -> float:
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) * _TICK_S if fields else 0.0


def _proc_memory(pid: int) -> Memory:
    try:
        found = dict(_SMAPS_LINE.findall((_PROC / str(pid) / "smaps_rollup").read_text()))
    except (OSError, ProcessLookupError):
        return _ps_memory(pid)
    return Memory(int(found.get("Rss", 0)) * _KIB, int(found.get("Pss", 0)) * _KIB)


def _ps(*arguments: str) -> str:
    return subprocess.run(["/bin/ps", *arguments], capture_output=True, text=True, check=False).stdout


def _ps_cpu_s(pid: int) -> float:
    found = _CLOCK.search(_ps("-o", "time=", "-p", str(pid)))
    if found is None:
        return 0.0
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _ps_memory(pid: int) -> Memory:
    text = _ps("-o", "rss=", "-p", str(pid)).strip()
    size = int(text) * _KIB if text.isdigit() else 0
    return Memory(size, size)
