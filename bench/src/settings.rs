//! How each server was set up, and what it promises less, in words for the report.

use serde_json::{Value, json};

/// By the names of the servers.
pub fn all() -> Value {
    json!({
        "gateway": {
            "settings": "release build, defaults; TLS 1.3 with a P-256 certificate, a token (ES256) \
                         for each device, a stream for each device, every reading validated, \
                         fdatasync before each ack; sink store off, one sink of type influxdb to \
                         the null sink over plain HTTP",
            "promise": "an ack means that the batch is on disk; each batch is stored once",
        },
        "bare_loop": {
            "settings": "tokio (all cores), tokio-rustls with aws-lc-rs, tokio-tungstenite; read \
                         buffer of 8 KiB (512 bytes when idle memory is measured); answers each \
                         message with an ack, written out at once",
            "promise": "none: no authentication, no validation, nothing is kept or forwarded",
        },
        "bare_loop_gathering": {
            "settings": "as bare_loop, but answers are written out together when nothing more is \
                         to be read",
            "promise": "none, as bare_loop",
        },
        "node": {
            "settings": "one process; ws, @msgpack/msgpack, @influxdata/influxdb-client with \
                         batches of 5,000 points, flushed after 500 ms at the latest, plain; \
                         a token (ES256) is checked for each device; numbers are checked",
            "promise": "an ack means that the client library has the points in memory: they are \
                        lost with the process, and a batch that is sent again is stored again",
        },
        "mosquitto": {
            "settings": "websockets over TLS 1.3, one user with a password, QoS 1 from the device \
                         and to one subscriber over plain TCP, no limit of queued or in-flight \
                         messages, persistence off, TCP_NODELAY",
            "promise": "a PUBACK means that the broker has the message in memory: it is lost with \
                        the process; nothing is decoded, validated or turned into line protocol",
        },
    })
}
