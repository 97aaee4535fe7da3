// Entry point: builds the page from its parts.

import { getJson, setKey } from "./api.js";
import { at, later, say } from "./dom.js";
import { Editor } from "./editor.js";
import { Form } from "./form.js";
import { Gallery } from "./gallery.js";
import { Problems } from "./problems.js";
import { Run } from "./run.js";
import { addSources } from "./sources.js";
import { keepDrawing, loadDrawing } from "./store.js";
import { addTools } from "./tools.js";

const problems = new Problems();

async function start() {
  const editor = new Editor(await getJson("playground/labels.json"));
  await restore(editor);
  const form = new Form(editor);
  addTools(editor);
  addSources(editor, form, problems);
  new Run(editor, form, problems, new Gallery(editor, form));
  const loadModel = async () => {
    problems.clear();
    try {
      form.offer((await getJson("v1/models")).data[0]);
    } catch (error) {
      at("model").textContent = "not ready";
      problems.show(error);
    }
  };
  at("key-form").onsubmit = (event) => {
    event.preventDefault();
    setKey(at("key").value.trim());
    at("key-form").hidden = true;
    at("key").value = "";
    at("generate").focus();
    return loadModel();
  };
  document.documentElement.dataset.ready = "";
  await loadModel();
}

async function restore(editor) {
  try {
    for (const [modality, drawing] of Object.entries(editor.drawings)) {
      const pixels = await loadDrawing(modality);
      if (pixels?.length === drawing.pixels.length) drawing.pixels = pixels;
      const keep = later(250, () => keepDrawing(modality, drawing.pixels));
      editor.addEventListener("drawing", () => editor.modality === modality && keep());
    }
  } catch {
    say("This browser does not allow the page to keep your drawing. Save it before you leave.");
  }
}

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector("[data-close]").onclick = () => dialog.close();
}
start().catch((error) => problems.show(error));
