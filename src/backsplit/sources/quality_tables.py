"""Tables of the quality of a mask set: flags of implausible masks, and how lesions fit into organs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

FEW_COMPONENTS = 3
LARGEST_SHARE = 0.9
NUM_DEVIATIONS = 3
FEWEST_VOLUMES = 5
MAD_TO_SD = 1.4826
"""Of a normal distribution."""
_MEASURES = ("voxels", "volume_ml", "components", "largest_share")
_COLUMNS = ("case", "structure", *_MEASURES, "empty", "fragments", "border", "volume")
_LESION_COLUMNS = (
    *("case", "label", "structure", "label_voxels", "overlap_voxels", "touching_voxels", "share_outside_filled"),
    "is_home",
)


def quality_table(records: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """What each mask is like, and what about it is implausible.

    Args:
        records: by case, as `backsplit.sources.annotation.records_of` gives them.

    Returns:
        One row per case and structure that the case is annotated for: `voxels`, `volume_ml`, `components`
        (26-connected), `largest_share` (NaN where there is no voxel), and the flags `empty`; `fragments` (more than 3
        components, the largest with less than 0.9 of the voxels); `border` (a voxel on a face of the image: the image
        may cut the structure off); `volume` (outside of median +- 3 * 1.4826 * MAD of the logarithm of the structure's
        volume, over the masks of the cohort that have a voxel; there must be at least 5 of them, and a MAD above 0).
    """
    rows = [
        {"case": case, "structure": name, **record["quality"]["structures"][name]}
        for case, record in records.items()
        for name in record["annotated"]
    ]
    table = pd.DataFrame(rows, columns=["case", "structure", *_MEASURES, "touches_border"])
    table["largest_share"] = table["largest_share"].astype(float)
    table["empty"] = table["voxels"] == 0
    table["fragments"] = (table["components"] > FEW_COMPONENTS) & (table["largest_share"] < LARGEST_SHARE)
    table["border"] = table["touches_border"].astype(bool)
    table["volume"] = _is_unusual(table)
    return table[list(_COLUMNS)]


def lesion_table(records: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """How the classes of the label maps lie in the masks: organ models leave holes where lesions are.

    Args:
        records: by case, as `backsplit.sources.annotation.records_of` gives them.

    Returns:
        One row per case, class of its label map that has voxels (`label`) and structure that overlaps or touches it:
        `label_voxels`, `overlap_voxels`, `touching_voxels` (of the structure, beside the class), `share_outside_filled`
        (of the class's voxels, outside the structure with its holes filled), `is_home` (the structure with the most
        overlapping and touching voxels, the first of equals). A class without such a structure has one row with an
        empty `structure`, no overlap and a share of 1.
    """
    nothing = {"": {"overlap_voxels": 0, "touching_voxels": 0, "share_outside_filled": 1.0}}
    rows = []
    for case, record in records.items():
        for label, found in record["quality"]["classes"].items():
            at_it = found["structures"] or nothing
            home = max(at_it, key=lambda name: at_it[name]["overlap_voxels"] + at_it[name]["touching_voxels"])
            rows += [
                {"case": case, "label": label, "structure": name, "label_voxels": found["voxels"], **numbers}
                | {"is_home": name == home != ""}
                for name, numbers in at_it.items()
            ]
    return pd.DataFrame(rows, columns=list(_LESION_COLUMNS))


def summarise_quality(quality: pd.DataFrame, lesions: pd.DataFrame) -> pd.DataFrame:
    """Sum up both tables by structure.

    Args:
        quality: of `quality_table`.
        lesions: of `lesion_table`.

    Returns:
        `structure` in order of appearance, `num_cases`, `median_volume_ml` of the masks that have a voxel, how many
        masks have each flag, and `overlap_voxels`, summed over the classes of the label maps: what a target takes from
        the structure, if it is one of them.
    """
    groups = quality.groupby("structure", sort=False)
    volumes = quality.loc[quality["voxels"] > 0].groupby("structure")["volume_ml"].median()
    flags = {f"num_{flag}": groups[flag].sum().astype(int) for flag in ("empty", "fragments", "border", "volume")}
    overlap = lesions.groupby("structure")["overlap_voxels"].sum().astype(int)
    table = pd.DataFrame({"num_cases": groups.size(), "median_volume_ml": volumes, **flags})
    table = table.reindex(quality["structure"].unique())
    return table.assign(overlap_voxels=overlap.reindex(table.index, fill_value=0)).reset_index(names="structure")


def _is_unusual(table: pd.DataFrame) -> pd.Series:
    logs = np.log(table["volume_ml"].astype(float).where(table["voxels"] > 0))
    by_structure = logs.groupby(table["structure"])
    deviations = (logs - by_structure.transform("median")).abs()
    mads = deviations.groupby(table["structure"]).transform("median")
    is_known = (by_structure.transform("count") >= FEWEST_VOLUMES) & (mads > 0)
    return is_known & (deviations > NUM_DEVIATIONS * MAD_TO_SD * mads)
