"""One case of the phantom: settings in, image and fine labels out."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16
from scipy import ndimage

from backsplit.arrays import Mask, Spacing
from backsplit.datasets.phantom.body import add_body, add_kidney_cysts, add_kidneys, add_vessels, beyond_kidneys
from backsplit.datasets.phantom.bowel import add_bowel
from backsplit.datasets.phantom.organs import (
    add_gallbladder,
    add_inner_cysts,
    add_pancreas,
    add_solid_organs,
    add_stomach,
)
from backsplit.datasets.phantom.scene import Scene, new_scene
from backsplit.datasets.phantom.shapes import Frame
from backsplit.errors import ConfigurationError
from backsplit.volume import Grid, Volume

SMALLEST_AXIS = 32
CYST_NUMBERS = (0.1, 0.25, 0.3, 0.2, 0.15)
"""Probability of 0 to 4 kidney cysts in a case; the median of KiTS23 cases with cysts is 2."""


@dataclass(frozen=True, slots=True)
class PhantomSettings:
    """The scan. The anatomy is stretched over its field of view: it is always whole, and true to shape in a cube.

    Raises:
        ConfigurationError: an axis of less than 32 voxels, a spacing that is not positive, or noise below 0.
    """

    shape: tuple[int, int, int] = (64, 64, 64)
    """Voxels along x, y and z; 32 or more each."""
    spacing_mm: Spacing = (5.0, 5.0, 5.0)
    """With the default shape: a field of view of 320 mm, and cysts of 10 to 27.5 mm radius."""
    noise_hu: float = 10.0
    """Mean standard deviation of the noise; cases deviate by up to a quarter."""

    def __post_init__(self) -> None:
        if min(self.shape) < SMALLEST_AXIS:
            raise ConfigurationError(
                f"the phantom needs {SMALLEST_AXIS} voxels or more along each axis, got shape {self.shape}; "
                "smaller grids cannot hold a cyst"
            )
        if not all(math.isfinite(edge) and edge > 0 for edge in self.spacing_mm):
            raise ConfigurationError(f"spacing must be three positive lengths in mm, got {self.spacing_mm}")
        if not (math.isfinite(self.noise_hu) and self.noise_hu >= 0):
            raise ConfigurationError(f"noise must be 0 HU or more, got {self.noise_hu}")


def draw_case(settings: PhantomSettings, *, seed: int) -> tuple[Volume, Volume]:
    """Draw one abdomen; the same settings and seed give the same voxels in every process.

    Args:
        settings: the scan.
        seed: 0 or more.

    Returns:
        Image (int16, HU) and fine labels (uint8, indices of `PHANTOM_SCHEME`) on one grid. About one case in ten has no
        cyst.

    Raises:
        ConfigurationError: a negative seed.
    """
    scene = draw_scene(Frame(settings.shape), seed=seed)
    grid = _grid(settings)
    return Volume(_scan(scene, noise_hu=settings.noise_hu), grid), Volume(scene.labels, grid)


def draw_scene(frame: Frame, *, seed: int) -> Scene:
    """Draw one abdomen before it is scanned: exact intensities, no blur, no noise.

    Raises:
        ConfigurationError: a negative seed.
    """
    if seed < 0:
        raise ConfigurationError(f"a seed must be 0 or more, got {seed}")
    scene = new_scene(frame, np.random.default_rng(seed), wobble_mm=3.0)
    cavity = add_body(scene)
    add_kidneys(scene, cavity)
    add_kidney_cysts(scene, cavity, int(scene.rng.choice(len(CYST_NUMBERS), p=CYST_NUMBERS)))
    add_vessels(scene, cavity & ~scene.has("kidney", "cyst"))
    add_other_organs(scene, *beyond_kidneys(scene, cavity))
    return scene


def add_other_organs(scene: Scene, for_tissue: Mask, for_fluid: Mask) -> None:
    """Paint all but body, kidneys and great vessels, where `beyond_kidneys` leaves room."""
    add_solid_organs(scene, for_tissue)
    add_gallbladder(scene, for_fluid)
    add_inner_cysts(scene, "liver", int(scene.rng.integers(0, 4)), cavity=for_fluid)
    add_inner_cysts(scene, "spleen", int(scene.rng.integers(0, 2)), cavity=for_fluid)
    add_stomach(scene, for_fluid)
    add_pancreas(scene, for_fluid)
    add_bowel(scene, for_fluid)


def _grid(settings: PhantomSettings) -> Grid:
    """Axes along the patient's, origin such that the field of view is centred on 0."""
    first = [-0.5 * (length - 1) * edge for length, edge in zip(settings.shape, settings.spacing_mm, strict=True)]
    return Grid(
        shape=settings.shape,
        spacing_mm=settings.spacing_mm,
        origin_mm=(first[0], first[1], first[2]),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )


def _scan(scene: Scene, *, noise_hu: float) -> Int16[np.ndarray, "x y z"]:
    """Partial volume (a Gaussian of 0.5 voxel) and noise that is correlated over about a voxel; int16."""
    white = scene.rng.standard_normal(scene.hu.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(white, 0.6)
    amplitude = noise_hu * scene.rng.uniform(0.75, 1.25) / noise.std()
    image = ndimage.gaussian_filter(scene.hu, 0.5) + amplitude * noise
    return np.rint(np.clip(image, -1024, 3071)).astype(np.int16)
