// The bytes of an image file -> its RGB pixels, as gapl/decode.py has them: the first frame, not turned by EXIF, not
// changed by a colour profile, and without its transparency.
//
// PNG is decoded in png.js. Everything else the browser decodes, after what would turn, recolour or thin it out
// has been taken from the file.

import { decodePng, isPng } from "./png.js";

const MAX_PIXELS = 178956970; // Pillow refuses more
const STRIP_ROWS = 256;
const UNKNOWN = "not an image, or of a format that this browser does not know";
const PLAIN = { colorSpaceConversion: "none", premultiplyAlpha: "none" };

// Return {width, height, rgb}; rgb is a Uint8Array of 3 bytes for each pixel. Throws an Error with one line.
export async function decode(bytes) {
  if (isPng(bytes)) return decodePng(bytes, check);
  const file = plain(bytes);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, PLAIN);
  } catch {
    throw new Error(UNKNOWN);
  }
  const { width, height } = bitmap;
  check(width, height);
  const rgb = readPixels(bitmap);
  bitmap.close();
  return { width, height, rgb };
}

function check(width, height) {
  if (width * height > MAX_PIXELS) throw new Error(`too many pixels: ${width} x ${height}`);
}

function readPixels(bitmap) {
  const { width, height } = bitmap;
  const rgb = new Uint8Array(width * height * 3);
  const canvas = new OffscreenCanvas(width, Math.min(height, STRIP_ROWS));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error(`too wide for this browser: ${width} px`);
  context.globalCompositeOperation = "copy";
  let out = 0;
  for (let top = 0; top < height; top += STRIP_ROWS) {
    context.drawImage(bitmap, 0, -top);
    const { data } = context.getImageData(0, 0, width, Math.min(STRIP_ROWS, height - top));
    for (let i = 0; i < data.length; i += 4) {
      rgb[out++] = data[i];
      rgb[out++] = data[i + 1];
      rgb[out++] = data[i + 2];
    }
  }
  return rgb;
}

// Return the file without what Pillow does not apply.
function plain(bytes) {
  const text = (at, length) => String.fromCharCode(...bytes.subarray(at, at + length));
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return plainJpeg(bytes);
  if (text(0, 4) === "RIFF" && text(8, 4) === "WEBP") return plainWebp(bytes);
  if (text(0, 3) === "GIF") return opaqueGif(bytes);
  return new Blob([bytes]);
}

// Leave out the segments APP1 (EXIF, with the orientation) and APP2 (colour profile).
function plainJpeg(bytes) {
  const parts = [bytes.subarray(0, 2)];
  let at = 2;
  while (bytes[at] === 0xff && bytes[at + 1] !== 0xda && at + 4 <= bytes.length) {
    if (bytes[at + 1] === 0xff) {
      at += 1; // a byte that fills
      continue;
    }
    const end = at + 2 + ((bytes[at + 2] << 8) | bytes[at + 3]);
    if (bytes[at + 1] !== 0xe1 && bytes[at + 1] !== 0xe2) parts.push(bytes.subarray(at, end));
    at = end;
  }
  const scan = bytes.subarray(at);
  if (!endsWhole(scan)) throw new Error("damaged image: the JPEG ends too early");
  return new Blob([...parts, scan], { type: "image/jpeg" });
}

// Tell whether the marker of the end is there. Without it a browser shows half an image, where Pillow refuses.
function endsWhole(scan) {
  for (let at = scan.length; at > 0; ) {
    at = scan.lastIndexOf(0xd9, at - 1);
    if (at > 0 && scan[at - 1] === 0xff) return true;
  }
  return false;
}

// Leave out the chunks with EXIF, the colour profile and the transparency, and what announces them.
function plainWebp(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [];
  for (let at = 12; at + 8 <= bytes.length; ) {
    const name = String.fromCharCode(...bytes.subarray(at, at + 4));
    const end = at + 8 + view.getUint32(at + 4, true);
    const chunk = bytes.slice(at, end + (end & 1));
    if (name === "VP8X") chunk[8] &= ~0b00111000; // profile, alpha, EXIF
    if (!["ICCP", "EXIF", "ALPH"].includes(name)) parts.push(chunk);
    at = end + (end & 1);
  }
  const head = bytes.slice(0, 12);
  new DataView(head.buffer).setUint32(4, 4 + parts.reduce((sum, part) => sum + part.length, 0), true);
  return new Blob([head, ...parts], { type: "image/webp" });
}

// Make the first frame opaque: its transparent pixels then have the colour that the palette gives them.
function opaqueGif(bytes) {
  const copy = bytes.slice();
  const table = copy[10] & 0x80 ? 3 << ((copy[10] & 7) + 1) : 0;
  for (let at = 13 + table; copy[at] === 0x21; ) {
    if (copy[at + 1] === 0xf9) copy[at + 3] &= ~1;
    for (at += 2; copy[at]; ) at += 1 + copy[at]; // blocks of the extension
    at += 1;
  }
  return new Blob([copy], { type: "image/gif" });
}
