// A server on Node that answers with what it read, as go/upstream does. It prints its ports as one line of JSON, and ends with its
// standard input.
import { createHash } from "node:crypto";
import http from "node:http";
import http2 from "node:http2";

function answer(state, request, response) {
  const digest = createHash("sha256");
  let length = 0;
  request.on("data", (piece) => {
    digest.update(piece);
    length += piece.length;
  });
  request.on("error", () => {});
  request.on("end", () => {
    if (request.aborted) return; // half a request is none
    const body = Buffer.from(
      JSON.stringify({
        serial: ++state.serial,
        protocol: `HTTP/${request.httpVersion}`,
        method: request.method,
        target: request.url,
        path: understood(request.url),
        host: request.headers.host ?? request.headers[":authority"] ?? "",
        headers: pairs(request.rawHeaders),
        length,
        digest: digest.digest("hex"),
        trailers: pairs(request.rawTrailers),
      }),
    );
    const fields = { "content-type": "application/json", "content-length": body.length, "x-serial": state.serial };
    if (request.method !== "HEAD") fields["x-body"] = "yes"; // else its length is that of what is not sent
    response.writeHead(200, fields);
    response.end(body);
  });
}

// The path as it is understood: dot segments resolved, decoded; its bytes as characters of ISO 8859-1.
function understood(target) {
  try {
    return Buffer.from(decodeURIComponent(new URL(target, "http://upstream").pathname), "utf8").toString("latin1");
  } catch (error) {
    return `not understood: ${error.message}`;
  }
}

function pairs(raw) {
  const all = [];
  for (let at = 0; at < raw.length; at += 2) {
    if (!raw[at].startsWith(":")) all.push([raw[at].toLowerCase(), raw[at + 1]]);
  }
  return all.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
}

function listen(make) {
  const state = { serial: 0 };
  const server = make((request, response) => answer(state, request, response));
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(String(server.address().port))));
}

const ports = {
  http1: await listen((handler) => http.createServer({ keepAliveTimeout: 600_000, maxHeaderSize: 1 << 20 }, handler)),
  h2c: await listen((handler) => http2.createServer(handler)),
};
process.stdout.write(`${JSON.stringify(ports)}\n`);
process.stdin.resume().on("end", () => process.exit(0));
