// The service, as this page uses it. Addresses are relative to the page, so that it also works behind a path prefix.

const TOKEN_KEY = "undertone.token";
const TRIES_WHILE_BUSY = 6;

let token = "";
try {
  token = sessionStorage.getItem(TOKEN_KEY) ?? ""; // this tab only
} catch {
  // storage is closed to this page: the token is asked for again after a reload
}
let askForToken = async () => null;

/** Refused by the service, or not reached; the message says what to do. */
export class ServiceError extends Error {
  constructor(message, { status = 0, code = "" } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Set the function that asks the visitor for the token; it gets the last one's fault and returns a promise. */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

function keepToken(value) {
  token = value;
  try {
    sessionStorage.setItem(TOKEN_KEY, value);
  } catch {
    // as above
  }
}

function address(path, query = {}) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

function send(method, url, { body, onUpload, signal, as }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // tells how much has been sent, which fetch does not
    request.open(method, url);
    request.responseType = as;
    if (token) request.setRequestHeader("Authorization", `Bearer ${token}`);
    if (onUpload) request.upload.onprogress = ({ loaded, total }) => onUpload(total ? loaded / total : 0);
    request.onload = () => resolve(request);
    request.onerror = () =>
      reject(
        new ServiceError(
          `The service at ${location.host} did not answer. See whether “undertone serve” is still running, then try again.`,
        ),
      );
    request.onabort = () => reject(new DOMException("given up", "AbortError"));
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    if (signal?.aborted) reject(new DOMException("given up", "AbortError"));
    else request.send(body ?? null);
  });
}

/** The service's words about a file begin with a verb: "is empty". */
export const about = (name, words) => sentence(/^(is|has|holds|lasts|states|needs) /.test(words) ? `${name} ${words}` : words);

async function refusal(request, body) {
  let content = {};
  try {
    const text = request.responseType === "blob" ? await request.response.text() : request.response;
    content = JSON.parse(text).error ?? {};
  } catch {
    // not the service's own words: a proxy's page, say
  }
  const message = content.message ?? `The service answered with status ${request.status}. Try again, or look at its log.`;
  const files = body?.getAll("file") ?? [];
  return new ServiceError(files.length === 1 ? about(files[0].name, message) : sentence(message), { status: request.status, code: content.code ?? "" });
}

export function sentence(text) {
  const trimmed = String(text).trim();
  const starts = /^\S*\.\w+ /.test(trimmed) ? trimmed : trimmed.charAt(0).toUpperCase() + trimmed.slice(1); // not a file's name
  return starts + (/[.!?]$/.test(trimmed) ? "" : ".");
}

/**
 * Ask the service; waits and tries again while it is busy, asks for a token where one is needed.
 * `as` is "json" or "blob"; `onWait` gets the seconds until the next try.
 */
export async function ask(method, path, { query, body, as = "json", onUpload, onWait, signal } = {}) {
  for (let tries = 1; ; tries++) {
    const sent = token;
    const request = await send(method, address(path, query), { body, onUpload, signal, as: as === "blob" ? "blob" : "text" });
    if (request.status === 401) {
      const given = token !== sent ? token : await askForToken(sent ? "That token was not accepted." : "");
      if (!given) throw new ServiceError("This service needs its token. Ask whoever runs it for it, then try again.", { status: 401 });
      if (token !== given) keepToken(given);
      tries -= 1;
      continue;
    }
    if ((request.status === 429 || request.status === 503) && tries < TRIES_WHILE_BUSY) {
      const wait_s = Math.min(Number(request.getResponseHeader("Retry-After")) || 2 ** (tries - 1), 30);
      onWait?.(wait_s);
      await pause(wait_s, signal);
      continue;
    }
    if (request.status < 200 || request.status >= 300) throw await refusal(request, body);
    return as === "blob" ? request.response : JSON.parse(request.response);
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        reject(new DOMException("given up", "AbortError"));
      },
      { once: true },
    );
  });
}

function form(files) {
  const body = new FormData();
  for (const file of files) body.append("file", file, file.name);
  return body;
}

export const models = () => ask("GET", "v1/models");
export const card = (name) => ask("GET", `v1/models/${encodeURIComponent(name)}`);
export const predict = (files, { model, ...options }) =>
  ask("POST", "v1/predict", { query: { model }, body: form(files), ...options });
export const timeline = (file, { model, channels, format = "json", ...options }) =>
  ask("POST", "v1/timeline", {
    query: { model, channels, format },
    body: form([file]),
    ...options,
  });
export const explain = (file, { model, emotion, ...options }) =>
  ask("POST", "v1/explain", { query: { model, emotion }, body: form([file]), ...options });

const CLOSED = {
  1008: "The service closed the connection: it does not take this stream. Load the page again and start once more.",
  1009: "The service closed the connection: a piece of sound was too large for it.",
  1011: "The service met an error of its own and closed the connection. Start once more; its log says more.",
  1012: "The service is restarting. Start once more in a moment.",
  1013: "The service is busy with others. Start once more in a moment.",
};

/** A live connection: `send` takes sound, `onUpdate` gets one object a hop, `finish` waits for the rest. */
export class LiveConnection {
  static async open({ model, sampleRate, onUpdate, onLost }) {
    await models(); // asks for the token where one is needed: a refused WebSocket does not say why
    const url = address("v1/stream", { model, sample_rate: sampleRate, token });
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const connection = new LiveConnection(url, onUpdate, onLost);
    await connection.opened;
    return connection;
  }

  constructor(url, onUpdate, onLost) {
    this.finished = false;
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.closed = new Promise((resolve) => this.socket.addEventListener("close", resolve));
    this.opened = new Promise((resolve, reject) => {
      this.socket.addEventListener("open", resolve);
      this.closed.then((event) => reject(closing(event)));
    });
    this.socket.addEventListener("message", ({ data }) => {
      const update = JSON.parse(data);
      if (update.error) this.refused = new ServiceError(sentence(update.error.message), update.error);
      else if (!update.end) onUpdate(update);
    });
    this.opened.then(
      () => this.closed.then((event) => this.finished || onLost(this.refused ?? closing(event))),
      () => {},
    );
  }

  get waiting() {
    return this.socket.bufferedAmount; // bytes that are still to be sent
  }

  /** `pcm`: 16-bit samples; typed arrays are little-endian wherever browsers run. */
  send(pcm) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(pcm);
  }

  async finish() {
    this.finished = true;
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ end: true }));
    await Promise.race([this.closed, new Promise((resolve) => setTimeout(resolve, 3000))]);
    this.socket.close();
  }
}

function closing(event) {
  const words = event.reason || CLOSED[event.code];
  return new ServiceError(words ? sentence(words) : "The live connection broke off. Start once more.", { code: event.code });
}
