// Whether an image file holds several frames, as animations do. Browsers tell this on secure pages alone, or not.

export function severalFrames(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (from, to) => String.fromCharCode(...bytes.subarray(from, to));
  if (text(1, 4) === "PNG") return countPng(view, text) > 1;
  if (text(0, 4) === "GIF8") return countGif(bytes) > 1;
  if (text(0, 4) === "RIFF") return countWebp(view, text) > 1;
  return text(4, 12) === "ftypavis"; // AVIF
}

function countPng(view, text) {
  for (let at = 8; at + 12 <= view.byteLength; at += 12 + view.getUint32(at)) {
    if (text(at + 4, at + 8) === "acTL") return view.getUint32(at + 8);
  }
  return 1;
}

function countWebp(view, text) {
  let count = 0;
  for (let at = 12; at + 8 <= view.byteLength; ) {
    count += text(at, at + 4) === "ANMF";
    const length = view.getUint32(at + 4, true);
    at += 8 + length + (length % 2);
  }
  return count;
}

function countGif(bytes) {
  const palette = (flags) => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  let count = 0;
  for (let at = 13 + palette(bytes[10]); bytes[at] === 0x2c || bytes[at] === 0x21; at += 1) {
    const isFrame = bytes[at] === 0x2c; // the other is an extension
    count += isFrame;
    at += isFrame ? 11 + palette(bytes[at + 9]) : 2;
    while (bytes[at]) at += 1 + bytes[at]; // its blocks
  }
  return count;
}
