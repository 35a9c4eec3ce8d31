"""The program on a machine whose only processes are those of one test: ``python -m tests.endurance.only COMMAND ...``.

Servers that others run on this machine would be found too, and come and go as they like. ``ONLY_CHILDREN_OF`` names the
process whose descendants there are.
"""

import os

import psutil

from exporter.cli import main


def _descendants():
    return [child.pid for child in psutil.Process(int(os.environ["ONLY_CHILDREN_OF"])).children(recursive=True)]


if __name__ == "__main__":
    psutil.pids = _descendants
    main()
