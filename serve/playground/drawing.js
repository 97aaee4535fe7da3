// A drawing: one byte per pixel (a mask's label or a sketch's grey), with undo and redo.

export const SIDE = 512; // pixels of every drawing on this page; it is resized to the requested size before it is sent
export const BLANK = { mask: 0, sketch: 255 };
const STEPS_BACK = 40;
const TOLERANCE = { mask: 0, sketch: 96 }; // difference that a fill crosses; a sketch's lines have soft edges

export class Drawing {
  constructor(modality) {
    this.modality = modality;
    this.blank = BLANK[modality];
    this.onchange = () => {};
    this.past = [];
    this.future = [];
    this.pixels = new Uint8Array(SIDE * SIDE).fill(this.blank);
  }

  get empty() {
    return this.pixels.every((value) => value === this.blank);
  }

  assign(pixels) {
    this.pixels = pixels;
    this.onchange();
  }

  begin() { // changes until the next begin() are undone together
    this.past.push(this.pixels.slice());
    if (this.past.length > STEPS_BACK) this.past.shift();
    this.future = [];
  }

  revert() {
    this.assign(this.past.pop());
  }

  replace(pixels) {
    this.begin();
    this.assign(pixels.slice());
  }

  clear() {
    this.replace(new Uint8Array(SIDE * SIDE).fill(this.blank));
  }

  undo() {
    return this.restore(this.past, this.future);
  }

  redo() {
    return this.restore(this.future, this.past);
  }

  restore(from, to) {
    if (!from.length) return false;
    to.push(this.pixels);
    this.assign(from.pop());
    return true;
  }

  at({ x, y }) {
    return this.pixels[Math.floor(y) * SIDE + Math.floor(x)];
  }

  // Draws a stroke from one point to another. A mask's edge is hard, because there is no value between two labels.
  line(from, to, radius, value) {
    const reach = radius + 1;
    const left = Math.max(0, Math.floor(Math.min(from.x, to.x) - reach));
    const right = Math.min(SIDE - 1, Math.ceil(Math.max(from.x, to.x) + reach));
    const top = Math.max(0, Math.floor(Math.min(from.y, to.y) - reach));
    const bottom = Math.min(SIDE - 1, Math.ceil(Math.max(from.y, to.y) + reach));
    const dx = to.x - from.x, dy = to.y - from.y, squared = dx * dx + dy * dy || 1;
    const put = this.modality === "mask" ? hard : value < 128 ? darken : lighten;
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const px = x + 0.5 - from.x, py = y + 0.5 - from.y;
        const along = Math.min(1, Math.max(0, (px * dx + py * dy) / squared));
        const cover = radius + 0.5 - Math.hypot(px - along * dx, py - along * dy);
        if (cover > 0) put(this.pixels, y * SIDE + x, Math.min(1, cover), value);
      }
    }
    this.onchange();
  }

  // Fills the connected area of one value, run by run.
  fill(point, value) {
    const { pixels } = this;
    const start = Math.floor(point.y) * SIDE + Math.floor(point.x);
    const old = pixels[start];
    const inside = (seen) => Math.abs(seen - old) <= TOLERANCE[this.modality];
    if (inside(value)) return;
    const open = [start];
    while (open.length) {
      let here = open.pop();
      const row = here - (here % SIDE);
      while (here > row && inside(pixels[here - 1])) here--;
      let above = false, below = false; // whether the adjacent run has been queued
      for (; here < row + SIDE && inside(pixels[here]); here++) {
        pixels[here] = value;
        const up = here >= SIDE && inside(pixels[here - SIDE]);
        const down = here + SIDE < pixels.length && inside(pixels[here + SIDE]);
        if (up && !above) open.push(here - SIDE);
        if (down && !below) open.push(here + SIDE);
        [above, below] = [up, down];
      }
    }
    this.onchange();
  }
}

function hard(pixels, at, cover, value) {
  if (cover >= 0.5) pixels[at] = value;
}

function darken(pixels, at, cover) {
  pixels[at] = Math.min(pixels[at], Math.round(255 * (1 - cover)));
}

function lighten(pixels, at, cover) {
  pixels[at] = Math.max(pixels[at], Math.round(255 * cover));
}

// The outline of a mask as a sketch: dark lines where two labels meet.
export function outline(mask) {
  const sketch = new Uint8Array(SIDE * SIDE).fill(255);
  for (let y = 1; y < SIDE - 1; y++) {
    for (let x = 1; x < SIDE - 1; x++) {
      const at = y * SIDE + x;
      if (mask[at] !== mask[at + 1] || mask[at] !== mask[at + SIDE]) {
        for (const near of [at, at + 1, at + SIDE, at + SIDE + 1]) sketch[near] = 0;
      }
    }
  }
  return sketch;
}

// The drawing at another size: a mask takes the label at each new pixel's centre, a sketch the mean grey.
export function resized(pixels, modality, side) {
  const made = new Uint8Array(side * side);
  const scale = SIDE / side;
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      made[y * side + x] = modality === "mask"
        ? pixels[Math.floor((y + 0.5) * scale) * SIDE + Math.floor((x + 0.5) * scale)]
        : mean(pixels, x * scale, y * scale, scale);
    }
  }
  return made;
}

function mean(pixels, left, top, scale) {
  let sum = 0, count = 0;
  for (let y = Math.floor(top); y < top + scale; y++) {
    for (let x = Math.floor(left); x < left + scale; x++, count++) sum += pixels[y * SIDE + x];
  }
  return Math.round(sum / count);
}
