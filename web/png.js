// A PNG file -> its RGB pixels, as Pillow's convert("RGB") makes them.
//
// A browser would multiply colours by their transparency and apply gamma and profile. Pillow does neither: it
// drops the alpha channel, and of 16 bits keeps the upper 8. See the PNG specification, third edition.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }; // by colour type
const WHOLE = [[0, 0, 1, 1]]; // where the pixels of a pass are: first x, first y, step in x, step in y
const ADAM7 = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

export function isPng(bytes) {
  return SIGNATURE.every((value, i) => bytes[i] === value);
}

// Return {width, height, rgb}. Throws an Error, one line, for a damaged file. `check(width, height)` may refuse.
export async function decodePng(bytes, check) {
  const { header, palette, data } = readChunks(bytes);
  const width = header.getUint32(0);
  const height = header.getUint32(4);
  const [depth, type, , , interlaced] = new Uint8Array(header.buffer, header.byteOffset + 8, 5);
  if (!width || !height || !(type in CHANNELS) || ![1, 2, 4, 8, 16].includes(depth) || (type === 3 && !palette)) {
    throw new Error("damaged image: not a PNG that the standard knows");
  }
  check(width, height);
  const bits = depth * CHANNELS[type];
  const passes = (interlaced ? ADAM7 : WHOLE)
    .map(([x, y, dx, dy]) => ({ x, y, dx, dy, w: Math.ceil((width - x) / dx), h: Math.ceil((height - y) / dy) }))
    .filter(({ w, h }) => w > 0 && h > 0);
  const rowBytes = ({ w }) => Math.ceil((w * bits) / 8);
  const total = passes.reduce((sum, pass) => sum + pass.h * (1 + rowBytes(pass)), 0);
  const raw = await inflate(data, total);
  const rgb = new Uint8Array(width * height * 3);
  let at = 0;
  for (const pass of passes) {
    let above = new Uint8Array(rowBytes(pass));
    for (let row = 0; row < pass.h; row++) {
      const line = raw.subarray(at + 1, at + 1 + above.length);
      unfilter(raw[at], line, above, Math.max(1, bits >> 3));
      const out = ((pass.y + row * pass.dy) * width + pass.x) * 3;
      paint(rgb, out, pass.dx * 3, line, { count: pass.w, depth, type, palette });
      at += 1 + above.length;
      above = line;
    }
  }
  return { width, height, rgb };
}

function readChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = { data: [] };
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const body = bytes.subarray(at + 8, at + 8 + length);
    if (name === "IHDR" && body.length === 13) found.header = new DataView(bytes.buffer, bytes.byteOffset + at + 8, 13);
    if (name === "PLTE") found.palette = body;
    if (name === "IDAT") found.data.push(body);
    if (name === "IEND") break;
    at += 12 + length;
  }
  if (!found.header || !found.data.length) throw new Error("damaged image: a PNG without pixels");
  return found;
}

// Return the first `total` bytes of the inflated data; what follows them is ignored, as libpng does.
async function inflate(parts, total) {
  const raw = new Uint8Array(total);
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  let filled = 0;
  try {
    while (filled < total) {
      const { value, done } = await reader.read();
      if (done) break;
      raw.set(value.subarray(0, total - filled), filled);
      filled += value.length;
    }
  } catch {
    filled = -1;
  }
  reader.cancel().catch(() => {}); // the rest is not wanted
  if (filled < total) throw new Error("damaged image: the PNG ends too early, or its data are damaged");
  return raw;
}

// Undo the filter of a row, in place. `step` is the distance to the same byte of the pixel before.
function unfilter(filter, line, above, step) {
  const length = line.length;
  if (filter === 1) {
    for (let i = step; i < length; i++) line[i] += line[i - step];
  } else if (filter === 2) {
    for (let i = 0; i < length; i++) line[i] += above[i];
  } else if (filter === 3) {
    for (let i = 0; i < length; i++) line[i] += ((i < step ? 0 : line[i - step]) + above[i]) >> 1;
  } else if (filter === 4) {
    for (let i = 0; i < length; i++) {
      const a = i < step ? 0 : line[i - step];
      const b = above[i];
      const c = i < step ? 0 : above[i - step];
      const toA = Math.abs(b - c);
      const toB = Math.abs(a - c);
      const toC = Math.abs(a + b - 2 * c);
      line[i] += toA <= toB && toA <= toC ? a : toB <= toC ? b : c;
    }
  } else if (filter !== 0) {
    throw new Error("damaged image: a row of the PNG has no known filter");
  }
}

// Write the pixels of a row to rgb[out], rgb[out + step], ...
function paint(rgb, out, step, line, { count, depth, type, palette }) {
  const stride = CHANNELS[type] * (depth >> 3); // bytes of a pixel, where it has whole bytes
  const wide = depth >> 3; // bytes of a channel; of two, the first is the upper
  const colour = type === 2 || type === 6;
  const grey = 255 / ((1 << Math.min(depth, 8)) - 1);
  for (let i = 0; i < count; i++, out += step) {
    if (colour) {
      rgb[out] = line[i * stride];
      rgb[out + 1] = line[i * stride + wide];
      rgb[out + 2] = line[i * stride + 2 * wide];
      continue;
    }
    const value = wide ? line[i * stride] : (line[(i * depth) >> 3] >> (8 - depth - ((i * depth) & 7))) & ((1 << depth) - 1);
    if (type === 3) {
      for (let c = 0; c < 3; c++) rgb[out + c] = palette[value * 3 + c] ?? 0;
    } else {
      rgb[out] = rgb[out + 1] = rgb[out + 2] = value * grey;
    }
  }
}
