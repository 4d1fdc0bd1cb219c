"""Runs a command and says how long it took and how much memory its processes held together at most.

    python benchmarks/measure.py make demo

Memory is the sum of the proportional set sizes (PSS), in which a page that several processes share
counts once; Linux only.
"""

import subprocess
import sys
import time
from pathlib import Path

import psutil

SECONDS_BETWEEN_SAMPLES = 0.5


def pss(process: psutil.Process) -> int:
    """Bytes of one process; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("measure: give a command, for example: python benchmarks/measure.py make demo")
    started, peak = time.monotonic(), 0
    child = subprocess.Popen(sys.argv[1:])
    tree = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            peak = max(
                peak, sum(pss(process) for process in [tree, *tree.children(recursive=True)])
            )
        except psutil.NoSuchProcess:
            continue
        time.sleep(SECONDS_BETWEEN_SAMPLES)
    minutes = (time.monotonic() - started) / 60
    print(
        f"measured: {' '.join(sys.argv[1:])}: exit code {child.returncode}, {minutes:.1f} "
        f"minutes, peak {peak / 1e9:.2f} GB"
    )
    sys.exit(child.returncode)


if __name__ == "__main__":
    main()
