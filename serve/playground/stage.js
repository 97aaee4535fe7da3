// The canvas: shows the drawing, the cursor and the photo below; zooms and pans. Input is in pointer.js and keys.js.

import { SIDE } from "./drawing.js";

export const MAX_ZOOM = 8;
const CRISP = 2; // from this many screen pixels per pixel of the drawing, it is not smoothed

export class Stage {
  constructor(canvas, editor) {
    Object.assign(this, { canvas, editor, zoom: 1, left: 0, top: 0, cursor: null });
    this.context = canvas.getContext("2d");
    this.picture = document.createElement("canvas");
    this.picture.width = this.picture.height = SIDE;
    this.image = new ImageData(SIDE, SIDE);
    this.words = new Uint32Array(this.image.data.buffer);
    this.shades = { mask: editor.colours.map(word), sketch: Array.from({ length: 256 }, (_, grey) => word([grey, grey, grey])) };
    this.onview = () => {};
    for (const what of ["drawing", "settings"]) editor.addEventListener(what, () => this.refresh());
    new ResizeObserver(() => this.fit()).observe(canvas);
  }

  refresh() {
    this.stale = true;
    this.show();
  }

  show() { // at most once per frame
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (this.stale) this.paint();
      this.render();
    });
  }

  fit() {
    const side = Math.max(1, Math.round(this.canvas.clientWidth * devicePixelRatio));
    if (this.canvas.width !== side) this.canvas.width = this.canvas.height = side;
    this.show();
  }

  paint() {
    const shades = this.shades[this.editor.modality], { pixels } = this.editor.drawing;
    for (let at = 0; at < pixels.length; at++) this.words[at] = shades[pixels[at]];
    this.picture.getContext("2d").putImageData(this.image, 0, 0);
    this.stale = false;
  }

  render() {
    const { context, canvas, editor } = this;
    const scale = (canvas.width / SIDE) * this.zoom;
    context.setTransform(scale, 0, 0, scale, -this.left * scale, -this.top * scale);
    context.imageSmoothingEnabled = scale < CRISP;
    context.globalAlpha = 1;
    if (editor.photo) {
      context.drawImage(editor.photo, 0, 0);
      context.globalAlpha = editor.opacity;
    }
    context.drawImage(this.picture, 0, 0);
    context.globalAlpha = 1;
    if (this.cursor) this.ring(scale);
  }

  // The brush's outline: a black ring on a wider white one, visible on every colour.
  ring(scale) {
    const { context, cursor, editor } = this;
    const brush = editor.tool === "brush" || editor.tool === "erase";
    const radius = Math.max(brush ? editor.size / 2 : 0, 4 / scale);
    for (const [colour, width] of [["#fff", 3.5], ["#000", 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = (width * devicePixelRatio) / scale;
      context.beginPath();
      context.arc(cursor.x, cursor.y, radius, 0, 2 * Math.PI);
      if (!brush || cursor.keys) cross(context, cursor, (9 * devicePixelRatio) / scale);
      context.stroke();
    }
  }

  // The point of the drawing at a point of the window.
  point({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    const span = SIDE / this.zoom;
    return {
      x: clamp(this.left + ((clientX - box.left) / box.width) * span, 0, SIDE - 0.001),
      y: clamp(this.top + ((clientY - box.top) / box.height) * span, 0, SIDE - 0.001),
    };
  }

  // Zooms so that `point` of the drawing stays where it is on the screen.
  zoomTo(zoom, point = { x: this.left + SIDE / this.zoom / 2, y: this.top + SIDE / this.zoom / 2 }) {
    const next = clamp(zoom, 1, MAX_ZOOM);
    const ratio = this.zoom / next;
    this.zoom = next;
    this.lookAt(point.x - (point.x - this.left) * ratio, point.y - (point.y - this.top) * ratio);
  }

  pan(dx, dy) { // in pixels of the window
    const unit = SIDE / this.zoom / this.canvas.clientWidth;
    this.lookAt(this.left - dx * unit, this.top - dy * unit);
  }

  lookAt(left, top) {
    const most = SIDE - SIDE / this.zoom;
    this.left = clamp(left, 0, most);
    this.top = clamp(top, 0, most);
    this.onview();
    this.show();
  }

  reveal({ x, y }) {
    const span = SIDE / this.zoom, margin = span / 8;
    const along = (start, at) => (at < start + margin ? at - margin : at > start + span - margin ? at + margin - span : start);
    this.lookAt(along(this.left, x), along(this.top, y));
  }

  aim(cursor) {
    this.cursor = cursor;
    this.show();
  }
}

function cross(context, { x, y }, arm) {
  context.moveTo(x - arm, y);
  context.lineTo(x + arm, y);
  context.moveTo(x, y - arm);
  context.lineTo(x, y + arm);
}

function word([r, g, b]) { // a pixel in little-endian memory, which all browsers have
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

export function clamp(value, least, most) {
  return Math.min(most, Math.max(least, value));
}
