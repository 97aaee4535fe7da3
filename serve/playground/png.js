// Writes drawings as lossless PNG files, and reads picture files as drawings.

import { SIDE } from "./drawing.js";

const MAX_FILE_PIXELS = 40e6;
const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const MAX_UNKNOWN = 1 / 3; // largest share of pixels without a label's colour that counts as soft edges

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

// A PNG of these bytes: indices into the palette `colours`, or grey without one.
export async function encode(pixels, side, colours = null) {
  const rows = new Uint8Array((side + 1) * side); // each row begins with its filter type: 0, none
  for (let y = 0; y < side; y++) rows.set(pixels.subarray(y * side, (y + 1) * side), y * (side + 1) + 1);
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, side);
  view.setUint32(4, side);
  header.set([8, colours ? 3 : 0], 8);
  const parts = [Uint8Array.from(SIGNATURE), chunk("IHDR", header)];
  if (colours) parts.push(chunk("PLTE", Uint8Array.from(colours.flat())));
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  parts.push(chunk("IDAT", new Uint8Array(await new Response(packed).arrayBuffer())), chunk("IEND", new Uint8Array()));
  return new Blob(parts, { type: "image/png" });
}

function chunk(kind, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set([...kind].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(data, 8);
  let crc = 0xffffffff;
  for (const byte of bytes.subarray(4, -4)) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(bytes.length - 4, ~crc >>> 0);
  return bytes;
}

// The middle square of a picture file, SIDE pixels wide; with `exact` its colours are those of the file.
export async function readSquare(file, exact = false) {
  await refuseTooLarge(file);
  let bitmap;
  try {
    const raw = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    bitmap = await createImageBitmap(file, exact ? raw : {});
  } catch {
    throw new Error("The file is not a picture that this browser can read. Choose a PNG, JPEG or WebP.");
  }
  const side = Math.min(bitmap.width, bitmap.height);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d", { willReadFrequently: exact });
  context.imageSmoothingEnabled = !exact;
  context.imageSmoothingQuality = "high";
  const [left, top] = [(bitmap.width - side) >> 1, (bitmap.height - side) >> 1];
  context.drawImage(bitmap, left, top, side, side, 0, 0, SIDE, SIDE);
  const cropped = bitmap.width !== bitmap.height;
  bitmap.close();
  return { canvas, context, cropped };
}

async function refuseTooLarge(file) {
  const head = new DataView(await file.slice(0, 24).arrayBuffer());
  const png = head.byteLength === 24 && SIGNATURE.every((byte, at) => head.getUint8(at) === byte);
  if (png && head.getUint32(16) * head.getUint32(20) > MAX_FILE_PIXELS) {
    throw new Error(`The picture is too large. Choose one of at most ${MAX_FILE_PIXELS / 1e6} megapixels.`);
  }
}

// Reads a mask file; `unknown` counts the pixels without a label's colour, which took the nearest label.
export async function readMask(file, colours) {
  const { context, cropped } = await readSquare(file, true);
  const rgba = context.getImageData(0, 0, SIDE, SIDE).data;
  if (isGrey(rgba)) return { pixels: readIndices(rgba, colours.length), unknown: 0, cropped };
  const pixels = new Uint8Array(SIDE * SIDE);
  const known = new Map(colours.map(([r, g, b], label) => [(r << 16) | (g << 8) | b, label]));
  const nearest = new Map();
  let unknown = 0;
  for (let at = 0; at < pixels.length; at++) {
    const [r, g, b, alpha] = rgba.subarray(4 * at, 4 * at + 4);
    if (alpha < 128) continue; // transparent is background
    const code = (r << 16) | (g << 8) | b;
    if (!known.has(code)) {
      unknown++;
      if (!nearest.has(code)) nearest.set(code, closest(colours, r, g, b));
    }
    pixels[at] = known.get(code) ?? nearest.get(code);
  }
  if (unknown > MAX_UNKNOWN * pixels.length) {
    const share = Math.round((100 * unknown) / pixels.length);
    throw new Error(`This is not a mask: ${share} % of its pixels have none of the labels' colours. For a photo, use “Photo”.`);
  }
  return { pixels, unknown, cropped };
}

// Reads a picture as a sketch: its grey, on white where it is transparent.
export async function readSketch(file) {
  const { context, cropped } = await readSquare(file);
  const rgba = context.getImageData(0, 0, SIDE, SIDE).data;
  const pixels = new Uint8Array(SIDE * SIDE);
  for (let at = 0; at < pixels.length; at++) {
    const [r, g, b, alpha] = rgba.subarray(4 * at, 4 * at + 4);
    pixels[at] = Math.round(255 - (alpha / 255) * (255 - (0.299 * r + 0.587 * g + 0.114 * b)));
  }
  return { pixels, cropped };
}

function isGrey(rgba) {
  for (let at = 0; at < rgba.length; at += 4) {
    if (rgba[at] !== rgba[at + 1] || rgba[at] !== rgba[at + 2]) return false;
  }
  return true;
}

function readIndices(rgba, count) {
  const pixels = Uint8Array.from({ length: SIDE * SIDE }, (_, at) => rgba[4 * at]);
  const unknown = pixels.find((value) => value >= count);
  if (unknown === undefined) return pixels;
  throw new Error(`This is not a mask: it has the grey value ${unknown}, but labels are 0 to ${count - 1}.`);
}

function closest(colours, r, g, b) {
  const distances = colours.map((c) => (c[0] - r) ** 2 + (c[1] - g) ** 2 + (c[2] - b) ** 2);
  return distances.indexOf(Math.min(...distances));
}
