//! What a person sees while a run goes on: a live view on a terminal, plain lines elsewhere, or
//! lines of JSON for a program.

use super::fleet::Fleet;
use super::series::{Sample, per_second};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// From one picture to the next on a terminal.
const REDRAW: Duration = Duration::from_millis(250);
/// From one plain line to the next.
const LINE: Duration = Duration::from_secs(5);
/// Codes and kinds of errors that the live view names; the others are summed up.
const NAMED: usize = 4;

/// What is shown while a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Show {
    /// A live view if standard error is a terminal, else plain lines on it.
    #[default]
    Progress,
    /// Every sample as a line of JSON on standard output.
    JsonLines,
    /// Nothing.
    Nothing,
}

/// Shows the run until it is dropped. Cancel safe.
pub(super) async fn show(fleet: &Fleet, show: Show, newest: watch::Receiver<Sample>) {
    match show {
        Show::Progress if std::io::stderr().is_terminal() => live(fleet, newest).await,
        Show::Progress => plain(fleet).await,
        Show::JsonLines => json_lines(newest).await,
        Show::Nothing => std::future::pending().await,
    }
}

async fn json_lines(mut newest: watch::Receiver<Sample>) {
    while newest.changed().await.is_ok() {
        let line = serde_json::to_string(&*newest.borrow_and_update());
        let mut line = line.expect("a sample has text keys only");
        line.push('\n');
        // Whoever reads may have gone; the run goes on, its report says the rest.
        let _ = std::io::stdout().write_all(line.as_bytes());
    }
    std::future::pending().await
}

async fn plain(fleet: &Fleet) {
    let mut rate = Rate::new(fleet);
    loop {
        tokio::time::sleep(LINE).await;
        let per_s = rate.next(fleet);
        let seconds = fleet.start.elapsed().as_secs();
        eprintln!("{seconds:>4} s  {}", status(fleet, per_s));
    }
}

async fn live(fleet: &Fleet, newest: watch::Receiver<Sample>) {
    let seconds = fleet.plan.duration_ns.div_ceil(1_000_000_000);
    let bar = ProgressBar::with_draw_target(Some(seconds), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:24} {pos:>4}/{len} s\n{msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut rate = Rate::new(fleet);
    loop {
        tokio::time::sleep(REDRAW).await;
        bar.set_position(fleet.start.elapsed().as_secs());
        bar.set_message(view(fleet, rate.next(fleet), &newest.borrow()));
    }
}

/// Acknowledged readings a second since the last picture.
struct Rate {
    at: Instant,
    acked: u64,
}

impl Rate {
    fn new(fleet: &Fleet) -> Self {
        Self { at: fleet.start, acked: 0 }
    }

    fn next(&mut self, fleet: &Fleet) -> f64 {
        let (now, acked) = (Instant::now(), fleet.tally.acked.get());
        let rate = per_second(acked, self.acked, now.duration_since(self.at).as_secs_f64());
        *self = Self { at: now, acked };
        rate
    }
}

/// One line.
fn status(fleet: &Fleet, per_s: f64) -> String {
    let tally = &fleet.tally;
    let mut line = format!(
        "{} connected, {per_s:.0} readings/s acknowledged, {} waiting",
        tally.connected.get(),
        waiting(fleet),
    );
    for (count, what) in [
        (refused(fleet), "refused"),
        (given_up(fleet), "not sent"),
        (tally.reconnects.get(), "reconnects"),
    ] {
        if count > 0 {
            let _ = write!(line, ", {count} {what}");
        }
    }
    line
}

/// Several lines.
fn view(fleet: &Fleet, per_s: f64, newest: &Sample) -> String {
    let tally = &fleet.tally;
    let mut view = format!(
        "  connected     {} of {}, {} reconnects\n",
        tally.connected.get(),
        fleet.plan.own_count(),
        tally.reconnects.get()
    );
    let acked = tally.acked.get();
    let _ = writeln!(view, "  acknowledged  {acked} readings, {per_s:.0} a second");
    let latency = &newest.ack_latency_ms;
    if latency.count > 0 {
        let _ = writeln!(view, "  ack latency   {latency}ms");
    }
    let given_up = given_up(fleet);
    let _ = writeln!(view, "  waiting       {} readings; {given_up} not sent", waiting(fleet));
    let refused = tally.refused_by_code();
    if !refused.is_empty() {
        let _ = writeln!(view, "  refused       {}", most(refused.into_iter()));
    }
    let errors = tally.errors();
    if !errors.is_empty() {
        let errors = errors.into_iter().map(|(kind, errors)| (kind, errors.count));
        let _ = writeln!(view, "  connections   {}", most(errors));
    }
    view.pop();
    view
}

fn waiting(fleet: &Fleet) -> u64 {
    let done = given_up(fleet) + fleet.tally.acked.get() + refused(fleet);
    fleet.tally.scheduled.get().saturating_sub(done)
}

fn refused(fleet: &Fleet) -> u64 {
    fleet.tally.refused_planned.get() + fleet.tally.refused_unplanned.get()
}

/// Due, and never to be sent.
fn given_up(fleet: &Fleet) -> u64 {
    fleet.tally.shed.get() + fleet.tally.dropped.get()
}

/// The largest counts by name, and the sum of the others.
fn most(counts: impl Iterator<Item = (String, u64)>) -> String {
    let mut counts: Vec<_> = counts.collect();
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let rest: u64 = counts.iter().skip(NAMED).map(|(_, count)| count).sum();
    counts.truncate(NAMED);
    if rest > 0 {
        counts.push(("others".to_owned(), rest));
    }
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_counts_come_first() {
        let named = |counts: &[(&str, u64)]| {
            most(counts.iter().map(|&(name, count)| (name.to_owned(), count)))
        };
        let counts = [("a", 1), ("b", 5), ("c", 2), ("d", 3), ("e", 4), ("f", 1)];
        assert_eq!(named(&counts), "b 5, e 4, d 3, c 2, others 2");
        assert_eq!(named(&[("a", 1)]), "a 1");
    }
}
