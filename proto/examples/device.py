#!/usr/bin/env python3
"""A telemetry device in a page of Python, with nothing of the gateway's project in it.

    pip install -r requirements.txt
    python3 device.py wss://localhost:8443/v1/telemetry --ca ca.pem --token TOKEN

It sends one batch at a time and waits for its ack: the simplest device that loses nothing while it
stays connected. PROTOCOL.md shows what an outbox adds. Exit code 0: all acknowledged, none refused.
"""

import argparse
import json
import math
import os
import ssl
import sys
import time

import msgpack
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

PER_BATCH = 10
ANSWER_WITHIN_S = 30


def receive(ws):
    """The next message of the gateway: its kind and its body."""
    message = msgpack.unpackb(ws.recv(timeout=ANSWER_WITHIN_S))
    [(kind, body)] = message.items()
    print(kind, json.dumps(body), flush=True)
    return kind, body


def send_batch(ws, seq, readings):
    """Sends a batch until it is acknowledged; False if something in it was refused for good."""
    clean = True
    batch = msgpack.packb({"batch": {"seq": seq, "readings": readings}})
    ws.send(batch)
    while True:
        kind, body = receive(ws)
        if kind == "ack" and body["seq"] >= seq:
            return clean
        if kind == "nack" and "retry_after_ms" in body:
            time.sleep(body["retry_after_ms"] / 1000)
            ws.send(batch)
        elif kind == "nack":
            clean = False
            if body.get("refused") or "expected" in body:
                return clean
        elif kind == "goodbye":
            raise ConnectionError(body["reason"])


def main():
    parser = argparse.ArgumentParser(description="Sends readings of a temperature.")
    parser.add_argument("url", help="wss://HOST:8443/v1/telemetry")
    parser.add_argument("--ca", help="the gateway's CA, a PEM file (default: the system's)")
    parser.add_argument("--token", default=os.environ.get("TELEMETRY_TOKEN"),
                        help="the device's token (default: environment variable TELEMETRY_TOKEN)")
    parser.add_argument("--count", type=int, default=30, help="how many readings (default: 30)")
    parser.add_argument("--seconds", type=float, default=0, help="spread them over this time")
    parser.add_argument("--values", help="send these instead, for example 21,21.5,-3")
    options = parser.parse_args()
    if not options.token:
        parser.error("give --token or set TELEMETRY_TOKEN")
    if options.values:
        values = [json.loads(value) for value in options.values.split(",")]
    else:
        values = [round(20 + 5 * math.sin(i / 10), 2) for i in range(options.count)]

    tls = ssl.create_default_context(cafile=options.ca)
    clean = True
    with connect(options.url, ssl=tls, subprotocols=["telemetry.v1.msgpack"], compression=None,
                 additional_headers={"Authorization": f"Bearer {options.token}"}) as ws:
        ws.send(msgpack.packb({"hello": {"measurement": "environment", "model": "device.py"}}))
        batches = [values[i:i + PER_BATCH] for i in range(0, len(values), PER_BATCH)]
        for seq, batch in enumerate(batches, start=1):
            now_ms = time.time_ns() // 1_000_000
            readings = [{"time": now_ms + i, "fields": {"temperature": value}}
                        for i, value in enumerate(batch)]
            clean &= send_batch(ws, seq, readings)
            if seq < len(batches):
                time.sleep(options.seconds / len(batches))
    print(f"{len(values)} readings in {len(batches)} batches, "
          + ("all acknowledged" if clean else "some refused"))
    return 0 if clean else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, WebSocketException) as error:
        sys.exit(f"not all were acknowledged: {type(error).__name__}: {error}")
