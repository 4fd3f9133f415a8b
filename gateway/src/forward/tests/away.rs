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
