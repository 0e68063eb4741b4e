"""Where a baseline raises false alarms: predicted lesions that share no voxel with a target."""

import cc3d
import numpy as np
from jaxtyping import Float
from scipy import ndimage

from backsplit.arrays import LabelMap, Mask

TOUCHING = np.ones((3, 3, 3), dtype=bool)


def false_alarms(labels: LabelMap, predicted: Mask, *, num_targets: int, num_fine: int) -> Float[np.ndarray, " fine"]:
    """Voxels of the false alarms of a case, by the class that they lie in or touch.

    A false alarm is a 26-connected component of the prediction without a voxel of a target; too large an outline of a
    true lesion is none. Its voxels are divided among the auxiliary classes inside it and in the layer of voxels around
    it, in proportion to their voxels there: fluid that is mistaken for a lesion is often found beside its organ's wall,
    not in it. Where there is none, background has them.

    Args:
        labels: fine label map, values below `num_fine`, targets from 1 on.
        predicted: mask of all targets.
        num_targets: T.
        num_fine: number of fine classes.
    """
    found = np.zeros(num_fine)
    parts = cc3d.connected_components(
        np.asfortranarray(predicted), connectivity=26
    )  # cc3d 3.29 misreads views with gaps
    true = np.unique(parts[(labels > 0) & (labels <= num_targets)])
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        if number in true:
            continue
        wide = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        alarm = parts[wide] == number
        near = np.bincount(labels[wide][ndimage.binary_dilation(alarm, TOUCHING)], minlength=num_fine)
        near[: num_targets + 1] = 0
        near[0] = not near.any()
        found += alarm.sum() * near / near.sum()
    return found
