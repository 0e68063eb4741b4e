"""Which share of a gain is BackSplit: a ladder of trainings from stock nnU-Net to the arm, one change per rung."""

import json
import logging
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from backsplit import cases
from backsplit.errors import ConfigurationError
from backsplit.evaluation import compare, holm, read_scores, write_table
from backsplit.experiments.paths import Workspace
from backsplit.experiments.study import (
    check_prediction,
    compose_targets,
    evaluated_policy,
    held_out_cases,
    nnunet_folders,
    predicted_arms,
    prepared_dataset,
    remember_preparation,
)
from backsplit.files import write_json
from backsplit.nnunet.arms import BLOCK, Arm, ArmSettings
from backsplit.nnunet.dataset import dataset_id_of, dataset_name, free_dataset_id
from backsplit.nnunet.folders import Folders
from backsplit.nnunet.networks import OF_THE_PLAN, NetworkSettings, configuration_of
from backsplit.nnunet.plans import PlanSettings
from backsplit.nnunet.prediction import TargetPredictor
from backsplit.nnunet.prediction_settings import PredictionSettings
from backsplit.nnunet.preparation import Folds, prepare
from backsplit.nnunet.topology import Configuration, shape_text
from backsplit.nnunet.trainer import RunSettings
from backsplit.nnunet.training import Prepared, open_prepared, train

logger = logging.getLogger(__name__)
STOCK, STATISTICS, PATCHES, LABELS, LOSS = RUNGS = (
    "ladder-1-stock",
    "ladder-2-statistics",
    "ladder-3-patches",
    "ladder-4-labels",
    "ladder-5-loss",
)
"""Names of the trainings, and of the folders of their predictions."""


class Site(NamedTuple):
    """A prepared data set, and the nnU-Net folders that it lies in."""

    folders: Folders
    prepared: Prepared


@dataclass(frozen=True, slots=True)
class Rung:
    """One training of the ladder, and the one thing that it has and the rung before it has not."""

    settings: ArmSettings
    site: Site
    adds: str

    @property
    def name(self) -> str:
        """One of `RUNGS`."""
        return self.settings.name


@dataclass(frozen=True, slots=True)
class Ladder:
    """Rungs in order; what would be the very same training as the rung before is left out."""

    rungs: tuple[Rung, ...]
    left_out: dict[str, str]
    """Name of a rung to the reason why it is none."""


def train_ladder(
    workspace: Workspace, settings: ArmSettings, *, fold: int, run: RunSettings, prediction: PredictionSettings
) -> list[Path]:
    """Train every rung on a fold and predict the cases that the fold left out; return the folders of predictions.

    The stock data set is prepared first, by as many processes as augment. Each step does nothing if it is done, and
    goes on where it was stopped.

    Args:
        workspace: prepared for all arms.
        settings: the arm at the top, as it would be trained without a ladder.
        fold: whose validation cases are left out.
        run: devices, workers, precision.
        prediction: the same for all rungs.

    Raises:
        ConfigurationError: an arm of the targets alone, a choice that the ladder makes itself, no such fold, or a
            workspace that an earlier version prepared.
        ModelError: a rung was trained or predicted with other settings, as for a ladder to another arm.
    """
    _check_top(settings)
    folders = nnunet_folders(workspace)
    held_out, manifest = held_out_cases(folders, workspace, fold)
    shared = Site(folders, open_prepared(folders, prepared_dataset(workspace)[0]))
    ladder = build_ladder(settings, shared, prepare_stock(workspace, shared, num_processes=max(1, run.num_workers)))
    for name, reason in ladder.left_out.items():
        logger.info("%s is left out: %s", name, reason)
    for rung in ladder.rungs:
        final = train(rung.site.prepared, rung.settings, rung.site.folders, fold=fold, run=run)
        predictor = TargetPredictor(final.parent.parent, (fold,), prediction, run.device)
        predictor.predict(held_out, workspace.predictions_of(rung.name), cohort=str(manifest.resolve()))
    told = [{"name": rung.name, "adds": rung.adds} for rung in ladder.rungs]
    write_json({"rungs": told, "left_out": ladder.left_out}, workspace.ladder)
    return [workspace.predictions_of(rung.name) for rung in ladder.rungs]


