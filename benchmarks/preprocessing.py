"""What preprocessing costs beside stock nnU-Net's: label maps by their number of classes, and whole cases of KiTS23.

Run:  .venv/bin/python benchmarks/preprocessing.py labels
      .venv/bin/python benchmarks/preprocessing.py cases FOLDER case_00050 case_00114

FOLDER holds KiTS23 label maps, CASE.nii.gz; their images are made up here (a mean per label, and noise), on the case's
own grid, cut in plane to 256 or 512 voxels around the kidneys. Ours and stock take turns; each runs in a process of its
own, with one thread, of which the peak memory is read. Times are of nnU-Net's `run_case_save`: read, crop, normalise,
resize, sample, write. Medians.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  as its own manual calls it
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from backsplit.nnunet.preprocessing import Resampling, ResizedBy, one_thread

REPEATS = 3
SPACINGS = {"0.78 mm": ([0.78, 0.78, 0.78], 256), "1.5 mm": ([1.5, 1.5, 1.5], 512)}
"""Of the plans, and voxels of the case in plane."""
MEANS_HU = np.array([-60, 140, 70, 10])
SHAPES = {(80, 160, 160): (100, 256, 256), (150, 256, 256): (288, 330, 330)}
NAME = "resample_data_or_seg_to_shape"
OF_IMAGES = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
DATASET_JSON = {"labels": {"background": 0, "kidney": 1, "tumour": 2, "cyst": 3}, "channel_names": {"0": "CT"}}
CT_HU = {"mean": 100.0, "std": 76.0, "percentile_00_5": -58.0, "percentile_99_5": 302.0}
"""Near nnU-Net's own statistics of KiTS."""


def plans(spacing_mm: list[float]) -> PlansManager:
    """Plans as nnU-Net makes them for CT with thick axial slices: the slice axis first."""
    configuration = {
        "spacing": spacing_mm,
        "patch_size": [128, 128, 128],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": NAME,
        "resampling_fn_seg": NAME,
        "resampling_fn_data_kwargs": OF_IMAGES,
        "resampling_fn_seg_kwargs": {**OF_IMAGES, "is_seg": True, "order": 1},
        "architecture": {},
    }
    return PlansManager(
        {
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [2, 0, 1],
            "foreground_intensity_properties_per_channel": {"0": CT_HU},
            "configurations": {"3d_fullres": configuration},
            "label_manager": "LabelManager",
        }
    )


def organs(shape: tuple[int, ...], num_classes: int) -> np.ndarray:
    """Ellipsoids of 0.12 to 0.3 of the volume's length, with a small one, class 1, in the middle; float32 as read."""
    generator = np.random.default_rng(0)
    grid = np.meshgrid(*[np.linspace(0, 1, length, dtype=np.float32) for length in shape], indexing="ij")

    def ellipsoid(centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
        return sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True)) < 1

    labels = np.zeros(shape, np.float32)
    for label in range(2, num_classes):
        labels[ellipsoid(generator.uniform(0.2, 0.8, 3), generator.uniform(0.12, 0.3, 3))] = label
    labels[ellipsoid(np.full(3, 0.5), np.full(3, 0.05))] = 1
    return labels[None]


def medians(works: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of each, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in seconds.items()}


def measure_labels() -> None:
    """Label maps of 2 to 118 classes, resized as nnU-Net calls its own function and ours; both must be equal.

    The limit: reading a map once, and writing a resized one once.
    """
    configuration = plans([1.0, 1.0, 1.0]).get_configuration("3d_fullres")
    ours, stock = ResizedBy(configuration, "fast").resampling_fn_seg, configuration.resampling_fn_seg
    print("| voxels | labels | stock, s | ours, s | ratio | limit, s |\n| --- | --- | --- | --- | --- | --- |")
    for old, new in SHAPES.items():
        fine = organs(old, 11)
        maps = {"lesion alone": fine == 1, "all merged": fine > 0, "11 classes": fine}
        maps |= {"118 classes": organs(old, 118)} if old == min(SHAPES) else {}
        given = {
            name: (labels.astype(np.float32), np.array(new), [1.0] * 3, [1.0] * 3) for name, labels in maps.items()
        }
        for name, arguments in given.items():
            if (np.asarray(ours(*arguments)) != np.asarray(stock(*arguments))).any():
                raise SystemExit(f"{name}: labels differ")
        theirs = medians({name: partial(stock, *arguments) for name, arguments in given.items()}, 1)
        mine = medians({name: partial(ours, *arguments) for name, arguments in given.items()}, 25)
        copy = partial(lambda labels, new: (labels.astype(np.int8), np.ones(new, np.int8)), given["11 classes"][0], new)
        limit = medians({"copy": copy}, 25)["copy"]
        for name in maps:
            row = f"{theirs[name]:.2f} | {mine[name]:.4f} | {theirs[name] / mine[name]:.0f} | {limit:.4f}"
            print(f"| {old} to {new} | {name} | {row} |", flush=True)


