// The panel around the canvas: kind of drawing, tools, brush, history, zoom, palette, photo.

import { at, element, say } from "./dom.js";
import { showHelp, useKeys } from "./keys.js";
import { usePointer } from "./pointer.js";
import { Stage } from "./stage.js";

const TOOLS = { brush: "b", erase: "e", fill: "f", pick: "i", hand: "h" };
const ZOOM = 1.5;

export function addTools(editor) {
  const stage = new Stage(at("canvas"), editor);
  const actions = actionsOf(editor, stage);
  usePointer(stage, editor, actions.pick);
  useKeys(stage, editor, actions);
  addPalette(editor);
  for (const tool of Object.keys(TOOLS)) at(`tool-${tool}`).onclick = () => actions[tool]();
  for (const name of ["undo", "redo", "closer", "wider", "whole"]) at(name).onclick = () => actions[name]();
  at("help-open").onclick = showHelp;
  at("width").oninput = (event) => (editor.size = Number(event.target.value));
  at("opacity").oninput = (event) => editor.set({ opacity: event.target.value / 100 });
  at("photo-off").onclick = () => {
    editor.set({ photo: null });
    at("canvas").focus();
  };
  for (const kind of ["mask", "sketch"]) at(`kind-${kind}`).onchange = () => editor.set({ modality: kind });
  stage.onview = () => (at("whole").textContent = `${Math.round(stage.zoom * 100)} %`);
  const show = () => showSettings(editor);
  editor.addEventListener("settings", show);
  for (const what of ["settings", "history", "drawing"]) editor.addEventListener(what, () => showHistory(editor));
  show();
  showHistory(editor);
}

function actionsOf(editor, stage) {
  const travel = (name) => say(editor.drawing[name]() ? `${name === "undo" ? "Undone" : "Redone"}.` : `Nothing to ${name}.`);
  const tools = Object.keys(TOOLS).map((tool) => [tool, () => {
    editor.set({ tool });
    say(`${at(`tool-${tool}`).textContent.trim()} chosen.`);
  }]);
  return {
    ...Object.fromEntries(tools),
    undo: () => travel("undo"),
    redo: () => travel("redo"),
    closer: () => stage.zoomTo(stage.zoom * ZOOM),
    wider: () => stage.zoomTo(stage.zoom / ZOOM),
    whole: () => stage.zoomTo(1),
    larger: () => (editor.size += Math.max(1, Math.round(editor.size / 5))),
    smaller: () => (editor.size -= Math.max(1, Math.round(editor.size / 6))),
    help: showHelp,
    pick: (value) => {
      if (editor.modality === "mask") editor.set({ label: value, tool: "brush" });
      say(`${editor.nameOf(value)} picked.`);
    },
    keys: {
      ...Object.fromEntries(Object.entries(TOOLS).map(([tool, key]) => [key, tool])),
      "[": "smaller", "]": "larger", "+": "closer", "=": "closer", "-": "wider", 0: "whole", "?": "help",
    },
  };
}

function addPalette(editor) {
  const chips = editor.labels.map(({ title, colour }, label) => {
    const input = element("input", { type: "radio", name: "label", value: label, className: "unseen" });
    input.onchange = () => editor.set({ label, tool: editor.tool === "fill" ? "fill" : "brush" });
    const swatch = element("span", { className: "swatch" });
    swatch.style.backgroundColor = `rgb(${colour.join(" ")})`;
    return element("label", { className: "chip" }, input, swatch, title);
  });
  at("palette").append(...chips);
}

function showSettings(editor) {
  at(`kind-${editor.modality}`).checked = true;
  for (const tool of Object.keys(TOOLS)) at(`tool-${tool}`).setAttribute("aria-pressed", tool === editor.tool);
  at("tool-pick").hidden = at("labels").hidden = editor.modality !== "mask";
  at("width").value = editor.size;
  at("width-shown").textContent = editor.size;
  at("palette").querySelectorAll("input")[editor.label].checked = true;
  at("under").hidden = !editor.photo;
  at("opacity").value = Math.round(editor.opacity * 100);
  at("canvas").setAttribute("aria-label", `Your ${editor.modality}`);
}

function showHistory(editor) {
  const { past, future, empty } = editor.drawing;
  at("undo").setAttribute("aria-disabled", !past.length);
  at("redo").setAttribute("aria-disabled", !future.length);
  at("hint").hidden = !empty || Boolean(editor.photo);
  at("hint").className = `hint ${editor.modality}`;
}
