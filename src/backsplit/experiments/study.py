"""What is done to a workspace as a whole: which data set it holds, whose predictions are scored, which arms meet."""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from backsplit import cases
from backsplit.cases import Case, Cohort
from backsplit.composition import compose
from backsplit.datasets.nnunet import images_in
from backsplit.errors import ConfigurationError, ParityError
from backsplit.evaluation import (
    EmptyPolicy,
    Scoring,
    compare_by,
    policy_named,
    read_scores,
    write_table,
)
from backsplit.evaluation import compare as compare_scores
from backsplit.experiments.paths import Workspace
from backsplit.files import write_json
from backsplit.labels import LabelScheme
from backsplit.nnunet.arms import check_parity
from backsplit.nnunet.dataset import scheme_of
from backsplit.nnunet.folders import Folders
from backsplit.nnunet.prediction import read_plans, read_predictions
from backsplit.nnunet.training import find_model


def nnunet_folders(workspace: Workspace) -> Folders:
    """nnU-Net's folders inside a workspace, put in force for this process; variables of the user win."""
    root = Workspace(workspace.root.resolve())
    return Folders(root.raw, root.preprocessed, root.results).activate()


def compose_targets(workspace: Workspace, manifest: Path) -> Path:
    """Write label maps of the targets alone, and return their manifest.

    The cohort gets a name of its own, so that both can be data sets in the same nnU-Net folders.

    Args:
        workspace: where they go.
        manifest: of a composed cohort.

    Raises:
        CohortError: the cohort is not composed, or has no case.
    """
    cohort = cases.read(manifest)
    scheme = LabelScheme(scheme_of(cohort).targets)
    compose(replace(cohort, name=f"{cohort.name}-targets"), scheme=scheme, folder=workspace.target_cohort)
    return workspace.target_cohort / cases.MANIFEST_NAME


def remember_preparation(workspace: Workspace, dataset: str, manifest: Path, *, shared: str | None = None) -> None:
    """Note which nnU-Net data set this workspace trains on, and which cohort it came from.

    Args:
        workspace: where it is noted.
        dataset: nnU-Net's name.
        manifest: of the cohort.
        shared: for a stock data set, content address of the data that it is the stock of.
    """
    noted = {"dataset": dataset, "cohort": str(manifest.resolve()), "shared": shared}
    write_json({key: value for key, value in noted.items() if value is not None}, workspace.preparation)


def prepared_dataset(workspace: Workspace) -> tuple[str, Path]:
    """The nnU-Net data set of the workspace, and the cohort it came from.

    Raises:
        ConfigurationError: nothing has been prepared here.
    """
    if not workspace.preparation.exists():
        raise ConfigurationError(f"nothing is prepared in {workspace.root}; run `backsplit prepare` first")
    noted = json.loads(workspace.preparation.read_text())
    return noted["dataset"], Path(noted["cohort"])


def model_of(folders: Folders, workspace: Workspace, name: str) -> Path:
    """The folder of a model: the name is an arm of the workspace, or the folder itself."""
    if (Path(name) / "plans.json").exists():
        return Path(name)
    dataset, _ = prepared_dataset(workspace)
    return find_model(folders, dataset, name)


def held_out_cases(folders: Folders, workspace: Workspace, fold: int | str) -> tuple[tuple[Case, ...], Path]:
    """The cases that the training of a fold left out, and the manifest they come from.

    Raises:
        ConfigurationError: no such fold.
    """
    dataset, manifest = prepared_dataset(workspace)
    splits = json.loads((folders.preprocessed / dataset / "splits_final.json").read_text())
    if not isinstance(fold, int) or not 0 <= fold < len(splits):
        raise ConfigurationError(f"fold {fold} does not exist; {dataset} has folds 0 to {len(splits) - 1}")
    cohort = cases.read(manifest)
    return tuple(cohort.case(name) for name in splits[fold]["val"]), manifest


