# python3 mqtt_device.py localhost --port 8883 --ca ca.pem --user meter-1 --password PASSWORD --values 21,21.5,-3
import argparse, json, random
import msgpack
import paho.mqtt.client as mqtt

options = argparse.ArgumentParser()
options.add_argument("broker")
options.add_argument("--port", type=int, default=8883)
for name in ("--ca", "--user", "--password", "--values"):
    options.add_argument(name, required=True)
options = options.parse_args()

topic = f"telemetry/{options.user}"  # the user is the device's id as it stands in a topic
readings = [{"measurement": "room", "fields": {"temperature": json.loads(value)}}
            for value in options.values.split(",")]
# At random, since nothing is kept: a batch with the same bytes is taken for one that comes twice.
batch = {"batch": {"seq": random.randrange(1, 2**53), "readings": readings}}

def on_connect(device, *_):
    device.subscribe(f"{topic}/reply", qos=1)

def on_subscribe(device, *_):
    device.publish(topic, msgpack.packb(batch), qos=1)

def on_message(device, _, message):
    answer = msgpack.unpackb(message.payload)
    print(answer)
    if "ack" in answer:  # on the gateway's disk; said where acks = true in [mqtt_source]
        device.disconnect()

device = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
device.tls_set(options.ca)
device.username_pw_set(options.user, options.password)
device.on_connect, device.on_subscribe, device.on_message = on_connect, on_subscribe, on_message
device.connect(options.broker, options.port)
device.loop_forever()
