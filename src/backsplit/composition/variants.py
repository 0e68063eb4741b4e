"""Where the auxiliary classes of a fine label map come from."""

from collections.abc import Sequence
from dataclasses import dataclass

from backsplit.cases import OWN_LABELS, Case, Cohort
from backsplit.errors import LabelError
from backsplit.labels import BACKGROUND, Coarsening, LabelScheme, is_lesion


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to get the fine labels of a cohort: targets from its own label map, each auxiliary from one source."""

    name: str
    """Such as `totalsegmentator`, or `labels+totalsegmentator`."""
    origins: tuple[tuple[str, str], ...]
    """Auxiliary and its source, in the order of the scheme."""

    @property
    def mask_sets(self) -> tuple[str, ...]:
        """Mask sets that give some auxiliary."""
        return tuple(dict.fromkeys(source for _, source in self.origins if source != OWN_LABELS))

    def auxiliaries_of(self, source: str) -> tuple[str, ...]:
        """The auxiliaries that come from a source."""
        return tuple(auxiliary for auxiliary, origin in self.origins if origin == source)

    def coarsening_of(self, source: str, values: Sequence[tuple[int, str]], scheme: LabelScheme) -> Coarsening:
        """Label value of a source's files to index in the scheme; what is not taken from it becomes background.

        Values between those that have a name never come, so they may go anywhere.
        """
        taken = {*self.auxiliaries_of(source), *(scheme.targets if source == OWN_LABELS else ())}
        parent = [0] * (max(value for value, _ in values) + 1)
        for value, name in values:
            parent[value] = scheme.index(name) if name in taken else 0
        return _closed(parent)

    def annotated(self, case: Case) -> tuple[str, ...] | None:
        """Auxiliaries whose masks the case has; None means all."""
        known = {OWN_LABELS: case.annotated, **{masks.source: masks.annotated for masks in case.masks}}
        found = tuple(
            auxiliary
            for auxiliary, source in self.origins
            if source in known and ((names := known[source]) is None or auxiliary in names)
        )
        return None if len(found) == len(self.origins) else found


def _closed(parent: list[int]) -> Coarsening:
    """A coarsening needs all its classes; values that no file has stand in for those that come from elsewhere."""
    missing = sorted(set(range(max(parent) + 1)) - set(parent))
    return Coarsening((*parent, *missing))


def variants_of(
    cohort: Cohort, scheme: LabelScheme, sources: Sequence[str] | None, *, force: bool
) -> tuple[Variant, ...]:
    """The ways that the user asked for, one per entry of `sources`.

    Args:
        cohort: with masks.
        scheme: the fine classes.
        sources: each a source, or several joined by `+` of which the first that has a class gives it. None is one way
            that looks everywhere, and refuses a class that two sources have.
        force: take auxiliaries from masks that are lesions by their name.

    Raises:
        LabelError: a class that no source has, or more than one; an unknown source; a target that the label map does
            not name; or a lesion of a mask set as auxiliary.
    """
    named = {name for _, name in cohort.label_names} - {BACKGROUND}
    if absent := [target for target in scheme.targets if target not in named]:
        raise LabelError(
            f"{cohort.name}: no label is called {', '.join(map(repr, absent))}; it has {', '.join(sorted(named))}; "
            "choose targets among these"
        )
    if sources is None:
        return (_variant(cohort, scheme, None, force=force),)
    if len(set(sources)) < len(sources):
        raise LabelError(f"sources {', '.join(sources)} name one twice; name each way once")
    return tuple(_variant(cohort, scheme, entry, force=force) for entry in sources)


def _variant(cohort: Cohort, scheme: LabelScheme, entry: str | None, *, force: bool) -> Variant:
    offered = {OWN_LABELS: {name for _, name in cohort.label_names}}
    offered |= {masks.name: set(masks.structures) for masks in cohort.masks if masks.name != OWN_LABELS}
    chosen = list(offered) if entry is None else entry.split("+")
    if unknown := [source for source in chosen if source not in offered]:
        raise LabelError(f"{cohort.name}: no masks called {', '.join(unknown)}; it has {', '.join(offered)}")
    origins = []
    for auxiliary in scheme.auxiliaries:
        found = [source for source in chosen if auxiliary in offered[source]]
        if not found:
            known = sorted(set().union(*(offered[source] for source in chosen)) - {BACKGROUND})
            raise LabelError(
                f"{cohort.name}: no class {auxiliary!r} in {', '.join(chosen)}; there are {', '.join(known)}; choose "
                "auxiliaries among these, or add masks with `backsplit annotate`"
            )
        if entry is None and len(found) > 1:
            raise LabelError(
                f"{cohort.name}: class {auxiliary!r} is in {' and in '.join(found)}; say which with --sources"
            )
        if found[0] != OWN_LABELS and is_lesion(auxiliary) and not force:
            raise LabelError(
                f"{cohort.name}: {auxiliary!r} of {found[0]} is a lesion by its name; as an auxiliary it would take "
                "voxels of the target; leave it out, or insist with --force"
            )
        origins.append((auxiliary, found[0]))
    return Variant(entry or "+".join(dict.fromkeys(source for _, source in origins)) or OWN_LABELS, tuple(origins))
