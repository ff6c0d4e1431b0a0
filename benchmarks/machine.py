"""The machine that a benchmark ran on, in words."""

import platform
import subprocess
import sys
from pathlib import Path


def hardware(device):
    """Processor, and the first GPU if the device is ``cuda``."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    if device == "cuda":
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout  # noqa: S607
        model += ", " + listed.split("(")[0].strip()
    return f"{platform.machine()} {model}"
