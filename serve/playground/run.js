// Runs a generation: sends the request, shows progress and previews, cancels it, and adds the result to the gallery.

import { generate } from "./api.js";
import { at, element } from "./dom.js";
import { resized, SIDE } from "./drawing.js";
import { encode } from "./png.js";

const PREVIEWS = 4;

export class Run {
  constructor(editor, form, problems, gallery) {
    Object.assign(this, { editor, form, problems, gallery, running: null });
    at("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    at("cancel").onclick = () => this.running?.abort();
    document.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !document.querySelector("dialog[open]")) this.start();
    });
  }

  async start() {
    if (this.running) return;
    this.running = new AbortController();
    this.problems.clear();
    if (!this.form.locked || !at("seed").value) this.form.roll();
    this.busy(true);
    try {
      await this.follow(this.form.request(), this.running.signal);
    } catch (error) {
      if (error.name === "AbortError") announce("Cancelled.");
      else {
        announce("");
        this.problems.show(error);
      }
    } finally {
      this.running = null;
      this.busy(false);
    }
  }

  async follow(fields, signal) {
    const { modality, colours } = this.editor;
    const pixels = this.editor.drawing.pixels.slice();
    const side = Number(fields.size?.split("x")[0]) || this.form.side || SIDE;
    const drawing = await encode(resized(pixels, modality, side), side, modality === "mask" ? colours : null);
    const steps = Number(fields.num_inference_steps ?? this.form.steps ?? 1);
    const previews = Math.max(0, Math.min(PREVIEWS, steps - 1)) || 0;
    const tiles = this.tiles(Number(fields.n));
    for await (const event of generate(modality, fields, drawing, previews, signal)) {
      if (event.type === "queued") progress(waiting(event.ahead));
      if (event.type === "step") progress(`Step ${event.step} of ${event.steps}`, event.step / event.steps);
      if (event.type === "partial_image") show(tiles, event.data);
      if (event.type === "completed") this.finish(event, { modality, pixels, drawing, fields });
    }
  }

  finish(event, made) {
    const blobs = event.data.map(({ b64_json }) => toBlob(b64_json));
    event.data.forEach(({ seed }, index) => this.gallery.add({ ...made, seed, blob: blobs[index], model: event.model }));
    const count = blobs.length === 1 ? "The picture is" : `${blobs.length} pictures are`;
    announce([`${count} finished.`, ...event.warnings].join(" "));
  }

  tiles(count) {
    const tiles = Array.from({ length: count }, () => element("img", { alt: "", hidden: true }));
    at("tiles").replaceChildren(...tiles.map((tile) => element("div", { className: "tile" }, tile)));
    at("tiles").classList.toggle("several", count > 1);
    return tiles;
  }

  busy(busy) {
    at("generate").setAttribute("aria-disabled", busy);
    const focused = document.activeElement === at("cancel");
    at("cancel").hidden = at("now").hidden = !busy;
    if (focused) at("generate").focus();
    if (busy) progress("Sending …");
    else for (const tile of at("tiles").querySelectorAll("img")) URL.revokeObjectURL(tile.src);
  }
}

function waiting(ahead) {
  if (ahead === 0) return "Next in the queue";
  return `Waiting: ${ahead} ${ahead === 1 ? "request" : "requests"} ahead`;
}

// The bar moves with every step; screen readers read only changes of the queue, and every quarter.
function progress(text, share = null) {
  at("progress-text").textContent = text;
  if (share === null) at("progress").removeAttribute("value");
  else at("progress").value = share;
  announce(share === null ? text : `Painting, ${Math.floor(share * 4) * 25} %`);
}

function announce(text) {
  if (at("spoken").textContent !== text) at("spoken").textContent = text;
}

function show(tiles, data) {
  data.forEach(({ b64_json }, index) => {
    const tile = tiles[index], old = tile.src;
    tile.src = URL.createObjectURL(toBlob(b64_json));
    tile.hidden = false;
    if (old) URL.revokeObjectURL(old);
  });
}

function toBlob(base64) {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}
