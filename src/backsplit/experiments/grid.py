"""From a recipe to jobs: what is typed for each, what it waits for, and what it is filed under.

Every data set, training and study is filed under a content address of its settings: recipes that need the same find it
done, and nothing that was made otherwise is mixed with it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from backsplit import cases
from backsplit.experiments.paths import Store, Workspace
from backsplit.experiments.recipes import ArmChoice, Data, Masks, Network, Recipe, Trained
from backsplit.files import stamps
from backsplit.nnunet.arms import BUDGETS

Kind = Literal["convert", "annotate", "compose", "prepare", "train", "predict", "evaluate", "compare", "report"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WITHOUT_NETWORK = ("labels", "folder", "tissue")
"""Sources of masks that no GPU helps."""
FINETUNING_SHARE = 4
"""A fine-tuning lasts a quarter of the budget, as in the paper."""


@dataclass(frozen=True, slots=True)
class Job:
    """One command."""

    name: str
    """Kind, and what is made: `train/kits23-1a2b3c4d/binary-unet-5e6f7a8b.fold0`."""
    typed: tuple[str, ...]
    """Words behind `backsplit`."""
    needs: tuple[str, ...] = ()
    """Jobs that come before, and after which it is done again."""
    once: tuple[str, ...] = ()
    """Jobs that come before; done again, they leave this one as it is."""
    uses_gpu: bool = False

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return self.name.partition("/")[0]


class Training(NamedTuple):
    """One arm with one network, seed and fold, as the forecast and the view need it."""

    job: str
    workspace: Workspace
    name: str
    fold: int
    network: Network
    epochs: int


class Group(NamedTuple):
    """Arms that are compared."""

    data: str
    network: str
    seed: int
    folder: str
    trained: dict[str, str]
    """Arm of the recipe to name of its training."""
    predicted: dict[str, Path]
    """Arm of the recipe to folder of its predictions."""


@dataclass(frozen=True, slots=True)
class Grid:
    """All jobs of a recipe, in an order in which each comes after what it needs."""

    store: Store
    recipe: Recipe
    study: str
    """What the results are filed under: name and content address of the recipe."""
    jobs: tuple[Job, ...]
    trainings: tuple[Training, ...]
    groups: tuple[Group, ...]
    addresses: Mapping[str, str]
    """Data set of the recipe to what it is filed under."""

    def is_done(self, job: Job) -> bool:
        """Whether it was done, by this recipe or another."""
        return self.store.marker(job.name).exists()


def build_grid(recipe: Recipe, root: Path) -> Grid:
    """The jobs of a recipe in a store.

    Data that another recipe composed with more sources of masks keeps them, so that neither undoes the other.
    """
    store = Store(root.resolve())
    study = f"{recipe.name}-{_address(recipe.content(), [_data_identity(data) for data in recipe.data.values()])}"
    jobs: list[Job] = []
    trainings: list[Training] = []
    groups: list[Group] = []
    addresses: dict[str, str] = {}
    models: dict[Trained, _Model] = {}
    for name, data in recipe.data.items():
        chain = _DataJobs(store, name, data, models)
        addresses[name] = chain.address
        jobs += chain.jobs()
        for network in recipe.networks:
            for seed in recipe.seeds:
                cell = _Cell(recipe, chain, network, seed, study)
                if cell.arms:
                    jobs += cell.jobs()
                    trainings += cell.trainings()
                    groups.append(cell.group)
                    for arm in cell.arms if seed == recipe.seeds[0] else ():
                        models[Trained(data=name, arm=arm, network=network)] = cell.model(arm)
    return Grid(store, recipe, study, tuple(jobs), tuple(trainings), tuple(groups), addresses)


def _address(*content: Any) -> str:  # noqa: ANN401  any JSON
    return hashlib.sha256(json.dumps([*content, version("backsplit")], sort_keys=True).encode()).hexdigest()[:8]


def _data_identity(data: Data) -> Any:  # noqa: ANN401  any JSON
    """What tells data from other data: settings; of a cohort also its manifest and the sizes and times of its files."""
    origin = data.model_dump(mode="json", include={"cohort", "convert", "folder", "options", "phantom"})
    if data.folder is not None:
        origin["folder"] = str(data.folder.resolve())
    if data.cohort is not None:
        cohort = cases.read(data.cohort)
        origin["cohort"] = [str(data.cohort.resolve()), stamps(file for case in cohort.cases for file in case.files)]
    return origin


def _options(options: Mapping[str, Any]) -> list[str]:
    """Options of a recipe as they are typed."""
    typed = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            typed.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            typed += [f"--{flag}", *(str(each) for each in (value if isinstance(value, list | tuple) else [value]))]
    return typed


class _Model(NamedTuple):
    """A trained arm, to make masks with."""

    workspace: Workspace
    name: str
    folds: tuple[int, ...]
    jobs: tuple[str, ...]


class _DataJobs:
    """Convert, annotate, compose, prepare: once for all arms, networks, seeds and recipes."""

    def __init__(self, store: Store, name: str, data: Data, models: Mapping[Trained, _Model]) -> None:
        self.name, self.data, self.store, self.models = name, data, store, models
        identity = _data_identity(data)
        self.converted = f"{name}-{_address(identity)}"
        first = [self._told(data.masks[each]) for each in data.sources[0].split("+") if each in data.masks]
        plan = data.prepare.model_dump(mode="json")
        classes = [data.targets, data.auxiliaries, data.sources[0], first]
        self.address = f"{name}-{_address(identity, classes, plan)}"
        self.workspace = store.data(self.address)
        self.cohort = data.cohort if data.cohort is not None else store.converted(self.converted)

    @property
    def sources(self) -> tuple[str, ...]:
        """Those of the recipe, and those that the composed data has already."""
        if not (self.workspace.cohort / cases.MANIFEST_NAME).exists():
            return self.data.sources
        there = tuple(masks.name for masks in cases.read(self.workspace.cohort).masks)
        return tuple(dict.fromkeys((*(there or self.data.sources[:1]), *self.data.sources)))

    @property
    def prepared(self) -> str:
        """The job after which arms can be trained."""
        return f"prepare/{self.address}.{_address(self.sources)}"

    def jobs(self) -> Iterator[Job]:
        """In their order."""
        before: tuple[str, ...] = ()
        if self.data.cohort is None:
            yield Job(f"convert/{self.converted}", ("convert", *self._conversion()))
            before = (f"convert/{self.converted}",)
        for name, masks in self.data.masks.items():
            typed = ("annotate", str(self.cohort), "--source", masks.source, "--name", name)
            told = self._told(masks)
            job = f"annotate/{self.converted}.{name}-{_address(told)}"
            once = () if masks.trained is None else self.models[masks.trained].jobs
            yield Job(job, (*typed, *_options(told)), before, once, uses_gpu=masks.source not in WITHOUT_NETWORK)
            before = (job,)  # one at a time: each writes the manifest
        sources, data = self.sources, self.data
        where = ("--workspace", str(self.workspace.root))
        classes = _options({"targets": data.targets, "auxiliaries": data.auxiliaries or None})
        named = () if sources == (cases.OWN_LABELS,) else ("--sources", *sources)
        composed = f"compose/{self.address}.{_address(sources)}"
        yield Job(composed, ("compose", str(self.cohort), *classes, *named, *where), before)
        plan = data.prepare.model_dump(mode="json", exclude_none=True)
        yield Job(self.prepared, ("prepare", *_options(plan), *where), (composed,))

    def _told(self, masks: Masks) -> dict[str, Any]:
        """What `annotate` is told beside cohort, source and name."""
        told = {"structures": list(masks.structures) or None, "check": masks.check, **masks.options}
        if masks.trained is None:
            return told
        model = self.models[masks.trained]
        return {**told, "model": model.name, "workspace": str(model.workspace.root), "folds": list(model.folds)}

    def _conversion(self) -> tuple[str, ...]:
        destination = str(self.store.converted(self.converted))
        if self.data.phantom is not None:
            return ("phantom", destination, *_options(self.data.phantom.model_dump()))
        return (str(self.data.convert), str(self.data.folder), destination, *_options(self.data.options))


class _Cell:
    """One data set, network and seed: all arms and folds, compared with each other."""

    def __init__(self, recipe: Recipe, chain: _DataJobs, network: str, seed: int, study: str) -> None:
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
        predicted = []
        for arm in self.arms:
            before: tuple[str, ...] = ()
            for fold in self.recipe.folds:
                trained = self._job_of(arm, fold)
                yield Job(trained, self._training(arm, fold), once=self._before(arm, fold), uses_gpu=True)
                job = f"predict/{self.chain.address}/{self._folder_of(arm)}.fold{fold}"
                yield Job(job, self._predicting(arm, fold), (trained, *before), uses_gpu=True)
                before = (job,)  # one fold at a time: they share a manifest
                predicted.append(job)
        where = ("--workspace", str(self.workspace.root))
        metrics = _options(_without_defaults(self.recipe.metrics.model_dump(), {"border": False}))
        folds = ("--folds", *map(str, self.recipe.folds))
        evaluated, compared = f"evaluate/{self.place}", f"compare/{self.place}"
        yield Job(evaluated, ("evaluate", *metrics, *folds, *where), tuple(predicted))
        if len(self.arms) > 1:
            yield Job(compared, ("compare", "--baseline", self.recipe.baseline, *where), (evaluated,))
            if self.recipe.report.page:
                yield Job(f"report/{self.place}", ("report", str(self.workspace.root)), (compared,))

    def model(self, arm: str) -> _Model:
        """An arm, to make masks with."""
        folds = self.recipe.folds
        jobs = tuple(self._job_of(arm, fold) for fold in folds)
        return _Model(self.chain.workspace, self.names[arm], folds, jobs)

    def trainings(self) -> Iterator[Training]:
        """One for each arm and fold."""
        for arm in self.arms:
            for fold in self.recipe.folds:
                epochs = int(dict(self._budget(self.arms[arm]))["epochs"])
                name = self.names[arm]
                yield Training(self._job_of(arm, fold), self.chain.workspace, name, fold, self.chosen, epochs)

    @property
    def _prediction(self) -> dict[str, Any]:
        return self.recipe.predict.model_dump(mode="json")

    def _training_address(self, arm: str) -> str:
        choice = self.recipe.arms[arm]
        start = self._training_address(choice.start) if choice.start else None
        return _address(self._settings(choice), start)

    def _job_of(self, arm: str, fold: int) -> str:
        return f"train/{self.chain.address}/{self.names[arm]}.fold{fold}"

    def _before(self, arm: str, fold: int) -> tuple[str, ...]:
        start = self.recipe.arms[arm].start
        return (self.chain.prepared, *([self._job_of(start, fold)] if start else []))

    def _training(self, arm: str, fold: int) -> tuple[str, ...]:
        choice = self.recipe.arms[arm]
        command = ("train",) if choice.start is None else ("finetune", self.names[choice.start])
        where = ("--workspace", str(self.chain.workspace.root), "--fold", str(fold), "--name", self.names[arm])
        return (*command, *_options(self._settings(choice)), *where)

    def _settings(self, choice: ArmChoice) -> dict[str, Any]:
        """What `train` or `finetune` is told, but for fold, name and workspace."""
        loss, sampling = choice.loss_and_sampling
        deep = {None: None, True: "on", False: "off"}[self.chosen.deep_supervision]
        told = {
            **choice.model_dump(
                mode="json",
                include={"arm", "auxiliaries", "fraction", "missing", "auxiliary_weight", "sides", "source"}
                | {"optimizer", "learning_rate"},
            ),
            **self.chosen.model_dump(mode="json", include={"network", "patch_size", "batch_size", "features"}),
            "loss": loss,
            "sampling": sampling,
            "deep_supervision": deep,
            "seed": self.seed,
            **dict(self._budget(choice)),
        }
        if choice.source == self.chain.data.sources[0]:
            told["source"] = None  # what arms take anyway
        return {key: value for key, value in told.items() if value not in (None, [])}

    def _budget(self, choice: ArmChoice) -> Iterator[tuple[str, Any]]:
        chosen = self.recipe.budget
        budget = BUDGETS[chosen.name].with_changes(epochs=chosen.epochs, iterations=chosen.iterations)
        share = 1 if choice.start is None else FINETUNING_SHARE
        yield "budget", chosen.name
        yield "epochs", choice.epochs or max(1, budget.epochs // share)
        if chosen.iterations is not None:
            yield "iterations", chosen.iterations

    def _predicting(self, arm: str, fold: int) -> tuple[str, ...]:
        where = ("--workspace", str(self.chain.workspace.root), "--folds", str(fold))
        return ("predict", self.names[arm], "--into", self._folder_of(arm), *_options(self._prediction), *where)

    def _folder_of(self, arm: str) -> str:
        """Predictions are shared by all recipes that make them alike."""
        return f"{self.names[arm]}.{_address(self._prediction)}"


def _without_defaults(told: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if defaults.get(key) != value}
