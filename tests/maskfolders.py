"""Small cohorts and folders of masks, for tests of what reads them."""

from pathlib import Path

import numpy as np

from backsplit.cases import Case, Cohort
from backsplit.volume import Grid, Volume, write_volume

UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
GRID = Grid((7, 6, 5), (1.0, 2.0, 3.0), (10.0, -20.0, 30.0), UPRIGHT)


def write(voxels, path: Path, grid: Grid = GRID) -> Path:
    write_volume(Volume(np.asarray(voxels), grid), path)
    return path


def block(value: int = 1, *, start: int = 1, stop: int = 4, grid: Grid = GRID) -> np.ndarray:
    """A cube from `start` to `stop` along each axis."""
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[(slice(start, stop),) * 3] = value
    return voxels


def case_of(folder: Path, name: str = "one", *, grid: Grid = GRID, labels: np.ndarray | None = None) -> Case:
    """A case with an image of noise, and a label map if one is given."""
    image = np.random.default_rng(0).integers(0, 100, grid.shape).astype(np.int16)
    path = None if labels is None else write(labels, folder / "labels" / f"{name}.nii.gz", grid)
    return Case(name, (write(image, folder / "images" / f"{name}.nii.gz", grid),), path, group=name)


def cohort_of(*cases: Case, label_names: tuple[tuple[int, str], ...] = ()) -> Cohort:
    return Cohort("small", ("CT",), ((0, "background"), *label_names), cases)
