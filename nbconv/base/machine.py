"""What this machine has for this process: processors and memory."""

from __future__ import annotations

import os
from numbers import Integral


def available_threads() -> int:
    """Processors that affinity and the cgroup's quota give this process; at least 1."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, count if quota is None else min(count, int(quota + 0.5)))


def thread_count(threads: int | None) -> int:
    """How many threads a model uses, where ``threads`` was asked for."""
    if threads is None:
        return available_threads()
    if not isinstance(threads, Integral) or threads < 1:
        raise ValueError(f"threads is {threads!r}, wanted a positive integer or None")
    return int(threads)


def _cgroup_quota() -> float | None:
    """Processors that the cgroup (version 2 or 1) allows, None for no limit."""
    for quota, period in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            with open(quota) as f:
                words = f.read().split()
            if period is not None:
                with open(period) as f:
                    words += f.read().split()
            if words[0] not in ("max", "-1"):
                return int(words[0]) / int(words[1])
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            continue
    return None


def memory() -> int:
    """Bytes of memory of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 40