class Timed(ConfigurationManager):
    """A configuration that notes how long resizing takes."""

    def __init__(self, inner: ConfigurationManager) -> None:
        super().__init__(inner.configuration)
        self.inner, self.seconds = inner, {"images": 0.0, "labels": 0.0}

    def _timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:  # noqa: ANN401  passed on
            started = time.perf_counter()
            result = work(*given)
            self.seconds[part] += time.perf_counter() - started
            return result

        return call

    @property
    def resampling_fn_data(self) -> Callable[..., Any]:
        """Timed."""
        return self._timed("images", self.inner.resampling_fn_data)

    @property
    def resampling_fn_seg(self) -> Callable[..., Any]:
        """Timed."""
        return self._timed("labels", self.inner.resampling_fn_seg)


def write_case(labels: Path, folder: Path, side: int) -> None:
    """Cut a label map in plane around the kidneys, and make up its image."""
    whole = sitk.ReadImage(labels)
    middle = np.argwhere(sitk.GetArrayViewFromImage(whole)).mean(0).astype(int)[:2]  # slices are last
    row, column = np.clip(middle - side // 2, 0, 512 - side).tolist()
    cut = whole[:, column : column + side, row : row + side]
    array = sitk.GetArrayFromImage(cut)
    noise = np.random.default_rng(0).normal(0, 20, array.shape)
    image = sitk.GetImageFromArray((MEANS_HU[array] + noise).astype(np.int16))
    image.CopyInformation(cut)
    sitk.WriteImage(cut, folder / "labels.nii.gz")
    sitk.WriteImage(image, folder / "image_0000.nii.gz")


def preprocess(resampling: Resampling, spacing_mm: list[float], folder: Path) -> dict[str, float]:
    """Preprocess the case of a folder; seconds in all and of resizing, and the peak memory of this process in GB."""
    manager = plans(spacing_mm)
    timed = Timed(ResizedBy(manager.get_configuration("3d_fullres"), resampling))
    for file in folder.glob(f"{resampling}*"):  # blosc2 does not overwrite
        file.unlink()
    started = time.perf_counter()
    with one_thread():
        DefaultPreprocessor(verbose=False).run_case_save(
            str(folder / resampling),
            [str(folder / "image_0000.nii.gz")],
            str(folder / "labels.nii.gz"),
            manager,
            timed,
            DATASET_JSON,
        )
    whole = time.perf_counter() - started
    return {"whole": whole, **timed.seconds, "GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def differences(folder: Path) -> tuple[str, float, int]:
    """Shape of the result; largest difference of images as a share of the largest absolute value; differing labels."""
    case = nnUNetDatasetBlosc2(str(folder), ["stock", "fast"])
    (theirs, their_labels, *_), (ours, our_labels, *_) = (case.load_case(who) for who in ("stock", "fast"))
    share = np.abs(ours[:] - theirs[:]).max() / np.abs(theirs[:]).max()
    return "x".join(map(str, ours.shape[1:])), float(share), int((our_labels[:] != their_labels[:]).sum())


def measure_case(labels: Path) -> None:
    """One case in both spacings, stock and ours in turns, each in a fresh process."""
    for name, (spacing_mm, side) in SPACINGS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_case(labels, folder, side)
            runs: dict[Resampling, list[dict[str, float]]] = {"stock": [], "fast": []}
            for _ in range(REPEATS):
                for resampling, done in runs.items():
                    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                        done.append(pool.submit(preprocess, resampling, spacing_mm, folder).result())
            found = {who: {key: median(run[key] for run in done) for key in done[0]} for who, done in runs.items()}
            shape, share, num_labels = differences(folder)
        for who, row in found.items():
            print(
                f"| {labels.name[:10]}, {name}, {shape} | {who} | "
                + " | ".join(f"{value:.2f}" for value in row.values())
                + " |"
            )
        ratio = found["stock"]["whole"] / found["fast"]["whole"]
        print(f"|  | ratio {ratio:.1f}, images {share:.0e}, {num_labels} labels differ | | | | |", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "labels":
        measure_labels()
    else:
        print("| case | who | whole, s | images, s | labels, s | GB |\n| --- | --- | --- | --- | --- | --- |")
        for case in sys.argv[3:]:
            measure_case(Path(sys.argv[2]) / f"{case}.nii.gz")