def input_cases(source: Path) -> tuple[Case, ...]:
    """Cases of a cohort, or of a folder of images named as nnU-Net names them."""
    if source.is_file() or (source / cases.MANIFEST_NAME).exists():
        return cases.read(source).cases
    return images_in(source)


def compare(workspace: Workspace, *, baseline: str, without: Collection[str] = ()) -> pd.DataFrame:
    """Compare all arms with the baseline, case by case; write `breakdown.csv` and `comparison.csv`, return the latter.

    Args:
        workspace: with predictions and scores.
        baseline: arm that the others are compared with.
        without: arms to leave out, because they are unequal by design.

    Raises:
        ParityError: arms that were trained or predicted under unequal conditions, or scored on different cases.
        ConfigurationError: nothing evaluated, or no such baseline.
    """
    manifests = {arm: manifest for arm, manifest in predicted_arms(workspace).items() if arm not in without}
    if baseline not in manifests:
        raise ConfigurationError(
            f"no arm {baseline!r} to compare with; predicted arms are {', '.join(manifests) or 'none'}"
        )
    plans = {arm: read_plans(Path(manifest["model"])) for arm, manifest in manifests.items()}
    for arm in manifests:
        check_parity(plans[baseline], plans[arm])
    check_prediction(manifests)
    scores = read_scores(workspace.scores)
    scores = scores[~scores["arm"].isin(list(without))]
    policy = evaluated_policy(workspace)
    table = compare_scores(scores, baseline=baseline, policy=policy)
    bands = [compare_by(scores, baseline=baseline, policy=policy, by=by).assign(by=by) for by in ("fold", "size")]
    write_table(pd.concat(bands, ignore_index=True), workspace.breakdown)
    write_table(table, workspace.comparison)
    return table


def check_prediction(manifests: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse arms whose predictions were made in different ways.

    Raises:
        ParityError: names the difference.
    """
    for key in ("mirroring", "step_size", "rule", "resampling", "precision", "exact"):
        same_in_all(manifests, key)


def evaluated_policy(workspace: Workspace) -> EmptyPolicy:
    """The empty policy of the last `evaluate`.

    Raises:
        ConfigurationError: nothing has been evaluated.
    """
    return policy_named(_study(workspace)["empty_policy"])


def evaluated_scoring(workspace: Workspace) -> Scoring:
    """How the last `evaluate` scored."""
    return Scoring.from_content(_study(workspace)["scoring"])


def evaluated_cohort(workspace: Workspace) -> Cohort:
    """The cohort whose labels were the reference of the last `evaluate`."""
    return cases.read(Path(_study(workspace)["cohort"]))


def _study(workspace: Workspace) -> dict[str, Any]:
    if not workspace.study.exists():
        raise ConfigurationError(f"nothing is evaluated in {workspace.root}; run `backsplit evaluate` first")
    return json.loads(workspace.study.read_text())


def predicted_arms(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """Manifest of the predictions by arm, for all predicted arms.

    Raises:
        ConfigurationError: no predictions, or predictions of all classes.
    """
    folders = sorted(workspace.predictions.iterdir()) if workspace.predictions.is_dir() else []
    manifests = {folder.name: read_predictions(folder) for folder in folders if folder.is_dir()}
    if not manifests:
        raise ConfigurationError(f"no predictions in {workspace.predictions}; run `backsplit predict` first")
    for arm, manifest in manifests.items():
        if manifest["all_classes"]:
            raise ConfigurationError(f"arm {arm!r} was predicted with --all-classes; scores need target-only masks")
    return manifests


def same_in_all(manifests: Mapping[str, Mapping[str, Any]], key: str) -> Any:  # noqa: ANN401  a JSON value
    """What all manifests of predictions say under a key.

    Raises:
        ParityError: they differ.
    """
    values = {arm: manifest[key] for arm, manifest in manifests.items()}
    first = next(iter(values.values()))
    if any(value != first for value in values.values()):
        told = ", ".join(f"{arm}: {value}" for arm, value in values.items())
        raise ParityError(f"arms differ in the {key} of their predictions ({told}); predict one of them again")
    return first
