"use strict";
// The case view: one NiiVue instance, whose volumes are swapped. A case comes as a script that calls
// `backsplit.receive`, because a page opened from a disk may not fetch; names are set as text, never as HTML.
const backsplit = (() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const LIBRARY = "assets/niivue.umd.js";
  const NIFTI_HEADER = 352;
  const UINT8 = 2, UINT16 = 512, UINT32 = 768;
  const VIEWS = [["Slices and 3D", 3], ["Axial", 0], ["Coronal", 1], ["Sagittal", 2], ["3D", 4]];
  const $ = (name) => document.getElementById(`viewer-${name}`);
  const dialog = document.getElementById("viewer");
  const waiting = new Map();  // what to do with a case or whole volume once its script has run
  const cache = new Map();
  let niivue = null;  // the one instance; false where WebGL2 is missing
  let shown = null;  // {id, name, first, now, image, index, window, finding}
  let layers = [];
  let opacity = 0.6;
  let view = 3;
  let opening = 0;  // counts openings, so that a slow one does not overtake a later one

  // --- data -----------------------------------------------------------------------------------------------------

  function receive(content) {
    const key = "start" in content && content.findings ? content.id : `${content.id}.whole`;
    waiting.get(key)?.(content);
  }

  function script(address) {
    return new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = address;
      element.onload = resolve;
      element.onerror = () => reject(new Error(`${address} cannot be read; was it moved away from the page?`));
      document.head.append(element);
      element.onload = () => { element.remove(); resolve(); };
    });
  }

  async function load(key, address) {
    if (cache.has(key)) return cache.get(key);
    const inside = document.getElementById(`data-${key}`);
    if (inside) return JSON.parse(inside.textContent);
    let content = null;
    waiting.set(key, (received) => { content = received; });
    await script(address);
    waiting.delete(key);
    if (!content) throw new Error(`${address} is not of this report`);
    cache.clear();  // one case at a time is enough
    cache.set(key, content);
    return content;
  }

  async function unpack(text) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // Repeat each voxel of an averaged image, so that it has the grid of the masks.
  function repeated(voxels, from, steps, to) {
    const [width, height] = from;
    const out = new Uint8Array(to[0] * to[1] * to[2]);
    const across = Uint32Array.from({ length: to[0] }, (_, x) => Math.floor(x / steps[0]));
    let place = 0;
    for (let z = 0; z < to[2]; z++) {
      for (let y = 0; y < to[1]; y++) {
        const row = (Math.floor(z / steps[2]) * height + Math.floor(y / steps[1])) * width;
        for (let x = 0; x < to[0]; x++) out[place++] = voxels[row + across[x]];
      }
    }
    return out;
  }

  function nifti(voxels, content, kind, bytes) {
    const buffer = new ArrayBuffer(NIFTI_HEADER + voxels.byteLength);
    const header = new DataView(buffer);
    header.setInt32(0, 348, true);
    [3, ...content.shape, 1, 1, 1, 1].forEach((size, axis) => header.setInt16(40 + 2 * axis, size, true));
    header.setInt16(70, kind, true);
    header.setInt16(72, 8 * bytes, true);
    [1, ...content.spacing, 0, 0, 0, 0].forEach((edge, axis) => header.setFloat32(76 + 4 * axis, edge, true));
    header.setFloat32(108, NIFTI_HEADER, true);
    header.setFloat32(112, 1, true);
    header.setUint8(123, 2);  // mm
    header.setInt16(254, 1, true);  // the matrix below holds
    content.matrix.slice(0, 3).flat().forEach((number, place) => header.setFloat32(280 + 4 * place, number, true));
    [0x6e, 0x2b, 0x31, 0].forEach((letter, place) => header.setUint8(344 + place, letter));
    new Uint8Array(buffer, NIFTI_HEADER).set(new Uint8Array(voxels.buffer, voxels.byteOffset, voxels.byteLength));
    return buffer;
  }

  // --- colours --------------------------------------------------------------------------------------------------

  function rgb(colour) {
    return [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
  }

  // Auxiliaries: hues a golden angle apart, pale, so that the arms stand out.
  function paleColour(number) {
    const hue = (number * 137.508 + 190) % 360;
    const part = (shift) => {
      const k = (shift + hue / 30) % 12;
      return Math.round(255 * (0.62 - 0.22 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
    };
    return `#${[0, 8, 4].map((shift) => part(shift).toString(16).padStart(2, "0")).join("")}`;
  }

  function makeLayers() {
    const numTargets = study.targets.length;
    const isTarget = (value) => value > 0 && value <= numTargets;
    const arms = study.arms.map(({ name, colour }, arm) => ({
      name, colour, on: true, holds: (row) => isTarget(row[arm + 1]),
    }));
    const auxiliaries = study.auxiliaries.map((name, number) => ({
      name, colour: paleColour(number), on: false, pale: true, holds: (row) => row[0] === numTargets + 1 + number,
    }));
    return [{ name: "reference", colour: study.reference, on: true, holds: (row) => isTarget(row[0]) }, ...arms, ...auxiliaries];
  }

  // The colour of each combination of masks: the layers that are on and hold it, in equal parts.
  function colourTable() {
    const table = { R: [], G: [], B: [], A: [], I: [], labels: [] };
    shown.first.rows.forEach((row, number) => {
      const there = layers.filter((layer) => layer.on && layer.holds(row));
      const strong = there.filter((layer) => !layer.pale);
      const seen = (strong.length ? strong : there).map((layer) => rgb(layer.colour));
      ["R", "G", "B"].forEach((channel, place) => {
        table[channel].push(seen.length ? Math.round(seen.reduce((sum, each) => sum + each[place], 0) / seen.length) : 0);
      });
      table.A.push(seen.length ? 255 : 0);
      table.I.push(number);
      table.labels.push("");
    });
    return table;
  }

  // Value of the image from its grey value, along straight lines between knots, and back.
  function along(points, at, from, to) {
    const last = points.length - 1;
    for (let i = 1; i <= last; i++) {
      if (at <= points[i][from] || i === last) {
        const share = (at - points[i - 1][from]) / (points[i][from] - points[i - 1][from]);
        return points[i - 1][to] + Math.min(1, Math.max(0, share)) * (points[i][to] - points[i - 1][to]);
      }
    }
    return NaN;
  }

  function greyTable({ low, high }, knots) {
    const I = Array.from({ length: 256 }, (_, grey) => grey);
    const R = I.map((grey) => {
      const share = (along(knots, grey, 1, 0) - low) / (high - low);
      return Math.round(255 * Math.min(1, Math.max(0, share)));
    });
    return { R, G: R, B: R, A: R.map((grey) => Math.round(grey / 2)), I };
  }

  // --- NiiVue ---------------------------------------------------------------------------------------------------

  async function start() {
    if (niivue !== null) return niivue;
    if (!document.createElement("canvas").getContext("webgl2")) return (niivue = false);
    if (!globalThis.niivue) await script(LIBRARY);
    const created = new globalThis.niivue.Niivue({
      dragAndDropEnabled: false,
      logLevel: "silent",
      loadingText: "",
      isNearestInterpolation: true,
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      multiplanarShowRender: 1,
      multiplanarEqualSize: false,
      tileMargin: 2,
      sliceType: view,
      show3Dcrosshair: true,
      crosshairColor: [0.48, 0.72, 0.96, 0.9],
      crosshairWidth: 0.4,
      crosshairWidthUnit: "percent",
      viewModeHotKey: "none",
      backColor: [0, 0, 0, 1],
      fontColor: [0.9, 0.9, 0.9, 1],
      renderOverlayBlend: 1,
    });
    // The image is smooth between voxels, masks are not.
    const { updateInterpolation } = created;
    created.updateInterpolation = (layer, isLinear) => updateInterpolation.call(created, layer, isLinear || layer === 0);
    // A canvas in a closed dialog has no size, and what is still being loaded is drawn once it is there.
    const { drawScene } = created;
    const canvas = $("canvas");
    created.drawScene = () => {
      const isSized = dialog.open && canvas.width > 1 && canvas.height > 1;
      if (isSized && dialog.dataset.state !== "loading") drawScene.call(created);
    };
    await created.attachToCanvas(canvas);
    created.onLocationChange = tellPlace;
    return (niivue = created);
  }

  async function volume(voxels, content, kind, bytes, { colormap, opacity: seen }) {
    const made = await globalThis.niivue.NVImage.new(
      nifti(voxels, content, kind, bytes), "volume.nii", colormap, seen, null, 0, 255, true, 0.02, false, false, "", 0,
      globalThis.niivue.NVIMAGE_TYPE?.NII ?? 1,
    );
    [made.cal_min, made.cal_max] = [0, 255];
    return made;
  }

  // Put the volumes of `content` on the canvas, all set before they are uploaded.
  async function put(content, channel) {
    const image = content.images[channel];
    shown.now = content;
    shown.channel = channel;
    let voxels = await unpack(image.data);
    if (image.steps) voxels = repeated(voxels, image.shape, image.steps, content.shape);
    const index = await unpack(content.labels.data);
    shown.image = voxels;
    const bytes = content.labels.bytes;
    shown.index = bytes === 1 ? index : bytes === 2 ? new Uint16Array(index.buffer) : new Uint32Array(index.buffer);
    shown.window = image.presets[Math.min(shown.preset, image.presets.length - 1)];
    niivue.addColormap("window", greyTable(shown.window, image.knots));
    const grey = await volume(voxels, content, UINT8, 1, { colormap: "window", opacity: 1 });
    const kinds = { 1: UINT8, 2: UINT16, 4: UINT32 };
    const masks = await volume(index, content, kinds[bytes], bytes, { colormap: "gray", opacity });
    masks.setColormapLabel(colourTable());
    const maps = [];
    for (const [number, map] of content.maps.entries()) {
      const seen = layerOfMap(number).on ? opacity : 0;
      maps.push(await volume(await unpack(map.data), content, UINT8, 1, { colormap: "inferno", opacity: seen }));
    }
    niivue.volumes = [grey, masks, ...maps];
    niivue.setVolume(masks, 1);
  }

  function recolour() {
    if (!niivue || !shown) return;
    niivue.volumes[1].setColormapLabel(colourTable());
    niivue.volumes[1]._opacity = opacity;
    niivue.volumes.slice(2).forEach((map, number) => { map._opacity = layerOfMap(number).on ? opacity : 0; });
    niivue.volumes.slice(1).forEach((each, number) => niivue.refreshLayers(each, number + 1));
    niivue.drawScene();
  }

  function rewindow(preset) {
    shown.preset = preset;
    const image = shown.now.images[shown.channel];
    shown.window = image.presets[preset];
    niivue.addColormap("window", greyTable(shown.window, image.knots));
    [niivue.volumes[0].cal_min, niivue.volumes[0].cal_max] = [0, 255];
    niivue.refreshColormaps();
    niivue.refreshLayers(niivue.volumes[0], 0);
    niivue.drawScene();
    $("windows").querySelectorAll("input")[preset].checked = true;
  }

  function layerOfMap(number) {
    return layers.filter((layer) => layer.isMap)[number];
  }

  function jump(number) {
    const finding = shown.first.findings[number];
    if (!finding) return;
    shown.finding = number;
    $("findings").querySelectorAll("button").forEach((button, place) => {
      button.setAttribute("aria-current", String(place === number));
      if (place === number) button.scrollIntoView({ block: "nearest" });
    });
    if (!niivue) return;
    const isHere = finding.inside || shown.now !== shown.first;
    note(isHere ? "" : "This finding lies outside of the first view; load the whole volume to see it.");
    if (!isHere) return;
    niivue.scene.crosshairPos = niivue.mm2frac(finding.mm, 0, true);
    niivue.createOnLocationChange();
    niivue.drawScene();
  }

  // --- words ----------------------------------------------------------------------------------------------------

  function note(text) {
    $("note").textContent = text;
  }

  // Voxel of the file under the crosshair: NiiVue's own count voxels in its order of axes.
  function voxelHere() {
    const mm = niivue.frac2mm(niivue.scene.crosshairPos, 0, true);
    const m = shown.now.matrix;
    const place = [0, 1, 2].map((axis) => mm[axis] - m[axis][3]);
    return {
      mm: [mm[0], mm[1], mm[2]],
      // Columns of the matrix are at right angles: the inverse is the transpose over squared lengths.
      voxel: [0, 1, 2].map((axis) => {
        const column = [0, 1, 2].map((row) => m[row][axis]);
        const dot = column.reduce((sum, part, row) => sum + part * place[row], 0);
        const inside = Math.round(dot / column.reduce((sum, part) => sum + part * part, 0));
        return Math.min(shown.now.shape[axis] - 1, Math.max(0, inside));
      }),
    };
  }

  function tellPlace() {
    if (!shown || !shown.image) return;
    const { mm, voxel } = voxelHere();
    const [width, height] = shown.now.shape;
    const place = voxel[0] + width * (voxel[1] + height * voxel[2]);
    const image = shown.now.images[shown.channel];
    const value = along(image.knots, shown.image[place], 1, 0);
    const row = shown.first.rows[shown.index[place]];
    const names = ["background", ...study.targets, ...study.auxiliaries, "not annotated"];
    const told = [
      `${["right", "left"][+(mm[0] < 0)]} ${Math.abs(mm[0]).toFixed(1)}, ${["front", "back"][+(mm[1] < 0)]} ${Math.abs(mm[1]).toFixed(1)}, ${["head", "foot"][+(mm[2] < 0)]} ${Math.abs(mm[2]).toFixed(1)} mm`,
      `voxel ${voxel.map((index, axis) => index + shown.now.start[axis]).join(", ")}`,
      `${image.channel} ${Math.abs(value) >= 100 ? Math.round(value) : value.toPrecision(3)} ${image.unit}`.trim(),
      `reference: ${names[row[0]]}`,
      ...study.arms.map((arm, number) => `${arm.name}: ${row[number + 1] ? names[row[number + 1]] : "nothing"}`),
    ];
    $("place").textContent = told.join("  \u00b7  ");
  }

  function tellFinding(finding) {
    const size = `${finding.ml < 10 ? finding.ml.toFixed(2) : finding.ml.toFixed(0)} mL`;
    const name = study.targets.length > 1 ? finding.class : "";
    if (finding.false_of !== null) {
      return [`False alarm of ${finding.false_of}`, size, name];
    }
    const dice = Object.entries(finding.dice).map(([arm, value]) => `${arm} ${value === null ? "missed" : value.toFixed(2)}`);
    return [`Lesion ${finding.number}${name && `, ${name}`}`, size, `Dice: ${dice.join(", ")}`];
  }

  function element(tag, text, properties = {}) {
    const made = Object.assign(document.createElement(tag), properties);
    if (text) made.textContent = text;
    return made;
  }

  function fillFindings(findings) {
    $("findings").replaceChildren(...findings.map((finding, number) => {
      const [title, size, more] = tellFinding(finding);
      const button = element("button", "", { type: "button" });
      button.append(element("span", title), element("span", size));
      if (more) button.append(element("small", more));
      button.addEventListener("click", () => jump(number));
      const item = element("li");
      item.append(button);
      return item;
    }));
    if (!findings.length) $("findings").append(element("li", "No lesion, and none was predicted."));
  }

  function layerRow(layer, key) {
    const box = element("input", "", { type: "checkbox", checked: layer.on });
    const swatch = element("span", "", { className: "swatch" });
    swatch.style.background = layer.colour;
    const label = element("label");
    label.append(box, swatch, element("span", layer.name));
    box.addEventListener("change", () => { layer.on = box.checked; recolour(); });
    layer.box = box;
    const row = element("div", "", { className: "layer" });
    row.append(label);
    if (key) row.append(element("kbd", key));
    return row;
  }

  function fillLayers(content) {
    const known = new Map(layers.map((layer) => [layer.name, layer.on]));
    const maps = content.maps.map((map) => ({
      name: `posterior of ${map.class}, ${map.arm}`, colour: "#ED6925", on: false, isMap: true, holds: () => false,
    }));
    layers = [...makeLayers(), ...maps];
    for (const layer of layers) if (known.has(layer.name)) layer.on = known.get(layer.name);
    const plain = layers.filter((layer) => !layer.pale);
    const pale = layers.filter((layer) => layer.pale);
    $("layers").replaceChildren(...plain.map((layer, number) => layerRow(layer, String(number + 1))));
    if (!pale.length) return;
    const all = element("input", "", { type: "checkbox", checked: pale.every((layer) => layer.on) });
    all.addEventListener("change", () => {
      for (const layer of pale) layer.on = layer.box.checked = all.checked;
      recolour();
    });
    const label = element("label");
    label.append(all, element("span", "auxiliaries"));
    const row = element("div", "", { className: "layer" });
    row.append(label, element("kbd", "a"));
    const more = element("details", "", { className: "more" });
    more.append(element("summary", pale.length === 1 ? "1 class" : `${pale.length} classes`), ...pale.map((layer) => layerRow(layer, "")));
    $("layers").append(row, more);
    all.id = "viewer-auxiliaries";
  }

  function fillChoices(name, labels, chosen, choose) {
    $(name).replaceChildren(...labels.map((text, number) => {
      const box = element("input", "", { type: "radio", name: `viewer-${name}`, checked: number === chosen });
      box.addEventListener("change", () => choose(number));
      const label = element("label");
      label.append(box, element("span", text));
      return label;
    }));
  }

  function fillControls() {
    const image = shown.first.images[shown.channel];
    fillLayers(shown.first);
    fillChoices("windows", image.presets.map((preset) => preset.name), shown.preset, rewindow);
    fillChoices("views", VIEWS.map(([name]) => name), VIEWS.findIndex(([, type]) => type === view), chooseView);
    fillChoices("channels", shown.first.images.map((each) => each.channel), shown.channel, chooseChannel);
    $("channels-box").hidden = shown.first.images.length < 2;
    const whole = shown.first.whole;
    $("whole").hidden = !whole;
    $("whole").disabled = false;
    if (whole) $("whole").textContent = `Load the whole volume (${(whole.bytes / 1e6).toFixed(1)} MB)`;
  }

  function chooseView(number) {
    view = VIEWS[number][1];
    $("views").querySelectorAll("input")[number].checked = true;
    niivue.setSliceType(view);
  }

  async function chooseChannel(number) {
    shown.preset = 0;
    await put(shown.now, number);
    fillControls();
    jump(shown.finding);
  }

  function showPictures(content) {
    note("WebGL2 is missing in this browser: still pictures instead of volumes.");
    $("canvas").hidden = $("controls").hidden = true;
    $("pictures").hidden = false;
    $("pictures").replaceChildren(...content.pictures.map((picture) => {
      const figure = element("figure");
      figure.append(
        element("img", "", { src: `data:image/png;base64,${picture.data}`, alt: picture.alt }),
        element("figcaption", picture.caption),
      );
      return figure;
    }));
  }

  // --- opening and closing --------------------------------------------------------------------------------------

  function nextFrame() {
    return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 0)));
  }

  async function open(id, wanted) {
    const place = study.cases.findIndex((each) => each.id === id);
    if (place < 0) return;
    if (shown && shown.id === id && dialog.open) return jump(findingOf(wanted));
    const turn = ++opening;
    $("title").textContent = study.cases[place].name;
    $("previous").disabled = place === 0;
    $("next").disabled = place === study.cases.length - 1;
    $("place").textContent = "";
    note("Loading …");
    if (!dialog.open) dialog.showModal();
    dialog.dataset.state = "loading";
    await nextFrame();
    try {
      const [first] = await Promise.all([load(id, `cases/${id}.js`), start()]);
      if (turn !== opening) return;
      shown = { id, first, now: first, channel: 0, preset: shown?.preset ?? 0, finding: 0, image: null };
      shown.preset = Math.min(shown.preset, first.images[0].presets.length - 1);
      fillFindings(first.findings);
      if (!niivue) {
        showPictures(first);
        jump(findingOf(wanted));
      } else {
        fillControls();
        await put(first, 0);
        if (turn !== opening) return;
        note("");
        jump(findingOf(wanted));
        tellPlace();
        $("canvas").focus({ preventScroll: true });
      }
      draw();
    } catch (error) {
      note(`This case cannot be shown: ${error.message}`);
      dialog.dataset.state = "failed";
    }
  }

  function draw() {
    dialog.dataset.state = "ready";
    if (niivue) niivue.drawScene();
  }

  async function loadWhole() {
    const { whole } = shown.first;
    const turn = ++opening;
    dialog.dataset.state = "loading";
    $("whole").disabled = true;
    try {
      note("Whole volume: reading, step 1 of 3 …");
      await nextFrame();
      const content = await load(`${shown.id}.whole`, whole.file);
      note("Whole volume: unpacking, step 2 of 3 …");
      await nextFrame();
      if (turn !== opening) return;
      note("Whole volume: drawing, step 3 of 3 …");
      await nextFrame();
      await put({ ...content, maps: [] }, shown.channel);
      const steps = content.images[0].steps;
      const isCoarse = steps.some((step) => step > 1);
      jump(shown.finding);
      draw();
      note(isCoarse ? `Whole volume: masks as they are, image averaged over ${steps.join(" × ")} voxels.` : "Whole volume.");
    } catch (error) {
      note(`The whole volume cannot be shown: ${error.message}`);
      $("whole").disabled = false;
      dialog.dataset.state = "failed";
    }
  }

  // `1-r-3` is lesion 3 of class 1, `1-0-2` false alarm 2 of the first arm.
  function findingOf(wanted) {
    if (!wanted) return 0;
    const [value, whose, number] = wanted.split("-").map((part) => (part === "r" ? null : Number(part)));
    const arm = whose === null ? null : study.arms[whose]?.name;
    const found = shown.first.findings.findIndex((each) =>
      each.class === study.targets[value - 1] && each.false_of === arm && each.number === number);
    return Math.max(0, found);
  }

  function follow() {
    const [, id, finding] = location.hash.match(/^#case\/([a-z0-9_-]+)(?:\/([0-9r-]+))?$/) || [];
    if (id) open(id, finding);
    else if (dialog.open) dialog.close();
  }

  function step(by) {
    const next = study.cases[study.cases.findIndex((each) => each.id === shown.id) + by];
    if (next) location.hash = `#case/${next.id}`;
  }

  const KEYS = {
    n: () => jump((shown.finding + 1) % shown.first.findings.length),
    p: () => jump((shown.finding + shown.first.findings.length - 1) % shown.first.findings.length),
    "]": () => step(1),
    "[": () => step(-1),
    m: () => toggle(layers.filter((layer) => !layer.pale && !layer.isMap)),
    a: () => document.getElementById("viewer-auxiliaries")?.click(),
    w: () => rewindow((shown.preset + 1) % shown.now.images[shown.channel].presets.length),
    v: () => chooseView((VIEWS.findIndex(([, type]) => type === view) + 1) % VIEWS.length),
    ArrowLeft: () => niivue.moveCrosshairInVox(1, 0, 0),  // on the screen: the patient's right is on the left
    ArrowRight: () => niivue.moveCrosshairInVox(-1, 0, 0),
    ArrowUp: () => niivue.moveCrosshairInVox(0, 1, 0),
    ArrowDown: () => niivue.moveCrosshairInVox(0, -1, 0),
    PageUp: () => niivue.moveCrosshairInVox(0, 0, 1),
    PageDown: () => niivue.moveCrosshairInVox(0, 0, -1),
    "+": () => setOpacity(opacity + 0.1),
    "-": () => setOpacity(opacity - 0.1),
  };

  function toggle(some) {
    const on = !some.some((layer) => layer.on);
    for (const layer of some) layer.on = layer.box.checked = on;
    recolour();
  }

  function setOpacity(value) {
    opacity = Math.min(1, Math.max(0.05, value));
    $("opacity").value = Math.round(100 * opacity);
    recolour();
  }

  function press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !shown || dialog.dataset.state !== "ready") return;
    const plain = layers.filter((layer) => !layer.pale);
    const layer = /^[1-9]$/.test(event.key) ? plain[Number(event.key) - 1] : null;
    if (/^(Arrow|Page)/.test(event.key) && event.target !== $("canvas")) return;
    const act = layer ? () => toggle([layer]) : KEYS[event.key];
    if (!act || (!niivue && !["n", "p", "[", "]"].includes(event.key))) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }

  if (study.cases) {
    let from = null;
    document.addEventListener("click", (event) => {
      const link = event.target.closest?.('a[href^="#case/"]');
      if (link) from = link;
      if (link && link.hash === location.hash) follow();
    });
    window.addEventListener("hashchange", follow);
    dialog.addEventListener("keydown", press, { capture: true });
    dialog.addEventListener("close", () => {
      opening++;
      if (location.hash.startsWith("#case/")) history.replaceState(null, "", location.href.split("#")[0]);
      from?.focus();
    });
    $("close").addEventListener("click", () => dialog.close());
    $("previous").addEventListener("click", () => step(-1));
    $("next").addEventListener("click", () => step(1));
    $("whole").addEventListener("click", loadWhole);
    $("opacity").addEventListener("input", () => setOpacity($("opacity").value / 100));
    follow();
  }

  return { receive, state: () => ({ niivue, shown, voxelHere: niivue && shown?.image ? voxelHere() : null }) };
})();
