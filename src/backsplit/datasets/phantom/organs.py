"""Liver, spleen, gallbladder, stomach and pancreas of the phantom, and the fluid bodies that belong to them."""

from itertools import pairwise

from backsplit.arrays import Mask
from backsplit.datasets.phantom.scene import WALL_HU, Scene, add_fluid, draw_fluid_hu, draw_radius_mm, pick
from backsplit.datasets.phantom.shapes import at, depth_mm, ellipsoid, rotation, tube


def add_solid_organs(scene: Scene, cavity: Mask) -> None:
    """Paint liver and spleen into the free part of the cavity, and a few bright vessels of the liver."""
    points, rng = scene.points, scene.rng
    liver = ellipsoid(points, scene.around(at(-62, -8, 70), 5), at(72, 84, 84), rotation(1, 12)) < 1
    liver |= ellipsoid(points, scene.around(at(0, -48, 88), 5), at(62, 34, 46)) < 1
    scene.paint("liver", 62 * rng.uniform(0.9, 1.6), liver & scene.free(cavity), grain_hu=7)
    for _ in range(5):
        window, branch = tube(scene.frame, at(-30, 0, 55), scene.around(at(-65, -15, 85), 35), 4.0)
        scene.paint("liver", 130, branch & scene.has("liver")[window], window=window)
    size = at(30, 44, 46) * rng.uniform(0.85, 1.15)
    spleen = ellipsoid(points, scene.around(at(92, 22, 82), 5), size, rotation(2, -25)) < 1
    scene.paint("spleen", 105 * rng.uniform(0.9, 1.1), spleen & scene.free(cavity), grain_hu=6)


def add_inner_cysts(scene: Scene, organ: str, number: int, *, cavity: Mask) -> None:
    """Paint fluid bodies that lie inside an organ, in the given part of the cavity, and count as part of the organ."""
    parenchyma = scene.has(organ) & cavity
    depth = depth_mm(parenchyma, scene.frame)
    for _ in range(number):
        radius_mm = draw_radius_mm(scene.rng)
        centre = pick(parenchyma & (depth >= min(radius_mm, 0.95 * float(depth.max()))), scene)
        if centre is not None:
            add_fluid(scene, organ, centre, radius_mm, within=parenchyma)


def add_gallbladder(scene: Scene, cavity: Mask) -> None:
    """Paint the gallbladder under the liver, partly in it."""
    size = at(13, 14, 26) * scene.rng.uniform(0.8, 1.2)
    level = ellipsoid(scene.points, scene.around(at(-48, -48, 4), 6), size, rotation(0, 25))
    room = scene.free(cavity) | (scene.has("liver") & cavity)
    scene.paint("gallbladder", WALL_HU, (level < 1.15) & room)
    scene.paint("gallbladder", draw_fluid_hu(scene.rng), (level < 1) & room)


def add_stomach(scene: Scene, cavity: Mask) -> None:
    """Paint the stomach: wall, fluid or chyme, and gas in front."""
    level = ellipsoid(scene.points, scene.around(at(48, -38, 84), 6), at(44, 30, 46), rotation(2, 30))
    room = scene.free(cavity)
    scene.paint("stomach", WALL_HU, (level < 1) & room)
    inside = (level < 0.84) & (depth_mm(room, scene.frame) > 4)
    scene.paint("stomach", scene.rng.uniform(0, 45), inside)
    scene.paint("stomach", -900, inside & (scene.points[1] < scene.rng.uniform(-62, -45)))


def add_pancreas(scene: Scene, cavity: Mask) -> None:
    """Paint the pancreas from the duodenum to the spleen, in front of the great vessels."""
    course = [scene.around(point, 4) for point in (at(-38, -8, 14), at(-5, -14, 26), at(30, -10, 38), at(66, 2, 50))]
    for start, end in pairwise(course):
        window, mask = tube(scene.frame, start, end, 13)
        scene.paint("pancreas", 92, mask & scene.free(cavity)[window], window=window, grain_hu=10)
