//! A fleet against a gateway that breaks, refuses and asks to wait: nothing is lost, nothing is
//! counted twice, and the report says what happened.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Answer, FakeGateway, Kept, paced, plan};
use device_sim::plan::Mode;
use device_sim::run::{LoadMode, Options, Outcome, Report, play};
use std::path::PathBuf;
use std::time::Duration;
use tokio_tungstenite::tungstenite::http::StatusCode;

/// Every batch of every device, once, in order.
fn assert_whole(gateway: &FakeGateway, report: &Report) {
    let kept = gateway.kept();
    assert_eq!(kept.len(), report.settings.plan.devices as usize);
    let mut batches = 0;
    for Kept { admitted, bodies, .. } in kept.values() {
        assert!(bodies.iter().map(|(seq, ..)| *seq).is_sorted_by(|a, b| a < b));
        batches += admitted;
    }
    let batch = u64::from(report.settings.plan.kinds[0].batch);
    assert_eq!(report.scheduled, batches * batch);
    assert_eq!(report.sent, report.scheduled);
    assert_eq!(report.acked + report.refused, report.sent);
    assert_eq!(report.ack_latency_ms.count, batches);
    assert_eq!(report.problem, None);
    assert_eq!(report.outcome, Outcome::Completed);
}

#[tokio::test]
async fn a_calm_run_is_acknowledged_whole() {
    let gateway = FakeGateway::start(|_, _, _| Answer::Ack).await;
    let report = play(gateway.options(plan(10, 2))).await.unwrap();
    assert_whole(&gateway, &report);
    assert_eq!((report.resent, report.reconnects, report.retries), (0, 0, 0));
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert!(report.ack_latency_ms.p50.unwrap() < 1_000.0);
}

#[tokio::test]
async fn broken_connections_cost_nothing() {
    let gateway = FakeGateway::start(|_, seq, arrivals| match (seq, arrivals) {
        (4, 1) => Answer::Break,
        (8, 1) => Answer::KeepAndBreak,
        _ => Answer::Ack,
    })
    .await;
    let report = play(gateway.options(plan(5, 2))).await.unwrap();
    assert_whole(&gateway, &report);
    assert_eq!(report.reconnects, 10);
    assert!(report.resent >= 5 * 5, "batch 4 of each device at least: {}", report.resent);
}

#[tokio::test]
async fn a_batch_that_was_put_off_comes_again_after_the_wait() {
    let gateway = FakeGateway::start(|_, seq, arrivals| match (seq, arrivals) {
        (3, 1 | 2) => Answer::Retry(400),
        _ => Answer::Ack,
    })
    .await;
    let report = play(gateway.options(plan(3, 2))).await.unwrap();
    assert_whole(&gateway, &report);
    assert_eq!((report.retries, report.reconnects), (6, 0));
    // Those that waited count from the time at which they were due.
    assert!(report.ack_latency_ms.max.unwrap() >= 800.0, "{}", report.ack_latency_ms);
}

#[tokio::test]
async fn refused_readings_are_counted_once_by_code() {
    let gateway = FakeGateway::start(|_, seq, _| match seq {
        2 => Answer::RefuseReading(3),
        5 => Answer::RefuseBatch,
        _ => Answer::Ack,
    })
    .await;
    let report = play(gateway.options(plan(4, 1))).await.unwrap();
    assert_whole(&gateway, &report);
    assert_eq!(report.refused, 4 + 4 * 5);
    assert_eq!(report.refused_by_code["not_finite"], 4);
    assert_eq!(report.refused_by_code["not_allowed"], 20);
}

#[tokio::test]
async fn goodbye_gives_the_device_its_slot() {
    let gateway = FakeGateway::start(|_, seq, arrivals| match (seq, arrivals) {
        (3, 1) => Answer::Goodbye(700),
        _ => Answer::Ack,
    })
    .await;
    let report = play(gateway.options(plan(1, 2))).await.unwrap();
    assert_whole(&gateway, &report);
    assert_eq!(report.reconnects, 1);
    assert_eq!(report.errors["goodbye"].count, 1);
    let times = gateway.connections();
    let apart = times[1].1 - times[0].1;
    assert!(apart >= Duration::from_millis(700), "{apart:?}");
    assert!(apart < Duration::from_secs(5), "{apart:?}");
}

