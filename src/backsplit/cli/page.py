"""What a workspace says about itself on its page."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backsplit.errors import ConfigurationError
from backsplit.experiments.paths import Workspace

if TYPE_CHECKING:
    from backsplit.report import ReportInputs

BASELINE_COLUMN = "baseline"


def inputs_of(workspace: Workspace) -> "ReportInputs":
    """Gather tables, logs and folders of a workspace.

    Raises:
        ConfigurationError: something has not been evaluated or compared yet.
    """
    import pandas as pd

    from backsplit.evaluation import read_scores, read_table
    from backsplit.experiments.study import evaluated_cohort, evaluated_policy, models_of_predictions
    from backsplit.nnunet.prediction import read_plans
    from backsplit.report import ReportInputs

    policy, cohort = evaluated_policy(workspace), evaluated_cohort(workspace)
    if not workspace.comparison.exists():
        raise ConfigurationError(f"no comparison in {workspace.root}; run `backsplit compare` first")
    comparison = read_table(workspace.comparison)
    models = models_of_predictions(workspace)
    baseline = str(comparison[BASELINE_COLUMN].iloc[0])
    return ReportInputs(
        title=cohort.name,
        scores=read_scores(workspace.scores),
        summary=read_table(workspace.summary),
        comparison=comparison,
        policy=policy.describe(),
        curves={arm: pd.read_csv(log) for arm, model in models.items() for log in _logs(model)},
        cohort=cohort,
        prediction_folders={arm: workspace.predictions_of(arm) for arm in models},
        baseline=baseline,
        facts=_facts(read_plans(models[baseline])),
    )


def _logs(model: Path) -> list[Path]:
    return sorted(model.glob("fold_*/progress.csv"))[:1]


def _facts(plans: dict[str, Any]) -> dict[str, str]:
    block, (configuration,) = plans["backsplit"], plans["configurations"].values()
    budget = block["budget"]
    packages = ("backsplit", "nnunetv2", "torch", "numpy")
    return {
        "Budget of each arm": f"{budget['epochs']} epochs of {budget['iterations']} iterations, seed {block['seed']}",
        "Network": f"{block['network']}, {_widths(configuration['architecture']['arch_kwargs'])}",
        "Patch": f"{'x'.join(map(str, configuration['patch_size']))} voxels, batch {configuration['batch_size']}",
        "Forced-foreground patches": f"centred on: {block['sampling']}",
        "Preprocessed data": f"{block['data']}, shared by all arms",
        "Versions": ", ".join(f"{package} {version(package)}" for package in packages),
        "Machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


def _widths(arguments: dict[str, Any]) -> str:
    """Channels per stage of a U-Net, or of the first stage of a network of MONAI."""
    if "features_per_stage" in arguments:
        return f"features {'-'.join(map(str, arguments['features_per_stage']))}"
    return f"features {arguments.get('init_filters', arguments.get('feature_size'))}"
