// RGB pixels -> the views that a detector looks at: gapl/views.py, with the arithmetic of Pillow.
//
// An image is {width, height, rgb}; rgb is a Uint8Array of 3 bytes for each pixel, row by row.

const REDUCED_PX = 512;
const MAX_ASPECT = 100; // of the part that is resized, long side to short side
const QUARTERS = [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]; // their middles, as shares of the sides
const PRECISION_BITS = 22; // of Pillow's weights in a resize

// Yield {name, image} for the views of a PixelSpec, in their order. Each image is size_px wide and high.
export function* crops(image, pixel) {
  for (const name of pixel.views) {
    if (name === "quarters") {
      for (const quarter of quarters(asIs(image, pixel), pixel.size_px)) yield { name, image: quarter };
    } else {
      const scaled = { centre: asIs, reduced, whole }[name](image, pixel);
      yield { name, image: centreCrop(scaled, pixel.size_px) };
    }
  }
}

// Return the standard deviation of the levels of each channel, over the pixels of all these images.
export function deviations(images) {
  const count = images.reduce((sum, { width, height }) => sum + width * height, 0);
  return [0, 1, 2].map((c) => {
    let [sum, squares] = [0, 0];
    for (const { rgb } of images) {
      for (let i = c; i < rgb.length; i += 3) {
        sum += rgb[i];
        squares += rgb[i] * rgb[i];
      }
    }
    return Math.sqrt(Math.max(0, squares / count - (sum / count) ** 2));
  });
}

// Return the pixels as the tower takes them: a Float32Array of shape (3, height, width).
export function normalise({ width, height, rgb }, { mean, std }) {
  const area = width * height;
  const out = new Float32Array(3 * area);
  for (let c = 0; c < 3; c++) {
    const [m, s] = [Math.fround(mean[c]), Math.fround(std[c])];
    for (let i = 0; i < area; i++) {
      out[c * area + i] = Math.fround(Math.fround(rgb[i * 3 + c] / 255) - m) / s; // rounded as NumPy does
    }
  }
  return out;
}

// ------------------------------------------------------------------------------------------------------
// Views

function asIs(image, pixel) {
  if (pixel.resize_px !== null) return resizeShortSide(image, pixel.resize_px, pixel.interpolation);
  if (pixel.small_image === "resize" && Math.min(image.width, image.height) < pixel.size_px) {
    return resizeShortSide(image, pixel.size_px, pixel.interpolation);
  }
  return image;
}

function reduced(image, pixel) {
  let factor = 1;
  while (Math.min(image.width, image.height) >= 2 * factor * REDUCED_PX) factor *= 2;
  return asIs(factor > 1 ? reduce(image, factor) : image, pixel);
}

function whole(image, pixel) {
  return resizeShortSide(image, roundEven((pixel.size_px * 8) / 7), pixel.interpolation);
}

function* quarters(image, size) {
  const start = (share, side) => Math.min(Math.max(0, roundEven(share * side - size / 2)), Math.max(0, side - size));
  for (const [across, down] of QUARTERS) {
    yield crop(image, start(across, image.width), start(down, image.height), size, size);
  }
}

function resizeShortSide(image, size, interpolation) {
  const longest = MAX_ASPECT * Math.min(image.width, image.height);
  const left = Math.floor(Math.max(0, image.width - longest) / 2);
  const top = Math.floor(Math.max(0, image.height - longest) / 2);
  if (left || top) image = crop(image, left, top, image.width - 2 * left, image.height - 2 * top);
  const { width, height } = image;
  const other = Math.trunc((size * Math.max(width, height)) / Math.min(width, height));
  return width <= height ? resize(image, size, other, interpolation) : resize(image, other, size, interpolation);
}

function centreCrop(image, size) {
  const start = (side) => (side >= size ? roundEven((side - size) / 2) : -Math.floor((size - side) / 2));
  return crop(image, start(image.width), start(image.height), size, size);
}

// Round halves to the even number, as Python does.
export function roundEven(value) {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below & 1) : Math.round(value);
}

// ------------------------------------------------------------------------------------------------------
// Pillow: crop, reduce, resize

