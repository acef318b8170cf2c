"""Peak memory against allocations of known size."""

import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a process's memory")
def test_peak_is_what_was_held_at_once():
    code = (
        "import numpy as np\n"
        "from normalkit.profiling import peak_memory\n"
        "def run():\n"
        "    for _ in range(3):\n"
        "        np.ones(64 << 17)\n"  # 64 MiB, given back before the next one
        "def more():\n"
        "    held = [np.ones(64 << 17) for _ in range(3)]\n"
        "print(peak_memory(run) >> 20, peak_memory(more) >> 20, peak_memory(run) >> 20)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    once, thrice, again = map(int, done.stdout.split())
    assert once == pytest.approx(64, abs=16)
    assert thrice == pytest.approx(192, abs=16)
    assert again == pytest.approx(64, abs=16)
