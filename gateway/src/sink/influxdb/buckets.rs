//! Makes buckets that are missing, if that is configured.
//!
//! Health, organisation and bucket are asked for through `influxdb2`, which knows these calls of
//! InfluxDB 2. That crate is built without TLS, since the one of its time would bring a second
//! rustls and `ring`: it speaks to a pipe on loopback, and [`Client::carry`] carries what it says
//! over a connection like those of the writes, with the same CA, the same time limit, and a limit
//! of what is read. The pipe is open for the few calls that a missing bucket takes.

use super::{
    Keep,
    answer::{Verdict, judge},
    client::{Client, causes},
};
use hyper::{HeaderMap, StatusCode};
use influxdb2::{
    ClientBuilder, RequestError,
    api::{buckets::ListBucketsRequest, organization::ListOrganizationRequest},
    models::{PostBucketRequest, RetentionRule, health::Status, retention_rule::Type},
};
use reqwest::header::{HOST, HeaderMap as OldHeaderMap, HeaderValue as OldHeaderValue};
use std::net::Ipv4Addr;
use tokio::{net::TcpListener, sync::Mutex, time::timeout};

/// Makes buckets in one organisation.
#[derive(Debug)]
pub(super) struct Buckets {
    org: String,
    keep: Keep,
    /// Lanes that miss the same bucket at once make it once.
    busy: Mutex<()>,
}

impl Buckets {
    pub(super) fn new(org: &str, keep: Keep) -> Self {
        Self { org: org.to_owned(), keep, busy: Mutex::default() }
    }

    /// Makes the bucket unless it is there.
    ///
    /// # Errors
    /// The verdict on the write that missed it.
    pub(super) async fn make(&self, client: &Client, bucket: &str) -> Result<(), Verdict> {
        let _only = self.busy.lock().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.map_err(|error| again(format!("no port on loopback: {error}")))?;
        let port = listener.local_addr().map_err(|error| again(error.to_string()))?.port();
        let api = api(client, &self.org, port)?;
        let calls = async {
            tokio::select! {
                made = self.calls(&api, bucket) => made,
                failure = client.carry(&listener) => {
                    Err(again(format!("{}: {}", client.whom(), causes(&*failure))))
                }
            }
        };
        let within = client.time_limit();
        let late = || again(format!("{} did not answer within {within:?}", client.whom()));
        timeout(within, calls).await.unwrap_or_else(|_| Err(late()))
    }

    async fn calls(&self, api: &influxdb2::Client, bucket: &str) -> Result<(), Verdict> {
        match api.health().await {
            Ok(health) if health.status == Status::Fail => {
                let message = health.message.unwrap_or_default();
                return Err(again(format!("the store says that it is not well: {message}")));
            }
            Ok(health) => tracing::debug!(version = ?health.version, "the store is well"),
            // Not every InfluxDB 2 shows its health to everybody; the next call decides.
            Err(error) => tracing::debug!(%error, "the store does not tell its health"),
        }
        let org = Some(self.org.clone());
        let request = ListOrganizationRequest { org: org.clone(), ..Default::default() };
        let found = api.list_organizations(request).await.map_err(verdict)?;
        let of_name = found.orgs.into_iter().find(|of| of.name == self.org);
        let Some(org_id) = of_name.and_then(|of| of.id) else {
            return Err(blocked(format!("there is no organisation {:?}", self.org)));
        };
        let request = ListBucketsRequest { name: Some(bucket.to_owned()), org, ..<_>::default() };
        match api.list_buckets(Some(request)).await {
            Ok(found) if found.buckets.iter().any(|of| of.name == bucket) => return Ok(()),
            // Some say of an unknown name that it is not found.
            Ok(_) | Err(RequestError::Http { status: reqwest::StatusCode::NOT_FOUND, .. }) => {}
            Err(error) => return Err(verdict(error)),
        }
        let mut request = PostBucketRequest::new(org_id, bucket.to_owned());
        request.description = Some("made by the telemetry gateway".to_owned());
        if let Keep::For(time) = self.keep {
            // The configuration allows no more than that.
            let seconds = i32::try_from(time.as_secs()).unwrap_or(i32::MAX);
            request.retention_rules = vec![RetentionRule::new(Type::Expire, seconds)];
        }
        match api.create_bucket(Some(request)).await {
            Ok(()) => {
                tracing::info!(bucket, org = self.org, keep = ?self.keep, "made the bucket");
                Ok(())
            }
            // Another gateway was quicker.
            Err(RequestError::Http { status, text })
                if status.as_u16() == 422 && text.contains("already exists") =>
            {
                Ok(())
            }
            Err(error) => Err(verdict(error)),
        }
    }
}

fn api(client: &Client, org: &str, port: u16) -> Result<influxdb2::Client, Verdict> {
    let mut headers = OldHeaderMap::new();
    let host = OldHeaderValue::from_str(client.authority());
    headers.insert(HOST, host.map_err(|error| blocked(error.to_string()))?);
    let http = reqwest::Client::builder()
        .default_headers(headers)
        .redirect(reqwest::redirect::Policy::none())
        // What the pipe leads to is the store, whatever the environment says.
        .no_proxy()
        // One request, one connection: the pipe carries them one after another.
        .pool_max_idle_per_host(0);
    let url = format!("http://{}:{port}", Ipv4Addr::LOCALHOST);
    let token = client.token().map_err(|error| blocked(error.to_string()))?;
    let api = ClientBuilder::with_builder(http, url, org, token).build();
    api.map_err(|error| blocked(error.to_string()))
}

/// What a failed call means for the write that waits for it.
fn verdict(error: RequestError) -> Verdict {
    match error {
        RequestError::Http { status, text } => {
            let status = StatusCode::from_u16(status.as_u16()).unwrap_or_default();
            match judge(status, &HeaderMap::new(), text.as_bytes()) {
                Verdict::Again { after, why } => Verdict::Again { after, why: during(&why) },
                Verdict::Blocked(why) | Verdict::Missing(why) | Verdict::TooLarge(why) => {
                    blocked(why)
                }
                Verdict::Refused(refusal) => blocked(refusal.words),
                Verdict::Stored => again(format!("the store answers {status}")),
            }
        }
        RequestError::ReqwestProcessing { source } if source.is_decode() => {
            blocked("its answer is not that of InfluxDB 2".to_owned())
        }
        other => again(causes(&other)),
    }
}

fn during(why: &str) -> String {
    format!("the bucket cannot be made: {why}")
}

fn again(why: String) -> Verdict {
    Verdict::Again { after: None, why: during(&why) }
}

fn blocked(why: String) -> Verdict {
    let right = "the token needs a right to read organisations and to read and write buckets; \
                 or make the bucket yourself and set create_bucket = false";
    Verdict::Blocked(format!("{}; {right}", during(&why)))
}
