use super::{Ack, GatewayMessage};
use crate::msgpack::Write;

impl GatewayMessage {
    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            // The one that is sent per connection and commit; the same bytes as the general way.
            GatewayMessage::Ack(ack) => encode_ack(*ack, out),
            other => other.encode_by_name(out),
        }
    }

    /// Encodes by the names in the types.
    fn encode_by_name(&self, out: &mut Vec<u8>) {
        let mut serializer = rmp_serde::Serializer::new(out).with_struct_map();
        serde::Serialize::serialize(self, &mut serializer)
            .expect("writing to memory does not fail and every length is known");
    }
}

fn encode_ack(Ack { seq, time }: Ack, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\x81\xa3ack\x82\xa3seq");
    out.put_uint(seq);
    out.put_str("time");
    out.put_int(time);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ack_is_written_as_the_types_say(seq: u64, time: i64, bits in 0..64_u32) {
            let message = GatewayMessage::Ack(Ack { seq: seq >> bits, time: time >> bits });
            let (mut by_hand, mut by_name) = (Vec::new(), Vec::new());
            message.encode(&mut by_hand);
            message.encode_by_name(&mut by_name);
            prop_assert_eq!(by_hand, by_name);
        }
    }
}