#[tokio::test]
async fn a_full_outbox_is_reported_and_the_schedule_goes_on() {
    let gateway = FakeGateway::start(|_, seq, arrivals| match (seq, arrivals) {
        (2, 1) => Answer::Retry(1_500),
        _ => Answer::Ack,
    })
    .await;
    let mut options = gateway.options(plan(1, 3));
    options.plan.kinds[0].outbox = 4;
    let report = play(options).await.unwrap();
    assert!(report.outbox_full >= 5 * 5, "{}", report.outbox_full);
    assert_eq!(report.scheduled, report.sent + report.outbox_full);
    assert_eq!(report.acked, report.sent);
    assert!(report.problem.as_deref().unwrap().contains("outbox full"), "{:?}", report.problem);
    assert!(report.scheduled >= 28 * 5, "{}", report.scheduled);
    assert_eq!(gateway.kept()["sim-00000"].admitted * 5, report.sent);
}

/// A gateway that stands still for a second delays ten batches, not one: those that became due
/// meanwhile waited too, although they were not sent. Only one ack in thirty was slow to come.
#[tokio::test]
async fn a_stall_shows_in_all_batches_that_were_due() {
    let gateway = FakeGateway::start(|_, seq, _| match seq {
        10 => Answer::Stall(1_000),
        _ => Answer::Ack,
    })
    .await;
    let report = play(gateway.options(plan(1, 3))).await.unwrap();
    assert_whole(&gateway, &report);
    let latency = report.ack_latency_ms;
    assert!(latency.max.unwrap() >= 1_000.0, "{latency}");
    assert!(latency.p90.unwrap() >= 600.0, "{latency}");
    assert!(latency.p50.unwrap() < 600.0, "{latency}");
    let lag = report.schedule_lag_ms;
    assert!(lag.p99.unwrap() < 500.0, "the schedule itself goes on: {lag}");
}

#[tokio::test]
async fn a_used_stream_is_named_and_what_it_owes_stays_due() {
    let gateway = FakeGateway::start(|_, _, _| Answer::Ack).await;
    let mut first = plan(2, 1);
    first.stream = Some(5);
    let report = play(gateway.options(first.clone())).await.unwrap();
    assert_whole(&gateway, &report);
    let last = gateway.kept()["sim-00000"].admitted;

    let again = play(gateway.options(first.clone())).await.unwrap();
    assert_eq!(again.outcome, Outcome::Failed);
    let problem = again.problem.unwrap();
    assert!(problem.contains("choose another --stream or a higher --start-seq"), "{problem}");

    let mut next = gateway.options(first);
    next.plan.devices = 1;
    next.plan.start_seq = last + 1;
    let report = play(next).await.unwrap();
    assert_eq!((report.problem, report.acked), (None, report.scheduled));
    assert_eq!(gateway.kept()["sim-00000"].admitted, last + report.acked / 5);
}

#[tokio::test]
async fn columns_hold_the_same_readings() {
    let gateway = FakeGateway::start(|_, _, _| Answer::Ack).await;
    let mut options = gateway.options(plan(2, 1));
    options.plan.kinds[0].mode = Mode::Columns;
    let report = play(options).await.unwrap();
    assert_whole(&gateway, &report);
}

#[tokio::test]
async fn a_run_without_a_gateway_ends_with_the_cause() {
    let gateway = FakeGateway::start(|_, _, _| Answer::Ack).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let mut options = gateway.options(plan(3, 60));
    options.url = format!("wss://127.0.0.1:{port}{}", proto::PATH);
    let report = tokio::time::timeout(Duration::from_secs(30), play(options));
    let report = report.await.unwrap().unwrap();
    assert_eq!(report.outcome, Outcome::Failed);
    let problem = report.problem.unwrap();
    assert!(problem.contains("no device ever connected"), "{problem}");
    assert!(problem.contains("nothing listens on"), "{problem}");
}

