"""The report of large cases: megabytes, time to build beside time to read, time to see in Chromium.

Run:  OMP_NUM_THREADS=1 .venv/bin/python benchmarks/report.py KITS23_LABELS --cases 3 --slices 200

KITS23_LABELS holds KiTS23 label maps, CASE.nii.gz, 512 x 512 in plane. Those with nearly so many slices or more are
cut to them around the lesions; where more cases are wanted than there are, the same files serve again under other
names. The image is made up: a mean per label, and noise of 20 HU on every voxel, which hardly compresses. The two arms
are the reference shifted by two and by one voxel in plane; kidney is the auxiliary class.
Reading is what the build reads, too: image, reference and two predictions. Build and reading take turns in one process,
three times for each of the first cases, and are counted in seconds of computing; one thread each.
Chromium runs headless, WebGL2 in software. The first screen counts from the start of the navigation to the first paint;
an empty page beside it says what of that is the browser's. A case counts from the click until what was drawn can be
read back from the canvas. Medians, and the largest in brackets.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from playwright.sync_api import Page, ViewportSize, sync_playwright

from backsplit.cases import Case, Cohort
from backsplit.evaluation import (
    LESION_COLUMNS,
    UNDEFINED,
    Scoring,
    Subject,
    compare,
    read_scores,
    read_table,
    score_label_maps,
    summarise,
    write_rows,
)
from backsplit.labels import LabelScheme
from backsplit.report import ReportInputs, write
from backsplit.report.caseviews import case_view, safe_id
from backsplit.report.gather import sight_of
from backsplit.report.webvolumes import crop_grid
from backsplit.volume import Volume, read_grid, read_labels, read_volume, write_volume

NEARLY = 0.98
MEANS_HU, NOISE_HU = np.array([-60, 10, 70, 140]), 20
FINE = np.array([0, 3, 2, 1], np.uint8)
"""Of KiTS23's kidney, tumour, cyst: targets first."""
SCHEME = LabelScheme(("cyst", "tumour"), ("kidney",))
SCORING = Scoring((2.0,))
SHIFTS = {"binary": 2, "backsplit": 1}
WINDOW: ViewportSize = {"width": 1280, "height": 800}
EMPTY_PAGE, REPEATS, MOST_MEASURED = "data:text/html,<p>nothing", 3, 5
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def make_case(name: str, source: Path, folder: Path, num_slices: int) -> Case:
    """Cut a label map, make up an image and two predictions."""
    labels = read_labels(source)
    lesions = np.flatnonzero((labels.voxels > 1).any(axis=(1, 2)))
    start = int(np.clip(int(lesions.mean()) - num_slices // 2, 0, max(0, labels.grid.shape[0] - num_slices)))
    box = (slice(start, min(start + num_slices, labels.grid.shape[0])), slice(0, 512), slice(0, 512))
    grid, fine = crop_grid(labels.grid, box), FINE[labels.voxels[box]]
    noise = np.random.default_rng(0).normal(0, NOISE_HU, fine.shape)
    write_volume(Volume((MEANS_HU[fine] + noise).astype(np.int16), grid), folder / "images" / f"{name}.nii.gz")
    write_volume(Volume(fine, grid), folder / "labels" / f"{name}.nii.gz")
    for arm, shift in SHIFTS.items():
        prediction = np.roll(np.where(fine <= SCHEME.num_targets, fine, 0).astype(np.uint8), shift, axis=2)
        write_volume(Volume(prediction, grid), folder / arm / f"{name}.nii.gz")
    print(f"{name}: {'x'.join(map(str, grid.shape))} voxels", flush=True)
    return Case(name, (folder / "images" / f"{name}.nii.gz",), folder / "labels" / f"{name}.nii.gz", name)


def again(case: Case, name: str, folder: Path) -> Case:
    """The same files under another name."""
    assert case.labels is not None
    for path in (*case.images, case.labels, *(folder / arm / case.labels.name for arm in SHIFTS)):
        path.with_name(f"{name}.nii.gz").symlink_to(path)
    return Case(name, (case.images[0].with_name(f"{name}.nii.gz"),), case.labels.with_name(f"{name}.nii.gz"), name)


def make_cases(sources: list[Path], folder: Path, number: int, num_slices: int) -> list[Case]:
    """So many cases."""
    made = [make_case(path.name.removesuffix(".nii.gz"), path, folder, num_slices) for path in sources[:number]]
    rest = range(len(made), number)
    return made + [again(made[n % len(made)], f"{made[n % len(made)].name}-{n // len(made)}", folder) for n in rest]


def inputs_of(cases: list[Case], folder: Path) -> ReportInputs:
    """Score the made-up arms and gather what a report is made of."""
    cohort = Cohort("kits23", ("CT",), tuple(enumerate(SCHEME.names)), tuple(cases), SCHEME)
    scores, lesions = [], []
    for case in cases:
        reference = read_labels(case.labels or Path())
        for arm in SHIFTS:
            found = score_label_maps(
                read_labels(folder / arm / f"{case.name}.nii.gz").voxels,
                reference.voxels,
                subject=Subject(arm, "0", case.name, "argmax"),
                classes=dict(enumerate(SCHEME.targets, start=1)),
                spacing_mm=reference.grid.spacing_mm,
                scoring=SCORING,
            )
            scores, lesions = scores + found.scores, lesions + found.lesions
    write_rows(scores, folder / "scores.csv")
    write_rows(lesions, folder / "lesions.csv", columns=LESION_COLUMNS)
    table = read_scores(folder / "scores.csv")
    return ReportInputs(
        title="kits23",
        scores=table,
        summary=summarise(table, UNDEFINED),
        comparison=compare(table, baseline="binary", policy=UNDEFINED),
        policy=UNDEFINED.describe(),
        curves={},
        cohort=cohort,
        prediction_folders={arm: folder / arm for arm in SHIFTS},
        baseline="binary",
        lesions=read_table(folder / "lesions.csv"),
        scoring=SCORING,
    )


def seconds_of(work: Callable[[], object]) -> float:
    """Of computing, which others on the machine disturb less than a clock."""
    start = time.process_time()
    work()
    return time.process_time() - start


def read_all(case: Case, inputs: ReportInputs) -> None:
    """Read what the view of a case is made of."""
    read_volume(case.images[0])
    for path in (case.labels, *(folder / f"{case.name}.nii.gz" for folder in inputs.prediction_folders.values())):
        read_labels(path or Path())


def told(values: list[float], unit: str, digits: int = 2) -> str:
    """Median, and the largest."""
    return f"{median(values):.{digits}f} {unit} ({max(values):.{digits}f})"


def measure_build(inputs: ReportInputs) -> None:
    """Build and read in turns."""
    sight = sight_of(inputs)
    built, read = [], []
    for case in inputs.cohort.cases[:MOST_MEASURED] * REPEATS:
        read.append(seconds_of(lambda case=case: read_all(case, inputs)))
        built.append(seconds_of(lambda case=case: case_view(case, sight)))
    ratios = [b / r for b, r in zip(built, read, strict=True)]
    print(f"reading a case: {told(read, 's')}; reading and building: {told(built, 's')}; ratio {told(ratios, '')}")


def measure_size(inputs: ReportInputs, folder: Path) -> None:
    """Megabytes of each case, first view and whole volume."""
    for ending, name in ((".js", "first view"), (".whole.js", "whole volume")):
        paths = [folder / "cases" / f"{safe_id(case.name)}{ending}" for case in inputs.cohort.cases]
        print(f"{name}: {told([path.stat().st_size / 1e6 for path in paths if path.exists()], 'MB')}")
    rest = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.parent.name != "cases")
    page = (folder / "index.html").stat().st_size
    print(f"page and viewer, once: {rest / 1e6:.1f} MB, of which the page {page / 1e6:.1f} MB")


WATCH = """() => {
  const viewer = document.getElementById("viewer");
  const drawn = () => {  // waits for the graphics card, or for what stands in for it
    const { gl } = backsplit.state().niivue;
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
    return (performance.now() - asked) / 1000;
  };
  let asked = 0;
  document.addEventListener("click", () => { asked = performance.now(); globalThis.slices = null; }, true);
  new MutationObserver(() => { if (viewer.dataset.state === "ready") globalThis.slices = drawn(); })
    .observe(viewer, { attributes: true, attributeFilter: ["data-state"] });
  const frame = () => new Promise((next) => requestAnimationFrame(() => setTimeout(next, 0)));
  globalThis.all = async () => { await frame(); await frame(); return drawn(); };
}"""
"""Seconds from a click until the slices are on the canvas, and until the 3D view is, too."""


def seconds_to_see(page: Page, click: Callable[[], None], title: str) -> tuple[float, float]:
    """Open a case; when its slices are there, and its 3D view."""
    click()
    page.locator("#viewer-title", has_text=title).wait_for()
    page.locator("#viewer[data-state=ready]").wait_for(timeout=300_000)
    slices = page.wait_for_function("() => globalThis.slices", timeout=300_000).json_value()
    return slices, page.evaluate("() => globalThis.all()")


def first_paint(page: Page, address: str) -> float:
    """Seconds from the start of a navigation to its first paint."""
    page.goto(address)
    page.screenshot()
    return page.evaluate("() => performance.getEntriesByName('first-paint')[0].startTime") / 1000


def measure_browser(index: Path, names: list[str]) -> None:
    """Open the page in a fresh browser, its first case by a click in the table, the others by `Next case`."""
    with sync_playwright() as started:
        papers, screens = [], []
        for _ in range(REPEATS):
            for address, paints in ((EMPTY_PAGE, papers), (index.as_uri(), screens)):
                browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
                paints.append(first_paint(browser.new_page(viewport=WINDOW), address))
                browser.close()
        print(f"first screen: {told(screens, 's')}; of an empty page: {told(papers, 's')}; fresh browsers")
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport=WINDOW)
        first_paint(page, EMPTY_PAGE)
        again = [first_paint(page, index.as_uri()) for _ in range(REPEATS)]
        print(f"first screen in an open browser: {told(again, 's')}")
        page.evaluate(WATCH)
        first, following = page.locator("[data-listing=cases] tbody a").first, page.locator("#viewer-next")
        shown = names[names.index(first.inner_text()) :][:MOST_MEASURED]
        times = [seconds_to_see(page, (following if n else first).click, name) for n, name in enumerate(shown)]
        print(f"first case: slices {times[0][0]:.2f} s, with the 3D view {times[0][1]:.2f} s")
        slices, everything = zip(*(times[1:] or [(np.nan, np.nan)]), strict=True)
        print(f"next ones: slices {told(list(slices), 's')}, with the 3D view {told(list(everything), 's')}")
        browser.close()


def main() -> None:
    """Make the cases, the report, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--slices", type=int, default=200)
    asked = parser.parse_args()
    lengths = {path: read_grid(path).shape[0] for path in sorted(asked.labels.glob("*.nii.gz"))}
    enough = [path for path, length in lengths.items() if length >= NEARLY * asked.slices]
    nearest = sorted(enough, key=lambda path: lengths[path])
    print(f"jobs that wanted a core in the last minute: {os.getloadavg()[0]:.1f}, of {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = make_cases(nearest, folder, asked.cases, asked.slices)
        inputs = inputs_of(cases, folder)
        measure_build(inputs)
        index = write(inputs, folder / "report" / "index.html")
        measure_size(inputs, index.parent)
        measure_browser(index, [case.name for case in cases])


if __name__ == "__main__":
    main()
