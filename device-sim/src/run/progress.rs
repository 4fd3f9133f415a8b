//! What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere.

use super::fleet::Fleet;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// From one picture to the next on a terminal.
const REDRAW: Duration = Duration::from_millis(250);
/// From one line to the next elsewhere.
const LINE: Duration = Duration::from_secs(5);

/// Shows the run until it is dropped. Cancel safe.
pub(super) async fn show(fleet: Arc<Fleet>) {
    let terminal = std::io::stderr().is_terminal();
    let bar = terminal.then(|| {
        let seconds = fleet.plan.duration_ns.div_ceil(1_000_000_000);
        let bar = ProgressBar::with_draw_target(Some(seconds), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:24} {pos:>4}/{len} s  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    });
    let mut before = (fleet.start, 0);
    loop {
        tokio::time::sleep(if bar.is_some() { REDRAW } else { LINE }).await;
        let now = Instant::now();
        let line = status(&fleet, now, &mut before);
        let seconds = now.duration_since(fleet.start).as_secs();
        match &bar {
            Some(bar) => {
                bar.set_position(seconds);
                bar.set_message(line);
            }
            None => eprintln!("{seconds:>4} s  {line}"),
        }
    }
}

fn status(fleet: &Fleet, now: Instant, before: &mut (Instant, u64)) -> String {
    let tally = &fleet.tally;
    let refused = tally.refused_planned.get() + tally.refused_unplanned.get();
    let acked = tally.acked.get();
    let seconds = now.duration_since(before.0).as_secs_f64().max(1e-3);
    #[expect(clippy::cast_precision_loss, reason = "shown without decimals")]
    let rate = acked.saturating_sub(before.1) as f64 / seconds;
    *before = (now, acked);
    let never = tally.shed.get() + tally.dropped.get();
    let waiting = tally.scheduled.get().saturating_sub(never + acked + refused);
    let mut line = format!(
        "{} connected, {rate:.0} readings/s acknowledged, {waiting} waiting",
        tally.connected.get()
    );
    for (count, what) in
        [(refused, "refused"), (never, "not sent"), (tally.reconnects.get(), "reconnects")]
    {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    line
}
