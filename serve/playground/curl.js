// The shell command that generates a gallery picture again. It contains the drawing, so it works on any machine.

import { address, hasKey } from "./api.js";

const LINE = 76;

export async function curlCommand({ modality, drawing, fields, seed }) {
  const forms = Object.entries({ ...fields, seed, n: 1 }).map(([name, value]) =>
    // Not -F, which would read a prompt that begins with @ as a file name.
    `--form-string ${quoted(`${name}=${value}`)}`);
  const options = [
    "-H 'Accept: image/png'",
    ...(hasKey() ? ['-H "Authorization: Bearer $MMFACE_API_KEY"'] : []),
    `-F 'condition=@-;filename=${modality}.png;type=image/png'`,
    ...forms,
    `-o face-${seed}.png`,
  ];
  const start = `base64 -d <<'PNG' | curl -sS --fail-with-body ${quoted(address(`v1/generate/${modality}`).href)}`;
  return `${[start, ...options].join(" \\\n  ")}\n${await base64(drawing)}\nPNG\n`;
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return text.match(new RegExp(`.{1,${LINE}}`, "g")).join("\n");
}
