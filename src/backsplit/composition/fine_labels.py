"""Write fine label maps: targets of the cohort's own labels over auxiliaries of its labels and masks."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from backsplit import cases
from backsplit.arrays import LabelMap
from backsplit.cases import OWN_LABELS, Case, CaseMasks, Cohort, MaskSet
from backsplit.composition.variants import Variant, variants_of
from backsplit.errors import CohortError, GeometryError, LabelError, VolumeError
from backsplit.files import write_json
from backsplit.labels import LabelScheme, overlay_maps
from backsplit.progress import track
from backsplit.volume import Volume, read_labels, write_volume

logger = logging.getLogger(__name__)
RECORD_NAME = "composition.json"


@dataclass(frozen=True, slots=True)
class _Tally:
    """Where classes were seen and which lost voxels, by name, over all cases."""

    merged_cases: Counter[str] = field(default_factory=Counter)
    merged_voxels: Counter[str] = field(default_factory=Counter)
    fine_cases: Counter[str] = field(default_factory=Counter)
    conflicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Voxels per (winner, loser)."""


def compose(
    cohort: Cohort,
    *,
    scheme: LabelScheme,
    folder: Path,
    sources: Sequence[str] | None = None,
    force: bool = False,
    allow_empty: bool = False,
) -> Cohort:
    """Write the fine label map of each case and the manifest of the composed cohort.

    Every source's label values go through a `Coarsening` to indices of the scheme, and the maps are laid over each
    other: the class that the scheme names first wins a voxel, so a target always does; conflicts are counted. Of the
    cohort's own classes those that the scheme does not name become background, with one warning. Voxels that nobody
    annotated, in a cohort with a label to ignore, get the value behind the last class, whatever masks say there.

    With several `sources` there is one fine label map per way and case. The first is what arms train on unless told
    otherwise; in the composed cohort each is a mask set of all fine classes.

    Writes `folder/labels/<case>.nii.gz` (`labels-<way>` for further ways), in the narrowest unsigned type,
    `folder/composition.json` with origins and conflicts, then `folder/cohort.json`: an interrupted run leaves no
    manifest, and running it again gives the same bytes.

    Args:
        cohort: cases with labels; images are left where they are.
        scheme: targets, by their names in `cohort.label_names`, and auxiliaries, by their names there or in its masks.
        folder: where the composed cohort goes; not the one that holds the label maps of `cohort`.
        sources: see `variants_of`.
        force: see `variants_of`.
        allow_empty: keep auxiliaries of which masks have no voxel in any case: outputs that are never labelled.

    Raises:
        LabelError: a class that no source has or no case contains, a label value without a name, voxels that are not
            whole numbers, or what `variants_of` refuses.
        CohortError: a case without labels, or label maps that the composed ones would overwrite.
        GeometryError: labels and masks of a case on different grids.
        VolumeError: a label map that cannot be read.
    """
    variants = variants_of(cohort, scheme, sources, force=force)
    folder = folder.resolve()
    _clear_the_way(cohort, scheme, folder, variants)
    tallies = {variant: _Tally() for variant in variants}
    for case in track(cohort.cases, "composed"):
        own = _labels_of(case, cohort)
        for variant, tally in tallies.items():
            fine = _fine_labels(case, own, cohort, scheme, variant, tally)
            write_volume(Volume(fine, own.grid), _output(folder, variants, variant, case))
    for variant, tally in tallies.items():
        _report(cohort, scheme, variant, tally, allow_empty=allow_empty)
    _write_record(folder, tallies)
    composed = _composed(cohort, scheme, folder, variants, is_named=sources is not None)
    cases.write(composed, folder)
    return composed


def _output(folder: Path, variants: Sequence[Variant], variant: Variant, case: Case) -> Path:
    kind = "labels" if variant == variants[0] else f"labels-{variant.name}"
    return folder / kind / f"{case.name}.nii.gz"


def _clear_the_way(cohort: Cohort, scheme: LabelScheme, folder: Path, variants: Sequence[Variant]) -> None:
    """Refuse to overwrite inputs, and withdraw a manifest whose label maps are about to change.

    A cohort composed by this very scheme may be composed in place: nothing in it changes.
    """
    outputs = {_output(folder, variants, variant, case) for variant in variants for case in cohort.cases}
    inputs = {case.labels for case in cohort.cases}
    if inputs & outputs:
        if cohort.scheme != scheme:
            raise CohortError(f"{folder}: composing would overwrite label maps of {cohort.name}; choose another folder")
        return
    manifest = folder / cases.MANIFEST_NAME
    if manifest.exists() and outputs & {case.labels for case in cases.read(manifest).cases}:
        manifest.unlink()


def _labels_of(case: Case, cohort: Cohort) -> Volume:
    if case.labels is None:
        raise CohortError(f"{case.name}: has no label map, so no targets; compose training cases only")
    labels = _read(case, case.labels)
    names = dict(cohort.label_names)
    foreign = [int(value) for value in np.unique(labels.voxels) if int(value) not in {*names, cohort.ignore}]
    if foreign:
        raise LabelError(
            f"{case.name}: label values {foreign[:10]} have no name in {cohort.name}, which has {names}; "
            "name them in the data set's description or mend the label map"
        )
    return labels


def _read(case: Case, path: Path) -> Volume:
    try:
        return read_labels(path)
    except (LabelError, VolumeError) as error:
        raise type(error)(f"{case.name}: {error}") from error


