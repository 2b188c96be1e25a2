// Node's fetch and its HTTP/2 client. Prints what it found out as one line of JSON.  fetch.mjs URL
import { createHash, randomBytes } from "node:crypto";
import http2 from "node:http2";

const base = process.argv[2];
const found = {};

found.get = await (await fetch(`${base}/a/b%20c?d=e`, { headers: { "x-own": "value" } })).json();

const body = randomBytes(1 << 20);
const digest = createHash("sha256").update(body).digest("hex");
found.post = (await (await fetch(`${base}/x`, { method: "POST", body })).json()).digest === digest;

const pieces = ["one", "two", "three"];
const stream = new ReadableStream({
  pull(controller) {
    if (pieces.length === 0) controller.close();
    else controller.enqueue(new TextEncoder().encode(pieces.shift()));
  },
});
found.streamed = (await (await fetch(`${base}/x`, { method: "POST", body: stream, duplex: "half" })).json()).length;

const large = await fetch(`${base}/bytes/${4 << 20}`);
let length = 0;
for await (const piece of large.body) length += piece.length;
found.large = length;

const many = await Promise.all([...Array(50).keys()].map(async (n) => (await (await fetch(`${base}/n/${n}`)).json()).target));
found.many = many.filter((target, n) => target === `/n/${n}`).length;

const controller = new AbortController();
const aborted = fetch(`${base}/stream`, {
  method: "POST",
  duplex: "half",
  signal: controller.signal,
  body: new ReadableStream({}),
});
setTimeout(() => controller.abort(), 100);
found.aborted = await aborted.then(
  (answer) => answer.text().then(() => "answered", (error) => error.name),
  (error) => error.name,
);

const session = http2.connect(base);
found.http2 = await new Promise((resolve, reject) => {
  session.on("error", reject);
  const request = session.request({ ":path": "/two", "x-own": "value" });
  let text = "";
  request.setEncoding("utf8").on("data", (piece) => (text += piece));
  request.on("end", () => resolve(JSON.parse(text))).on("error", reject).end();
});
session.close();

console.log(JSON.stringify(found));
