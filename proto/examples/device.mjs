#!/usr/bin/env node
// A telemetry device in a page of JavaScript, with nothing of the gateway's project in it.
//
//     npm ci
//     node device.mjs wss://localhost:8443/v1/telemetry --ca ca.pem --token TOKEN
//
// It sends one batch at a time and waits for its ack: the simplest device that loses nothing while
// it stays connected. PROTOCOL.md shows what an outbox adds. Exit code 0: all acknowledged, none
// refused.

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { decode, encode } from "@msgpack/msgpack";
import WebSocket from "ws";

const PER_BATCH = 10;
const ANSWER_WITHIN_MS = 30_000;
const USAGE = `device.mjs URL --ca FILE --token TOKEN [--count N] [--seconds S] [--values 21,21.5,-3]
  URL         wss://HOST:8443/v1/telemetry
  --ca        the gateway's CA, a PEM file (default: those of Node)
  --token     the device's token (default: environment variable TELEMETRY_TOKEN)
  --count     how many readings (default: 30)
  --seconds   spread them over this time
  --values    send these instead`;

/// The gateway's messages, one after the other; throws when the connection ends.
function inbox(ws) {
  const waiting = [];
  let wake = () => {};
  let ended = null;
  ws.on("message", (data) => { waiting.push(data); wake(); });
  ws.on("close", (code) => { ended ??= new Error(`closed with ${code}`); wake(); });
  ws.on("error", (error) => { ended ??= error; wake(); });
  return async () => {
    const deadline = Date.now() + ANSWER_WITHIN_MS;
    while (waiting.length === 0) {
      if (ended) throw ended;
      const left = deadline - Date.now();
      if (left <= 0) throw new Error("no answer");
      const alarm = new AbortController();
      const woken = new Promise((resolve) => { wake = resolve; });
      const signal = alarm.signal;
      await Promise.race([woken, sleep(left, undefined, { signal }).catch(() => {})]);
      alarm.abort();
    }
    const [[kind, body]] = Object.entries(decode(waiting.shift()));
    console.log(kind, JSON.stringify(body));
    return [kind, body];
  };
}

/// Sends a batch until it is acknowledged; false if something in it was refused for good.
async function sendBatch(ws, receive, seq, readings) {
  let clean = true;
  const batch = encode({ batch: { seq, readings } });
  ws.send(batch);
  for (;;) {
    const [kind, body] = await receive();
    if (kind === "ack" && body.seq >= seq) return clean;
    if (kind === "nack" && "retry_after_ms" in body) {
      await sleep(body.retry_after_ms);
      ws.send(batch);
    } else if (kind === "nack") {
      clean = false;
      if (body.refused || "expected" in body) return clean;
    } else if (kind === "goodbye") {
      throw new Error(body.reason);
    }
  }
}

async function main() {
  const text = { type: "string" };
  const { values: options, positionals } = parseArgs({
    allowPositionals: true,
    options: { ca: text, token: text, count: text, seconds: text, values: text },
  });
  const token = options.token ?? process.env.TELEMETRY_TOKEN;
  if (positionals.length !== 1 || !token) throw new Error(`usage: ${USAGE}`);
  const values = options.values
    ? options.values.split(",").map(Number)
    : Array.from({ length: Number(options.count ?? 30) }, (_, i) => 20 + 5 * Math.sin(i / 10));

  const ws = new WebSocket(positionals[0], "telemetry.v1.msgpack", {
    ca: options.ca && readFileSync(options.ca),
    headers: { Authorization: `Bearer ${token}` },
    perMessageDeflate: false,
  });
  const receive = inbox(ws);
  await new Promise((resolve, reject) => ws.once("open", resolve).once("error", reject));
  ws.send(encode({ hello: { measurement: "environment", model: "device.mjs" } }));
  const batches = Math.ceil(values.length / PER_BATCH);
  let clean = true;
  for (let seq = 1; seq <= batches; seq += 1) {
    const batch = values.slice((seq - 1) * PER_BATCH, seq * PER_BATCH);
    const now = Date.now();
    const readings = batch.map((temperature, i) => ({ time: now + i, fields: { temperature } }));
    clean = (await sendBatch(ws, receive, seq, readings)) && clean;
    if (seq < batches) await sleep((Number(options.seconds ?? 0) * 1000) / batches);
  }
  ws.close(1000);
  const outcome = clean ? "all acknowledged" : "some refused";
  console.log(`${values.length} readings in ${batches} batches, ${outcome}`);
  return clean ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`not all were acknowledged: ${error.message}`);
  process.exit(1);
}
