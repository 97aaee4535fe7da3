// What a drawing begins with: an example, a file, a photo; and saving it.

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
      at(input).value = ""; // the same file may be chosen again
      if (file) await action(file);
    };
    return () => at(input).click();
  };

  at("example").onclick = attempt("Drawing an example …", "example", () => useExample(editor, form));
  at("open").onclick = chosen("open-file", attempt("Reading the file …", "open", (file) => useFile(editor, file)));
  at("photo").onclick = chosen("photo-file", attempt("Finding the face …", "image", (file) => usePhoto(editor, file)));
  at("clear").onclick = () => {
    editor.drawing.clear();
    say("Cleared. Undo brings it back.");
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
  return "An example: change it as you like.";
}

async function useFile(editor, file) {
  if (editor.modality === "sketch") {
    const { pixels, cropped } = await readSketch(file);
    editor.drawing.replace(pixels);
    return `${file.name} opened.${cropped ? " Its middle is used." : ""}`;
  }
  const { pixels, strangers, cropped } = await readMask(file, editor.colours);
  editor.drawing.replace(pixels);
  const counted = strangers ? ` ${strangers} pixels between two labels took the nearest colour.` : "";
  return `${file.name} opened.${cropped ? " Its middle is used." : ""}${counted}`;
}

async function usePhoto(editor, file) {
  const { modality } = editor;
  const made = await convert(modality, file);
  const { pixels } = await (modality === "mask" ? readMask(made, editor.colours) : readSketch(made));
  const { canvas } = await readSquare(file);
  editor.drawings[modality].replace(pixels);
  editor.set({ photo: canvas });
  return `The photo's ${modality}, above the photo. The photo stays in this tab and is not painted from.`;
}
