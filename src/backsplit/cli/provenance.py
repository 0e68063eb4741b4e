"""How a study was made, as facts for its page."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backsplit.report.wording import count

if TYPE_CHECKING:
    from backsplit.evaluation import Scoring

UNRECORDED = "not recorded"


def study_facts(plans: Mapping[str, Any]) -> dict[str, str]:
    """What all arms share."""
    block, (configuration,) = plans["backsplit"], plans["configurations"].values()
    budget = block["budget"]
    patch = "x".join(map(str, configuration["patch_size"]))
    return {
        "Budget of each arm": f"{budget['epochs']} epochs of {budget['iterations']} iterations, seed {block['seed']}",
        "Network": f"{block['network']}, {_widths(configuration['architecture']['arch_kwargs'])}",
        "Patch": f"{patch} voxels, batch {configuration['batch_size']}",
    }


def training_facts(plans: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, str]:
    """How one arm was trained; what was not recorded is said so."""
    block = plans["backsplit"]
    versions = record.get("versions", {})
    optimisation = block["optimisation"]
    return {
        "Command": record.get("command", UNRECORDED),
        "Seed": str(block["seed"]),
        "Loss": block["loss"],
        "Optimiser": f"{optimisation['name']}, learning rate {optimisation['learning_rate']:g}",
        "Patches centred on": block["sampling"],
        "Preprocessed data": block["data"],
        "Folds": block["splits"],
        "Device": f"{record['device']}, {count(record['threads'], 'thread')}" if record else UNRECORDED,
        "Machine": record.get("machine", UNRECORDED),
        "Versions": ", ".join(f"{name} {number}" for name, number in versions.items()) or UNRECORDED,
    }


def scoring_facts(manifest: Mapping[str, Any], scoring: "Scoring", policy: str) -> dict[str, str]:
    """How the masks were made and scored."""
    volume = f" and {scoring.min_lesion_mm3:g} mm3" if scoring.min_lesion_mm3 else ""
    return {
        "Mirroring": "yes" if manifest["mirroring"] else "no",
        "Step between tiles": f"{manifest['step_size']:g} of the patch",
        "Rule": manifest["rule"],
        "NSD tolerance": ", ".join(f"{tolerance:g} mm" for tolerance in scoring.tolerances_mm),
        "Smallest lesion": f"{count(scoring.min_lesion_voxels, 'voxel')}{volume}, 26 neighbours",
        "Undefined scores": policy,
    }


def hashes(paths: tuple[Path, ...]) -> dict[str, str]:
    """Content of files, by name."""
    return {path.name: f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths}


def _widths(arguments: Mapping[str, Any]) -> str:
    """Channels per stage of a U-Net, or of the first stage of a network of MONAI."""
    if "features_per_stage" in arguments:
        return f"features {'-'.join(map(str, arguments['features_per_stage']))}"
    return f"features {arguments.get('init_filters', arguments.get('feature_size'))}"
