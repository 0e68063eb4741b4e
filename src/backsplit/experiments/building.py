"""From a recipe to a grid.

Every data set, training and study is filed under a content address of its settings: recipes that need the same find it
done, and nothing that was made otherwise is mixed with it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from backsplit.experiments.data_jobs import DataJobs, Model, address_of, identity_of, typed_options
from backsplit.experiments.grid import Check, Grid, Group, Job, Training, name_at
from backsplit.experiments.paths import Store
from backsplit.experiments.recipes import ArmChoice, Recipe, Trained
from backsplit.nnunet.arms import BUDGETS, checkpoint_name

KEPT = "kept"
"""Folder of the checkpoints on the way, in that of their group."""
FINETUNING_SHARE = 4
"""A fine-tuning lasts a quarter of the budget, as in the paper."""


def build_grid(recipe: Recipe, root: Path) -> Grid:
    """The jobs of a recipe in a store.

    Data that another recipe composed with more sources of masks keeps them, so that neither undoes the other.
    """
    store = Store(root.resolve())
    identities = [identity_of(data, store) for data in recipe.data.values()]
    study = f"{recipe.name}-{address_of(recipe.content(), identities)}"
    jobs: list[Job] = []
    trainings: list[Training] = []
    groups: list[Group] = []
    kept: list[Group] = []
    checks: list[Check] = []
    addresses: dict[str, str] = {}
    models: dict[Trained, Model] = {}
    for name, data in recipe.data.items():
        chain = DataJobs(store, name, data, models)
        addresses[name] = chain.address
        jobs += chain.jobs(is_trained_on=any(recipe.arms_of(name, network) for network in recipe.networks))
        checks += chain.checks()
        for network in recipe.networks:
            for seed in recipe.seeds:
                cell = _Cell(recipe, chain, network, seed, study)
                if cell.arms:
                    jobs += cell.jobs()
                    trainings += cell.trainings()
                    groups.append(cell.group)
                    kept += cell.kept
                    for arm in cell.arms if seed == recipe.seeds[0] else ():
                        models[Trained(data=name, arm=arm, network=network)] = cell.model(arm)
    return Grid(
        store, recipe, study, tuple(jobs), tuple(trainings), tuple(groups), tuple(kept), tuple(checks), addresses
    )


class _Cell:
    """One data set, network and seed: all arms and folds, compared with each other."""

    def __init__(self, recipe: Recipe, chain: DataJobs, network: str, seed: int, study: str) -> None:
        self.recipe, self.chain, self.network, self.seed = recipe, chain, network, seed
        self.chosen = recipe.networks[network]
        self.arms = recipe.arms_of(chain.name, network)
        folder = f"{chain.name}/{network}/seed_{seed}"
        self.names = {arm: f"{arm}-{network}-{self._training_address(arm)}" for arm in self.arms}
        predicted = {arm: chain.workspace.predictions_of(self._folder_of(arm)) for arm in self.arms}
        self.group = Group(chain.name, network, seed, folder, self.names, predicted)
        self.place = f"{study}/{folder}"
        self.workspace = chain.store.group(study, folder)

    def jobs(self) -> Iterator[Job]:
        """In their order."""
        for arm in self.arms:
            for fold in self.recipe.folds:
                yield Job(
                    self._job_of(arm, fold), self._training(arm, fold), once=self._before(arm, fold), uses_gpu=True
                )
        yield from self._scoring([(arm, None) for arm in self.arms], self.place)
        if self.kept:
            yield from self._scoring(self._checkpoints(), f"{self.place}/{KEPT}")
        where = ("--workspace", str(self.workspace.root))
        evaluated, compared = f"evaluate/{self.place}", f"compare/{self.place}"
        if len(self.arms) > 1:
            yield Job(compared, ("compare", "--baseline", self.recipe.baseline, *where), (evaluated,))
            if self.recipe.report.page:
                yield Job(f"report/{self.place}", ("report", str(self.workspace.root)), (compared,))

    @property
    def kept(self) -> tuple[Group, ...]:
        """The checkpoints on the way, as a group of their own; none where none is kept."""
        predicted = {
            name_at(arm, epoch): self.chain.workspace.predictions_of(self._folder_of(arm, epoch))
            for arm, epoch in self._checkpoints()
        }
        trained = {name_at(arm, epoch): self.names[arm] for arm, epoch in self._checkpoints()}
        group = self.group._replace(folder=f"{self.group.folder}/{KEPT}", trained=trained, predicted=predicted)
        return (group,) if predicted else ()

    def _checkpoints(self) -> list[tuple[str, int]]:
        """Arm and epoch; the last epoch is the arm itself."""
        return [
            (arm, epoch)
            for arm, choice in self.arms.items()
            if choice.keep_every is not None
            for epoch in range(choice.keep_every, self._epochs(choice), choice.keep_every)
        ]

    def _scoring(self, models: Sequence[tuple[str, int | None]], place: str) -> Iterator[Job]:
        """Predict with arms, or with checkpoints of theirs, and score all together."""
        predicted = []
        for arm, epoch in models:
            before: tuple[str, ...] = ()
            for fold in self.recipe.folds:
                job = f"predict/{self.chain.address}/{self._folder_of(arm, epoch)}.fold{fold}"
                yield Job(job, self._predicting(arm, epoch, fold), (self._job_of(arm, fold), *before), uses_gpu=True)
                before = (job,)  # one fold at a time: they share a manifest
                predicted.append(job)
        where = ("--workspace", str(self.chain.store.study(place)))
        metrics = typed_options(_without_defaults(self.recipe.metrics.model_dump(), {"border": False}))
        folds = ("--folds", *map(str, self.recipe.folds))
        yield Job(f"evaluate/{place}", ("evaluate", *metrics, *folds, *where), tuple(predicted))

    def model(self, arm: str) -> Model:
        """An arm, to make masks with."""
        folds = self.recipe.folds
        jobs = tuple(self._job_of(arm, fold) for fold in folds)
        return Model(self.chain.workspace, self.names[arm], folds, jobs)

    def trainings(self) -> Iterator[Training]:
        """One for each arm and fold."""
        for arm in self.arms:
            for fold in self.recipe.folds:
                name, epochs = self.names[arm], self._epochs(self.arms[arm])
                yield Training(self._job_of(arm, fold), self.chain.workspace, name, fold, self.chosen, epochs)

    @property
    def _prediction(self) -> dict[str, Any]:
        return self.recipe.predict.model_dump(mode="json")

    def _training_address(self, arm: str) -> str:
        choice = self.recipe.arms[arm]
        start = self._training_address(choice.start) if choice.start else None
        return address_of(self._settings(choice), start)

    def _job_of(self, arm: str, fold: int) -> str:
        return f"train/{self.chain.address}/{self.names[arm]}.fold{fold}"

    def _before(self, arm: str, fold: int) -> tuple[str, ...]:
        start = self.recipe.arms[arm].start
        return (self.chain.prepared, *([self._job_of(start, fold)] if start else []))

    def _training(self, arm: str, fold: int) -> tuple[str, ...]:
        choice = self.recipe.arms[arm]
        command = ("train",) if choice.start is None else ("finetune", self.names[choice.start])
        where = ("--workspace", str(self.chain.workspace.root), "--fold", str(fold), "--name", self.names[arm])
        return (*command, *typed_options(self._settings(choice)), *where)

    def _settings(self, choice: ArmChoice) -> dict[str, Any]:
        """What `train` or `finetune` is told, but for fold, name and workspace."""
        loss, sampling = choice.loss_and_sampling
        deep = {None: None, True: "on", False: "off"}[self.chosen.deep_supervision]
        told = {
            **choice.model_dump(
                mode="json",
                include={"arm", "auxiliaries", "fraction", "missing", "auxiliary_weight", "sides", "source"}
                | {"optimizer", "learning_rate", "keep_every"},
            ),
            **self.chosen.model_dump(mode="json", include={"network", "patch_size", "batch_size", "features"}),
            "loss": loss,
            "sampling": sampling,
            "deep_supervision": deep,
            "seed": self.seed,
            **dict(self._budget(choice)),
        }
        if choice.source is not None:  # the first is what arms take anyway
            told["source"] = None if choice.source == self.chain.data.sources[0] else self.chain.filed(choice.source)
        return {key: value for key, value in told.items() if value not in (None, [])}

    def _budget(self, choice: ArmChoice) -> Iterator[tuple[str, Any]]:
        chosen = self.recipe.budget
        budget = BUDGETS[chosen.name].with_changes(epochs=chosen.epochs, iterations=chosen.iterations)
        share = 1 if choice.start is None else FINETUNING_SHARE
        yield "budget", chosen.name
        yield "epochs", choice.epochs or max(1, budget.epochs // share)
        if chosen.iterations is not None:
            yield "iterations", chosen.iterations

    def _epochs(self, choice: ArmChoice) -> int:
        return int(dict(self._budget(choice))["epochs"])

    def _predicting(self, arm: str, epoch: int | None, fold: int) -> tuple[str, ...]:
        where = ("--workspace", str(self.chain.workspace.root), "--folds", str(fold))
        file = () if epoch is None else ("--checkpoint", checkpoint_name(epoch))
        into = self._folder_of(arm, epoch)
        return ("predict", self.names[arm], "--into", into, *file, *typed_options(self._prediction), *where)

    def _folder_of(self, arm: str, epoch: int | None = None) -> str:
        """Predictions are shared by all recipes that make them alike."""
        name = self.names[arm] if epoch is None else name_at(self.names[arm], epoch)
        return f"{name}.{address_of(self._prediction)}"


def _without_defaults(told: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if defaults.get(key) != value}
