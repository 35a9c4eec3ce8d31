"""A process that takes GPU memory: it holds some, then takes more at a steady rate until CUDA has no more.

``python -m bench.gpu_oom.holder``. What it does is printed as one JSON object a line: ``allocated_bytes``, and at the
end ``out_of_memory``. CUDA's driver is called through ctypes, so that no framework has a pool of its own in between.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from advisor.units import MIB

_OUT_OF_MEMORY = 2
"""``CUDA_ERROR_OUT_OF_MEMORY`` (cuda.h)."""


class Cuda:
    """One device's memory."""

    def __init__(self, library: Any, ordinal: int) -> None:
        """Make a context on a device.

        Raises:
            RuntimeError: A call fails; the message has CUDA's number for why.
        """
        self._library = library
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._ask("cuInit", 0)
        self._ask("cuDeviceGet", ctypes.byref(device), ordinal)
        self._ask("cuCtxCreate_v2", ctypes.byref(context), 0, device)

    def allocate(self, size_bytes: int) -> bool:
        """Take memory and keep it; tell whether there was enough.

        Raises:
            RuntimeError: The call fails for another reason.
        """
        address = ctypes.c_uint64()
        status = self._library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size_bytes))
        if status not in (0, _OUT_OF_MEMORY):
            raise RuntimeError(f"cuMemAlloc_v2 fails with {status}")
        return bool(status == 0)

    def _ask(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} fails with {status}")


def taken(
    allocate: Callable[[int], bool],
    *,
    hold_bytes: int,
    grow_bytes_per_second: float,
    piece_bytes: int,
    most_seconds: float,
    sleep: Callable[[float], None],
) -> Iterator[dict[str, Any]]:
    """Take memory and yield what there is to print.

    Args:
        allocate: Takes so many bytes; false where there are none left.
        hold_bytes: Taken at once.
        grow_bytes_per_second: Taken from then on; 0 holds what there is.
        piece_bytes: Of one allocation.
        most_seconds: It ends by itself after so long.
        sleep: Waits for so many seconds.
    """
    allocated, elapsed = 0, 0.0
    while allocated < hold_bytes:
        if not allocate(piece_bytes):
            yield {"out_of_memory": True, "allocated_bytes": allocated}
            return
        allocated += piece_bytes
    yield {"allocated_bytes": allocated}
    pause = piece_bytes / grow_bytes_per_second if grow_bytes_per_second else 1.0
    while elapsed < most_seconds:
        sleep(pause)
        elapsed += pause
        if grow_bytes_per_second:
            if not allocate(piece_bytes):
                yield {"out_of_memory": True, "allocated_bytes": allocated}
                return
            allocated += piece_bytes
            yield {"allocated_bytes": allocated}


def main() -> None:
    """Take memory as told on the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_oom.holder", description=__doc__)
    parser.add_argument("--cuda", default="libcuda.so.1", help="the driver's library")
    parser.add_argument("--gpu", type=int, default=0, help="its number for CUDA")
    parser.add_argument("--hold-mib", type=int, default=0)
    parser.add_argument("--grow-mib-per-second", type=float, default=0.0)
    parser.add_argument("--piece-mib", type=int, default=64)
    parser.add_argument("--most-seconds", type=float, default=900.0)
    given = parser.parse_args()
    cuda = Cuda(ctypes.CDLL(given.cuda), given.gpu)
    for line in taken(
        cuda.allocate,
        hold_bytes=given.hold_mib * MIB,
        grow_bytes_per_second=given.grow_mib_per_second * MIB,
        piece_bytes=given.piece_mib * MIB,
        most_seconds=given.most_seconds,
        sleep=time.sleep,
    ):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
