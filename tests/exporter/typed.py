"""A command of ours as it is typed."""

import os
import subprocess
import sys


def typed(*words, variables=None, program="exporter"):
    """Run it to its end in a process of its own; whatever went wrong, it ends without a traceback."""
    result = subprocess.run(
        [sys.executable, "-m", program, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **(variables or {})},
    )
    assert "Traceback" not in result.stderr
    return result