def build_ladder(top: ArmSettings, shared: Site, stock: Site) -> Ladder:
    """The rungs that lead from stock nnU-Net to an arm.

    1. the binary task as nnU-Net alone plans and preprocesses it;
    2. the shared intensity statistics (and fine label maps), with patch, batch and features of the stock plan;
    3. the shared plan, patches centred on targets, mirroring as the arm has it: all that a fair binary arm has;
    4. the arm's labels, with the paper's loss;
    5. the arm's loss.

    Budget, seed, optimiser, network and folds are those of the arm for all. In a binary arm any class that a patch can
    be centred on is a target, so rung 3 differs from rung 2 in sizes and mirroring alone; without such a difference it
    is left out, and so is rung 5 if its loss is the paper's.

    Args:
        top: the arm.
        shared: what all arms are trained on.
        stock: the same cases and folds, prepared for the targets alone.
    """
    fair = replace(top, arm=Arm("binary"), loss="paper", auxiliary_weight=None, chosen_name=PATCHES)
    stock_like = replace(fair, sampling="any", sides="merge")
    theirs, ours = (_configuration(top, site.prepared) for site in (stock, shared))
    is_same_plan = all(theirs[key] == ours[key] for key in OF_THE_PLAN)
    has_own_patches = not is_same_plan or top.sides == "keep"
    sizes = top.network_settings if is_same_plan else _sizes_of(theirs, top.network_settings)
    statistics = replace(stock_like, network_settings=sizes) if has_own_patches else fair
    rungs = [
        Rung(replace(stock_like, scheme=stock.prepared.scheme, chosen_name=STOCK), stock, "stock nnU-Net"),
        Rung(replace(statistics, chosen_name=STATISTICS), shared, "shared intensity statistics"),
        Rung(fair, shared, _patches_text(ours, top)),
        Rung(
            replace(top, loss="paper", auxiliary_weight=None, chosen_name=LABELS),
            shared,
            f"labels of {top.arm.name}, loss paper",
        ),
        Rung(replace(top, chosen_name=LOSS), shared, _loss_text(top)),
    ]
    left_out = {}
    if not has_own_patches:
        left_out[PATCHES] = f"it is {STATISTICS}, because the stock plan has the same patch, batch and features"
    if (top.loss, top.auxiliary_weight) == ("paper", None):
        left_out[LOSS] = f"it is {LABELS}, because its loss is the paper's"
    return Ladder(tuple(rung for rung in rungs if rung.name not in left_out), left_out)


def compare_rungs(workspace: Workspace) -> pd.DataFrame:
    """Compare every rung with the one before it, case by case; write `attribution.csv`, return it.

    Rungs differ by design, so plans are not held to parity; how the predictions were made is.

    Returns:
        As `evaluation.compare`, one row per rung but the first, class and metric, with `adds` after the baseline;
        `p_holm` is corrected over all rows.

    Raises:
        ConfigurationError: no ladder was trained, or its predictions are not scored.
        ParityError: rungs that were predicted in different ways, or scored on different cases.
    """
    rungs = {rung["name"]: rung["adds"] for rung in _record(workspace)["rungs"]}
    manifests, scores = predicted_arms(workspace), read_scores(workspace.scores)
    missing = [name for name in rungs if name not in manifests or name not in set(scores["arm"])]
    if missing:
        raise ConfigurationError(
            f"no scores of {', '.join(missing)} in {workspace.root}; run `backsplit train` with --attribution, then "
            "`backsplit evaluate`"
        )
    check_prediction({name: manifests[name] for name in rungs})
    policy, names = evaluated_policy(workspace), list(rungs)
    steps = [
        compare(scores[scores["arm"].isin([before, name])], baseline=before, policy=policy).assign(adds=rungs[name])
        for before, name in pairwise(names)
    ]
    table = pd.concat(steps, ignore_index=True)
    table = table.assign(p_holm=holm(table["p_wilcoxon"].to_numpy(float)))
    table.insert(2, "adds", table.pop("adds"))
    write_table(table, workspace.attribution)
    return table


