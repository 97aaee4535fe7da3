// The gallery: generated pictures, newest first, each with its actions.

import { curlCommand } from "./curl.js";
import { hasKey } from "./api.js";
import { at, element, icon, save, say } from "./dom.js";

const KEPT = 48;

export class Gallery {
  constructor(editor, form) {
    Object.assign(this, { editor, form });
    at("curl-copy").onclick = () => {
      at("curl-text").select();
      this.copy(at("curl-text").value);
    };
  }

  add(made) {
    const url = URL.createObjectURL(made.blob);
    const prompt = made.fields.prompt || "no prompt";
    const buttons = [
      this.button("seed", "Reuse seed", made, () => this.reuse(made)),
      this.button("edit", `Edit this ${made.modality}`, made, () => this.edit(made)),
      this.button("save", "Download", made, () => save(made.blob, `face-${made.seed}.png`)),
      this.button("copy", "Copy as curl", made, () => this.curl(made)),
    ];
    const card = element("li", { className: "picture" },
      element("img", { src: url, alt: `Portrait: ${prompt}` }),
      element("p", { className: "about" }, element("b", {}, `Seed ${made.seed}`), ` · ${made.model} · ${prompt}`),
      element("div", { className: "actions" }, ...buttons));
    at("pictures").prepend(card);
    at("nothing").hidden = true;
    const oldest = at("pictures").children[KEPT];
    if (oldest) {
      URL.revokeObjectURL(oldest.querySelector("img").src);
      oldest.remove();
    }
  }

  button(glyph, text, { seed }, onclick) {
    const which = element("span", { className: "unseen" }, `, seed ${seed}`);
    return element("button", { type: "button", className: "quiet", onclick }, icon(glyph), text, which);
  }

  reuse({ seed }) {
    this.form.reuse(seed);
    say(`Seed ${seed} is locked: the same drawing and fields give the same picture.`);
    at("seed").focus();
  }

  edit({ modality, pixels }) {
    this.editor.set({ modality });
    this.editor.drawing.replace(pixels);
    at("canvas").focus();
    at("canvas").scrollIntoView({ block: "nearest" });
    say(`Editing the ${modality} of that picture. Undo restores your own.`);
  }

  async curl(made) {
    await this.copy(await curlCommand(made));
  }

  // Browsers allow clipboard access only on https and localhost; otherwise a dialog shows the command.
  async copy(command) {
    const note = hasKey() ? " Set MMFACE_API_KEY to your key first." : "";
    try {
      await navigator.clipboard.writeText(command);
      at("curl").close();
      say(`Command copied. It contains the drawing and writes the picture to a file.${note}`);
    } catch {
      at("curl-text").value = command;
      if (!at("curl").open) at("curl").showModal();
      at("curl-text").select();
    }
  }
}
