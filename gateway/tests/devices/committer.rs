//! A committer that keeps everything in memory and can be held up.

use gateway::{
    ingest::{Outcome, Request, StreamKey, Submission},
    record::Position,
};
use proto::ErrorCode;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use tokio::sync::{mpsc, watch};

/// What the committer was asked, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    Open(StreamKey),
    Submit { stream: StreamKey, seq: u64, may_skip: bool, accepted: u32 },
    Forget(StreamKey),
}

/// What the committer does with submissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Answers at once.
    Prompt,
    /// Answers nothing.
    Held,
    /// The log is full.
    Full,
}

#[derive(Debug, Clone)]
pub(crate) struct Committer {
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    pub(crate) mood: Arc<watch::Sender<Mood>>,
}

#[derive(Default)]
struct Log {
    position: u64,
    streams: HashMap<StreamKey, Vec<(u64, u64, Submission)>>,
}

impl Committer {
    pub(crate) fn spawn() -> (Self, mpsc::Sender<Request>) {
        let (requests, mut queue) = mpsc::channel(64);
        let this = Self { asked: Arc::default(), mood: Arc::new(watch::Sender::new(Mood::Prompt)) };
        let (asked, mut mood) = (this.asked.clone(), this.mood.subscribe());
        tokio::spawn(async move {
            let mut log = Log::default();
            while let Some(request) = queue.recv().await {
                mood.wait_for(|mood| *mood != Mood::Held).await.unwrap();
                let full = *mood.borrow() == Mood::Full;
                log.answer(request, full, &asked);
            }
        });
        (this, requests)
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Log {
    fn answer(&mut self, request: Request, full: bool, asked: &Mutex<Vec<Asked>>) {
        let mut asked = asked.lock().unwrap();
        match request {
            Request::Open { stream, reply } => {
                let last = self.streams.get(&stream).and_then(|log| log.last()).map(|b| b.0);
                asked.push(Asked::Open(stream));
                let position = Position(self.position);
                let _ =
                    reply.try_send(Outcome::Opened { logged_seq: last, acked_seq: last, position });
            }
            Request::Submit(submission) => {
                asked.push(Asked::Submit {
                    stream: submission.stream.clone(),
                    seq: submission.seq,
                    may_skip: submission.may_skip,
                    accepted: submission.accepted,
                });
                let reply = submission.reply.clone();
                reply.try_send(self.admit(submission, full)).unwrap();
            }
            Request::Forget(stream) => {
                self.streams.remove(&stream);
                asked.push(Asked::Forget(stream));
            }
            _ => {}
        }
    }

    fn admit(&mut self, submission: Submission, full: bool) -> Outcome {
        let seq = submission.seq;
        let log = self.streams.entry(submission.stream.clone()).or_default();
        let last = log.last().map_or(0, |b| b.0);
        if let Some((_, position, was)) = log.iter().find(|b| b.0 == seq) {
            return if was.payload_hash == submission.payload_hash {
                Outcome::Duplicate {
                    seq,
                    position: Position(*position),
                    refused: was.refused.clone(),
                    refused_total: u32::try_from(was.refused.len()).unwrap(),
                    refused_whole: was.refused_whole,
                }
            } else {
                Outcome::Refused { seq, code: ErrorCode::SeqReused }
            };
        }
        if seq <= last || (seq > last + 1 && !submission.may_skip) {
            return Outcome::OutOfOrder { seq, expected: last + 1 };
        }
        if full {
            return Outcome::Retry { seq, code: ErrorCode::LogFull, after_ms: 50 };
        }
        self.position += 1;
        log.push((seq, self.position, submission));
        Outcome::Logged { seq, position: Position(self.position) }
    }
}