#[tokio::test]
async fn a_refused_credential_ends_the_run_at_once() {
    for (status, word) in [
        (StatusCode::UNAUTHORIZED, "does not accept the token (401)"),
        (StatusCode::FORBIDDEN, "(403)"),
        (StatusCode::NOT_FOUND, "the path is /v1/telemetry"),
    ] {
        let gateway = FakeGateway::start_with(|_, _, _| Answer::Ack, status).await;
        let report = play(gateway.options(plan(5, 60)));
        let report = tokio::time::timeout(Duration::from_secs(15), report).await.unwrap().unwrap();
        assert_eq!(report.outcome, Outcome::Failed);
        let problem = report.problem.unwrap();
        assert!(problem.contains(word), "{problem}");
    }
}

#[tokio::test]
async fn another_ca_and_another_name_are_told_apart() {
    let gateway = FakeGateway::start(|_, _, _| Answer::Ack).await;
    let other = FakeGateway::start(|_, _, _| Answer::Ack).await;
    let mut stranger = gateway.options(plan(3, 60));
    stranger.ca = other.ca.clone();
    let mut misnamed = gateway.options(plan(3, 60));
    misnamed.url = misnamed.url.replace("localhost", "127.0.0.1");
    for (options, kind, word) in [
        (stranger, ["unknown_ca", "bad_certificate"], "certificate of localhost"),
        (misnamed, ["wrong_name", "wrong_name"], "not for 127.0.0.1"),
    ] {
        let report = tokio::time::timeout(Duration::from_secs(15), play(options)).await;
        let report = report.unwrap().unwrap();
        assert!(kind.iter().any(|kind| report.errors.contains_key(*kind)), "{:?}", report.errors);
        let problem = report.problem.unwrap();
        assert!(problem.contains(word), "{problem}");
    }
}

#[tokio::test]
async fn what_cannot_begin_says_so() {
    let gateway = FakeGateway::start(|_, _, _| Answer::Ack).await;
    for (url, ca, word) in [
        ("ws://localhost:1/v1/telemetry", gateway.ca.clone(), "must begin with wss://"),
        (&gateway.url, PathBuf::from("/nowhere/ca.pem"), "cannot read the CA /nowhere/ca.pem"),
        (&gateway.url, gateway.token_key.clone(), "holds no certificate"),
        ("wss://no-such-host.invalid:1/", gateway.ca.clone(), "cannot find the host"),
    ] {
        let mut options = gateway.options(plan(1, 1));
        options.url = url.to_owned();
        options.ca = ca;
        let message = format!("{:#}", play(options).await.unwrap_err());
        assert!(message.contains(word), "{message}");
    }
}

/// In a closed loop nothing is due but what an ack makes room for.
#[tokio::test]
async fn a_closed_loop_asks_for_no_more_than_is_acknowledged() {
    let closed = |in_flight| {
        let plan = paced(plan(3, 1), 5_000, 5);
        device_sim::plan::Plan { closed_loop: Some(in_flight), ..plan }
    };
    for in_flight in [1, 3] {
        let mute = FakeGateway::start(|_, _, _| Answer::Stall(60_000)).await;
        let drain_timeout = Duration::from_millis(200);
        let options = Options { drain_timeout, ..mute.options(closed(in_flight)) };
        let report = play(options).await.unwrap();
        let asked = u64::from(3 * in_flight * 5);
        assert_eq!((report.scheduled, report.acked), (asked, 0), "{report:?}");
    }

    let gateway = FakeGateway::start(|_, _, _| Answer::Ack).await;
    let report = play(gateway.options(closed(2))).await.unwrap();
    assert_eq!(report.mode, LoadMode::ClosedLoop);
    assert!(report.acked > 3 * 2 * 5, "acks make room: {report:?}");
    assert_eq!((report.acked, report.problem), (report.scheduled, None));
    assert_eq!(report.ack_latency_ms.count, report.acked / 5);
    assert_eq!(report.schedule_lag_ms.count, 0, "there is no schedule to lag behind");
}
