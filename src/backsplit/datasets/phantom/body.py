"""The body of the phantom: its wall and spine, the kidneys with their cysts, and where other organs may go.

Positions and sizes are those of an adult in reference mm, roughly; Hounsfield units those of a portal venous CT.
"""

import numpy as np
from scipy import ndimage

from backsplit.arrays import Mask
from backsplit.datasets.phantom.scene import (
    FAT_HU,
    GAP_MM,
    SMALLEST_MM,
    Scene,
    add_fluid,
    draw_radius_mm,
    pick,
)
from backsplit.datasets.phantom.shapes import Field, Point, at, depth_mm, ellipsoid, rotation, tube


def add_body(scene: Scene) -> Mask:
    """Paint skin, fat, abdominal wall, ribs and back; return the cavity: fat, and muscle along the spine."""
    half_width, half_depth = 145 + scene.rng.uniform(-6, 6), 106 + scene.rng.uniform(-6, 6)
    fat_mm = scene.rng.uniform(10, 20)
    x, y, z = scene.points

    def within(inset_mm: float) -> Mask:
        level = (np.abs(x) / (half_width - inset_mm)) ** 2.4 + (np.abs(y) / (half_depth - inset_mm)) ** 2.4
        return level < 1

    scene.paint("background", 10, within(0))
    scene.paint("background", FAT_HU, within(3), grain_hu=6)
    scene.paint("muscle", 55, within(fat_mm), grain_hu=8)
    rib = within(fat_mm + 2) & ~within(fat_mm + 8) & ((z + 0.25 * np.abs(x) - 40) % 32 < 9) & (z > 0.4 * -y)
    scene.paint("bone", 260, rib, grain_hu=40)
    cavity = within(fat_mm + 11)
    scene.paint("background", FAT_HU, cavity, grain_hu=6)
    _add_back(scene, half_depth)
    return cavity & ~scene.has("bone")


def _add_back(scene: Scene, half_depth: float) -> None:
    """Paint psoas, the muscles behind the spine, and the vertebrae."""
    x, y, z = scene.points
    back = half_depth - 40
    for side in (-1, 1):
        psoas_mm = np.clip(14 - z / 14, 7, 24)
        scene.paint("muscle", 58, np.hypot(x - side * 37, (y - back + 18) / 1.15) < psoas_mm, grain_hu=8)
        scene.paint("muscle", 55, np.hypot((x - side * 34) / 1.3, y - back - 12) < 20, grain_hu=8)
    vertebra = np.hypot(x / 1.25, y - back + 18) < 19
    disc = (z + 7) % 36 < 7
    scene.paint("bone", 190, vertebra & ~disc, grain_hu=40)
    scene.paint("bone", 85, vertebra & disc)
    arch = (np.hypot(x / 1.3, y - back - 9) < 14) | ((np.abs(x) < 4) & (np.abs(y - back - 24) < 12) & (z % 36 < 22))
    scene.paint("bone", 330, arch, grain_hu=40)
    scene.paint("background", 25, np.hypot(x, y - back - 8) < 8)


def add_kidneys(scene: Scene, cavity: Mask) -> None:
    """Paint two bean-shaped kidneys with cortex, medullary pyramids, and fat in the sinus; vessels reach the hilum."""
    enhancement = scene.rng.uniform(0.85, 1.15)
    for side in (-1, 1):
        centre = scene.around(at(side * 66, 30, 5 * side - 5), 4)
        semi_axes = at(25, 29, 56) * scene.rng.uniform(0.88, 1.12)
        turn = rotation(2, side * scene.rng.uniform(15, 40)) @ rotation(1, -side * scene.rng.uniform(5, 15))
        bent = scene.points.copy()
        bent[0] += side * 12 * np.square((bent[2] - centre[2]) / semi_axes[2])
        level = ellipsoid(bent, centre, semi_axes, turn)
        hilum = centre - turn @ at(side * 0.75 * semi_axes[0], 0, 0)
        sinus = ellipsoid(bent, hilum, semi_axes * at(0.75, 0.45, 0.5), turn) < 1
        kidney = (level < 1) & ~sinus & cavity
        scene.paint("kidney", 125 * enhancement, kidney, grain_hu=4)
        scene.paint("kidney", 92 * enhancement, kidney & _pyramids(scene, level, centre), grain_hu=4)
        for height, hu in ((-3, 150), (4, 130)):
            window, vessel = tube(scene.frame, hilum + at(side * 6, 0, height), at(0, 14, centre[2] + 2 * height), 4.0)
            free = (scene.labels[window] == 0) & cavity[window]
            scene.paint("vessels", hu, vessel & free, window=window)


def _pyramids(scene: Scene, level: Field, centre: Point) -> Mask:
    """Medulla: a shell below the cortex, broken by columns of cortex."""
    x, y, z = scene.points - centre.astype(np.float32)[:, None, None, None]
    return (level > 0.4) & (level < 0.76) & (np.cos(3 * np.arctan2(y, x)) + np.cos(z / 3.5) > -0.6)


def add_kidney_cysts(scene: Scene, cavity: Mask, number: int) -> None:
    """Paint the target: fluid balls that are, or partly are, in a kidney.

    The depth of a centre below the kidney's surface is uniform from -0.3 to 1.8 radii, so that some lie all inside, and
    most bulge into the fat; each one overlaps a kidney. Cysts that lie inside are small enough for it.
    """
    kidney = scene.has("kidney")
    depth = depth_mm(kidney, scene.frame) - depth_mm(~kidney, scene.frame)
    soft = cavity & ~scene.has("vessels")
    beside_muscle = soft & ~scene.has("muscle")
    for _ in range(number):
        depth_radii = scene.rng.uniform(-0.3, 1.8)
        radius_mm = max(SMALLEST_MM, min(draw_radius_mm(scene.rng), float(depth.max()) / max(depth_radii, 0.1)))
        off = np.abs(depth - depth_radii * radius_mm)
        centre = pick(beside_muscle & (off <= max(1.0, off[beside_muscle].min())), scene)
        if centre is not None:
            add_fluid(scene, "cyst", centre, radius_mm, within=soft)


def beyond_kidneys(scene: Scene, cavity: Mask) -> tuple[Mask, Mask]:
    """Where the tissue of liver and spleen may go, and the smaller region where fluid may.

    Fluid keeps a gap of `GAP_MM`, and of a voxel diagonally, from kidneys and their cysts. Liver and spleen come as
    near as the perirenal fat of the case lets them: in lean patients they touch, so that a cyst may abut the liver.
    """
    renal = scene.has("kidney", "cyst")
    away_mm = depth_mm(~renal, scene.frame)
    apart = ~ndimage.binary_dilation(renal, np.ones((3, 3, 3), dtype=bool)) & (away_mm > GAP_MM)
    return cavity & (away_mm > scene.rng.uniform(0, 2 * GAP_MM)), cavity & apart


def add_vessels(scene: Scene, cavity: Mask) -> None:
    """Paint aorta and inferior vena cava in front of the spine."""
    x, y, _ = scene.points
    for centre_x, radius_mm, hu in ((9, 9.5, 165), (-16, 11, 125)):
        scene.paint("vessels", hu, (np.hypot(x - centre_x, y - 16) < radius_mm) & cavity, grain_hu=3)
