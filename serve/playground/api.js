// The client of the service: requests, errors and server-sent events.

const KEY = "mmface.key"; // in sessionStorage, which is cleared when the tab closes

export function setKey(value) {
  sessionStorage.setItem(KEY, value);
}

export function hasKey() {
  return Boolean(sessionStorage.getItem(KEY));
}

export function address(path) {
  return new URL(path, document.baseURI);
}

// An error of the service, or of the connection to it. `param` names the field at fault.
export class ServiceError extends Error {
  constructor(message, { param = null, status = 0, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { param, status, retryAfter });
  }
}

export async function getJson(path) {
  return (await request(path)).json();
}

export async function getExample(number) {
  const response = await request(`playground/example.png?number=${number}`);
  return { mask: await response.blob(), prompt: response.headers.get("X-Prompt") };
}

export async function convert(modality, photo) {
  const body = new FormData();
  body.append("image", photo, photo.name || "photo");
  return (await request(`v1/conditions/${modality}`, { method: "POST", body })).blob();
}

// Yields {type, …} for each event; the last one is "completed".
export async function* generate(modality, fields, drawing, previews, signal) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  body.append("stream", "true");
  body.append("partial_images", previews);
  body.append("condition", drawing, `${modality}.png`);
  const response = await request(`v1/generate/${modality}`, { method: "POST", body, signal });
  for await (const event of events(response.body)) {
    if (event.type === "error") throw new ServiceError(event.error.message, { param: event.error.param });
    yield event;
    if (event.type === "completed") return;
  }
  throw new ServiceError("The connection ended before the picture was finished. Try again.");
}

async function request(path, options = {}) {
  const headers = hasKey() ? { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` } : {};
  const response = await connected(fetch(address(path), { ...options, headers }));
  if (!response.ok) throw await refusal(response);
  return response;
}

async function connected(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service cannot be reached. Check that it is running, then try again.");
  }
}

async function refusal(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const about = { status: response.status, retryAfter };
  try {
    const { message, param } = (await response.json()).error;
    return new ServiceError(message, { ...about, param });
  } catch {
    // The answer of a proxy, which has no error envelope.
    return new ServiceError(`The service answered ${response.status} ${response.statusText}`.trim(), about);
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await connected(reader.read());
      if (done) return;
      text += value;
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").find((line) => line.startsWith("data: "));
        if (data) yield JSON.parse(data.slice(6));
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // if the stream has failed, that error was thrown already
  }
}
