"""Dice against the number of simulated clicks, with a small nnInteractive model on synthesised kidneys.

Run:  PYTHONPATH=src:tests OMP_NUM_THREADS=1 python benchmarks/click_table.py KITS23_LABELS WORK docs/clicks.md

KITS23_LABELS holds label maps of KiTS23 named case_XXXXX.nii.gz; the images are made here, from the labels. What is
finished in WORK, the trained model and the masks of each run, is not made again.
"""

import itertools
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter

from backsplit.arrays import LabelMap, Voxels
from backsplit.cases import Case, Cohort
from backsplit.evaluation import count_overlap, dice
from backsplit.files import write_text
from backsplit.sources import annotate
from backsplit.sources.clicks import Clicking, Strategy, connected_parts
from backsplit.sources.nninteractive import open_nninteractive
from backsplit.sources.nninteractive_session import Running
from backsplit.sources.reference import Reference, reference_of
from backsplit.volume import Grid, Volume, read_labels, write_volume
from tinyinteractive import Example, train_by_clicks, write_interactive_model  # ty: ignore[import-not-found]  in tests/

TEST = ("00127", "00211", "00417", "00475", "00512")
TRAINING = (
    *("00050", "00081", "00083", "00094", "00121", "00129", "00144", "00145", "00147", "00179", "00182", "00184"),
    *("00190", "00192", "00194", "00196", "00226", "00231", "00238", "00256", "00260", "00266", "00285", "00289"),
    *("00427", "00432", "00446", "00465", "00470", "00472", "00491", "00494", "00495", "00509", "00526", "00565"),
    *("00567", "00571", "00586"),
)
CLASSES = {0: "background", 1: "kidney", 2: "tumor", 3: "cyst"}
STRUCTURES = ("tumor", "kidney")
SPACING_MM, MARGIN_MM = 4.0, 30.0
MIN_PART_VOXELS = 20  # 1.28 mL; label 1 is the kidney without its lesions, and has slivers around them
MEAN_HU = {1: 120.0, 2: 70.0, 3: 10.0}
FAT_HU, MUSCLE_HU, BLOB_HU = -80.0, 40.0, (-20.0, 160.0)
PATCH_SIZE, FEATURES = (32, 32, 32), (16, 32, 64, 64)
NUM_STEPS, LEARNING_RATE = 2000, 3e-3
CAPSULE_MM = 12.0
IMAGES_PER_CASE, MOST_BLOBS = 2, 8
CLICKS = (1, 3, 5, 7, 10)


def _clicking(strategy: Strategy, seed: int) -> Clicking:
    return Clicking(CLICKS[-1], CLICKS[:-1], strategy, seed, MIN_PART_VOXELS)


RUNS: Mapping[str, Clicking] = {
    **{f"random-{seed}": _clicking("random", seed) for seed in (0, 1, 2)},
    "centre-first-0": _clicking("centre-first", 0),
}


def small_labels(path: Path) -> LabelMap:
    """A label map at 4 mm, nearest voxel, cut out around what is labelled with a margin of 30 mm."""
    volume = read_labels(path)
    indices = [
        np.minimum(np.rint(np.arange(0, length * step, SPACING_MM) / step).astype(int), length - 1)
        for length, step in zip(volume.grid.shape, volume.grid.spacing_mm, strict=True)
    ]
    small = volume.voxels[np.ix_(*indices)]
    margin = round(MARGIN_MM / SPACING_MM)
    labelled = np.argwhere(small)
    low, high = np.maximum(labelled.min(0) - margin, 0), labelled.max(0) + margin + 1
    return small[tuple(slice(*ends) for ends in zip(low, high, strict=True))]


def synthesise(labels: LabelMap, generator: np.random.Generator) -> tuple[Voxels, LabelMap]:
    """A CT-like image: HU by class, in a capsule of fat, farther out muscle and blobs of other organs; then noise.

    Returns:
        HU, and the blobs, numbered from 1.
    """
    is_fat = (_smooth(labels.shape, 4, generator) < 0) | (
        distance_transform_edt(labels == 0) * SPACING_MM <= CAPSULE_MM
    )
    image = np.where(is_fat, FAT_HU, MUSCLE_HU)
    blobs = connected_parts((_smooth(labels.shape, 3.5, generator) > 1) & (labels == 0), min_voxels=MIN_PART_VOXELS)
    blob_hu = np.array([0, *generator.uniform(*BLOB_HU, blobs.num_parts)])
    image = np.where(blobs.labels > 0, blob_hu[blobs.labels], image)
    for value, mean_hu in MEAN_HU.items():
        image[labels == value] = generator.normal(mean_hu, 10)
    image += 8 * _smooth(labels.shape, 1.5, generator) + generator.normal(0, 20, labels.shape)
    return gaussian_filter(image, 0.6).astype(np.float32), blobs.labels


