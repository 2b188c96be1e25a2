// What Node's HTTP client makes of answers. For each line `METHOD URL` of its standard input it prints one line of JSON; each request has a
// connection of its own.
import http from "node:http";
import { createInterface } from "node:readline";

function read(method, url) {
  return new Promise((resolve) => {
    const request = http.request(url, { method, agent: false }, (response) => {
      const pieces = [];
      const done = (whole) => resolve({ status: response.statusCode, whole, body: Buffer.concat(pieces).toString("latin1") });
      response.on("data", (piece) => pieces.push(piece));
      response.on("end", () => done(response.complete));
      response.on("error", () => done(false));
    });
    request.on("upgrade", (_, socket) => resolve((socket.destroy(), null)));
    request.on("error", () => resolve(null));
    request.end();
  });
}

for await (const line of createInterface({ input: process.stdin })) {
  const [method, url] = line.split(" ");
  console.log(JSON.stringify(await read(method, url)));
}
