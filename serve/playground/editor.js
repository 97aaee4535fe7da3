// The state of the editor: drawings, tool, label, brush, photo. Events: "settings", "drawing", "history".

import { Drawing } from "./drawing.js";

export class Editor extends EventTarget {
  constructor(labels) {
    super();
    this.labels = labels;
    this.colours = labels.map((label) => label.colour);
    this.modality = "mask";
    this.tool = "brush";
    this.label = labels.findIndex((label) => label.name === "skin");
    this.sizes = { mask: 36, sketch: 4 };
    this.photo = null; // a canvas below the drawing
    this.opacity = 0.6; // of the drawing above the photo
    this.drawings = { mask: new Drawing("mask"), sketch: new Drawing("sketch") };
    for (const drawing of Object.values(this.drawings)) drawing.onchange = () => this.tell("drawing");
  }

  tell(what) {
    this.dispatchEvent(new Event(what));
  }

  set(values) {
    Object.assign(this, values);
    this.tell("settings");
  }

  get drawing() {
    return this.drawings[this.modality];
  }

  get size() {
    return this.sizes[this.modality];
  }

  set size(pixels) {
    this.sizes[this.modality] = Math.min(128, Math.max(1, pixels));
    this.tell("settings");
  }

  get ink() {
    if (this.tool === "erase") return this.drawing.blank;
    return this.modality === "mask" ? this.label : 0;
  }

  // The name, for people, of a pixel value.
  nameOf(value) {
    if (this.modality === "mask") return this.labels[value].title;
    return value < 128 ? "line" : "paper";
  }
}
