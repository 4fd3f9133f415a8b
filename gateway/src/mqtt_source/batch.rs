//! One message on its way: checked, logged, and what its device is told.

use super::{Context, Options, heard::Device};
use crate::{
    ingest::{Checked, Outcome, Request, StreamKey, Submission, check},
    record::Position,
    session::{Facts, nack_again, nack_of},
};
use bytes::Bytes;
use proto::{Ack, DeviceMessage, ErrorCode, GatewayMessage, Nack, message::MessageError};
use std::time::{Duration, Instant};
use tokio::{sync::mpsc, time::sleep};

/// Largest answer, in bytes: what a device over wss takes unless it says otherwise.
const MAX_ANSWER_BYTES: u32 = 4096;
/// How long a batch waits until what is new in it is kept, before it is judged again.
const SETTLE_TIME: Duration = Duration::from_secs(10);

/// What a message comes to.
#[derive(Debug)]
pub(super) struct Answer {
    /// To the device.
    pub(super) messages: Vec<GatewayMessage>,
}

/// Brings a message of `device` into the log. `None` if the log takes nothing any more: the broker
/// keeps it. Waits as long as the log is full.
pub(super) async fn take(
    context: &Context,
    options: &Options,
    device: &Device,
    message: Bytes,
) -> Option<Answer> {
    if context.state.revocations.since(&device.context.identity).is_some() {
        let detail = "this device was revoked".to_owned();
        return Some(refused(context, &MessageError { code: ErrorCode::Revoked, detail }));
    }
    let body = match body(&message, context) {
        Ok(body) => body,
        Err(error) => return Some(refused(context, &error)),
    };
    let begun = Instant::now();
    let mut noted = false;
    loop {
        let checked = match judge(context, device, body.clone()) {
            Ok(checked) => checked,
            Err(error) => return Some(refused(context, &error)),
        };
        if !std::mem::replace(&mut noted, true) {
            device.notes.sent(&context.state.devices, context.clock.unix_ms(), &checked);
        }
        if let Some((_, after_ms)) = checked.retry {
            sleep(Duration::from_millis(after_ms.into())).await;
            continue;
        }
        // The kinds of its fields must be the same after a crash.
        if let Err(error) = context.state.changes.settled(checked.settle, SETTLE_TIME).await {
            tracing::warn!(device = %device.context.identity, %error, "a batch over MQTT waits");
            continue;
        }
        let facts = facts(&checked, &message);
        match submit(context, device, checked).await? {
            Outcome::Logged { seq, position } => {
                count_refused(context, &facts);
                device.notes.logged(seq);
                context.metrics.logged.increment(1);
                let nack = nack_of(&facts, MAX_ANSWER_BYTES);
                let answer = answer(context, options, facts.seq, position, nack).await;
                device.notes.acked(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
                return answer;
            }
            Outcome::Duplicate { position, refused, refused_total, refused_whole, .. } => {
                context.metrics.duplicate.increment(1);
                let nack =
                    nack_again(&facts, &refused, refused_total, refused_whole, MAX_ANSWER_BYTES);
                return answer(context, options, facts.seq, position, nack).await;
            }
            Outcome::Retry { after_ms, .. } => sleep(Duration::from_millis(after_ms.into())).await,
            // The others are of streams with an order.
            Outcome::Failed { .. }
            | Outcome::Refused { .. }
            | Outcome::OutOfOrder { .. }
            | Outcome::Opened { .. } => return None,
        }
    }
}

/// Holds a batch against the rules and what was learned, as it is known at this moment.
fn judge(context: &Context, device: &Device, body: Bytes) -> Result<Checked, MessageError> {
    let now = context.clock.now();
    check(body, &device.context, &mut device.guard(), &context.rules, now)
}

/// The batch in a message.
fn body(message: &Bytes, context: &Context) -> Result<Bytes, MessageError> {
    let limits = &context.rules.limits;
    if message.len() > limits.message_bytes as usize {
        let (is, most) = (message.len(), limits.message_bytes);
        let detail = format!("{is} bytes, at most {most} are taken");
        return Err(MessageError { code: ErrorCode::TooLarge, detail });
    }
    match DeviceMessage::decode(message, limits)? {
        DeviceMessage::Batch(body) => Ok(message.slice_ref(body)),
        _ => Err(MessageError {
            code: ErrorCode::UnknownKind,
            detail: "over MQTT only batches are taken".to_owned(),
        }),
    }
}

/// A message that is no batch is answered and done with: it would come again for ever.
fn refused(context: &Context, error: &MessageError) -> Answer {
    context.metrics.malformed.increment(1);
    context.metrics.refused.add(error.code, 1);
    let nack = Nack {
        seq: 0,
        code: error.code,
        readings: Vec::new(),
        more: None,
        refused: Some(true),
        retry_after_ms: None,
        expected: None,
        detail: Some(error.detail.clone()),
    };
    Answer { messages: vec![GatewayMessage::Nack(nack)] }
}

fn facts(checked: &Checked, message: &Bytes) -> Facts {
    Facts {
        seq: checked.seq,
        bytes: u32::try_from(message.len()).unwrap_or(u32::MAX),
        refused: checked.refused.clone(),
        details: checked.details.clone(),
        refused_whole: checked.refused_whole.clone(),
        retry: None,
    }
}

async fn submit(context: &Context, device: &Device, checked: Checked) -> Option<Outcome> {
    let (reply, mut outcome) = mpsc::channel(1);
    let of = &device.context;
    let stream = StreamKey { identity: of.identity.clone(), stream: of.stream };
    let mut submission = Submission::of(checked, stream, true, reply);
    let budget = context.committer.budget.clone();
    submission.budget = Some(budget.acquire_many_owned(submission.weight()).await.ok()?);
    context.committer.requests.send(Request::Submit(submission)).await.ok()?;
    outcome.recv().await
}

fn count_refused(context: &Context, facts: &Facts) {
    if let Some((code, _)) = facts.refused_whole {
        context.metrics.refused.add(code, 1);
    }
    for refusal in facts.refused.iter() {
        context.metrics.refused.add(refusal.code, 1);
    }
}

/// Once the record is as safe as an acknowledgement says.
async fn answer(
    context: &Context,
    options: &Options,
    seq: u64,
    position: Position,
    nack: Option<Nack>,
) -> Option<Answer> {
    let mut safe = context.ack_position.clone();
    safe.wait_for(|at| *at >= position).await.ok()?;
    let mut messages: Vec<_> = nack.map(GatewayMessage::Nack).into_iter().collect();
    if options.acks {
        let time = context.clock.unix_ms();
        messages.push(GatewayMessage::Ack(Ack { seq, time }));
    }
    Some(Answer { messages })
}
