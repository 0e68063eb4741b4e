"""Shape aliases, and with them the axis order, said once.

Arrays of a volume are indexed `[x, y, z]`: the first index runs along the first axis of the file, as in nibabel, and
`spacing_mm` has the same order. nnU-Net's arrays are `[channel, z, y, x]`; only `backsplit.nnunet` sees those.
"""

import numpy as np
from jaxtyping import Bool, Float, Integer, Num

Voxels = Num[np.ndarray, "x y z"]
LabelMap = Integer[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]
Probabilities = Float[np.ndarray, "fine ..."]

Spacing = tuple[float, float, float]
"""Edge lengths of a voxel in mm, in the order of the array axes."""
