// What is kept across reloads: drawings in IndexedDB, fields in localStorage. Photos, pictures and keys are not.

const NAME = "mmface", DRAWINGS = "drawings", FIELDS = "mmface.fields";

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(DRAWINGS);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export async function loadDrawing(modality) {
  const base = await open();
  try {
    return await done(base.transaction(DRAWINGS).objectStore(DRAWINGS).get(modality));
  } finally {
    base.close();
  }
}

export async function keepDrawing(modality, pixels) {
  const base = await open();
  try {
    await done(base.transaction(DRAWINGS, "readwrite").objectStore(DRAWINGS).put(pixels, modality));
  } finally {
    base.close();
  }
}

export function loadFields() {
  try {
    return JSON.parse(localStorage.getItem(FIELDS)) ?? {};
  } catch (error) {
    if (error instanceof SyntaxError || error.name === "SecurityError") return {};
    throw error;
  }
}

export function keepFields(fields) {
  localStorage.setItem(FIELDS, JSON.stringify(fields));
}
