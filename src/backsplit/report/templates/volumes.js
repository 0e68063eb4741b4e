"use strict";
// What a case is made of: voxels from text, NIfTI files from voxels, colours from values. Nothing of the page.
const volumes = (() => {
  const NIFTI_HEADER = 352;

  async function unpack(text) {
    const letters = atob(text);
    const packed = new Uint8Array(letters.length);
    for (let place = 0; place < packed.length; place++) packed[place] = letters.charCodeAt(place);
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

  return { unpack, repeated, nifti, rgb, paleColour, along, greyTable };
})();
