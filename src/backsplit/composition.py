"""From the label values of a data set to the fine classes of a scheme."""

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from backsplit import cases
from backsplit.arrays import LabelMap
from backsplit.cases import Case, Cohort
from backsplit.errors import CohortError, LabelError, VolumeError
from backsplit.labels import Coarsening, LabelScheme
from backsplit.progress import track
from backsplit.volume import Volume, read_labels, write_volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tally:
    """Where classes were seen, by name."""

    num_cases: Counter[str] = field(default_factory=Counter)
    num_voxels: Counter[str] = field(default_factory=Counter)


def compose(cohort: Cohort, *, scheme: LabelScheme, folder: Path) -> Cohort:
    """Write the fine label map of each case and the manifest of the composed cohort.

    Label values are merged by a `Coarsening`: a class that the scheme names gets its index, any other becomes
    background and is reported in one warning. One label map per case cannot contradict itself, so there are no
    conflicts to count here; those arise, and are counted, where masks are overlaid.

    Writes `folder/labels/<case>.nii.gz`, in the narrowest unsigned type, then `folder/cohort.json`: an interrupted run
    leaves no manifest, and running it again gives the same bytes.

    Args:
        cohort: cases with labels; images are left where they are.
        scheme: targets and auxiliaries, by their names in `cohort.label_names`.
        folder: where the composed cohort goes; not the one that holds the label maps of `cohort`.

    Raises:
        LabelError: a class that the cohort does not name or no case contains, a label value without a name, or voxels
            that are not whole numbers.
        CohortError: a case without labels, or label maps that the composed ones would overwrite.
        VolumeError: a label map that cannot be read.
    """
    coarsening = _coarsening(cohort, scheme)
    folder = folder.resolve()
    outputs = {case.name: folder / "labels" / f"{case.name}.nii.gz" for case in cohort.cases}
    _clear_the_way(cohort, scheme, folder, set(outputs.values()))
    tally = Tally()
    for case in track(cohort.cases, "composed"):
        volume = _labels_of(case)
        _count(case, volume.voxels, cohort, tally)
        write_volume(Volume(coarsening.of_labels(volume.voxels), volume.grid), outputs[case.name])
    _report(cohort, scheme, tally)
    composed = replace(
        cohort,
        label_names=tuple(enumerate(scheme.names)),
        scheme=scheme,
        cases=tuple(_composed_case(case, scheme, outputs[case.name]) for case in cohort.cases),
        provenance=_provenance(cohort, scheme),
    )
    cases.write(composed, folder)
    return composed


def _coarsening(cohort: Cohort, scheme: LabelScheme) -> Coarsening:
    """Label value to index in the scheme; values between those that the cohort names never come, so any index does."""
    known = {name for _, name in cohort.label_names}
    absent = [name for name in scheme.names if name not in known]
    if absent:
        raise LabelError(
            f"{cohort.name}: no label is called {', '.join(map(repr, absent))}; it has {', '.join(sorted(known))}; "
            "choose targets and auxiliaries among these, or annotate the class first"
        )
    parent = [0] * (max(value for value, _ in cohort.label_names) + 1)
    for value, name in cohort.label_names:
        parent[value] = scheme.index(name) if name in scheme.names else 0
    return Coarsening(tuple(parent))


def _clear_the_way(cohort: Cohort, scheme: LabelScheme, folder: Path, outputs: set[Path]) -> None:
    """Refuse to overwrite inputs, and withdraw a manifest whose label maps are about to change.

    A cohort composed by this very scheme may be composed in place: nothing in it changes.
    """
    inputs = {case.labels for case in cohort.cases}
    if inputs & outputs:
        if cohort.scheme != scheme:
            raise CohortError(f"{folder}: composing would overwrite label maps of {cohort.name}; choose another folder")
        return
    manifest = folder / cases.MANIFEST_NAME
    if manifest.exists() and outputs & {case.labels for case in cases.read(manifest).cases}:
        manifest.unlink()


def _labels_of(case: Case) -> Volume:
    if case.labels is None:
        raise CohortError(f"{case.name}: has no label map, so no targets; compose training cases only")
    try:
        return read_labels(case.labels)
    except (LabelError, VolumeError) as error:
        raise type(error)(f"{case.name}: {error}") from error


def _count(case: Case, labels: LabelMap, cohort: Cohort, tally: Tally) -> None:
    names = dict(cohort.label_names)
    values, counts = np.unique(labels, return_counts=True)
    foreign = [int(value) for value in values if int(value) not in names]
    if foreign:
        raise LabelError(
            f"{case.name}: label values {foreign[:10]} have no name in {cohort.name}, which has {names}; "
            "name them in the data set's description or mend the label map"
        )
    for value, count in zip(values, counts, strict=True):
        tally.num_cases[names[int(value)]] += 1
        tally.num_voxels[names[int(value)]] += int(count)


def _report(cohort: Cohort, scheme: LabelScheme, tally: Tally) -> None:
    """Refuse classes of the scheme that no case has; warn of classes that became background."""
    empty = [name for name in scheme.names[1:] if not tally.num_cases[name]]
    if empty:
        raise LabelError(
            f"{cohort.name}: none of {len(cohort.cases)} cases contains {', '.join(map(repr, empty))}; "
            "leave it out, or add cases that have it"
        )
    merged = [
        f"{name} ({tally.num_voxels[name]} voxels in {tally.num_cases[name]} cases)"
        for _, name in cohort.label_names
        if name not in scheme.names
    ]
    if merged:
        logger.warning("%s: not in the scheme, merged into background: %s", cohort.name, ", ".join(merged))


def _composed_case(case: Case, scheme: LabelScheme, labels: Path) -> Case:
    """The case with its fine labels; of its annotated classes those that the scheme has."""
    annotated = case.annotated and tuple(name for name in case.annotated if name in scheme.names)
    return replace(case, labels=labels, annotated=annotated)


def _provenance(cohort: Cohort, scheme: LabelScheme) -> tuple[tuple[str, str], ...]:
    entry = ("composed", f"targets {', '.join(scheme.targets)}; auxiliaries {', '.join(scheme.auxiliaries) or 'none'}")
    return cohort.provenance if cohort.provenance[-1:] == (entry,) else (*cohort.provenance, entry)
