"""The program, told to read its files again while it is imported (SIGHUP): ``python -m tests.exporter.hung_up``."""

import os
import signal
import sys

from exporter.cli import main


class _HangsUp:
    def find_spec(self, name, path=None, target=None):
        if name == "exporter.cli.serve":
            os.kill(os.getpid(), signal.SIGHUP)


if __name__ == "__main__":
    sys.meta_path.insert(0, _HangsUp())
    main()
