"""Which structures of a source are asked for, and which never are: lesions."""

from collections.abc import Sequence
from difflib import get_close_matches

from backsplit.errors import SourceError
from backsplit.labels import is_lesion


def choose_structures(available: Sequence[str], wanted: Sequence[str] | None, *, force: bool) -> tuple[str, ...]:
    """The structures to ask a source for, in the order wanted.

    Args:
        available: what the source can give, in its own order.
        wanted: what the user named; None means all that are no lesions.
        force: take lesions too, which would show a network the target by another name.

    Raises:
        SourceError: a structure that the source does not have, that is named twice, or that is a lesion.
    """
    if wanted is None:
        return tuple(name for name in available if force or not is_lesion(name))
    for name in wanted:
        if name not in available:
            near = get_close_matches(name, available, 3, 0.5) or list(available[:10])
            raise SourceError(
                f"structure {name!r} is not among {len(available)} of this source; near it: {', '.join(near)}"
            )
        if wanted.count(name) > 1:
            raise SourceError(f"structure {name!r} is named {wanted.count(name)} times; name it once")
        if is_lesion(name) and not force:
            raise SourceError(
                f"structure {name!r} is a lesion: as an auxiliary it would take voxels of the target; leave it out, or "
                "insist with --force"
            )
    return tuple(wanted)