def left_out(workspace: Workspace) -> dict[str, str]:
    """The rungs that were not trained, and why.

    Raises:
        ConfigurationError: no ladder was trained.
    """
    return _record(workspace)["left_out"]


def prepare_stock(workspace: Workspace, shared: Site, *, num_processes: int) -> Site:
    """Plan and preprocess the binary task as nnU-Net alone would; same plan overrides and same folds as the workspace.

    Its folders lie inside the workspace. Where nnU-Net's variables are set, those win, and the data set, which has a
    name of its own anyway, takes a number that is free there.

    Raises:
        ConfigurationError: the workspace was prepared by an earlier version.
    """
    block, stock = shared.prepared.plans[BLOCK], workspace.stock
    if "plan_settings" not in block:
        raise ConfigurationError(
            f"{workspace.root} was prepared by a version of BackSplit without --attribution; run `backsplit prepare` "
            "in another --workspace"
        )
    folders = nnunet_folders(stock)
    noted = json.loads(stock.preparation.read_text()) if stock.preparation.exists() else {}
    if noted.get("shared") != block["data"]:
        manifest = compose_targets(stock, prepared_dataset(workspace)[1])
        cohort = cases.read(manifest)
        dataset_id = dataset_id_of(noted["dataset"]) if noted else free_dataset_id(folders)
        noted = {"dataset": dataset_name(cohort, dataset_id)}
        remember_preparation(stock, noted["dataset"], manifest)  # before it is made, so that a second call takes it up
        folds = Folds(official=shared.folders.preprocessed / shared.prepared.name / "splits_final.json")
        plan_settings = PlanSettings.from_json(block["plan_settings"])
        prepare(cohort, folders, plan_settings, folds=folds, dataset_id=dataset_id, num_processes=num_processes)
        remember_preparation(stock, noted["dataset"], manifest, shared=block["data"])
    return Site(folders, open_prepared(folders, noted["dataset"]))


def _check_top(settings: ArmSettings) -> None:
    """Refuse what the ladder decides itself, and an arm that has no place above its binary rungs."""
    if settings.num_classes == settings.scheme.num_targets + 1:
        raise ConfigurationError(
            f"--attribution leads to an arm with more classes than targets and background; {settings.arm.kind!r} has "
            "none"
        )
    if settings.chosen_name is not None or settings.sampling != "target":
        raise ConfigurationError("--attribution names its rungs and chooses --sampling itself; leave both out")


def _configuration(settings: ArmSettings, prepared: Prepared) -> Configuration:
    return configuration_of(settings.network, prepared.plans, settings.network_settings)[1]


def _sizes_of(configuration: Configuration, chosen: NetworkSettings) -> NetworkSettings:
    """Patch, batch and features of a configuration, spelled out; MONAI's networks have their features from no plan."""
    features = configuration["architecture"]["arch_kwargs"].get("features_per_stage")
    return replace(
        chosen,
        patch_size=tuple(configuration["patch_size"]),
        batch_size=configuration["batch_size"],
        features=chosen.features if features is None else tuple(features),
    )


def _patches_text(configuration: Configuration, top: ArmSettings) -> str:
    sizes = f"patch {shape_text(configuration['patch_size'])}, batch {configuration['batch_size']} of the shared plan"
    return sizes if top.sides == "merge" else f"{sizes}, no mirroring from left to right"


def _loss_text(top: ArmSettings) -> str:
    weight = "" if top.auxiliary_weight is None else f", auxiliary weight {top.auxiliary_weight:g}"
    return f"loss {top.loss}{weight}"


def _record(workspace: Workspace) -> dict[str, Any]:
    if not workspace.ladder.exists():
        raise ConfigurationError(
            f"no ladder is trained in {workspace.root}; run `backsplit train --arm backsplit --attribution` first"
        )
    return json.loads(workspace.ladder.read_text())
