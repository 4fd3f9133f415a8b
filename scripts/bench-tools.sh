#!/usr/bin/env bash
# Installs what the benchmark compares the gateway with: Mosquitto, and the libraries of the gateway
# in Node.js below bench/node. Runs again at no cost.
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

packages=()
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
[ -x /usr/sbin/mosquitto ] || command -v mosquitto >/dev/null || packages+=(mosquitto)
if [ ${#packages[@]} -gt 0 ]; then
    echo "installing: ${packages[*]}"
    policy=/usr/sbin/policy-rc.d
    # The benchmark starts a broker of its own; the one that the package would start is not wanted.
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod +x $policy
        trap 'as_root rm -f $policy' EXIT
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi

modules=bench/node/node_modules
if [ ! -d $modules/ws ] || [ ! -d $modules/@msgpack/msgpack ] || [ ! -d $modules/@influxdata/influxdb-client ]; then
    npm ci --prefix bench/node --no-audit --no-fund --loglevel=error
fi
