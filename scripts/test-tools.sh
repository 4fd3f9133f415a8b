#!/usr/bin/env bash
# Installs what the tests need and this machine lacks: sqlite3 and openssl, the stores that the
# gateway forwards to, and the WebSocket, MQTT and MessagePack libraries of Python and Node.js for the
# example devices under proto/examples. Everything but Debian packages goes below the checkout.
# Runs again at no cost.
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

packages=()
command -v sqlite3 >/dev/null || packages+=(sqlite3)
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
command -v python3 >/dev/null || packages+=(python3)
python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
command -v openssl >/dev/null || packages+=(openssl)
command -v strace >/dev/null || packages+=(strace)
[ -x /usr/sbin/mkfs.ext4 ] || packages+=(e2fsprogs)
compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || packages+=(libfaketime)
# The tests start servers of their own; those that the packages would start are not wanted.
servers=()
command -v victoria-metrics >/dev/null || servers+=(victoria-metrics)
command -v influxd >/dev/null || servers+=(influxdb)
command -v promtool >/dev/null || servers+=(prometheus)
[ -x /usr/sbin/nginx ] || command -v nginx >/dev/null || servers+=(nginx-light)
[ -x /usr/sbin/mosquitto ] || command -v mosquitto >/dev/null || servers+=(mosquitto)
command -v mosquitto_sub >/dev/null || packages+=(mosquitto-clients)
packages+=("${servers[@]}")
if [ ${#packages[@]} -gt 0 ]; then
    echo "installing: ${packages[*]}"
    policy=/usr/sbin/policy-rc.d
    if [ ${#servers[@]} -gt 0 ] && [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod +x $policy
        trap 'as_root rm -f $policy' EXIT
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi

python=target/test-tools/python
if ! "$python/bin/python" -c 'import websockets, msgpack, paho.mqtt' 2>/dev/null; then
    python3 -m venv "$python"
    # Not by the name of pip: that says where the directory was made, not where it is.
    "$python/bin/python" -m pip install --quiet --disable-pip-version-check \
        -r proto/examples/requirements.txt
fi

modules=proto/examples/node_modules
if [ ! -d "$modules/ws" ] || [ ! -d "$modules/@msgpack/msgpack" ]; then
    npm ci --prefix proto/examples --no-audit --no-fund --loglevel=error
fi
