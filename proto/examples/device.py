# python3 device.py wss://localhost:8443/v1/telemetry --ca data/ca.pem --token TOKEN --values 21,21.5,-3
import argparse, json, ssl
import msgpack
from websockets.sync.client import connect

options = argparse.ArgumentParser()
options.add_argument("url")
for name in ("--ca", "--token", "--values"):
    options.add_argument(name, required=True)
options = options.parse_args()

readings = [{"measurement": "room", "fields": {"temperature": json.loads(value)}}
            for value in options.values.split(",")]
with connect(options.url, ssl=ssl.create_default_context(cafile=options.ca),
             subprotocols=["telemetry.v1.msgpack"],
             additional_headers={"Authorization": f"Bearer {options.token}"}) as gateway:
    gateway.send(msgpack.packb({"batch": {"seq": 1, "readings": readings}}))
    for message in gateway:
        answer = msgpack.unpackb(message)
        print(answer)
        if "ack" in answer:  # on the gateway's disk
            break
