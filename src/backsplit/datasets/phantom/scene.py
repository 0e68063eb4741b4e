"""A canvas for the phantom: tissues are painted over each other, and fluid bodies find room between them."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from backsplit.arrays import Mask
from backsplit.datasets.phantom.shapes import Field, Frame, Point, Points, Window, smooth_field, tube
from backsplit.labels import LabelScheme

PHANTOM_SCHEME = LabelScheme(
    targets=("cyst",),
    auxiliaries=(
        "kidney",
        "liver",
        "spleen",
        "stomach",
        "bowel",
        "gallbladder",
        "pancreas",
        "vessels",
        "bone",
        "muscle",
    ),
)
WALL_HU, FAT_HU, AIR_HU = 48.0, -100.0, -1000.0
SMALLEST_MM = 10.0
"""Radius of the smallest fluid body."""
GAP_MM = 5.0
"""Least fat between a kidney, or a cyst of it, and any fluid that is no cyst; one voxel at 64 x 64 x 64."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A case while it is drawn: later paint covers earlier paint. `hu` and `labels` have the shape of `frame`."""

    frame: Frame
    rng: np.random.Generator
    points: Points
    """Voxel centres, displaced by a smooth field, so that no organ is an exact ellipsoid."""
    grain: Field
    """Texture of unit standard deviation."""
    hu: Field
    labels: np.ndarray

    def paint(self, name: str, hu: float, mask: Mask, *, window: Window | None = None, grain_hu: float = 0.0) -> None:
        """Cover the mask (inside the window, if one is given) with a class and an intensity."""
        part = window or (slice(None), slice(None), slice(None))
        self.hu[part][mask] = hu + grain_hu * self.grain[part][mask]
        self.labels[part][mask] = PHANTOM_SCHEME.names.index(name)

    def has(self, *names: str) -> Mask:
        """Voxels of any of the classes."""
        return np.isin(self.labels, PHANTOM_SCHEME.indices(names))

    def free(self, cavity: Mask) -> Mask:
        """Voxels of the cavity that no class has taken yet."""
        return cavity & (self.labels == 0)

    def around(self, centre: Point, spread: float) -> Point:
        """A point near another, normally distributed with `spread` mm along each axis."""
        return centre + self.rng.normal(scale=spread, size=3)


def new_scene(frame: Frame, rng: np.random.Generator, *, wobble_mm: float) -> Scene:
    """An empty scene of air; organs will deviate by about `wobble_mm` from their plan."""
    wobble = np.stack([smooth_field(frame, rng, num_waves=5) for _ in range(3)])
    noise = ndimage.gaussian_filter(rng.standard_normal(frame.shape, dtype=np.float32), 1.0)
    return Scene(
        frame=frame,
        rng=rng,
        points=frame.points + np.float32(wobble_mm) * wobble,
        grain=noise / noise.std(),
        hu=np.full(frame.shape, AIR_HU, dtype=np.float32),
        labels=np.zeros(frame.shape, dtype=np.uint8),
    )


def draw_radius_mm(rng: np.random.Generator) -> float:
    """Radius of a fluid body, cyst or not: 10 to 27.5 mm, mostly small; 2 to 5.5 voxels at 64 x 64 x 64."""
    return SMALLEST_MM + 17.5 * float(rng.beta(1.2, 2.2))


def draw_fluid_hu(rng: np.random.Generator) -> float:
    """Intensity of a fluid body, cyst or not: water to thin chyme."""
    return float(rng.uniform(0, 20))


def pick(candidates: Mask, scene: Scene) -> Point | None:
    """Centre of a voxel drawn at random from the candidates; None if there is none."""
    found = np.flatnonzero(candidates)
    if not found.size:
        return None
    x, y, z = np.unravel_index(int(scene.rng.choice(found)), candidates.shape)
    return scene.frame.point((int(x), int(y), int(z)))


def add_fluid(scene: Scene, name: str, centre: Point, radius_mm: float, *, within: Mask) -> None:
    """Paint a ball of fluid, as much of it as lies inside `within`."""
    window, ball = tube(scene.frame, centre, centre, radius_mm)
    scene.paint(name, draw_fluid_hu(scene.rng), ball & within[window], window=window)
