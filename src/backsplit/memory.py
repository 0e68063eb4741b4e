"""How this process keeps memory: settings of torch and of the C library, which only the command line makes."""

import ctypes
import os
import sys

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""Read by torch at its first tensor: whether tensors lie in huge pages."""
MMAP_THRESHOLD = -3
"""Number of glibc's option: arrays of so many bytes come from the kernel one by one, and go back to it."""
LARGE_ARRAY = 2**23


def use_huge_pages() -> None:
    """Have torch put tensors in huge pages, unless the environment says otherwise; before the first tensor is made.

    glibc gives each large tensor back to the kernel, which hands out fresh pages one by one for the next: half of the
    time of a small network on a CPU.
    """
    os.environ.setdefault(HUGE_PAGES, "1")


def give_back_large_arrays() -> None:
    """Have glibc give back arrays of 8 MiB and more as soon as they are freed; other C libraries stay as they are.

    Of itself it raises this limit up to 32 MiB as a program goes on, and holds on to what lies between pieces in use:
    of a prediction 0.05 to 0.2 GB, and not the same in equal runs.
    """
    if sys.platform != "linux":
        return
    c_library = ctypes.CDLL(None)
    if hasattr(c_library, "gnu_get_libc_version"):
        c_library.mallopt(MMAP_THRESHOLD, LARGE_ARRAY)