def _fine_labels(
    case: Case, own: Volume, cohort: Cohort, scheme: LabelScheme, variant: Variant, tally: _Tally
) -> LabelMap:
    is_ignored = None if cohort.ignore is None else own.voxels == cohort.ignore
    if is_ignored is not None:
        own = Volume(np.where(is_ignored, 0, own.voxels), own.grid)
    layers = [variant.coarsening_of(OWN_LABELS, cohort.label_names, scheme).of_labels(own.voxels)]
    for source in variant.mask_sets:
        if masks := case.masks_of(source):
            values = ((0, ""), *enumerate(cohort.mask_set(source).structures, start=1))
            volume = _read(case, masks.path)
            if difference := own.grid.difference(volume.grid):
                raise GeometryError(
                    f"{case.name}: labels and masks of {source} differ: {difference}; annotate the case again"
                )
            layers.append(variant.coarsening_of(source, values, scheme).of_labels(volume.voxels))
    merged = overlay_maps(scheme, layers)
    _count(own.voxels, layers[0], merged.labels, cohort, scheme, tally)
    tally.conflicts.update(merged.conflicts)
    if is_ignored is None:
        return merged.labels
    return np.where(is_ignored, scheme.num_classes, merged.labels).astype(np.min_scalar_type(scheme.num_classes))


def _count(
    own: LabelMap, coarsened: LabelMap, fine: LabelMap, cohort: Cohort, scheme: LabelScheme, tally: _Tally
) -> None:
    for value, num_voxels in zip(*np.unique(own[coarsened == 0], return_counts=True), strict=True):
        name = dict(cohort.label_names)[int(value)]
        tally.merged_cases[name] += 1
        tally.merged_voxels[name] += int(num_voxels)
    for value in np.unique(fine):
        tally.fine_cases[scheme.names[int(value)]] += 1


def _report(cohort: Cohort, scheme: LabelScheme, variant: Variant, tally: _Tally, *, allow_empty: bool) -> None:
    """Refuse classes of the scheme that no case has; say what became background and what was contested."""
    empty = [name for name in scheme.names[1:] if not tally.fine_cases[name]]
    bearable = [name for name in empty if allow_empty and dict(variant.origins).get(name, OWN_LABELS) != OWN_LABELS]
    if bearable:
        logger.warning("%s: %s: no case contains %s", cohort.name, variant.name, ", ".join(bearable))
    if refused := [name for name in empty if name not in bearable]:
        raise LabelError(
            f"{cohort.name}: none of {len(cohort.cases)} cases contains {', '.join(map(repr, refused))}; "
            "leave it out, or add cases that have it"
        )
    if merged := [
        f"{name} ({tally.merged_voxels[name]} voxels in {tally.merged_cases[name]} cases)"
        for _, name in cohort.label_names[1:]
        if tally.merged_cases[name]
    ]:
        logger.warning("%s: not in the scheme, merged into background: %s", cohort.name, ", ".join(merged))
    if tally.conflicts:
        worst = ", ".join(
            f"{winner} over {loser} ({n} voxels)" for (winner, loser), n in tally.conflicts.most_common(8)
        )
        logger.info("%s: %s: settled where classes overlap: %s", cohort.name, variant.name, worst)
    if bare := [case.name for case in cohort.cases if variant.annotated(case) is not None]:
        logger.warning(
            "%s: %d of %d cases lack masks of some auxiliary (%s); it counts as unknown there, not as background",
            cohort.name, len(bare), len(cohort.cases), ", ".join(bare[:3]),
        )  # fmt: skip


def _write_record(folder: Path, tallies: dict[Variant, _Tally]) -> None:
    content = {
        variant.name: {
            "origins": dict(variant.origins),
            "conflicts": {f"{winner}>{loser}": count for (winner, loser), count in sorted(tally.conflicts.items())},
        }
        for variant, tally in tallies.items()
    }
    write_json(content, folder / RECORD_NAME)


def _composed(
    cohort: Cohort, scheme: LabelScheme, folder: Path, variants: Sequence[Variant], *, is_named: bool
) -> Cohort:
    def composed_case(case: Case) -> Case:
        masks = [
            CaseMasks(variant.name, _output(folder, variants, variant, case), _all_of(scheme, variant.annotated(case)))
            for variant in variants
        ]
        annotated = variants[0].annotated(case)
        labels = _output(folder, variants, variants[0], case)
        return replace(case, labels=labels, annotated=annotated, masks=tuple(masks) if is_named else ())

    sets = tuple(MaskSet(variant.name, scheme.names[1:]) for variant in variants) if is_named else ()
    return replace(
        cohort,
        label_names=tuple(enumerate(scheme.names)),
        scheme=scheme,
        ignore=None if cohort.ignore is None else scheme.num_classes,
        cases=tuple(composed_case(case) for case in cohort.cases),
        provenance=_provenance(cohort, scheme, variants),
        masks=sets,
    )


def _all_of(scheme: LabelScheme, annotated: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if annotated is None else (*scheme.targets, *annotated)


def _provenance(cohort: Cohort, scheme: LabelScheme, variants: Sequence[Variant]) -> tuple[tuple[str, str], ...]:
    text = f"targets {', '.join(scheme.targets)}; auxiliaries {', '.join(scheme.auxiliaries) or 'none'}"
    if any(variant.mask_sets for variant in variants) or len(variants) > 1:
        text += f"; from {', '.join(variant.name for variant in variants)}"
    return (
        cohort.provenance
        if cohort.provenance[-1:] == (("composed", text),)
        else (*cohort.provenance, ("composed", text))
    )
