"""What every test shares: threads, and where real data lies."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one test process per core
os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from backsplit.memory import use_huge_pages

install_import_hook("backsplit", "typechecker.check")
use_huge_pages()  # as the command line does
settings.register_profile("backsplit", deadline=None)  # a busy machine is no fault
settings.load_profile("backsplit")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real, public images and labels; the tests that need it skip where it is absent."""
    folder = Path(os.environ.get("BACKSPLIT_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set BACKSPLIT_TEST_DATA")
    return folder
