"""Which rule for empty masks can have produced the paper's scores of KiTS23 cysts? Bounds, not a reconstruction.

Run:  python benchmarks/empty_policies.py KITS23_LABELS docs/empty-policies.md

KITS23_LABELS holds label maps of KiTS23 (a sample; their headers give the diagonals of the images).
"""

import math
import sys
from pathlib import Path

import numpy as np

from backsplit.evaluation.empty import BRATS_PENALTY_MM
from backsplit.evaluation.layout import paper_numbers
from backsplit.files import write_text
from backsplit.volume import read_grid

NUM_SCANS, NUM_WITH_CYST = 489, 248
DETECTED_HD95_MM = 100.0
"""Generous for a cyst that was found, false alarms elsewhere in the abdomen included."""


def printed(arm: str) -> dict[str, float]:
    """Dice, HD95 and NSD of the U-Net on KiTS23 cysts."""
    table = paper_numbers(1)
    rows = table[(table["data_set"] == "KiTS23") & (table["network"] == "unet") & (table["arm"] == arm)]
    return dict(zip(rows["metric"], rows["value"], strict=True))


TEXT = """# Which rule for empty masks can have produced the paper's numbers?

Written by `benchmarks/empty_policies.py`. The paper's Table 1 has, for KiTS23 cysts and the U-Net:

| arm | Dice | HD95 mm | NSD |
| --- | --- | --- | --- |
| binary | {dice:.3f} | {hd95:.1f} | {nsd:.3f} |
| BackSplit | {split_dice:.3f} | {split_hd95:.1f} | {split_nsd:.3f} |

It does not say what an empty mask scores. KiTS23 has {num_scans} scans, of which {num_with} have a cyst; {num_without}
have none. Diagonals of the images: {diagonal:.0f} mm in the mean, {low:.0f} to {high:.0f} ({num_sample} scans).

- **Both empty is perfect (Dice 1), over all scans.** The scans without a cyst alone would give a mean Dice of
  {perfect:.3f} if nothing were predicted in them. A mean of {dice:.3f} then needs false alarms in at least
  {false_alarms} of the {num_without}, even if every cyst were missed; BackSplit's needs {split_false_alarms}. Only a
  network that sees a cyst in most healthy kidneys scores so.
- **`challenge-brats` (374 mm where one is empty).** The mean of the binary arm is above the penalty, so scans with both
  masks would have to lie above it too, on average: implausible in an abdomen.
- **`undefined` and `nnunet` (left out).** HD95 is then a mean over scans in which a cyst was both there and predicted.
  {hd95:.1f} mm is {share:.0%} of the image diagonal: implausible as well, false alarms far away included.
- **`penalty` (the image diagonal), both empty left out.** With {detected:.0f} mm where both masks have voxels (a
  generous guess) the binary mean needs the penalty in {penalised:.0%} of the scored scans, BackSplit's in
  {split_penalised:.0%}.
  The binary arm's Dice is {dice:.3f} then if it reaches {needed_dice:.2f} on the others. This rule, or another penalty
  of that size, fits all three numbers.
- **NSD above Dice** for BackSplit is what a tolerance of a few mm gives for small lesions; it is not stated either.

So the printed HD95 seems to be mostly a count of missed cysts and false alarms, in mm. Tables of this package name
their rule and count what was undefined.
"""


def main(labels: Path, path: Path) -> None:
    """Compute the bounds, then write."""
    binary, split = printed("binary"), printed("backsplit")
    grids = [read_grid(each) for each in sorted(labels.glob("*.nii.gz"))]
    diagonals = np.array([math.hypot(*np.multiply(grid.shape, grid.spacing_mm)) for grid in grids])
    num_without = NUM_SCANS - NUM_WITH_CYST
    penalised, split_penalised = (
        (arm["hd95_mm"] - DETECTED_HD95_MM) / (diagonals.mean() - DETECTED_HD95_MM) for arm in (binary, split)
    )
    numbers = {
        "dice": binary["dice"],
        "hd95": binary["hd95_mm"],
        "nsd": binary["nsd"],
        "split_dice": split["dice"],
        "split_hd95": split["hd95_mm"],
        "split_nsd": split["nsd"],
        "num_scans": NUM_SCANS,
        "num_with": NUM_WITH_CYST,
        "num_without": num_without,
        "diagonal": diagonals.mean(),
        "low": diagonals.min(),
        "high": diagonals.max(),
        "num_sample": len(diagonals),
        "perfect": num_without / NUM_SCANS,
        "false_alarms": math.ceil(num_without - binary["dice"] * NUM_SCANS),
        "split_false_alarms": max(0, math.ceil(num_without - split["dice"] * NUM_SCANS)),
        "brats": BRATS_PENALTY_MM,
        "share": binary["hd95_mm"] / diagonals.mean(),
        "detected": DETECTED_HD95_MM,
        "penalised": penalised,
        "split_penalised": split_penalised,
        "needed_dice": binary["dice"] / (1 - penalised),
    }
    write_text(TEXT.format(**numbers), path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
