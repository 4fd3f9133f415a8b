//! Logs that cannot be read, and stopping.

use super::*;

#[tokio::test(start_paused = true)]
async fn readings_in_damaged_records_are_counted() {
    let rig = Rig::new([]);
    for readings in [1, 10, 100] {
        rig.log.append(readings);
    }
    // The envelope is sound, the readings are not.
    rig.log.append_payload(1000, |payload| payload[..payload.len() - 1].to_vec());
    rig.log.append(10_000);
    rig.log.damage(2);
    rig.log.damage(3);
    let (handle, _task) = rig.start();
    rig.append(&[]);
    reach(&handle, 5).await;
    let ledger = *handle.ledger.borrow();
    assert_eq!(ledger.stored, 10_001);
    assert_eq!(ledger.dropped.damaged, 1_110);
    assert!(balanced(&ledger), "{ledger:?}");

    rig.log.append_damaged(7, Err(()));
    rig.log.append_damaged(70, Ok(Bytes::from_static(b"\x01 no envelope")));
    rig.append(&[]);
    reach(&handle, 7).await;
    // Only the next readable record shows how many there were.
    rig.append(&[1]);
    reach(&handle, 8).await;
    let ledger = *handle.ledger.borrow();
    assert_eq!((ledger.stored, ledger.dropped.damaged), (10_002, 1_187));
    assert!(balanced(&ledger), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_record_of_a_newer_gateway_parks_the_sink() {
    let rig = Rig::new([]);
    rig.log.append(1);
    rig.log.0.lock().unwrap().records.push(Ok(Bytes::from_static(b"\x02whatever follows")));
    let (handle, _task) = rig.start();
    rig.append(&[]);
    let mut status = handle.status.clone();
    let parked = status.wait_for(|status| matches!(status, Status::Parked { .. })).await.unwrap();
    let error = EnvelopeError::Newer { position: Position(2), version: 2 };
    assert_eq!(*parked, Status::Parked { why: error.to_string() });
    assert_eq!(*handle.committed.borrow(), Position(1), "what came before it is stored");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_read_for_a_while_is_tried_again() {
    let rig = Rig::new([]);
    let failures = (0..3).map(|_| SourceError::Retry("input/output error".to_owned()));
    rig.log.0.lock().unwrap().failures = failures.collect();
    let (handle, _task) = rig.start();
    rig.append(&[4]);
    reach(&handle, 1).await;
    assert_eq!(handle.ledger.borrow().stored, 4);
    assert_eq!(*handle.status.borrow(), Status::Running);
}

#[tokio::test(start_paused = true)]
async fn what_is_durable_is_written_at_shutdown() {
    let mut rig = Rig::new([]);
    rig.options.batch_readings = 10;
    rig.options.linger = Duration::from_secs(60);
    let (handle, task) = rig.start();
    rig.append(&[7; 30]);
    rig.stop.cancel();
    assert_eq!(task.await.unwrap(), Ended::Drained);
    assert_eq!(*handle.committed.borrow(), Position(30));
    assert_eq!(rig.stored().len(), 210);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_hangs_does_not_hold_up_shutdown() {
    let rig = Rig::new([Step::Hang]);
    let (handle, task) = rig.start();
    rig.append(&[1]);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let begun = Instant::now();
    rig.stop.cancel();
    assert_eq!(task.await.unwrap(), Ended::Pending);
    assert_eq!(begun.elapsed(), rig.options.drain_deadline);
    assert_eq!(*handle.committed.borrow(), Position::ZERO);
}
