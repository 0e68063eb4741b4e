"""The names of the fine classes: background, then targets, then auxiliaries."""

from collections.abc import Iterable
from dataclasses import dataclass

from backsplit.errors import LabelError

BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class LabelScheme:
    """Fine classes of a study: `0` background, targets `1..T`, auxiliaries `T+1..K-1`.

    Targets come first, so that a target keeps its index in every coarsening that merges auxiliaries only.

    Raises:
        LabelError: no target, an empty name, a name that is used twice, or one of them called `background`.
    """

    targets: tuple[str, ...]
    auxiliaries: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.targets:
            raise LabelError("a label scheme needs at least one target; name it with --targets")
        for name in self.names:
            if not name.strip():
                raise LabelError(f"class names must not be empty, got {self.names}")
            if self.names.count(name) > 1:
                raise LabelError(
                    f"class {name!r} is named {self.names.count(name)} times in {self.names}; "
                    "a class is either background, a target or an auxiliary"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """All class names; a name's position is its label value."""
        return (BACKGROUND, *self.targets, *self.auxiliaries)

    @property
    def num_targets(self) -> int:
        """T, the number of targets."""
        return len(self.targets)

    @property
    def num_classes(self) -> int:
        """K, the number of fine classes, background included."""
        return len(self.names)

    def index(self, name: str) -> int:
        """Label value of a class.

        Raises:
            LabelError: the scheme has no class of this name.
        """
        if name not in self.names:
            raise LabelError(f"class {name!r} is not in the scheme; it has {', '.join(self.names)}")
        return self.names.index(name)

    def indices(self, names: Iterable[str]) -> tuple[int, ...]:
        """Label values of several classes, in the order given."""
        return tuple(self.index(name) for name in names)
