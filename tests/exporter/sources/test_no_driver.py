"""A machine without the driver's library."""

import os
import subprocess
import sys


def test_a_machine_without_the_library_says_so(tmp_path):
    program = (
        "import pynvml; from exporter.sources.nvml import NvmlSource; from exporter.errors import SourceError\n"
        "try: print(NvmlSource(pynvml).read())\n"
        "except SourceError as error: print(error.reason)"
    )
    # Found before the real library, where there is one, and loaded as little as one that is missing.
    (tmp_path / "libnvidia-ml.so.1").touch()
    variables = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=variables)
    assert found.stdout == "no_driver_library\n"
