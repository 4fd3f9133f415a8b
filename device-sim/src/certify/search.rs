//! The search for the highest load that holds: doubling until one fails, then halving the gap.
//!
//! Pure: it says what to try next and is told how that went. It takes for granted that a gateway
//! which holds a load holds any lower one. A load that was missed is tried again, since one bad
//! moment of the machine is no limit; lost data is no bad moment, and fails its load at once.

/// Most loads of a search; each may be tried more than once.
const MAX_LOADS: usize = 32;

/// How a load went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Went {
    /// It met the service level.
    Held,
    /// It did not.
    Missed,
    /// What was acknowledged is not in the store as it was sent.
    LostData,
}

/// How far a search has come. Loads are in a unit of the caller's.
#[derive(Debug)]
pub(super) struct Search {
    first: u64,
    most: u64,
    precision: f64,
    tries: u32,
    /// How often the load that is being tried was missed.
    misses: u32,
    loads: usize,
    held: Option<u64>,
    failed: Option<u64>,
}

impl Search {
    /// Begins at `first`, ends at `most`, or when the gap between what holds and what fails is at
    /// most `precision` of what holds. A load fails when it was missed `tries` times.
    pub(super) fn new(first: u64, most: u64, precision: f64, tries: u32) -> Self {
        let most = most.max(1);
        Self {
            first: first.clamp(1, most),
            most,
            precision,
            tries,
            misses: 0,
            loads: 0,
            held: None,
            failed: None,
        }
    }

    /// What to try next, which is the same load again if it may have another try; `None` when the
    /// answer is found.
    pub(super) fn next(&self) -> Option<u64> {
        if self.loads >= MAX_LOADS {
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

    /// Which try of the load the next one is, from 1.
    pub(super) fn nth_try(&self) -> u32 {
        self.misses + 1
    }

    /// How the load that came from [`next`](Self::next) went.
    pub(super) fn tried(&mut self, load: u64, went: Went) {
        if went == Went::Missed && self.nth_try() < self.tries {
            self.misses += 1;
            return;
        }
        self.misses = 0;
        self.loads += 1;
        match went {
            Went::Held => self.held = Some(load),
            Went::Missed | Went::LostData => self.failed = Some(load),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found when `went` says how the nth try of a load goes.
    fn searched(
        mut search: Search,
        went: impl Fn(u64, u32) -> Went,
    ) -> (Option<u64>, Vec<(u64, u32)>) {
        let mut tried = Vec::new();
        while let Some(load) = search.next() {
            let nth = search.nth_try();
            tried.push((load, nth));
            search.tried(load, went(load, nth));
        }
        (search.held, tried)
    }

    fn found(limit: u64, first: u64, most: u64, precision: f64) -> (Option<u64>, Vec<u64>) {
        let to_limit = |load, _| if load <= limit { Went::Held } else { Went::Missed };
        let (held, tried) = searched(Search::new(first, most, precision, 1), to_limit);
        assert!(tried.iter().all(|&(_, nth)| nth == 1), "{tried:?}");
        (held, tried.into_iter().map(|(load, _)| load).collect())
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
                assert!(held <= limit && tried.len() < MAX_LOADS, "{limit} {tried:?}");
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

    #[test]
    fn a_load_fails_when_every_try_has_missed() {
        let went = |load, _| if load <= 200 { Went::Held } else { Went::Missed };
        let (held, tried) = searched(Search::new(100, 1_000, 0.5, 3), went);
        let thrice = |load| [(load, 1), (load, 2), (load, 3)];
        let all = [&[(100, 1), (200, 1)][..], &thrice(400), &thrice(300)].concat();
        assert_eq!((held, tried), (Some(200), all));
    }

    #[test]
    fn one_bad_moment_is_no_limit() {
        // Each load is missed at first.
        let went = |load, nth| if load <= 400 && nth == 2 { Went::Held } else { Went::Missed };
        let (held, tried) = searched(Search::new(200, 10_000, 0.5, 2), went);
        let twice = [200, 400, 800, 600].map(|load| [(load, 1), (load, 2)]).concat();
        assert_eq!((held, tried), (Some(400), twice));
        let once = searched(Search::new(2, 10_000, 0.5, 1), went);
        assert_eq!(once, (None, vec![(2, 1), (1, 1)]), "without another try nothing holds");
    }

    #[test]
    fn lost_data_has_no_other_try() {
        let went = |load, nth| match (load, nth) {
            (..=100, _) => Went::Held,
            // A miss first does not help it.
            (200, 1) => Went::Missed,
            _ => Went::LostData,
        };
        let (held, tried) = searched(Search::new(100, 10_000, 0.25, 5), went);
        assert_eq!(tried, [(100, 1), (200, 1), (200, 2), (150, 1), (125, 1)]);
        assert_eq!(held, Some(100));
    }
}
