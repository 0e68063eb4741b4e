"use strict";
// Slices of a case as still pictures, for browsers without WebGL2: voxels in, PNG out.
const stills = (() => {
  // Axis of the patient across the plane, along its rows, and down. All three run from high to low, so that the patient's
  // right is on the left, and front and head are on top; in the sagittal plane the front is on the left.
  const PLANES = { Axial: [2, 0, 1], Coronal: [1, 0, 2], Sagittal: [0, 1, 2] };

  // For right-left, back-front, foot-head: the array axis nearest to it, and whether its index rises along it.
  function nearestAxes({ matrix, spacing }) {
    const cosine = (row, axis) => Math.abs(matrix[row][axis]) / spacing[axis];
    const nearest = [0, 1, 2].map((row) => [1, 2].reduce((best, axis) => (cosine(row, axis) > cosine(row, best) ? axis : best), 0));
    const axes = new Set(nearest).size === 3 ? nearest : [0, 1, 2];
    return axes.map((axis, row) => ({ axis, rises: matrix[row][axis] > 0 }));
  }

  // Three planes through a voxel; `colourOf` gives red, green and blue at a place of the array.
  function draw(grid, voxel, colourOf) {
    const axes = nearestAxes(grid);
    return Object.entries(PLANES).map(([plane, patient]) => {
      const [across, along, down] = patient.map((row) => axes[row]);
      return { plane, ...cut(grid, voxel[across.axis], { across, along, down }, colourOf) };
    });
  }

  function cut({ shape, spacing }, index, { across, along, down }, colourOf) {
    const strides = [1, shape[0], shape[0] * shape[1]];
    const [width, height] = [shape[along.axis], shape[down.axis]];
    const step = ({ axis, rises }, pixel) => strides[axis] * (rises ? shape[axis] - 1 - pixel : pixel);
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const place = index * strides[across.axis] + step(along, x) + step(down, y);
        pixels.data.set([...colourOf(place), 255], 4 * (x + width * y));
      }
    }
    context.putImageData(pixels, 0, 0);
    const ratio = (width * spacing[along.axis]) / (height * spacing[down.axis]);
    return { address: canvas.toDataURL("image/png"), ratio };
  }

  return { draw };
})();
