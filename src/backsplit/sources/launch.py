"""Start a tool of others: `python -m backsplit.sources.launch MODULE ARGUMENTS...` calls `main` of that module.

The tool ends when the process that started it is gone, so that nothing computes on after a kill.
"""

import importlib
import multiprocessing
import os
import sys
import threading
import time

from backsplit.sources.process import PARENT
from backsplit.sources.torchvision_shim import mend_torchvision

SECONDS_BETWEEN_LOOKS = 1


def main() -> None:
    """Run `main` of the module that the first argument names, with the other arguments as its command line."""
    _end_without(int(os.environ.get(PARENT, os.getppid())))
    mend_torchvision()
    del sys.argv[0]
    sys.exit(importlib.import_module(sys.argv[0]).main())


def _end_without(parent: int) -> None:
    """End this process soon after it has got another parent; a process whose parent ends is given to another one."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _end_with_tool() -> None:
    """End this process of the tool with the tool, even one that ended before this process knew its parent."""

    def watch() -> None:
        while (tool := multiprocessing.parent_process()) is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        tool.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # a process that the tool started; it learns who its parent is after this import
    _end_with_tool()
