"""The program as on a machine with no GPU driver and no vLLM server, whatever runs on this one.

``python -m tests.exporter.bare COMMAND ...`` is ``vllm-headroom COMMAND ...`` with an empty process table and a driver
library that cannot be found, so that the tests of an empty host also pass on a GPU server at work.
"""

import ctypes

import psutil

from exporter.cli import main


def _no_driver(name, *arguments, **more):
    if "nvidia-ml" in str(name):
        raise OSError(f"{name}: cannot open shared object file")
    return _load(name, *arguments, **more)


if __name__ == "__main__":
    import pynvml

    _load = ctypes.CDLL
    pynvml.CDLL = _no_driver
    psutil.pids = list
    main()
