"""What scoring auxiliary classes by the heuristics costs, against reading the label maps that it is about.

Run:  OMP_NUM_THREADS=1 python benchmarks/selection_cost.py KITS23_LABELS

Cysts of KiTS23 as target; kidney and tumor as candidates. Each label map is read, then scored; seconds over all.
"""

import sys
import time
from pathlib import Path

import numpy as np

from backsplit.labels import LabelScheme
from backsplit.selection import gather
from backsplit.volume import Volume, read_labels

SCHEME = LabelScheme(("cyst",), ("kidney", "tumor"))
FINE_OF_KITS = np.array([0, 2, 3, 1], np.uint8)
"""KiTS23 has kidney 1, tumor 2, cyst 3."""


def main(folder: Path) -> None:
    """Read and score all, print both and the ratio."""
    reading = scoring = 0.0
    files = sorted(folder.glob("*.nii.gz"))
    for path in files:
        start = time.perf_counter()
        volume = read_labels(path)
        reading += time.perf_counter() - start
        fine = Volume(FINE_OF_KITS[volume.voxels], volume.grid)
        start = time.perf_counter()
        gather(fine, SCHEME)
        scoring += time.perf_counter() - start
    print(f"{len(files)} label maps: read in {reading:.1f} s, scored in {scoring:.1f} s")
    print(f"reading and scoring take {(reading + scoring) / reading:.2f} times what reading takes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
