"""What a workspace says about itself on its page."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backsplit.cli.provenance import hashes, scoring_facts, study_facts, training_facts
from backsplit.errors import BackSplitError, ConfigurationError, ParityError
from backsplit.experiments.paths import Workspace
from backsplit.files import stamps

if TYPE_CHECKING:
    import pandas as pd

    from backsplit.cases import Cohort
    from backsplit.evaluation import EmptyPolicy, Scoring
    from backsplit.report import ReportInputs

logger = logging.getLogger(__name__)
MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class _Studied:
    """What the pages of a workspace draw on; mappings are by arm."""

    workspace: Workspace
    cohort: "Cohort"
    policy: "EmptyPolicy"
    scoring: "Scoring"
    comparison: "pd.DataFrame"
    predictions: Mapping[str, Mapping[str, Any]]
    plans: Mapping[str, dict[str, Any]]
    folds: Mapping[str, Path]
    """Of one training; arms whose log is elsewhere are absent."""

    @property
    def baseline(self) -> str:
        """Arm that the others were compared with."""
        return str(self.comparison["baseline"].iloc[0])


def inputs_of(workspace: Workspace) -> "ReportInputs":
    """Gather tables, logs and folders of a workspace.

    Raises:
        ConfigurationError: something has not been evaluated or compared yet.
    """
    from backsplit.evaluation import read_scores, read_table
    from backsplit.nnunet.runrecord import read_run_record
    from backsplit.report import ReportInputs

    studied = _studied(workspace)
    records = {arm: read_run_record(fold) for arm, fold in studied.folds.items()}
    return ReportInputs(
        title=studied.cohort.name,
        scores=read_scores(workspace.scores),
        summary=read_table(workspace.summary),
        comparison=studied.comparison,
        policy=studied.policy.describe(),
        curves=_curves(studied),
        cohort=studied.cohort,
        prediction_folders={arm: workspace.predictions_of(arm) for arm in studied.predictions},
        baseline=studied.baseline,
        lesions=read_table(workspace.lesions),
        scoring=studied.scoring,
        information=_information(studied),
        study=study_facts(studied.plans[studied.baseline]),
        parameters={arm: record["parameters"] for arm, record in records.items() if record},
        prediction_seconds=_prediction_seconds(studied),
        provenance=_provenance(studied, records),
        warnings=_warnings(studied),
    )


def _studied(workspace: Workspace) -> _Studied:
    from backsplit.evaluation import read_table
    from backsplit.experiments.study import evaluated_cohort, evaluated_policy, evaluated_scoring, predicted_arms
    from backsplit.nnunet.prediction import read_plans

    policy, cohort = evaluated_policy(workspace), evaluated_cohort(workspace)
    if not workspace.comparison.exists():
        raise ConfigurationError(f"no comparison in {workspace.root}; run `backsplit compare` first")
    predictions = predicted_arms(workspace)
    return _Studied(
        workspace=workspace,
        cohort=cohort,
        policy=policy,
        scoring=evaluated_scoring(workspace),
        comparison=read_table(workspace.comparison),
        predictions=predictions,
        plans={arm: read_plans(Path(told["model"])) for arm, told in predictions.items()},
        folds={arm: fold for arm, told in predictions.items() for fold in _folds(Path(told["model"]))[:1]},
    )


def _folds(model: Path) -> list[Path]:
    return sorted(log.parent for log in model.glob("fold_*/progress.csv"))


def _curves(studied: _Studied) -> "dict[str, pd.DataFrame]":
    import pandas as pd

    return {arm: pd.read_csv(fold / "progress.csv") for arm, fold in studied.folds.items()}


def _information(studied: _Studied) -> dict[str, Path]:
    folders = {arm: studied.workspace.lost_information_of(arm) for arm in studied.predictions}
    return {arm: folder for arm, folder in folders.items() if folder.is_dir()}


def _prediction_seconds(studied: _Studied) -> dict[str, float]:
    times = {arm: told["time"] for arm, told in studied.predictions.items() if "time" in told}
    return {arm: time["seconds"] / time["cases"] for arm, time in times.items()}


def _provenance(studied: _Studied, records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    workspace, made = studied.workspace, studied.predictions[studied.baseline]
    return {
        **{f"Training of {arm}": training_facts(plans, records.get(arm, {})) for arm, plans in studied.plans.items()},
        "Prediction and scores": scoring_facts(made, studied.scoring, studied.policy.describe()),
        "Files": hashes((workspace.scores, workspace.lesions, workspace.comparison)),
    }


def _warnings(studied: _Studied) -> list[str]:
    """What makes the comparison less than fair: unequal arms, and cases that a model was trained on."""
    return [*_unequal(studied), *_leaks(studied)]


def _unequal(studied: _Studied) -> Iterator[str]:
    """`compare` refuses such arms; they may have been trained or predicted anew since."""
    from backsplit.experiments.study import check_prediction
    from backsplit.nnunet.arms import check_parity

    try:
        for arm in _compared(studied):
            check_parity(studied.plans[studied.baseline], studied.plans[arm])
        check_prediction({arm: studied.predictions[arm] for arm in _compared(studied)})
    except ParityError as error:
        yield f"Not a fair comparison: {error}."


def _leaks(studied: _Studied) -> Iterator[str]:
    from backsplit.experiments.leaks import leaked_cases
    from backsplit.report.wording import count

    for arm in _compared(studied):
        if leaked := leaked_cases(studied.predictions[arm], studied.cohort):
            yield (
                f"{arm} was trained on patients of {count(len(leaked), 'case')} that it is scored on "
                f"({', '.join(leaked[:MOST_NAMED])}): their scores are too good."
            )


def _compared(studied: _Studied) -> list[str]:
    others = studied.comparison["arm"].astype(str).unique()
    return [arm for arm in (studied.baseline, *others) if arm in studied.predictions]


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
        maps = workspace.root.glob("information/*/maps/*.nii.gz")
        return stamps([*tables, *sorted(manifests), *sorted(maps), *self._logs()])

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
