//! Sinks that are away for long, and sinks that come later.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_away_can_be_told_to_give_up() {
    let mut rig = Rig::new([]);
    rig.options.batch_readings = 5;
    rig.sink.away.store(true, Ordering::Relaxed);
    let (handle, _task) = rig.start();
    rig.append(&[1, 2, 4, 8, 16, 32]);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(*handle.committed.borrow(), Position::ZERO);
    handle.skip_to(Position(2));
    reach(&handle, 2).await;
    assert_eq!(handle.ledger.borrow().dropped.skipped, 3);
    // Damage within what is given up does not matter, and is not counted twice.
    rig.log.damage(3);
    handle.skip_to(Position(4));
    reach(&handle, 4).await;
    assert_eq!(*handle.committed.borrow(), Position(4));
    let ledger = *handle.ledger.borrow();
    assert_eq!((ledger.stored, ledger.dropped.skipped), (0, 15));
    rig.sink.away.store(false, Ordering::Relaxed);
    reach(&handle, 6).await;
    let ledger = *handle.ledger.borrow();
    assert_eq!((ledger.stored, ledger.dropped.total()), (48, 15));
    assert!(balanced(&ledger), "{ledger:?}");
    // Of the damaged record nobody knows whose it was.
    let kept = rig.kept.given_up.lock().unwrap();
    let skipped: Vec<_> = kept.iter().map(|(at, of)| (at.0, of.dropped.skipped)).collect();
    assert_eq!(skipped, [(2, 3), (4, 8)]);
}

#[tokio::test(start_paused = true)]
async fn a_sink_added_later_counts_from_where_it_begins() {
    let mut rig = Rig::new([]);
    rig.append(&[5, 6, 7]);
    rig.range.oldest = Position(3);
    let (handle, _task) = rig.start();
    reach(&handle, 3).await;
    let ledger = *handle.ledger.borrow();
    assert_eq!((ledger.base, ledger.accepted_total, ledger.stored), (Some(11), 18, 7));
    assert_eq!(rig.attempts(), [(3, 3)]);
}

/// However long it lasts and however much comes: a forwarder holds the batch that it tries to
/// write, and the next one.
#[tokio::test(start_paused = true)]
async fn a_sink_that_is_away_costs_two_batches_of_memory() {
    let mut rig = Rig::new([]);
    rig.options.batch_readings = 10;
    rig.sink.away.store(true, Ordering::Relaxed);
    let (handle, _task) = rig.start();
    for round in 0..50 {
        rig.append(&[3; 100]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        // Four records of three readings make a batch, and one look shows the end of the log.
        let reads = rig.log.0.lock().unwrap().reads;
        assert!(reads <= 2 * 4 + 1, "{reads} records were read in round {round}");
    }
    assert!(rig.attempts().len() > 50, "it tries again and again");
    assert!(rig.attempts().iter().all(|&(first, last)| (first, last) == (1, 4)));
    rig.sink.away.store(false, Ordering::Relaxed);
    reach(&handle, 5_000).await;
    assert_eq!(rig.stored().len(), 15_000);
}

/// While it waits, while it writes, and while the destination is away.
#[tokio::test(start_paused = true)]
async fn a_sink_that_is_rewound_gets_everything_again_in_a_new_epoch() {
    let mut rig = Rig::new([]);
    rig.options.batch_readings = 5;
    let (handle, task) = rig.start();
    rig.append(&[1, 2, 4, 8]);
    reach(&handle, 4).await;
    assert_eq!(rig.stored().len(), 15);
    assert_eq!(handle.rewind(Position(1), Some(1)).await, Ok((Position(4), 1)));
    reach(&handle, 4).await;
    let expected =
        Ledger { stored: 14, epoch: 1, accepted_total: 15, ..Ledger::beginning(Some(1)) };
    assert_eq!(*handle.ledger.borrow(), expected);
    assert_eq!(rig.stored().len(), 29);

    rig.sink.away.store(true, Ordering::Relaxed);
    rig.append(&[16, 32]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    // It is told to give up what it has not stored: the rewind is stronger.
    handle.skip_to(Position(5));
    reach(&handle, 5).await;
    assert_eq!(handle.rewind(Position::ZERO, Some(0)).await, Ok((Position(5), 2)));
    assert_eq!(*handle.committed.borrow(), Position::ZERO);
    rig.sink.away.store(false, Ordering::Relaxed);
    reach(&handle, 6).await;
    let ledger = *handle.ledger.borrow();
    assert_eq!((ledger.epoch, ledger.stored, ledger.dropped.total()), (2, 63, 0));
    assert!(balanced(&ledger), "{ledger:?}");
    assert_eq!(rig.stored().len(), 29 + 63);

    // What was told before does not stand in the way of the next time.
    rig.sink.away.store(true, Ordering::Relaxed);
    rig.append(&[7]);
    assert_eq!(handle.rewind(Position::ZERO, Some(0)).await, Ok((Position(6), 3)));
    tokio::time::sleep(Duration::from_secs(60)).await;
    handle.skip_to(Position(3));
    reach(&handle, 3).await;
    assert_eq!(handle.ledger.borrow().dropped.skipped, 7);
    handle.hold(Position(2));
    assert_eq!(handle.done(), Position(2));
    handle.release();
    assert_eq!(handle.done(), Position(3));

    // It is so after a restart.
    rig.stop.cancel();
    task.await.unwrap();
    rig.stop = CancellationToken::new();
    let (handle, _task) = rig.start();
    assert_eq!((*handle.committed.borrow(), handle.ledger.borrow().epoch), (Position(3), 3));
}

#[tokio::test(start_paused = true)]
async fn who_keeps_what_is_refused_is_told_of_a_rewind() {
    let bad = PointId { position: Position(1), index: 0 };
    let rig = Rig::new([
        Step::Reject(vec![bad]),
        Step::Reject(vec![PointId { position: Position(2), index: 1 }]),
        Step::Reject(vec![bad]),
    ]);
    let (handle, _task) = rig.start();
    for position in [1, 2] {
        rig.append(&[2]);
        reach(&handle, position).await;
    }
    handle.rewind(Position::ZERO, Some(0)).await.unwrap();
    reach(&handle, 2).await;
    assert_eq!(*rig.kept.rewound.lock().unwrap(), [(Position::ZERO, 1)]);
    let ledger = *handle.ledger.borrow();
    assert!(balanced(&ledger) && ledger.quarantined == 1, "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_has_stopped_is_not_rewound() {
    let rig = Rig::new([Step::Fatal]);
    let (handle, _task) = rig.start();
    rig.append(&[1]);
    let why = handle.rewind(Position::ZERO, Some(0)).await;
    // Whichever came first.
    if why.is_ok() {
        let mut status = handle.status.clone();
        status.wait_for(|of| matches!(of, Status::Parked { .. })).await.unwrap();
    }
    let why = handle.rewind(Position::ZERO, Some(0)).await.unwrap_err();
    assert!(why.contains("restart the gateway"), "{why}");
}