def _smooth(shape: tuple[int, ...], sigma: float, generator: np.random.Generator) -> np.ndarray:
    field = gaussian_filter(generator.normal(size=shape), sigma)
    return field / field.std()


def training_examples(folder: Path) -> Callable[[np.random.Generator], Example]:
    """Draws a training image and an object in it, mirrored and turned: tumour, kidney or a blob of another organ."""
    examples: dict[str, list[Example]] = {"tumor": [], "kidney": [], "blob": []}
    for seed, number in enumerate(TRAINING):
        labels = small_labels(folder / f"case_{number}.nii.gz")
        for copy in range(IMAGES_PER_CASE):
            image, blobs = synthesise(labels, np.random.default_rng((seed, copy)))
            for name, mask in {"kidney": labels == 1, "tumor": labels == 2}.items():
                found = connected_parts(mask, min_voxels=MIN_PART_VOXELS)
                examples[name] += [Example(image, found.labels == part) for part in range(1, found.num_parts + 1)]
            examples["blob"] += [Example(image, blobs == part) for part in range(1, min(blobs.max(), MOST_BLOBS) + 1)]

    def draw(generator: np.random.Generator) -> Example:
        chosen = examples[str(generator.choice(list(examples)))]
        image, part = chosen[generator.integers(len(chosen))]
        axes, flips = generator.permutation(3), [axis for axis in range(3) if generator.random() < 0.5]
        return Example(*(np.flip(volume.transpose(axes), tuple(flips)).copy() for volume in (image, part)))

    return draw


def train(folder: Path, model: Path) -> None:
    """Train once, and write the model folder and what it took."""
    if (model / "seconds.txt").exists():
        return
    start, losses = time.process_time(), []

    def report(step: int, loss: float) -> None:
        losses.append(loss)
        if (step + 1) % 100 == 0:
            print(
                f"step {step + 1}: loss {np.mean(losses[-100:]):.3f}, {time.process_time() - start:.0f} s", flush=True
            )

    weights = train_by_clicks(
        training_examples(folder),
        patch_size=PATCH_SIZE,
        features=FEATURES,
        num_steps=NUM_STEPS,
        learning_rate=LEARNING_RATE,
        is_bfloat16=True,
        report=report,
    )
    write_interactive_model(model, weights, patch_size=PATCH_SIZE, features=FEATURES)
    write_text(f"{time.process_time() - start:.0f}\n", model / "seconds.txt")


