// The bytes of an image file -> its RGB pixels, as gapl/decode.py has them: of the first frame, upright, on white
// where it is transparent, and not changed by a colour profile.

import { severalFrames } from "./frames.js";

const MAX_PIXELS = 178956970; // which take 1.3 GB; gapl reads more
const STRIP_ROWS = 256;
const UNKNOWN = "not an image, damaged, or of a format that this browser does not know";
const SHOWN = { imageOrientation: "from-image", colorSpaceConversion: "none" };

// Return {width, height, rgb, transparency, severalFrames}: 3 bytes for each pixel, the share of the image that is
// transparent, in [0, 1], and whether it is the first of several. Throws an Error with one line.
export async function decode(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && !endsWhole(bytes)) {
    throw new Error("damaged image: the JPEG ends too early");
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes]), SHOWN);
  } catch {
    throw new Error(UNKNOWN);
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new Error(`too many pixels: ${width} x ${height}`);
  const pixels = readPixels(bitmap);
  bitmap.close();
  return { width, height, ...pixels, severalFrames: severalFrames(bytes) };
}

// Tell whether a JPEG has the marker of the end. Without it some browsers show half an image, where Pillow refuses.
function endsWhole(bytes) {
  let at = 2; // segments, among them EXIF with a thumbnail that has an end of its own
  while (bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    at += bytes[at + 1] === 0xff ? 1 : 2 + ((bytes[at + 2] << 8) | bytes[at + 3]);
  }
  do at = bytes.indexOf(0xff, at + 1);
  while (at >= 0 && bytes[at + 1] !== 0xd9);
  return at >= 0;
}

function readPixels(bitmap) {
  const { width, height } = bitmap;
  const rgb = new Uint8Array(width * height * 3);
  const canvas = new OffscreenCanvas(width, Math.min(height, STRIP_ROWS));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error(`too wide for this browser: ${width} px`);
  context.globalCompositeOperation = "copy";
  let [out, opacity] = [0, 0];
  for (let top = 0; top < height; top += STRIP_ROWS) {
    context.drawImage(bitmap, 0, -top);
    const { data } = context.getImageData(0, 0, width, Math.min(STRIP_ROWS, height - top));
    for (let i = 0; i < data.length; i += 4) {
      const alpha = data[i + 3];
      opacity += alpha;
      for (let c = 0; c < 3; c++) rgb[out++] = ((data[i + c] - 255) * alpha) / 255 + 255.5; // on white, rounded
    }
  }
  return { rgb, transparency: 1 - opacity / (width * height) / 255 };
}
