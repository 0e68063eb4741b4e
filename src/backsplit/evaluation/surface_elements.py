"""The surface of a mask as elements: one per corner point of the voxel grid at which inside meets outside.

Around each corner point lie eight voxels; which of them are inside is one of 256 codes, and the code says which area
of surface passes through. Codes are found on the grid shifted by half a voxel, so a mask of shape `x y z` has
`x+1 y+1 z+1` corner points and what lies beyond the image counts as outside.
"""

from functools import cache, lru_cache

import numpy as np
from jaxtyping import Float, UInt8
from skimage.measure import marching_cubes

from backsplit.arrays import Mask, Spacing

FULL = 255
"""Code of a corner point whose eight voxels are all inside; 0 has none. All others are surface elements."""


def neighbour_codes(mask: Mask) -> UInt8[np.ndarray, "corners_x corners_y corners_z"]:
    """Code of every corner point: voxel `(i, j, k)` of its 2x2x2 neighbourhood sets bit `4i + 2j + k`.

    One axis after the other doubles the bits, in place; the result lies in memory as the mask does, and has one more
    plane at the end of each axis, all 0.
    """
    order = "F" if mask.strides[0] < mask.strides[2] else "C"
    codes = np.zeros([length + 2 for length in mask.shape], dtype=np.uint8, order=order)
    codes[1:-1, 1:-1, 1:-1] = mask
    codes[:-1] |= codes[1:] << 4
    codes[:, :-1] |= codes[:, 1:] << 2
    codes[:, :, :-1] |= codes[:, :, 1:] << 1
    return codes


@lru_cache(maxsize=64)
def element_areas_mm2(spacing_mm: Spacing) -> Float[np.ndarray, "256"]:
    r"""Area of the surface element of each code.

    A triangle with area vector $n$ in voxel units has, for voxels of $a \times b \times c$ mm, the area
    $\lVert (n_x bc, n_y ac, n_z ab) \rVert$; an element is the sum of its triangles.
    """
    face_areas_mm2 = np.prod(spacing_mm) / np.asarray(spacing_mm)
    areas = [np.linalg.norm(vectors * face_areas_mm2, axis=1) for vectors in _area_vectors()]
    table = np.array([np.sort(of_triangles).sum() for of_triangles in areas])
    table.setflags(write=False)  # shared by all callers
    return table


@cache
def _area_vectors() -> tuple[Float[np.ndarray, "triangles 3"], ...]:
    """For each code, half the cross product of two sides of each triangle, in voxel units.

    The iso-surface at 1/2 of the 2x2x2 cube. Ambiguous cubes follow the complementary symmetry of the original 15
    cases: a cube with more than four voxels inside has the surface of its complement, and voxels that only touch
    along an edge or at a corner are cut off one by one.

    Source:
        Lorensen and Cline, Marching cubes, SIGGRAPH 1987, doi 10.1145/37401.37422.
    """
    nothing = np.zeros((0, 3))
    return (nothing, *(_area_vectors_of(code) for code in range(1, FULL)), nothing)


def _area_vectors_of(code: int) -> Float[np.ndarray, "triangles 3"]:
    seldom = code if code.bit_count() <= 4 else FULL - code
    cube = np.array([seldom >> bit & 1 for bit in range(8)], dtype=np.float32).reshape(2, 2, 2)
    points, triangles, *_ = marching_cubes(cube, level=0.5, method="lorensen")
    corners = (np.round(2.0 * points.astype(np.float64)) / 2)[triangles]  # points lie at the middle of cube edges
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
