//! The search for the highest load that holds: doubling until one fails, then halving the gap.
//!
//! Pure: it says what to try next and is told how that went. It takes for granted that a gateway
//! which holds a load holds any lower one.

/// Most steps of a search.
const MAX_STEPS: usize = 32;

/// How far a search has come. Loads are in a unit of the caller's.
#[derive(Debug)]
pub(super) struct Search {
    first: u64,
    most: u64,
    precision: f64,
    steps: usize,
    held: Option<u64>,
    failed: Option<u64>,
}

impl Search {
    /// Begins at `first`, ends at `most`, or when the gap between what holds and what fails is at
    /// most `precision` of what holds.
    pub(super) fn new(first: u64, most: u64, precision: f64) -> Self {
        let most = most.max(1);
        Self { first: first.clamp(1, most), most, precision, steps: 0, held: None, failed: None }
    }

    /// What to try next; `None` when the answer is found.
    pub(super) fn next(&self) -> Option<u64> {
        if self.steps >= MAX_STEPS {
            return None;
        }
        match (self.held, self.failed) {
            (None, None) => Some(self.first),
            (None, Some(failed)) => (failed > 1).then_some(failed / 2),
            (Some(held), None) => (held < self.most).then(|| held.saturating_mul(2).min(self.most)),
            (Some(held), Some(failed)) => {
                #[expect(clippy::cast_precision_loss, reason = "a share of it is enough")]
                let fine = (failed - held) as f64 <= held as f64 * self.precision;
                (!fine && failed - held > 1).then_some(held + (failed - held) / 2)
            }
        }
    }

    /// How the load that came from [`next`](Self::next) went.
    pub(super) fn tried(&mut self, load: u64, held: bool) {
        self.steps += 1;
        if held {
            self.held = Some(load);
        } else {
            self.failed = Some(load);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(limit: u64, first: u64, most: u64, precision: f64) -> (Option<u64>, Vec<u64>) {
        let mut search = Search::new(first, most, precision);
        let mut tried = Vec::new();
        while let Some(load) = search.next() {
            tried.push(load);
            search.tried(load, load <= limit);
        }
        (search.held, tried)
    }

    #[test]
    fn it_doubles_then_halves_the_gap() {
        let (held, tried) = found(1_000, 100, 1_000_000, 0.1);
        assert_eq!(tried, [100, 200, 400, 800, 1_600, 1_200, 1_000, 1_100]);
        assert_eq!(held, Some(1_000));
    }

    #[test]
    fn it_comes_within_its_precision_of_any_limit() {
        for limit in [1, 2, 3, 99, 100, 101, 12_345, 999_999] {
            for precision in [0.01, 0.1, 0.5] {
                let (held, tried) = found(limit, 100, 1_000_000, precision);
                let held = held.unwrap_or(0);
                assert!(held <= limit && tried.len() < MAX_STEPS, "{limit} {tried:?}");
                #[allow(clippy::cast_precision_loss)]
                let near = (held + 1) as f64 * (1.0 + precision) >= limit as f64;
                assert!(near, "{limit} {precision}: {tried:?}");
            }
        }
    }

    #[test]
    fn it_ends_at_the_most_and_at_nothing() {
        assert_eq!(
            found(u64::MAX, 100, 1_000, 0.1),
            (Some(1_000), vec![100, 200, 400, 800, 1_000])
        );
        assert_eq!(found(0, 4, 1_000, 0.1), (None, vec![4, 2, 1]));
        assert_eq!(found(5, 7, 3, 0.1), (Some(3), vec![3]), "never above the most");
    }
}
