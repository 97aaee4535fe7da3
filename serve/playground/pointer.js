// Drawing with mouse, pen and fingers. Two fingers zoom and move; a stroke that the first one began is reverted.

export function usePointer(stage, editor, pick) {
  const { canvas } = stage;
  const down = new Map(); // pointers by id, as last seen
  let act = null; // what the pointer does: "stroke", "pan" or "pinch"
  let last = null;

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, event);
    const here = stage.point(event);
    stage.aim(event.pointerType === "touch" ? null : here);
    if (down.size === 2) {
      if (act === "stroke") editor.drawing.revert();
      act = "pinch";
      editor.tell("history");
    } else if (down.size > 2) {
      return;
    } else if (editor.tool === "hand" || event.button === 1) {
      act = "pan";
    } else {
      act = begin(editor, here, pick);
      last = here;
    }
  });

  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch") stage.aim(stage.point(event));
    const before = down.get(event.pointerId);
    if (!before) return;
    if (act === "stroke") {
      const seen = event.getCoalescedEvents?.() ?? [];
      for (const point of (seen.length ? seen : [event]).map((one) => stage.point(one))) {
        editor.drawing.line(last, point, editor.size / 2, editor.ink);
        last = point;
      }
    } else if (act === "pan") {
      stage.pan(event.clientX - before.clientX, event.clientY - before.clientY);
    } else if (act === "pinch") {
      pinch(stage, [...down.values()], event);
    }
    down.set(event.pointerId, event);
  });

  const lift = (event) => {
    if (!down.delete(event.pointerId)) return;
    if (act === "stroke" && event.type === "pointercancel") editor.drawing.revert();
    if (!down.size || act !== "pinch") act = null;
    editor.tell("history");
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", () => stage.aim(null));
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page
    event.preventDefault();
    stage.zoomTo(stage.zoom * Math.exp(-event.deltaY / 200), stage.point(event));
  }, { passive: false });
}

// Applies the tool at a point, for pointer and keyboard; returns "stroke" if it draws until it is lifted.
export function begin(editor, here, pick) {
  if (editor.tool === "pick") {
    pick(editor.drawing.at(here));
    return null;
  }
  editor.drawing.begin();
  if (editor.tool === "fill") {
    editor.drawing.fill(here, editor.ink);
    editor.tell("history");
    return null;
  }
  editor.drawing.line(here, here, editor.size / 2, editor.ink);
  return "stroke";
}

function pinch(stage, fingers, moved) {
  const still = fingers.find((finger) => finger.pointerId !== moved.pointerId);
  const before = fingers.find((finger) => finger.pointerId === moved.pointerId);
  if (!still || !before) return;
  const spread = (finger) => Math.hypot(finger.clientX - still.clientX, finger.clientY - still.clientY) || 1;
  const middle = { clientX: (moved.clientX + still.clientX) / 2, clientY: (moved.clientY + still.clientY) / 2 };
  stage.zoomTo(stage.zoom * (spread(moved) / spread(before)), stage.point(middle));
  stage.pan((moved.clientX - before.clientX) / 2, (moved.clientY - before.clientY) / 2);
}
