"""Bowel of the phantom: loops, the colon, and single fluid-filled loops in the fat next to the kidneys.

This is where most fluid that is no cyst lies. Its balls have the radius and intensity of a cyst (`scene.py`).
"""

from itertools import pairwise

import numpy as np

from backsplit.arrays import Mask
from backsplit.datasets.phantom.scene import GAP_MM, WALL_HU, Scene, add_fluid, draw_radius_mm, pick
from backsplit.datasets.phantom.shapes import REFERENCE_MM, Field, Point, at, depth_mm, tube

WALL_MM, NARROWEST_MM = 4.0, 6.0
"""Thickness of a filled loop's wall, and radius of its thinnest content; a thinner loop is drawn collapsed."""
COLON = (
    (at(-98, 2, -140), at(-98, 4, -105), at(-98, 6, -70), at(-96, 4, -35)),
    (at(-70, -55, -30), at(-25, -68, -38), at(25, -68, -30), at(70, -58, -15)),
    (at(102, 2, 15), at(102, 8, -25), at(100, 8, -65), at(96, 6, -105), at(90, 4, -140)),
)


def add_bowel(scene: Scene, cavity: Mask) -> None:
    """Fill the cavity: single loops near the kidneys and in the mesentery, the colon, then as many loops as fit."""
    _add_single_loops(scene, cavity)
    room_mm = depth_mm(scene.free(cavity), scene.frame)
    for course in COLON:
        _add_loop(scene, room_mm, [scene.around(point, 5) for point in course], thickness_mm=14)
    for _ in range(3):
        room_mm = depth_mm(scene.free(cavity), scene.frame)
        for _ in range(3):
            start = pick((room_mm > 14) & (scene.points[2] < 60), scene)
            if start is not None:
                _add_loop(scene, room_mm, _wander(scene, room_mm, start), thickness_mm=9)


def _add_single_loops(scene: Scene, cavity: Mask) -> None:
    """Paint fluid balls in fat, one to three near kidneys and one to three anywhere; their wall is too thin to see."""
    beyond_gap_mm = depth_mm(~scene.has("kidney"), scene.frame) - GAP_MM
    room = scene.free(cavity)
    room_mm = depth_mm(room, scene.frame)
    reaches_mm = [18.0] * int(scene.rng.integers(1, 4)) + [REFERENCE_MM] * int(scene.rng.integers(1, 4))
    for reach_mm in reaches_mm:
        radius_mm = draw_radius_mm(scene.rng)
        centre = pick((room_mm > radius_mm) & (beyond_gap_mm < radius_mm + reach_mm), scene)
        if centre is not None:
            add_fluid(scene, "bowel", centre, radius_mm, within=room)
            room_mm = np.minimum(room_mm, scene.frame.distances_mm(centre) - radius_mm)


def _wander(scene: Scene, room_mm: Field, start: Point) -> list[Point]:
    """Points of a loop, 22 mm apart, that turn at random and stay where there is room."""
    course, heading = [start], scene.rng.normal(size=3)
    for _ in range(24):
        heading = heading / np.linalg.norm(heading)
        turned = heading + scene.rng.normal(scale=0.55, size=3)
        ahead = course[-1] + 22 * turned / np.linalg.norm(turned)
        is_free = room_mm[scene.frame.index(ahead)] > 10
        heading = turned if is_free else scene.rng.normal(size=3)
        course += [ahead] * bool(is_free)
        if len(course) == 8:
            break
    return course


def _add_loop(scene: Scene, room_mm: Field, course: list[Point], *, thickness_mm: float) -> None:
    """Paint collapsed bowel along a course and, at its points, balls of content in a wall, where they fit."""
    room = room_mm > 0
    widest_mm = [float(room_mm[scene.frame.index(point)]) - WALL_MM for point in course]
    radii_mm = [min(draw_radius_mm(scene.rng), widest) for widest in widest_mm]
    contents = [(point, radius) for point, radius in zip(course, radii_mm, strict=True) if radius >= NARROWEST_MM]
    collapsed = [(start, end, thickness_mm) for start, end in pairwise(course)]
    for start, end, outer_mm in [*collapsed, *((point, point, radius + WALL_MM) for point, radius in contents)]:
        window, mask = tube(scene.frame, start, end, outer_mm)
        scene.paint("bowel", WALL_HU, mask & room[window], window=window, grain_hu=6)
    for point, radius_mm in contents:
        _add_content(scene, point, radius_mm, within=room)


def _add_content(scene: Scene, point: Point, radius_mm: float, *, within: Mask) -> None:
    """Paint a ball inside a loop: one in two fluid, else chyme or gas."""
    kind = scene.rng.choice(["fluid", "chyme", "gas"], p=[0.5, 0.3, 0.2])
    if kind == "fluid":
        add_fluid(scene, "bowel", point, radius_mm, within=within)
        return
    window, ball = tube(scene.frame, point, point, radius_mm)
    scene.paint("bowel", 35 if kind == "chyme" else -850, ball & within[window], window=window, grain_hu=10)
