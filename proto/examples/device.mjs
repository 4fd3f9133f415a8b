// node device.mjs wss://localhost:8443/v1/telemetry --ca data/ca.pem --token TOKEN --values 21,21.5,-3
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { decode, encode } from "@msgpack/msgpack";
import WebSocket from "ws";

const text = { type: "string" };
const { values: options, positionals: [url] } = parseArgs({
  allowPositionals: true,
  options: { ca: text, token: text, values: text },
});

const readings = options.values.split(",").map((value) => ({ measurement: "room", fields: { temperature: Number(value) } }));
const gateway = new WebSocket(url, "telemetry.v1.msgpack", {
  ca: readFileSync(options.ca),
  headers: { Authorization: `Bearer ${options.token}` },
});
gateway.on("open", () => gateway.send(encode({ batch: { seq: 1, readings } })));
gateway.on("message", (message) => {
  const answer = decode(message);
  console.log(answer);
  if (answer.ack) gateway.close(); // on the gateway's disk
});
