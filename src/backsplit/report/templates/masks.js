"use strict";
// What lies over the image of a case: masks, and maps from 0 to 255; which colour a voxel gets from them.
const masks = (() => {
  const { rgb, paleColour } = volumes;
  const FAINTEST = 26;  // of a map; what is fainter would veil the image
  // Name of the palette in NiiVue, swatch, and the palette itself, dark to bright.
  const MAPS = {
    posterior: { palette: "inferno", colour: "#ED6925", stops: ["#000004", "#57106E", "#BC3754", "#F98E09", "#FCFFA4"] },
    information: { palette: "viridis", colour: "#35B779", stops: ["#440154", "#3B528B", "#21918C", "#5EC962", "#FDE725"] },
  };

  // In the order of the list beside the picture: reference, arms, auxiliaries, maps.
  function layersOf(study, maps) {
    const numTargets = study.targets.length;
    const isTarget = (value) => value > 0 && value <= numTargets;
    const arms = study.arms.map(({ name, colour }, arm) => ({
      name, colour, on: true, holds: (row) => isTarget(row[arm + 1]),
    }));
    const auxiliaries = study.auxiliaries.map((name, number) => ({
      name, colour: paleColour(number), on: false, pale: true, holds: (row) => row[0] === numTargets + 1 + number,
    }));
    return [
      { name: "reference", colour: study.reference, on: true, holds: (row) => isTarget(row[0]) },
      ...arms,
      ...auxiliaries,
      ...maps.map(({ name, kind }) => ({ name, colour: MAPS[kind].colour, on: false, isMap: true, holds: () => false })),
    ];
  }

  // The colour of each combination of masks: the layers that are on and hold it, in equal parts.
  function colourTable(layers, rows) {
    const table = { R: [], G: [], B: [], A: [], I: [], labels: [] };
    rows.forEach((row, number) => {
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

  // Colours of the values of a map, from FAINTEST on; null below.
  function mapColours(kind) {
    const stops = MAPS[kind].stops.map(rgb);
    return Array.from({ length: 256 }, (_, value) => {
      if (value < FAINTEST) return null;
      const at = ((value - FAINTEST) / (255 - FAINTEST)) * (stops.length - 1);
      const [before, share] = [Math.min(Math.floor(at), stops.length - 2), at - Math.min(Math.floor(at), stops.length - 2)];
      return stops[before].map((part, channel) => part + share * (stops[before + 1][channel] - part));
    });
  }

  return { FAINTEST, MAPS, layersOf, colourTable, mapColours };
})();
