"""The jobs of a recipe as data: what is typed for each, what it waits for, what it is filed under."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from backsplit.experiments.paths import Store, Workspace
from backsplit.experiments.recipes import Network, Recipe

Kind = Literal["convert", "annotate", "compose", "prepare", "train", "predict", "evaluate", "compare", "report"]
KINDS: tuple[Kind, ...] = get_args(Kind)


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


AT_EPOCH = ".epoch"


def name_at(arm: str, epoch: int) -> str:
    """What an arm after some epochs is called."""
    return f"{arm}{AT_EPOCH}{epoch}"


class Check(NamedTuple):
    """Masks that are compared with others, or with label maps."""

    data: str
    masks: str
    """Name of the recipe, or of what clicks left on the way."""
    reference: str
    table: Path
    """As `annotate --check` writes it."""


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
    kept: tuple[Group, ...]
    """Checkpoints on the way that are scored too; arms are called as `name_at` says."""
    checks: tuple[Check, ...]
    addresses: Mapping[str, str]
    """Data set of the recipe to what it is filed under."""

    def is_done(self, job: Job) -> bool:
        """Whether it was done, by this recipe or another."""
        return self.store.marker(job.name).exists()
