#!/usr/bin/env bash
# The main job, for real: a gateway with the embedded store, a simulated fleet over wss, and a
# comparison of every reading that was acknowledged with what is in the store.
#
#   DEVICES=200     devices
#   DURATION=20s    how long they send
#   KEEP=1          leave the gateway running
#
# Leaves target/demo/run.json, target/demo/verify.json, the journal and the gateway's data.
set -euo pipefail
cd "$(dirname "$0")/.."
devices=${DEVICES:-200}
duration=${DURATION:-20s}
demo=target/demo
bin=target/release

cargo build --release --workspace --bins --locked

if [ -f $demo/gateway.pid ] && kill -0 "$(cat $demo/gateway.pid)" 2>/dev/null; then
    echo "a gateway of an earlier demo still runs: stop it with 'kill $(cat $demo/gateway.pid)'" >&2
    exit 1
fi
rm -rf $demo
mkdir -p $demo

# Any free ports: this machine may have a gateway of its own.
GATEWAY__SERVER__LISTEN=${LISTEN:-127.0.0.1:0} GATEWAY__ADMIN__LISTEN=${ADMIN_LISTEN:-127.0.0.1:0} \
    $bin/gateway run --data-dir $demo/data >$demo/gateway.out 2>$demo/gateway.log </dev/null &
gateway=$!
echo $gateway >$demo/gateway.pid

stop() {
    [ -n "$gateway" ] || return 0
    kill -TERM $gateway 2>/dev/null || true
    wait $gateway && ended=0 || ended=$?
    gateway=
    rm -f $demo/gateway.pid
    [ $ended = 0 ] || { echo "the gateway ended with exit code $ended:" >&2; tail -5 $demo/gateway.log >&2; }
    return $ended
}
trap 'stop || true' EXIT
trap 'exit 130' INT TERM

for _ in $(seq 300); do
    grep -q '^gateway is ready' $demo/gateway.out && break
    kill -0 $gateway 2>/dev/null || { cat $demo/gateway.log >&2; exit 1; }
    sleep 0.1
done
url=$(awk '$1 == "devices" { print $2 }' $demo/gateway.out)
console=$(awk '$1 == "console" { print $2 }' $demo/gateway.out)

$bin/device-sim run --url "$url" --ca $demo/data/ca.pem --token-key $demo/data/keys/token.pem \
    --devices "$devices" --duration "$duration" \
    --journal $demo/run.journal --report $demo/run.json \
    --expect 'sent_ratio>=0.99' --expect 'acked_ratio>=0.99'
$bin/device-sim verify --store $demo/data/telemetry.db --journal $demo/run.journal --ledger "$console" \
    --report $demo/verify.json

echo
echo "figures   $demo/run.json, $demo/verify.json"
echo "store     sqlite3 -readonly $demo/data/telemetry.db 'SELECT * FROM readings LIMIT 10'"
if [ "${KEEP:-0}" = 1 ]; then
    echo "console   $console"
    echo "gateway   runs on as process $gateway; stop it with: kill $gateway"
    gateway=
    disown
else
    stop
    echo "console   run again with KEEP=1 to leave the gateway running"
fi
