"""What can go wrong, by name.

Only `backsplit.cli.main` catches these: one line on stderr, exit status 1. Every message names the case, what came,
what was expected and what to do.
"""


class BackSplitError(Exception):
    """Anything the user can mend; each subclass also has the built-in parent that callers would expect."""


class LabelError(BackSplitError, ValueError):
    """A label value, class name, scheme or coarsening that does not fit."""


class GeometryError(BackSplitError, ValueError):
    """Two volumes that should share a grid and do not, or a grid that cannot be used."""


class VolumeError(BackSplitError, ValueError):
    """A file that is no readable volume, or holds voxels that cannot be used."""


class CohortError(BackSplitError, ValueError):
    """A manifest, or a data set on disk, that is incomplete or contradicts itself."""


class ConfigurationError(BackSplitError, ValueError):
    """An argument, plan or arm that cannot be carried out."""


class ParityError(BackSplitError, ValueError):
    """Two arms that differ in more than what they declare, so that comparing them would mislead."""


class ModelError(BackSplitError, ValueError):
    """A trained model that is missing, unfinished or of another kind."""


class SourceError(BackSplitError, RuntimeError):
    """A source of masks that is not installed, lacks its weights, or failed on a case."""


def reason_of(error: BaseException, name: str) -> str:
    """What was wrong with a case, on one line and without its name, for lists that name it already."""
    return " ".join(str(error).split()).removeprefix(f"{name}: ")
