"""Run a module like ``python -m`` and record its resource use: ``python -m benchmarks.usage OUT MODULE ARGUMENT...``.

CPU time includes child processes that were waited for; memory is that of this process.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
import time
from pathlib import Path

from core.errors import UserError
from core.files import write_json

EVERY = 0.02  # seconds between two samples of the memory
FIELDS = ("VmHWM", "RssAnon", "RssShmem")


def memory() -> dict[str, int]:
    """Return the memory of this process in bytes.

    ``VmHWM`` is the peak resident memory so far, including pages of mapped files, which the kernel can reclaim.
    Unlike the ``ru_maxrss`` of getrusage, which survives exec, it does not include the parent's memory.
    ``RssAnon`` and ``RssShmem`` are the current resident memory that it cannot reclaim.

    Raises:
        UserError: the system is not Linux.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError as error:
        raise UserError(f"/proc/self/status: {error.strerror}; memory is measured on Linux alone") from None
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 for name in FIELDS}


class Watch:
    """Samples the memory of this process that cannot be reclaimed, and keeps the maximum."""

    def __init__(self) -> None:
        self.most, self.ended = 0, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.ended.wait(EVERY):
            self.look()

    def look(self) -> None:
        """Take one sample."""
        now = memory()
        self.most = max(self.most, now["RssAnon"] + now["RssShmem"])

    def stop(self) -> int:
        """Stop sampling and return the maximum in bytes."""
        self.ended.set()
        self.thread.join()
        self.look()
        return self.most


def main() -> None:
    """Run the module; write the record if it succeeded."""
    out, module, *arguments = sys.argv[1:]
    watch, started = Watch(), time.perf_counter()
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise
    times = os.times()
    record = {
        "wall_seconds": time.perf_counter() - started,
        "processor_seconds": times.user + times.system + times.children_user + times.children_system,
        "memory_bytes": watch.stop(),
        "resident_bytes": memory()["VmHWM"],
    }
    write_json(Path(out), record)


if __name__ == "__main__":
    main()
