"""The report in a real browser: Debian's Chromium, headless, WebGL2 in software, opened from the disk."""

import base64
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from backsplit import report
from backsplit.report import slices, webvolumes
from backsplit.report.caseviews import safe_id
from backsplit.volume import Grid, read_labels, read_volume
from reports import CASES, MARK_HU, MARKED, inputs_in, lost_information_in

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
Axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe

CHROMIUM = os.environ.get("BACKSPLIT_TEST_CHROMIUM") or shutil.which("chromium")
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
WITHOUT_WEBGL = ["--no-sandbox", "--disable-3d-apis"]
RULES = {"preload": False}  # it would fetch style sheets, which the page forbids
HOSTILE = "<img src=x onerror=alert(1)>"
NAMES = (HOSTILE, *CASES[1:])

MARK_GREY = round(np.interp(MARK_HU, *zip(*webvolumes.CT_KNOTS, strict=True)))

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; apt-get install chromium")


def turned(angle):
    cosine, sine = np.cos(angle), np.sin(angle)
    return (cosine, -sine, 0.0, sine, cosine, 0.0, 0.0, 0.0, 1.0)


SHAPE = (24, 24, 24)
GRIDS = (
    Grid(SHAPE, (1.0, 1.0, 1.0), (5.0, -7.0, 11.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)),  # RAS
    Grid(SHAPE, (0.7, 1.3, 3.0), (-40.0, 20.0, -300.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)),  # anisotropic, LPS
    Grid(SHAPE, (1.0, 1.2, 2.0), (3.0, 4.0, 5.0), turned(0.5)),  # rotated
    Grid(SHAPE, (2.0, 0.8, 0.8), (-10.0, -20.0, 30.0), (0, 0, 1.0, 0, 1.0, 0, -1.0, 0, 0)),  # IPL
    Grid(SHAPE, (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)),  # without a lesion
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    lost = lost_information_in(folder / "maps", grids=GRIDS, names=NAMES)
    return replace(inputs_in(folder, grids=GRIDS, names=NAMES), information={"backsplit": lost})


@pytest.fixture(scope="module")
def site(inputs, tmp_path_factory) -> Path:
    return report.write(inputs, tmp_path_factory.mktemp("site") / "index.html")


@pytest.fixture(scope="module")
def driver() -> Iterator[playwright.Playwright]:
    with playwright.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(driver) -> Iterator[playwright.Browser]:
    with driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as opened:
        yield opened


@pytest.fixture(scope="module")
def window(browser) -> Iterator[tuple[playwright.Page, list[str]]]:
    """One window for all tests, since its first case takes seconds; and what it complained about or asked for."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        opened, complaints = context.new_page(), []
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        opened.on("request", lambda asked: None if is_own(asked.url) else complaints.append(f"request: {asked.url}"))
        yield opened, complaints


def is_own(url):
    return url.startswith(("file:", "data:", "blob:"))


@pytest.fixture
def page(window) -> Iterator[playwright.Page]:
    """The window, which must neither complain nor ask for anything but files beside it."""
    opened, complaints = window
    complaints.clear()
    yield opened
    opened.wait_for_timeout(50)
    assert complaints == []


def open_case(page, site, name, finding=""):
    page.goto(f"{site.as_uri()}#case/{safe_id(name)}{finding}")
    page.locator("#viewer[data-state=ready]").wait_for()


def column(page, listing, number):
    rows = page.locator(f"[data-listing={listing}] tbody tr:visible")
    return rows.evaluate_all("(rows, number) => rows.map((row) => row.cells[number].textContent.trim())", number)


def coloured_pixels(page):
    """Pixels of the canvas that are not grey, the crosshair aside: it is hidden."""
    return page.evaluate(
        """() => {
          const { niivue } = backsplit.state();
          niivue.opts.crosshairWidth = 0;
          niivue.drawScene();
          const copy = document.createElement("canvas");
          [copy.width, copy.height] = [niivue.gl.canvas.width, niivue.gl.canvas.height];
          const context = copy.getContext("2d");
          context.drawImage(niivue.gl.canvas, 0, 0);
          const { data } = context.getImageData(0, 0, copy.width, copy.height);
          let coloured = 0, bright = 0;
          for (let i = 0; i < data.length; i += 4) {
            const colour = [data[i], data[i + 1], data[i + 2]];
            coloured += Math.max(...colour) - Math.min(...colour) > 40;
            bright += Math.max(...colour) > 40;
          }
          return { coloured, bright };
        }"""
    )


def test_tables_sort_and_filter(page, site):
    page.goto(site.as_uri())
    listing = page.locator("[data-listing=cases]")
    head = listing.get_by_role("button", name="Difference")
    head.click()
    up = column(page, "cases", 4)
    head.click()
    down = column(page, "cases", 4)
    numbers = [float(text.split()[0].replace("\N{MINUS SIGN}", "-")) for text in up[:-1]]
    assert numbers == sorted(numbers)
    assert up[-1].startswith("undefined")
    assert down[-1].startswith("undefined")
    assert down[:-1] == up[:-1][::-1]
    assert listing.locator("th[aria-sort=descending]").count() == 1
    listing.get_by_label("Outcome").select_option("undefined")
    assert column(page, "cases", 0) == ["case 5"]
    assert listing.locator("output").inner_text() == "1 of 5"
    listing.get_by_label("Outcome").select_option("")
    listing.get_by_label("Find").fill("onerror")
    assert column(page, "cases", 0) == [HOSTILE]


def test_page_is_readable_without_scripts(browser, site):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(site.as_uri())
        assert page.locator("[data-listing=cases] tbody tr").count() == 5
        assert page.locator(".filters:visible").count() == 0
        assert page.locator(".claim").is_visible()


def test_case_opens_from_its_row_and_masks_can_be_switched_off(page, site):
    page.goto(site.as_uri())
    page.get_by_role("link", name=HOSTILE).first.click()
    page.locator("#viewer[data-state=ready]").wait_for()
    assert page.locator("#viewer-title").inner_text() == HOSTILE
    assert page.locator("#viewer img").count() == 0
    shown = coloured_pixels(page)
    assert shown["bright"] > 20_000
    assert shown["coloured"] > 500
    page.keyboard.press("m")
    assert coloured_pixels(page)["coloured"] == 0
    page.keyboard.press("1")
    assert 0 < coloured_pixels(page)["coloured"] < shown["coloured"]
    page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")
    page.wait_for_url(site.as_uri())


@pytest.mark.parametrize("number", range(4), ids=["ras", "anisotropic", "rotated", "ipl"])
def test_jump_to_a_lesion_moves_the_crosshair_there(page, site, number):
    open_case(page, site, NAMES[number])
    place = page.locator("#viewer-place")
    page.locator("#viewer-canvas").press("PageUp")
    page.locator("#viewer-canvas").press("ArrowUp")
    assert "voxel 6, 9, 15" not in place.inner_text()
    page.locator("#viewer-findings button").first.click()
    found = page.evaluate(
        """() => {
          const { niivue, voxelHere } = backsplit.state();
          const [volume, frac] = [niivue.volumes[0], niivue.scene.crosshairPos];
          const inOrderOfRas = [0, 1, 2].map((axis) => Math.floor(frac[axis] * volume.dimsRAS[axis + 1]));
          const mm = Array.from(niivue.frac2mm(frac, 0, true)).slice(0, 3);
          return { voxel: voxelHere.voxel, mm, grey: volume.getValue(...inOrderOfRas) };
        }"""
    )
    grid = GRIDS[number]
    lps = np.array(grid.origin_mm) + np.reshape(grid.direction, (3, 3)) @ (np.array(grid.spacing_mm) * MARKED)
    np.testing.assert_allclose(found["mm"], lps * (-1, -1, 1), atol=1e-3)
    assert tuple(found["voxel"]) == MARKED
    assert found["grey"] == MARK_GREY  # NiiVue reads its own volume there, and no other voxel is as bright
    assert "voxel 6, 9, 15" in place.inner_text()
    assert "reference: cyst" in place.inner_text()


def test_address_of_a_finding_opens_it(page, site):
    open_case(page, site, "case 2", "/1-r-1")
    assert page.locator("#viewer-findings [aria-current=true]").inner_text().startswith("Lesion 1")
    page.keyboard.press("]")
    page.locator("#viewer-title", has_text="case 3").wait_for()
    page.locator("#viewer[data-state=ready]").wait_for()


def test_lost_information_is_a_layer_where_there_is_a_map(page, site):
    open_case(page, site, "case 3")
    assert "lost information, backsplit: 0.40" in page.locator("#viewer-place").inner_text()
    page.keyboard.press("m")
    assert coloured_pixels(page)["coloured"] == 0
    page.get_by_label("lost information, backsplit").check()
    assert coloured_pixels(page)["coloured"] > 500
    page.get_by_label("lost information, backsplit").uncheck()
    assert coloured_pixels(page)["coloured"] == 0
    open_case(page, site, "case 5")
    assert page.get_by_label("lost information").count() == 0


def test_windows_and_views_change_the_picture(page, site):
    open_case(page, site, "case 2")
    page.keyboard.press("m")
    soft = coloured_pixels(page)["bright"]
    page.get_by_label("Lung", exact=True).check()
    assert coloured_pixels(page)["bright"] != soft
    page.get_by_label("Axial", exact=True).check()
    assert page.evaluate("() => backsplit.state().niivue.opts.sliceType") == 0


@pytest.fixture(scope="module")
def old_page(driver) -> Iterator[playwright.Page]:
    with driver.chromium.launch(executable_path=CHROMIUM, args=WITHOUT_WEBGL) as opened:
        yield opened.new_page()


def stills(page):
    """The pictures in the page, by plane: rows, columns and colours from 0 to 255."""
    figures = page.locator("#viewer-pictures figure")
    told = {each.inner_text(): each.locator("img").get_attribute("src") for each in figures.all()}
    files = {name: base64.b64decode(src.removeprefix("data:image/png;base64,")) for name, src in told.items()}
    return {name.lower(): imread(io.BytesIO(file), format="png")[..., :3] * 255 for name, file in files.items()}


@pytest.mark.parametrize("number", range(4), ids=["ras", "anisotropic", "rotated", "ipl"])
def test_pictures_where_webgl2_is_missing(old_page, site, inputs, number):
    open_case(old_page, site, NAMES[number])
    assert not old_page.locator("#viewer-canvas").is_visible()
    assert "voxel 6, 9, 15" in old_page.locator("#viewer-place").inner_text()
    assert all(np.ptp(still, axis=-1).max() > 40 for still in stills(old_page).values())  # the masks
    old_page.keyboard.press("m")
    case = inputs.cohort.cases[number]
    image, reference = read_volume(case.images[0]), read_labels(case.labels)
    spacing_mm, direction = image.grid.spacing_mm, image.grid.direction
    stack = slices.Stack(image.voxels, (), spacing_mm, direction, slices.CT_WINDOW_HU)
    seen = stills(old_page)
    for view in slices.views(stack, reference.voxels == 1):
        np.testing.assert_allclose(seen[view.plane], np.repeat(view.image[..., None] * 255, 3, axis=-1), atol=2)
    old_page.keyboard.press("m")


def test_pictures_show_maps_where_webgl2_is_missing(old_page, site):
    open_case(old_page, site, "case 3")
    old_page.keyboard.press("m")
    bare = stills(old_page)
    old_page.get_by_label("lost information, backsplit").check()
    covered = stills(old_page)
    old_page.get_by_label("lost information, backsplit").uncheck()
    old_page.keyboard.press("m")
    colours = np.array([[50, 103, 139], [253, 231, 37]])  # of viridis from 0.1 to 1: the marked voxel, and its plane
    for plane, still in covered.items():
        changed = (still != bare[plane]).any(axis=-1)
        laid = (still[changed] - 0.4 * bare[plane][changed]) / 0.6
        apart = np.abs(laid[:, None] - colours).max(axis=-1)
        assert apart.min(axis=1).max() < 3
        assert (apart.argmin(axis=1) == 0).sum() == 1


def test_single_file_shows_the_same(page, inputs, tmp_path):
    path = report.write_single(inputs, tmp_path / "study.html")
    open_case(page, path, HOSTILE)
    assert coloured_pixels(page)["coloured"] > 500


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_page(page, site, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(site.as_uri())
    assert page.evaluate("() => document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_moves_while_the_page_builds_up(page, site, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("about:blank")
    page.goto(site.as_uri())
    shift = page.evaluate(
        """async () => {
          let sum = 0;
          const add = (list) => list.getEntries().forEach((entry) => { sum += entry.value; });
          new PerformanceObserver(add).observe({ type: "layout-shift", buffered: true });
          const frame = () => new Promise((next) => requestAnimationFrame(() => setTimeout(next, 50)));
          for (const name of ["lesions", "pictures", "training", "provenance"]) {
            document.getElementById(name).scrollIntoView();
            await frame();
          }
          return sum;
        }"""
    )
    assert shift < 0.1


def test_it_prints_whole(page, site):
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 less its margins
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(site.as_uri())
    assert page.evaluate("() => document.documentElement.scrollWidth") == 718
    hidden = (
        "(parts) => parts.filter((part) => !part.checkVisibility({ contentVisibilityAuto: true })).map((p) => p.id)"
    )
    assert page.locator("main section").evaluate_all(hidden) == []
    assert all(page.locator(f"#{name} tbody tr").last.is_visible() for name in ("cases", "lesions"))
    clipped = "(boxes) => boxes.filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.ariaLabel)"
    assert page.locator(".table").evaluate_all(clipped) == []
    assert not page.locator("nav").is_visible()
    assert not page.locator(".filters").first.is_visible()
    assert page.locator("body").evaluate("(body) => getComputedStyle(body).backgroundColor") == "rgb(255, 255, 255)"
    pages = page.pdf(format="A4").count(b"/Type /Page\n")
    page.emulate_media(media="screen", color_scheme="light")
    assert pages >= 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(page, site, theme):
    page.emulate_media(color_scheme=theme)
    page.goto(site.as_uri())
    found = Axe().run(page, options=RULES).response["violations"]
    open_case(page, site, "case 2")
    found += Axe().run(page, context="#viewer", options=RULES).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")] == []


def masks_in_browser(page):
    """What the page holds of the case on the canvas: shape, start, and the values of reference and arms per voxel."""
    told = page.evaluate(
        """() => {
          const { shown } = backsplit.state();
          const { shape, start } = shown.now;
          return { shape, start, rows: shown.first.rows, index: Array.from(shown.index) };
        }"""
    )
    index = np.array(told["index"]).reshape(told["shape"], order="F")
    return told["start"], np.array(told["rows"])[index]


def test_masks_are_unchanged_in_the_first_view_and_in_the_whole_volume(page, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(webvolumes, "MOST_VOXELS", 4000)
    monkeypatch.setattr(webvolumes, "MOST_OVERVIEW_VOXELS", 2000)
    path = report.write(inputs, tmp_path / "index.html")
    case = inputs.cohort.case(NAMES[2])
    files = [case.labels, *(folder / f"{case.name}.nii.gz" for folder in inputs.prediction_folders.values())]
    expected = np.stack([read_labels(file).voxels for file in files], axis=-1)

    open_case(page, path, case.name)
    start, masks = masks_in_browser(page)
    assert masks[..., 0].size <= 4000
    box = tuple(slice(first, first + size) for first, size in zip(start, masks.shape, strict=False))
    np.testing.assert_array_equal(masks, expected[box])
    assert "voxel 6, 9, 15" in page.locator("#viewer-place").inner_text()

    page.locator("#viewer-whole").click()
    page.locator("#viewer-note", has_text="averaged over").wait_for()
    start, masks = masks_in_browser(page)
    assert start == [0, 0, 0]
    np.testing.assert_array_equal(masks, expected)
    assert "voxel 6, 9, 15" in page.locator("#viewer-place").inner_text()
    assert "reference: cyst" in page.locator("#viewer-place").inner_text()