// Cut out a rectangle. What lies outside of the image is black.
export function crop(image, left, top, width, height) {
  const rgb = new Uint8Array(width * height * 3);
  const [x0, x1] = [Math.max(0, left), Math.min(image.width, left + width)];
  const [y0, y1] = [Math.max(0, top), Math.min(image.height, top + height)];
  for (let y = y0; y < y1 && x0 < x1; y++) {
    const row = image.rgb.subarray((y * image.width + x0) * 3, (y * image.width + x1) * 3);
    rgb.set(row, ((y - top) * width + x0 - left) * 3);
  }
  return { width, height, rgb };
}

// Average squares of factor x factor pixels; at the right and lower edge, what there is of them (Reduce.c).
export function reduce(image, factor) {
  const [width, height] = [Math.ceil(image.width / factor), Math.ceil(image.height / factor)];
  const rgb = new Uint8Array(width * height * 3);
  for (let y = 0, out = 0; y < height; y++) {
    const y1 = Math.min(image.height, (y + 1) * factor);
    for (let x = 0; x < width; x++, out += 3) {
      const x1 = Math.min(image.width, (x + 1) * factor);
      let [r, g, b] = [0, 0, 0];
      for (let row = y * factor; row < y1; row++) {
        const end = (row * image.width + x1) * 3;
        for (let i = (row * image.width + x * factor) * 3; i < end; i += 3) {
          r += image.rgb[i];
          g += image.rgb[i + 1];
          b += image.rgb[i + 2];
        }
      }
      const count = (y1 - y * factor) * (x1 - x * factor);
      const multiplier = Math.floor(Math.fround(2 ** 32 / (256 * count)));
      const half = Math.floor(count / 2);
      rgb[out] = ((r + half) * multiplier) / 2 ** 24;
      rgb[out + 1] = ((g + half) * multiplier) / 2 ** 24;
      rgb[out + 2] = ((b + half) * multiplier) / 2 ** 24;
    }
  }
  return { width, height, rgb };
}

// Resize with antialiasing: columns first, rounded to 8 bits, then rows (Resample.c).
export function resize(image, width, height, interpolation) {
  if (image.width === width && image.height === height) return image;
  const narrow = pass(image.rgb, weigh(image.width, width, interpolation), {
    lines: image.height, line: image.width * 3, step: 3, outLine: width * 3, outStep: 3,
  });
  const rgb = pass(narrow, weigh(image.height, height, interpolation), {
    lines: width, line: 3, step: width * 3, outLine: 3, outStep: width * 3,
  });
  return { width, height, rgb };
}

const FILTERS = {
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    at(x) {
      x = Math.abs(x);
      if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
    },
  },
};

// Return for each of the `size` pixels of a line where its sources begin, and their weights as integers.
function weigh(from, size, interpolation) {
  const { support, at } = FILTERS[interpolation];
  const scale = from / size;
  const stretch = Math.max(1, scale);
  return Array.from({ length: size }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support * stretch + 0.5));
    const last = Math.min(from, Math.trunc(centre + support * stretch + 0.5));
    const weights = Array.from({ length: last - first }, (_, k) => at((k + first - centre + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b, 0) || 1;
    const whole = weights.map((w) => Math.trunc((w / sum) * 2 ** PRECISION_BITS + (w < 0 ? -0.5 : 0.5)));
    return { first, weights: Int32Array.from(whole) };
  });
}

// Weigh the pixels of every line. A line begins at a multiple of `line`, its pixels are `step` bytes apart.
function pass(source, weighed, { lines, line, step, outLine, outStep }) {
  const out = new Uint8ClampedArray(lines * weighed.length * 3);
  for (let i = 0; i < weighed.length; i++) {
    const { first, weights } = weighed[i];
    for (let j = 0; j < lines; j++) {
      let [r, g, b] = [1 << (PRECISION_BITS - 1), 1 << (PRECISION_BITS - 1), 1 << (PRECISION_BITS - 1)];
      for (let k = 0, at = j * line + first * step; k < weights.length; k++, at += step) {
        const weight = weights[k];
        r += source[at] * weight;
        g += source[at + 1] * weight;
        b += source[at + 2] * weight;
      }
      const to = j * outLine + i * outStep;
      out[to] = r >> PRECISION_BITS;
      out[to + 1] = g >> PRECISION_BITS;
      out[to + 2] = b >> PRECISION_BITS;
    }
  }
  return new Uint8Array(out.buffer);
}
