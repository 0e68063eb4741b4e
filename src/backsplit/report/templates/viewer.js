"use strict";
// The case view: one NiiVue instance, whose volumes are swapped; still pictures where WebGL2 is missing. Names are set as
// text, never as HTML.
const backsplit = (() => {
  const { unpack, repeated, nifti, along, greyTable } = volumes;
  const { library, load } = casefiles;
  const study = JSON.parse(document.getElementById("study").textContent);
  const UINT8 = 2, UINT16 = 512, UINT32 = 768;
  const { FAINTEST, MAPS, colourTable } = masks;
  const VIEWS = [["Slices and 3D", 3], ["Axial", 0], ["Coronal", 1], ["Sagittal", 2], ["3D", 4]];
  const $ = (name) => document.getElementById(`viewer-${name}`);
  const dialog = document.getElementById("viewer");
  let niivue = null;  // the one instance; false where WebGL2 is missing
  let shown = null;  // {id, first, now, channel, preset, finding, image, index, maps, window, voxel}
  let layers = [];
  let opacity = 0.6;
  let view = 3;
  let isRenderLate = false;  // the 3D view is left out for now
  let opening = 0;  // counts openings, so that a slow one does not overtake a later one

  // --- NiiVue ---------------------------------------------------------------------------------------------------

  async function start() {
    if (niivue !== null) return niivue;
    if (!document.createElement("canvas").getContext("webgl2")) return (niivue = false);
    await library();
    const created = new globalThis.niivue.Niivue({
      dragAndDropEnabled: false,
      logLevel: "silent",
      loadingText: "",
      isNearestInterpolation: true,
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      multiplanarShowRender: 1,
      multiplanarEqualSize: false,
      multiplanarLayout: 2,  // two by two
      tileMargin: 2,
      sliceType: view,
      show3Dcrosshair: true,
      crosshairColor: [0.48, 0.72, 0.96, 0.9],
      crosshairWidth: 0.6,
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
    const { drawImage3D } = created;
    created.drawImage3D = (...scene) => { if (!isRenderLate) drawImage3D.apply(created, scene); };
    await created.attachToCanvas(canvas);
    // NiiVue computes the gradients of every image it is given; nothing here is lit by them: one pixel per plane will do.
    for (const shader of [created.blurShader, created.sobelFirstOrderShader]) {
      const { use } = shader;
      shader.use = (gl) => { use.call(shader, gl); gl.viewport(0, 0, 1, 1); };
    }
    created.onLocationChange = tellPlace;
    return (niivue = created);
  }

  async function volume(voxels, content, kind, bytes, { colormap, opacity: seen, from = 0 }) {
    const made = await globalThis.niivue.NVImage.new(
      nifti(voxels, content, kind, bytes), "volume.nii", colormap, seen, null, from, 255, true, 0.02, false, false, "", 0,
      globalThis.niivue.NVIMAGE_TYPE?.NII ?? 1,
    );
    [made.cal_min, made.cal_max] = [from, 255];
    return made;
  }

  // Take up the volumes of `content`, and put them on the canvas, all set before they are uploaded.
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
    shown.maps = await Promise.all(content.maps.map((map) => unpack(map.data)));
    if (!niivue) return;
    niivue.addColormap("window", greyTable(shown.window, image.knots));
    const grey = await volume(voxels, content, UINT8, 1, { colormap: "window", opacity: 1 });
    const kinds = { 1: UINT8, 2: UINT16, 4: UINT32 };
    const combinations = await volume(index, content, kinds[bytes], bytes, { colormap: "gray", opacity });
    combinations.setColormapLabel(tableNow());
    const maps = [];
    for (const [number, map] of content.maps.entries()) {
      const look = { colormap: MAPS[map.kind].palette, opacity: layerOfMap(number).on ? opacity : 0, from: FAINTEST };
      maps.push(await volume(shown.maps[number], content, UINT8, 1, look));
    }
    niivue.volumes = [grey, combinations, ...maps];
    niivue.setVolume(combinations, 1);
  }

  function recolour() {
    if (!shown) return;
    if (!niivue) return drawStills();
    niivue.volumes[1].setColormapLabel(tableNow());
    niivue.volumes[1]._opacity = opacity;
    niivue.volumes.slice(2).forEach((map, number) => { map._opacity = layerOfMap(number).on ? opacity : 0; });
    niivue.volumes.slice(1).forEach((each, number) => niivue.refreshLayers(each, number + 1));
    niivue.drawScene();
  }

  function rewindow(preset) {
    shown.preset = preset;
    const image = shown.now.images[shown.channel];
    shown.window = image.presets[preset];
    $("windows").querySelectorAll("input")[preset].checked = true;
    if (!niivue) return drawStills();
    niivue.addColormap("window", greyTable(shown.window, image.knots));
    [niivue.volumes[0].cal_min, niivue.volumes[0].cal_max] = [0, 255];
    niivue.refreshColormaps();
    niivue.refreshLayers(niivue.volumes[0], 0);
    niivue.drawScene();
  }

  function tableNow() {
    return colourTable(layers, shown.first.rows);
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
    const isHere = finding.inside || shown.now !== shown.first;
    note(isHere ? standing() : "This finding lies outside of the first view; load the whole volume to see it.");
    if (!isHere) return;
    shown.voxel = finding.voxel.map((index, axis) => index - shown.now.start[axis]);
    if (!niivue) return drawStills();
    niivue.scene.crosshairPos = niivue.mm2frac(finding.mm, 0, true);
    niivue.createOnLocationChange();
    niivue.drawScene();
  }

  // --- words ----------------------------------------------------------------------------------------------------

  // What the note says while nothing else has to be said.
  function standing() {
    return niivue ? "" : "WebGL2 is missing in this browser: still pictures instead of volumes.";
  }

  function note(text) {
    $("note").textContent = text;
  }

  // Voxel of the file under the crosshair: NiiVue's own count voxels in its order of axes.
  function voxelHere() {
    if (!niivue) {
      const mm = shown.now.matrix.slice(0, 3).map((row) => row[3] + shown.voxel.reduce((sum, index, axis) => sum + index * row[axis], 0));
      return { mm, voxel: shown.voxel };
    }
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
      ...shown.maps.map((map, number) => `${layerOfMap(number).name}: ${(map[place] / 255).toFixed(2)}`),
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
    layers = masks.layersOf(study, content.maps);
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
    $("views-box").hidden = !niivue;
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
    draw();
  }

  // Where WebGL2 is missing: three planes through the finding, with the masks that are on.
  function drawStills() {
    const greys = greyTable(shown.window, shown.now.images[shown.channel].knots).R;
    const { R, G, B, A } = tableNow();
    const over = shown.now.maps.map(({ kind }, number) => ({ number, colours: masks.mapColours(kind) }))
      .filter(({ number }) => layerOfMap(number).on);
    const mix = (below, above) => below.map((part, channel) => part + opacity * (above[channel] - part));
    const mixed = (place) => {
      const [grey, row] = [greys[shown.image[place]], shown.index[place]];
      let colour = [grey, grey, grey];
      if (A[row]) colour = mix(colour, [R[row], G[row], B[row]]);
      for (const { number, colours } of over) {
        const above = colours[shown.maps[number][place]];
        if (above) colour = mix(colour, above);
      }
      return colour;
    };
    $("pictures").replaceChildren(...stills.draw(shown.now, shown.voxel, mixed).map(({ plane, address, ratio }) => {
      const alt = `${plane} slice of ${$("title").textContent} through finding ${shown.finding + 1}, with the masks and maps that are on`;
      const picture = element("img", "", { src: address, alt });
      picture.style.aspectRatio = ratio;
      const figure = element("figure");
      figure.append(picture, element("figcaption", plane));
      return figure;
    }));
    tellPlace();
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
      const [first] = await Promise.all([load(id, scriptOf(id)), start()]);
      if (turn !== opening) return;
      shown = { id, first, now: first, channel: 0, preset: shown?.preset ?? 0, finding: 0, image: null, voxel: first.shape.map((size) => size >> 1) };
      shown.preset = Math.min(shown.preset, first.images[0].presets.length - 1);
      fillFindings(first.findings);
      $("canvas").hidden = !niivue;
      $("pictures").hidden = Boolean(niivue);
      fillControls();
      await put(first, 0);
      if (turn !== opening) return;
      note(standing());
      jump(findingOf(wanted));
      draw();
      if (niivue) $("canvas").focus({ preventScroll: true });
    } catch (error) {
      note(`This case cannot be shown: ${error.message}`);
      dialog.dataset.state = "failed";
    }
  }

  // Slices first: in software WebGL the 3D view takes longer than all else, and follows.
  async function draw() {
    dialog.dataset.state = "ready";
    if (!niivue) return drawStills();
    if (VIEWS[0][1] === view) {
      isRenderLate = true;
      niivue.drawScene();
      isRenderLate = false;
      await nextFrame();
    }
    niivue.drawScene();
    tellPlace();
    readNeighbours();
  }

  function readNeighbours() {
    const place = study.cases.findIndex((each) => each.id === shown.id);
    for (const near of [study.cases[place + 1], study.cases[place - 1]]) {
      if (near) load(near.id, scriptOf(near.id)).catch(() => {});  // said when the case is opened
    }
  }

  function scriptOf(id) {
    return `cases/${id}.js`;
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
    if (!wanted) return Math.max(0, shown.first.findings.findIndex((each) => each.inside));
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
    if (!act || (!niivue && event.key === "v")) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }

  if (study.cases) {
    let from = null;
    for (const nearing of ["pointerover", "focusin"]) {
      document.addEventListener(nearing, (event) => { if (event.target.closest?.('a[href^="#case/"]')) library(); });
    }
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

  return { receive: casefiles.receive, state: () => ({ niivue, shown, voxelHere: niivue && shown?.image ? voxelHere() : null }) };
})();