def test_cohort(folder: Path, work: Path) -> Cohort:
    """Small label maps of the test cases and an image for each."""
    made = []
    for seed, number in enumerate(TEST):
        name = f"case_{number}"
        labels = small_labels(folder / f"{name}.nii.gz")
        grid = Grid(labels.shape, (SPACING_MM, SPACING_MM, SPACING_MM), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
        image, own = work / "images" / f"{name}.nii.gz", work / "labels" / f"{name}.nii.gz"
        if not own.exists():
            write_volume(Volume(synthesise(labels, np.random.default_rng((1000, seed)))[0], grid), image)
            write_volume(Volume(labels, grid), own)
        made.append(Case(name, (image.resolve(),), own.resolve(), name))
    return Cohort("clicked", ("CT",), tuple(CLASSES.items()), tuple(made))


def scores(cohort: Cohort, run: str) -> Iterator[dict[str, object]]:
    """Dice of each case, structure and number of clicks of one run."""
    reference_masks = reference_of(cohort, "labels")
    for case in cohort.cases:
        reference = reference_masks.read(case).voxels
        for count in CLICKS:
            name = run if count == CLICKS[-1] else f"{run}-{count}-clicks"
            predicted = Reference(name, tuple(enumerate(STRUCTURES, start=1))).read(case).voxels
            for index, name in enumerate(STRUCTURES, start=1):
                value = next(value for value, known in CLASSES.items() if known == name)
                overlap = count_overlap(predicted == index, reference == value)
                yield {
                    "strategy": run.rpartition("-")[0],
                    "seed": int(run.rpartition("-")[2]),
                    "case": case.name,
                    "structure": name,
                    "clicks": count,
                    "dice": dice(overlap),
                }


def table_of(scored: pd.DataFrame) -> list[str]:
    """Markdown rows: mean over cases and seeds, in brackets the standard deviation over cases and the seeds' range."""
    lines = [f"| strategy | structure | {' | '.join(f'{count} clicks' for count in CLICKS)} |"]
    lines.append("| --- " * (2 + len(CLICKS)) + "|")
    for strategy, structure in itertools.product(("random", "centre-first"), STRUCTURES):
        group = scored[(scored["strategy"] == strategy) & (scored["structure"] == structure)]
        cells = [_cell(group[group["clicks"] == count]) for count in CLICKS]
        lines.append(f"| {strategy} | {structure} | {' | '.join(cells)} |")
    return lines


def _cell(group: pd.DataFrame) -> str:
    means = group.groupby("seed")["dice"].mean()
    spread = group.groupby("case")["dice"].mean().std(ddof=1)
    seeds = f"; {means.min():.3f} to {means.max():.3f}" if len(means) > 1 else ""
    return f"**{means.mean():.3f}** ({spread:.3f}{seeds})"


def cases_of(scored: pd.DataFrame) -> list[str]:
    """Markdown rows: each case at the fewest and the most clicks, mean over seeds."""
    few, many = CLICKS[0], CLICKS[-1]
    lines = [f"| case | structure | random, {few} | random, {many} | centre-first, {few} | centre-first, {many} |"]
    lines.append("| --- " * 6 + "|")
    means = scored.groupby(["case", "structure", "strategy", "clicks"])["dice"].mean()
    for case, structure in scored[["case", "structure"]].drop_duplicates().itertuples(index=False):
        cells = [means[case, structure, way, count] for way in ("random", "centre-first") for count in (few, many)]
        lines.append(f"| {case} | {structure} | {' | '.join(f'{cell:.3f}' for cell in cells)} |")
    return lines


def document_of(scored: pd.DataFrame, *, seconds: float) -> str:
    """The whole page."""
    size = " x ".join(map(str, PATCH_SIZE))
    text = f"""\
        # Dice against the number of clicks

        Written by `benchmarks/click_table.py`. The masks come from `backsplit annotate --source nninteractive`'s own
        code: the real nnInteractive, a small network.

        - Test data: label maps of KiTS23 {", ".join(TEST)}, at {SPACING_MM:g} mm, cut out with a margin of
          {MARGIN_MM:g} mm. Images are synthesised from the labels: kidney {MEAN_HU[1]:g} HU, tumour {MEAN_HU[2]:g},
          cyst {MEAN_HU[3]:g} (SD over images 10), a capsule of fat ({FAT_HU:g}), around it fat, muscle ({MUSCLE_HU:g})
          and blobs of {BLOB_HU[0]:g} to {BLOB_HU[1]:g}; texture and noise. So the numbers say how clicks act, not how
          well real kidneys are found.
        - Network: U-Net {"-".join(map(str, FEATURES))}, patch {size}, trained from scratch on {len(TRAINING)} other
          KiTS23 label maps ({IMAGES_PER_CASE} images each): {NUM_STEPS} clicks, one step of AdamW each, on kidneys,
          tumours and blobs in equal shares, half of the objects by either strategy, seed 0, bf16:
          {seconds / 60:.0f} CPU minutes on one thread. Auto-zoom is off: nnInteractive's needs a larger patch.
        - Clicks: for each 26-connected part of at least {MIN_PART_VOXELS} voxels of label 1 (kidney) and label 2
          (tumour); one label map, in which the tumour wins where both claim a voxel. `random`: positive clicks, seeds
          0, 1, 2. `centre-first`: nothing is drawn, so it has one seed.

        Mean Dice over the {len(TEST)} cases and the seeds; in brackets the standard deviation over cases, then the
        lowest and highest mean of a seed.

        """
    return "\n".join([textwrap.dedent(text), *table_of(scored), "", "Case by case:", "", *cases_of(scored), ""])


def main(folder: Path, work: Path, document: Path) -> None:
    """Train, click, score, write."""
    torch.set_num_threads(1)
    model = work / "model"
    train(folder, model)
    cohort = test_cohort(folder, work / "cohort")
    scored = pd.DataFrame(row for run, clicking in RUNS.items() for row in _scored_run(cohort, run, clicking, work))
    seconds = float((model / "seconds.txt").read_text())
    write_text(document_of(scored, seconds=seconds), document)


def _scored_run(cohort: Cohort, run: str, clicking: Clicking, work: Path) -> Iterator[dict[str, object]]:
    source = open_nninteractive(
        model=work / "model",
        reference=reference_of(cohort, "labels"),
        structures=STRUCTURES,
        clicking=clicking,
        running=Running(torch.device("cpu"), autozoom=False),
        force=True,
    )
    return scores(annotate(cohort, source, name=run, folder=work / "cohort"), run)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
