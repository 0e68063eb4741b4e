"""Every file name of a workspace, once."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Workspace:
    """One folder that holds a study, from the composed cohort to the page."""

    root: Path = Path("backsplit-workspace")

    @property
    def cohort(self) -> Path:
        """Fine label maps and the manifest of the cohort that is trained on."""
        return self.root / "cohort"

    @property
    def target_cohort(self) -> Path:
        """Label maps of the targets alone, to plan and preprocess as nnU-Net alone would for the binary task."""
        return self.root / "cohort-targets"

    @property
    def test_cohort(self) -> Path:
        """Fine label maps and the manifest of cases that no training sees, if the study has any."""
        return self.root / "test"

    @property
    def preparation(self) -> Path:
        """Which nnU-Net data set is trained on, and from which cohort."""
        return self.root / "preparation.json"

    @property
    def raw(self) -> Path:
        """nnU-Net's raw data sets; descriptions only, images stay where they are."""
        return self.root / "raw"

    @property
    def preprocessed(self) -> Path:
        """nnU-Net's preprocessed data, one copy for all arms."""
        return self.root / "preprocessed"

    @property
    def results(self) -> Path:
        """Trained models, one folder per arm."""
        return self.root / "results"

    @property
    def predictions(self) -> Path:
        """Target-only masks, one folder per arm."""
        return self.root / "predictions"

    def predictions_of(self, arm: str) -> Path:
        """Target-only masks of one arm."""
        return self.predictions / arm

    @property
    def study(self) -> Path:
        """What has been evaluated: the cohort and the empty policy."""
        return self.root / "scores" / "study.json"

    @property
    def scores(self) -> Path:
        """One row per arm, case and class."""
        return self.root / "scores" / "scores.csv"

    @property
    def lesions(self) -> Path:
        """One row per lesion of an arm, case and class."""
        return self.root / "scores" / "lesions.csv"

    @property
    def score_records(self) -> Path:
        """What was scored of each case, one folder per arm."""
        return self.root / "scores" / "records"

    @property
    def breakdown(self) -> Path:
        """Differences by fold and by lesion size."""
        return self.root / "scores" / "breakdown.csv"

    @property
    def plots(self) -> Path:
        """Figures of the scores."""
        return self.root / "scores" / "plots"

    @property
    def summary(self) -> Path:
        """One row per arm and class."""
        return self.root / "scores" / "summary.csv"

    @property
    def comparison(self) -> Path:
        """One row per arm, class and metric, against the baseline."""
        return self.root / "scores" / "comparison.csv"

    @property
    def selection_table(self) -> Path:
        """The auxiliary classes, ranked."""
        return self.root / "selection" / "selection.csv"

    @property
    def selection(self) -> Path:
        """The auxiliary classes that `backsplit select` recommends."""
        return self.root / "selection" / "selection.json"

    def information_of(self, arm: str) -> Path:
        """What labels tell about one arm: tables, figure, and a map and a record per case."""
        return self.root / "information" / arm

    def lost_information_of(self, arm: str) -> Path:
        """A map per case of what binary labels lose of the information about the logits of one arm."""
        return self.information_of(arm) / "maps"

    @property
    def stock(self) -> "Workspace":
        """What the first rung of the attribution ladder trains on: the binary task, planned by nnU-Net alone."""
        return Workspace(self.root / "stock")

    @property
    def ladder(self) -> Path:
        """The rungs of the attribution ladder, in order, and what each adds."""
        return self.root / "ladder.json"

    @property
    def attribution(self) -> Path:
        """One row per rung, class and metric, against the rung before it."""
        return self.root / "scores" / "attribution.csv"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report" / "index.html"


@dataclass(frozen=True, slots=True)
class Store:
    """One folder that holds what recipes share: data sets, trainings, predictions; and the results of each recipe.

    Names carry a content address of the settings they were made with, so that equal work is found and other work never
    mixed.
    """

    root: Path = Path("backsplit-workspace")

    def converted(self, address: str) -> Path:
        """A data set as a cohort, with its masks."""
        return self.root / "cohorts" / address

    def data(self, address: str) -> Workspace:
        """A composed and prepared data set with all trainings on it."""
        return Workspace(self.root / "data" / address)

    def study(self, address: str) -> Path:
        """What a recipe came to."""
        return self.root / "studies" / address

    def group(self, study: str, group: str) -> Workspace:
        """The arms of a recipe that are compared: one data set, network and seed."""
        return Workspace(self.study(study) / group)

    def recipe_of(self, study: str) -> Path:
        """The recipe as it was run: includes and overrides applied."""
        return self.study(study) / "recipe.yaml"

    def provenance_of(self, study: str) -> Path:
        """What the results of a recipe were made with."""
        return self.study(study) / "provenance.json"

    def table_of(self, study: str, suffix: str) -> Path:
        """The final table: `md` or `csv`."""
        return self.study(study) / f"table.{suffix}"

    def masks_of(self, study: str) -> Path:
        """How masks compare with what they were checked against."""
        return self.study(study) / "masks.csv"

    def figure_of(self, study: str, name: str) -> Path:
        """A figure of a recipe, without its ending."""
        return self.study(study) / f"figure-{name}"

    def marker(self, job: str) -> Path:
        """The file that says that a job is done; relative to the root in Snakemake's eyes."""
        return self.root / "markers" / f"{job}.done"

    def log(self, job: str) -> Path:
        """What a job printed."""
        return self.root / "logs" / f"{job}.log"

    @property
    def grid(self) -> Path:
        """The jobs of the run in progress, for Snakemake."""
        return self.root / "run" / "grid.json"

    @property
    def driver(self) -> Path:
        """Who runs jobs here: host, process and its start."""
        return self.root / "run" / "driver.json"

    @property
    def lock(self) -> Path:
        """Locked by the run in progress."""
        return self.root / "run" / "lock"

    def lifeline(self, run: str) -> Path:
        """Locked by a run too; its jobs end when that lock is free. No two runs have the same."""
        return self.root / "run" / f"lifeline-{run}"

    @property
    def engine_log(self) -> Path:
        """What Snakemake printed."""
        return self.root / "run" / "snakemake.log"

    @property
    def gpu_slots(self) -> Path:
        """A file per GPU, locked by the job that uses it."""
        return self.root / "run" / "gpus"
