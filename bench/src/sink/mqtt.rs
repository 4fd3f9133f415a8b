//! A subscriber of all devices' topics, with QoS 1: it acknowledges every message to the broker.

use super::Counters;
use crate::dialect::{MQTT_PASSWORD, MQTT_TOPIC, MQTT_USER};
use anyhow::{Result, bail, ensure};
use std::{net::Ipv4Addr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Most bytes read at once.
const READ_BYTES: usize = 256 * 1024;

/// Connects and subscribes; the future takes messages until the broker closes.
pub(super) async fn subscribe(
    port: u16,
    readings: u64,
    counters: Arc<Counters>,
) -> Result<impl Future<Output = Result<()>> + Send> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    let mut connect = b"\x00\x04MQTT\x04\xc2\x0e\x10".to_vec();
    for text in ["sink", MQTT_USER, MQTT_PASSWORD] {
        put_text(text, &mut connect)?;
    }
    let mut subscribe = vec![0, 1];
    put_text(&format!("{MQTT_TOPIC}#"), &mut subscribe)?;
    subscribe.push(1);
    for (kind, body) in [(0x10, connect), (0x82, subscribe)] {
        stream.write_all(&[kind, u8::try_from(body.len())?]).await?;
        stream.write_all(&body).await?;
    }
    let mut answers = [0; 9];
    stream.read_exact(&mut answers).await?;
    ensure!(answers == *b"\x20\x02\x00\x00\x90\x03\x00\x01\x01", "the broker said {answers:x?}");
    Ok(take(stream, readings, counters))
}

async fn take(mut stream: TcpStream, readings: u64, counters: Arc<Counters>) -> Result<()> {
    let mut buffer = Vec::with_capacity(READ_BYTES);
    let mut answers = Vec::new();
    loop {
        buffer.reserve(READ_BYTES);
        ensure!(stream.read_buf(&mut buffer).await? > 0, "the broker has closed the connection");
        let mut rest = buffer.as_slice();
        while let Some((first, body, after)) = packet(rest)? {
            ensure!(first & 0xf6 == 0x32, "an MQTT packet that begins with {first:#x}");
            let [a, b, ref body @ ..] = *body else { bail!("a message without a topic") };
            let topic = usize::from(u16::from_be_bytes([a, b]));
            let Some(&[a, b]) = body.get(topic..topic + 2) else { bail!("no packet identifier") };
            answers.extend_from_slice(&[0x40, 2, a, b]);
            // DUP: it was counted before.
            if first & 0x08 == 0 {
                counters.add(readings);
            }
            rest = after;
        }
        let read = buffer.len() - rest.len();
        buffer.drain(..read);
        stream.write_all(&answers).await?;
        answers.clear();
    }
}

/// Its first byte, its body, and what follows.
type Packet<'a> = (u8, &'a [u8], &'a [u8]);

/// The first complete packet.
fn packet(bytes: &[u8]) -> Result<Option<Packet<'_>>> {
    let Some((&first, mut rest)) = bytes.split_first() else { return Ok(None) };
    let (mut len, mut shift) = (0, 0);
    loop {
        let Some((&byte, after)) = rest.split_first() else { return Ok(None) };
        rest = after;
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
        ensure!(shift < 28, "an MQTT packet with a length of more than four bytes");
    }
    Ok(rest.split_at_checked(len).map(|(body, after)| (first, body, after)))
}

fn put_text(text: &str, out: &mut Vec<u8>) -> Result<()> {
    out.extend_from_slice(&u16::try_from(text.len())?.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_cut_where_they_end() {
        let mut bytes = vec![0x32, 0x80, 0x01];
        bytes.extend([7; 128]);
        bytes.extend([0x40, 2, 0, 1]);
        let (first, body, rest) = packet(&bytes).unwrap().unwrap();
        assert_eq!((first, body.len()), (0x32, 128));
        assert_eq!(packet(rest).unwrap().unwrap(), (0x40, &[0, 1][..], &[][..]));
        assert!(packet(&bytes[..130]).unwrap().is_none());
        assert!(packet(&bytes[..2]).unwrap().is_none());
        assert!(packet(&[0x32, 0x80, 0x80, 0x80, 0x80]).is_err());
    }
}
