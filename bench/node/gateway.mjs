// The same work as it is usually written on Node.js: devices over wss with a token each, batches of
// MessagePack, points through InfluxDB's own client. Kept small, and no slower than it has to be.
//
// It promises less than the gateway: an ack means that the client library has the points in memory.
//
//   node gateway.mjs --cert FILE --key FILE --token-key FILE --store URL
//
// Prints its port as JSON and ends with its standard input.
import { createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { parseArgs } from "node:util";
import { InfluxDB, Point } from "@influxdata/influxdb-client";
import { decode, encode } from "@msgpack/msgpack";
import { WebSocketServer } from "ws";

const SUBPROTOCOL = "telemetry.v1.msgpack";
const PATH = "/v1/telemetry";
const WINDOW = { batches: 32, bytes: 1 << 20 };

const text = { type: "string" };
const { values: options } = parseArgs({
  options: { cert: text, key: text, "token-key": text, store: text },
});
const tokenKey = createPublicKey(readFileSync(options["token-key"]));

// Batches as large as InfluxDB advises, at the latest after the time the gateway takes by default;
// never compressed, as the gateway does not compress by default.
const store = new InfluxDB({ url: options.store, token: "bench" }).getWriteApi("bench", "bench", "ms", {
  batchSize: 5000,
  flushInterval: 500,
  gzipThreshold: Number.MAX_SAFE_INTEGER,
});

// The device that a token (JWT, ES256) names; undefined if it is not valid.
function deviceOf(authorization = "") {
  const [header, claims, signature] = authorization.replace(/^Bearer /, "").split(".");
  if (!signature) return undefined;
  const key = { key: tokenKey, dsaEncoding: "ieee-p1363" };
  const signed = Buffer.from(`${header}.${claims}`);
  if (!verify("sha256", signed, key, Buffer.from(signature, "base64url"))) return undefined;
  const { sub, aud, exp } = JSON.parse(Buffer.from(claims, "base64url"));
  return aud === "telemetry" && exp * 1000 > Date.now() ? sub : undefined;
}

// Hands the readings of a batch to the client; false if one is not sound.
function take(device, measurement, readings) {
  for (const { time, tags = {}, fields, measurement: own = measurement } of readings) {
    const point = new Point(own).tag("device", device).timestamp(Number(time));
    for (const name in tags) point.tag(name, tags[name]);
    for (const name in fields) {
      const value = fields[name];
      if (typeof value === "number" && Number.isFinite(value)) point.floatField(name, value);
      else if (typeof value === "boolean") point.booleanField(name, value);
      else if (typeof value === "string") point.stringField(name, value);
      else return false;
    }
    store.writePoint(point);
  }
  return true;
}

function serve(socket, device) {
  let measurement;
  let last = 0;
  socket.on("error", () => socket.terminate());
  socket.on("message", (bytes) => {
    let message;
    try {
      message = decode(bytes);
    } catch {
      return socket.close(1007);
    }
    const { hello, batch } = message;
    if (hello) {
      measurement = hello.measurement;
      socket.send(encode({ welcome: welcome(device) }));
    } else if (batch?.seq === last + 1 && take(device, measurement, batch.readings)) {
      last = batch.seq;
      socket.send(encode({ ack: { seq: last, time: Date.now() } }));
    } else {
      socket.close(1002);
    }
  });
}

function welcome(device) {
  const limits = { message_bytes: 262144, readings: 5000, fields: 64, tags: 16, depth: 8 };
  const time = Date.now();
  const known = { acked_seq: null, logged_seq: null };
  return { session: "s", device, realm: "default", time, ...known, window: WINDOW, limits, ping_s: 30, ack: "durable" };
}

const server = createServer({
  cert: readFileSync(options.cert),
  key: readFileSync(options.key),
  minVersion: "TLSv1.3",
});
const sockets = new WebSocketServer({
  noServer: true,
  perMessageDeflate: false,
  maxPayload: 262144,
  handleProtocols: () => SUBPROTOCOL,
});
server.on("upgrade", (request, stream, head) => {
  const device = deviceOf(request.headers.authorization);
  if (!device || request.url !== PATH) {
    return stream.end("HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\n");
  }
  sockets.handleUpgrade(request, stream, head, (socket) => serve(socket, device));
});
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
process.stdin.resume().on("end", () => process.exit(0));
