"""What a workspace says about itself on its page."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backsplit.errors import BackSplitError, ConfigurationError
from backsplit.experiments.paths import Workspace
from backsplit.files import stamps

if TYPE_CHECKING:
    from backsplit.evaluation import Scoring
    from backsplit.report import ReportInputs

logger = logging.getLogger(__name__)
BASELINE_COLUMN = "baseline"
UNRECORDED = "not recorded"


def inputs_of(workspace: Workspace) -> "ReportInputs":
    """Gather tables, logs and folders of a workspace.

    Raises:
        ConfigurationError: something has not been evaluated or compared yet.
    """
    import pandas as pd

    from backsplit.evaluation import read_scores, read_table
    from backsplit.experiments.study import (
        evaluated_cohort,
        evaluated_policy,
        evaluated_scoring,
        predicted_arms,
    )
    from backsplit.nnunet.prediction import read_plans
    from backsplit.nnunet.runrecord import read_run_record
    from backsplit.report import ReportInputs

    policy, cohort = evaluated_policy(workspace), evaluated_cohort(workspace)
    if not workspace.comparison.exists():
        raise ConfigurationError(f"no comparison in {workspace.root}; run `backsplit compare` first")
    comparison = read_table(workspace.comparison)
    predictions = predicted_arms(workspace)
    folds = {arm: fold for arm, told in predictions.items() for fold in _folds(Path(told["model"]))[:1]}
    records = {arm: read_run_record(fold) for arm, fold in folds.items()}
    baseline = str(comparison[BASELINE_COLUMN].iloc[0])
    plans = {arm: read_plans(Path(told["model"])) for arm, told in predictions.items()}
    scoring = evaluated_scoring(workspace)
    return ReportInputs(
        title=cohort.name,
        scores=read_scores(workspace.scores),
        summary=read_table(workspace.summary),
        comparison=comparison,
        policy=policy.describe(),
        curves={arm: pd.read_csv(fold / "progress.csv") for arm, fold in folds.items()},
        cohort=cohort,
        prediction_folders={arm: workspace.predictions_of(arm) for arm in predictions},
        baseline=baseline,
        lesions=read_table(workspace.lesions),
        scoring=scoring,
        study=_study(plans[baseline]),
        parameters={arm: record["parameters"] for arm, record in records.items() if record},
        provenance={
            **{f"Training of {arm}": _training(plans[arm], records.get(arm, {})) for arm in predictions},
            "Prediction and scores": _scoring(predictions[baseline], scoring, policy.describe()),
            "Files": _hashes((workspace.scores, workspace.lesions, workspace.comparison)),
        },
    )


class Rebuilding:
    """Writes the report of a workspace again where what it is made of has changed."""

    def __init__(self, workspace: Workspace, num_processes: int) -> None:
        self.workspace = workspace
        self.num_processes = num_processes
        self.build = ""

    def rebuild(self) -> str:
        """Write the report if need be; return what tells this build from others.

        A workspace without a comparison, or one that is being written just now, gets a page that says how far it is.
        """
        from backsplit.report import write, write_waiting

        made_of = self._inputs()
        build = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
        if build == self.build:
            return build
        try:
            write(inputs_of(self.workspace), self.workspace.report, num_processes=self.num_processes)
        except BackSplitError as error:
            logger.info("no report yet: %s", error)
            write_waiting(str(error), self._trainings(), self.workspace.report)
        self.build = build
        return build

    def _inputs(self) -> list[str]:
        workspace = self.workspace
        tables = (workspace.study, workspace.scores, workspace.lesions, workspace.summary, workspace.comparison)
        manifests = workspace.predictions.glob("*/predictions.json")
        return stamps([*tables, *sorted(manifests), *self._logs()])

    def _logs(self) -> list[Path]:
        return sorted(self.workspace.results.glob("*/*/fold_*/progress.csv"))

    def _trainings(self) -> list[tuple[str, str]]:
        from backsplit.nnunet.history import read_history

        told = []
        for log in self._logs():
            arm, rows = log.parents[1].name.split("__")[1], read_history(log)
            state = f"{len(rows)} epochs, pseudo-Dice of the target {rows[-1]['pseudo_dice_target']:.3f}"
            told.append((f"{arm}, {log.parent.name.replace('_', ' ')}", state))
        return told


def _folds(model: Path) -> list[Path]:
    return sorted(log.parent for log in model.glob("fold_*/progress.csv"))


def _study(plans: Mapping[str, Any]) -> dict[str, str]:
    """What all arms share."""
    block, (configuration,) = plans["backsplit"], plans["configurations"].values()
    budget = block["budget"]
    patch = "x".join(map(str, configuration["patch_size"]))
    return {
        "Budget of each arm": f"{budget['epochs']} epochs of {budget['iterations']} iterations, seed {block['seed']}",
        "Network": f"{block['network']}, {_widths(configuration['architecture']['arch_kwargs'])}",
        "Patch": f"{patch} voxels, batch {configuration['batch_size']}",
    }


def _training(plans: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, str]:
    from backsplit.report.wording import count

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


def _scoring(manifest: Mapping[str, Any], scoring: "Scoring", policy: str) -> dict[str, str]:
    from backsplit.report.wording import count

    volume = f" and {scoring.min_lesion_mm3:g} mm3" if scoring.min_lesion_mm3 else ""
    return {
        "Mirroring": "yes" if manifest["mirroring"] else "no",
        "Step between tiles": f"{manifest['step_size']:g} of the patch",
        "Rule": manifest["rule"],
        "NSD tolerance": ", ".join(f"{tolerance:g} mm" for tolerance in scoring.tolerances_mm),
        "Smallest lesion": f"{count(scoring.min_lesion_voxels, 'voxel')}{volume}, 26 neighbours",
        "Undefined scores": policy,
    }


def _hashes(paths: tuple[Path, ...]) -> dict[str, str]:
    return {path.name: f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths}


def _widths(arguments: Mapping[str, Any]) -> str:
    """Channels per stage of a U-Net, or of the first stage of a network of MONAI."""
    if "features_per_stage" in arguments:
        return f"features {'-'.join(map(str, arguments['features_per_stage']))}"
    return f"features {arguments.get('init_filters', arguments.get('feature_size'))}"
