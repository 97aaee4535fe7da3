// Shows errors, in the alert and at the field at fault.

import { at, element } from "./dom.js";

const FIELDS = { // parameter of the service: id of its element on this page
  Authorization: "key", condition: "canvas", image: "photo", guidance_scale: "guidance_scale", n: "n",
  negative_prompt: "negative_prompt", num_inference_steps: "num_inference_steps", prompt: "prompt", seed: "seed",
  size: "size", open: "open", example: "example",
};

export class Problems {
  constructor() {
    this.marked = null;
    at("form").addEventListener("input", (event) => event.target === this.marked && this.unmark());
  }

  clear() {
    at("alert").textContent = "";
    this.unmark();
  }

  unmark() {
    this.marked?.removeAttribute("aria-invalid");
    this.marked?.removeAttribute("aria-errormessage");
    at("field-error")?.remove();
    this.marked = null;
  }

  // Shows an error of the service, or one of this page that concerns `param`.
  show(error, param = null) {
    this.clear();
    const { message, status, retryAfter } = error;
    const sentence = message.charAt(0).toUpperCase() + message.slice(1);
    const wait = retryAfter ? ` — in ${retryAfter} s` : "";
    const field = at(FIELDS[error.param ?? param]);
    const label = field?.labels?.[0]?.textContent;
    at("alert").textContent = `${label ? `${label}: ` : ""}${sentence}${wait}`;
    at("alert").scrollIntoView({ block: "nearest" });
    if (status === 401) at("key-form").hidden = false;
    if (field) this.mark(field, sentence);
  }

  mark(field, message) {
    this.marked = field;
    field.setAttribute("aria-invalid", "true");
    if (field.matches("input, textarea, select")) {
      field.setAttribute("aria-errormessage", "field-error");
      field.closest(".field").append(element("p", { id: "field-error", className: "field-error" }, message));
    }
    field.focus();
  }
}
