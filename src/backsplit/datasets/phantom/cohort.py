"""A cohort of phantom cases on disk."""

from pathlib import Path

import numpy as np

from backsplit import cases
from backsplit.cases import Case, Cohort
from backsplit.datasets.phantom.case import PhantomSettings, draw_case
from backsplit.datasets.phantom.scene import PHANTOM_SCHEME
from backsplit.errors import ConfigurationError
from backsplit.progress import track
from backsplit.volume import write_volume


def write_cohort(folder: Path, *, num_cases: int, settings: PhantomSettings, seed: int) -> Cohort:
    """Draw a cohort into `folder`: `images/`, `labels/` and, last, `cohort.json`.

    Case `k` depends on `settings`, `seed` and `k` alone. A second call writes the same bytes, so a run that was killed
    is repaired by running it again; an older manifest in `folder` goes first, so that none names half a cohort.

    Raises:
        ConfigurationError: fewer than one case, or a negative seed.
    """
    if num_cases < 1 or seed < 0:
        raise ConfigurationError(f"a cohort needs one case or more and a seed of 0 or more, got {num_cases} and {seed}")
    folder = folder.resolve()
    (folder / cases.MANIFEST_NAME).unlink(missing_ok=True)
    drawn = [_write_case(folder, number, settings, seed) for number in track(range(num_cases), "drawn")]
    cohort = Cohort(
        name="phantom",
        channels=("CT",),
        label_names=tuple(enumerate(PHANTOM_SCHEME.names)),
        cases=tuple(drawn),
        provenance=(("source", "synthetic abdominal CT"), ("settings", repr(settings)), ("seed", str(seed))),
    )
    cases.write(cohort, folder)
    return cohort


def _write_case(folder: Path, number: int, settings: PhantomSettings, seed: int) -> Case:
    name = f"phantom_{number:03}"
    image, labels = draw_case(settings, seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
    image_path, label_path = folder / "images" / f"{name}_0000.nii.gz", folder / "labels" / f"{name}.nii.gz"
    write_volume(image, image_path)
    write_volume(labels, label_path)
    return Case(name=name, images=(image_path,), labels=label_path, group=name)
