// The sources of a drawing (an example, a file, a photo), and saving it.

import { convert, getExample } from "./api.js";
import { at, save, say } from "./dom.js";
import { outline, SIDE } from "./drawing.js";
import { encode, readMask, readSketch, readSquare } from "./png.js";

const EXAMPLES = 100;

export function addSources(editor, form, problems) {
  const attempt = (what, param, action) => async (...given) => {
    problems.clear();
    say(what);
    at("panel").setAttribute("aria-busy", "true");
    try {
      say(await action(...given));
    } catch (error) {
      say("");
      problems.show(error, param);
    } finally {
      at("panel").removeAttribute("aria-busy");
    }
  };
  const chosen = (input, action) => {
    at(input).onchange = async () => {
      const [file] = at(input).files;
      at(input).value = ""; // so that choosing the same file again is a change
      if (file) await action(file);
    };
    return () => at(input).click();
  };

  at("example").onclick = attempt("Drawing an example …", "example", () => useExample(editor, form));
  at("open").onclick = chosen("open-file", attempt("Reading the file …", "open", (file) => useFile(editor, file)));
  at("photo").onclick = chosen("photo-file", attempt("Finding the face …", "image", (file) => usePhoto(editor, file)));
  at("clear").onclick = () => {
    editor.drawing.clear();
    say("Cleared. Undo restores the drawing.");
  };
  at("save").onclick = async () => save(await drawingFile(editor), `${editor.modality}.png`);
}

function drawingFile({ modality, drawing, colours }) {
  return encode(drawing.pixels, SIDE, modality === "mask" ? colours : null);
}

async function useExample(editor, form) {
  const { mask, prompt } = await getExample(Math.floor(Math.random() * EXAMPLES));
  const { pixels } = await readMask(mask, editor.colours);
  editor.drawing.replace(editor.modality === "mask" ? pixels : outline(pixels));
  form.suggest(prompt);
  return "An example. Edit it as you like.";
}

async function useFile(editor, file) {
  if (editor.modality === "sketch") {
    const { pixels, cropped } = await readSketch(file);
    editor.drawing.replace(pixels);
    return `${file.name} opened.${cropped ? " Only its middle is used." : ""}`;
  }
  const { pixels, unknown, cropped } = await readMask(file, editor.colours);
  editor.drawing.replace(pixels);
  const counted = unknown ? ` ${unknown} pixels without a label's colour took the nearest label.` : "";
  return `${file.name} opened.${cropped ? " Only its middle is used." : ""}${counted}`;
}

async function usePhoto(editor, file) {
  const { modality } = editor;
  const made = await convert(modality, file);
  const { pixels } = await (modality === "mask" ? readMask(made, editor.colours) : readSketch(made));
  const { canvas } = await readSquare(file);
  editor.drawings[modality].replace(pixels);
  editor.set({ photo: canvas });
  return `The photo's ${modality}, shown above the photo. The photo stays in this tab; only the drawing is used.`;
}
