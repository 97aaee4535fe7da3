// The form with the fields of a request; ids are the service's field names.

import { at, later } from "./dom.js";
import { keepFields, loadFields } from "./store.js";

const KEPT = ["prompt", "negative_prompt", "seed", "n", "num_inference_steps", "guidance_scale", "size"];
const SEEDS = 2 ** 32; // short enough to read aloud

export class Form {
  constructor(editor) {
    this.editor = editor;
    this.suggested = null;
    this.keep = later(300, () => keepFields({ ...this.values(), locked: this.locked, modality: editor.modality }));
    at("form").addEventListener("input", () => this.keep());
    editor.addEventListener("settings", () => this.keep());
    at("dice").onclick = () => this.roll();
    at("lock").onclick = () => this.lock(!this.locked);
    const { locked, modality, size, ...values } = loadFields();
    this.wanted = size;
    for (const [name, value] of Object.entries(values)) at(name).value = value;
    if (!at("seed").value) this.roll();
    this.lock(Boolean(locked));
    if (modality) editor.set({ modality });
  }

  get locked() {
    return at("lock").getAttribute("aria-pressed") === "true";
  }

  lock(locked) {
    at("lock").setAttribute("aria-pressed", locked);
    this.keep();
  }

  roll() {
    at("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % SEEDS;
    this.keep();
  }

  reuse(seed) {
    at("seed").value = seed;
    at("n").value = 1;
    this.lock(true);
  }

  // Fills in an example's prompt, unless the user has written one.
  suggest(prompt) {
    if (!prompt || (at("prompt").value && at("prompt").value !== this.suggested)) return;
    this.suggested = at("prompt").value = prompt;
    this.keep();
  }

  // Shows the defaults and limits of the model; `info` is its entry in /v1/models.
  offer(info) {
    at("num_inference_steps").placeholder = info.num_inference_steps;
    at("num_inference_steps").max = info.max_num_inference_steps;
    at("guidance_scale").placeholder = info.guidance_scale;
    this.steps = info.num_inference_steps;
    this.side = Number(info.default_size.split("x")[0]);
    const sides = sidesOf(info, this.side);
    at("size").replaceChildren(...sides.map((side) => new Option(`${side} px`, `${side}x${side}`)));
    at("size").value = sides.some((side) => `${side}x${side}` === this.wanted) ? this.wanted : info.default_size;
    at("size-field").hidden = sides.length < 2;
    at("model").textContent = `${info.id} · up to ${info.max_size} px`;
  }

  values() {
    return Object.fromEntries(KEPT.map((name) => [name, at(name).value.replaceAll(/\s+/g, " ").trim()]));
  }

  // The fields to send; empty ones are left out, so that the model's defaults apply.
  request() {
    return Object.fromEntries(Object.entries(this.values()).filter(([, value]) => value !== ""));
  }
}

// The square sizes to offer: the default, and the largest one halved as often as the model allows.
function sidesOf({ min_size, max_size, size_multiple }, standard) {
  const sides = new Set([standard]);
  for (let side = max_size; side >= min_size && side % size_multiple === 0; side /= 2) sides.add(side);
  return [...sides].sort((a, b) => a - b);
}
