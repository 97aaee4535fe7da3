// Drawing with the keyboard, and shortcuts. They work only while the focus is in the drawing panel, so that they do not
// interfere with text fields, the browser or a screen reader.

import { at, element, later, say } from "./dom.js";
import { SIDE } from "./drawing.js";
import { begin } from "./pointer.js";
import { clamp } from "./stage.js";

const STEP = 8; // pixels of the drawing; 1 with Shift
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const HELP = [
  ["Arrow keys", "move the cursor on the drawing; with Shift by one pixel"],
  ["Space", "paint at the cursor; hold it to draw with the arrow keys"],
  ["Enter", "lower the brush; again to lift it"],
  ["B · E · F · I · H", "brush · erase · fill · pick a label · move"],
  ["[ · ]", "smaller · larger brush"],
  ["+ · − · 0", "zoom in · out · whole drawing"],
  ["Ctrl Z · Ctrl Shift Z", "undo · redo"],
  ["Ctrl Enter", "generate, from anywhere on the page"],
  ["?", "show this list"],
  ["Ctrl and wheel, two fingers", "zoom and move"],
];

export function useKeys(stage, editor, actions) {
  const cursor = { x: SIDE / 2, y: SIDE / 2, keys: true };
  let drawing = false;
  const tell = later(350, () => say(`${cursor.x}, ${cursor.y}: ${editor.nameOf(editor.drawing.at(cursor))}`));

  const lift = () => {
    if (drawing) editor.tell("history");
    drawing = false;
  };
  const press = () => {
    drawing = begin(editor, cursor, actions.pick) === "stroke";
  };

  const move = ([dx, dy], step) => {
    const from = { ...cursor };
    cursor.x = clamp(cursor.x + dx * step, 0, SIDE - 1);
    cursor.y = clamp(cursor.y + dy * step, 0, SIDE - 1);
    if (drawing) editor.drawing.line(from, cursor, editor.size / 2, editor.ink);
    stage.reveal(cursor);
    tell();
  };

  stage.canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ARROWS) move(ARROWS[event.key], event.shiftKey ? 1 : STEP);
    else if (event.key === " " && !event.repeat) press();
    else if (event.key === "Enter" && !event.repeat) drawing ? lift() : press();
    else if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    stage.aim(cursor);
  });
  stage.canvas.addEventListener("keyup", (event) => event.key === " " && lift());
  stage.canvas.addEventListener("focus", () => stage.canvas.matches(":focus-visible") && stage.aim(cursor));
  stage.canvas.addEventListener("blur", () => {
    lift();
    stage.aim(null);
  });

  at("panel").addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    const command = event.ctrlKey || event.metaKey;
    const name = command ? { z: event.shiftKey ? "redo" : "undo", y: "redo" }[key] : actions.keys[key];
    if (!name || event.altKey) return;
    event.preventDefault();
    actions[name]();
  });
}

export function showHelp() {
  const rows = HELP.map(([keys, text]) => element("div", {}, element("dt", {}, keys), element("dd", {}, text)));
  at("shortcuts").replaceChildren(...rows);
  at("help").showModal();
}
