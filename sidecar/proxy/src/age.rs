//! How old a connection may get.
//!
//! Never older than its limit says, and each a little younger than that, by a chance of its own. Connections that came
//! about together (a start, a burst, an endpoint that came back, one certificate at a busy server) would end together
//! otherwise, and be made anew in one second, handshakes and all.
//!
//! The side that calls stops using a connection before the side that is called drains it, whatever chance says: the
//! one goes by three quarters of the certificates' life at the latest, the other never before that.

use std::time::Duration;

use signet_identity::Svid;
use tokio::time::Instant;

use crate::balance::random;
use crate::pool::now;
use crate::shared::Limits;
use crate::state::Snapshot;

/// By this part of itself a limit is shortened at most.
const SPREAD: u32 = 10;

/// The limit, less up to a tenth of it by chance.
pub(crate) fn spread(limit: Duration, random: u64) -> Duration {
    limit.saturating_sub(by_chance(limit / SPREAD, random))
}

/// A part of the span: from nothing to nearly all of it.
fn by_chance(span: Duration, random: u64) -> Duration {
    // The upper half of the number, as a fraction of 2^32.
    let part = (span.as_nanos().min(u128::from(u64::MAX)) * u128::from(random >> 32)) >> 32;
    Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX))
}

/// The age of a connection that we made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Age {
    born: Instant,
    most: Duration,
    /// After this second of the epoch no request begins on it.
    until: Option<u64>,
}

impl Age {
    /// Of one that stands now.
    pub(crate) fn begin(limits: &Limits, until: Option<u64>) -> Self {
        Age { born: Instant::now(), most: spread(limits.pool_age, random()), until }
    }

    /// Whether no further request may begin on it.
    pub(crate) fn is_over(&self, at: Instant) -> bool {
        self.is_past(at) || self.until.is_some_and(|until| now() >= until)
    }

    /// The same without a look at certificates: whether it is worth keeping.
    pub(crate) fn is_past(&self, at: Instant) -> bool {
        at.saturating_duration_since(self.born) >= self.most
    }
}

/// The second of the epoch until which we call by a connection under these certificates, the peer's and our own: three
/// quarters of the one that ends first, less up to a tenth of what is left to there.
pub(crate) fn calls_until(peer: &Svid, view: &Snapshot) -> u64 {
    before_three_quarters(life(peer), life(view.tls.generation.own().svid()), now(), random())
}

/// The second of the epoch from which we drain a connection by which we are called: four fifths of the certificate that
/// ends first, less up to half of what is between that and the moment at which a caller of ours has left it.
pub(crate) fn called_until(peer: &Svid, view: &Snapshot) -> u64 {
    before_four_fifths(life(peer), life(view.tls.generation.own().svid()), random())
}

/// From when to when.
type Life = (i64, i64);

fn life(svid: &Svid) -> Life {
    (svid.not_before, svid.not_after)
}

/// The second at which this part of the one life or the other has been lived, whichever comes first.
fn lived(a: Life, b: Life, part: i64, of: i64) -> u64 {
    let lived = |(from, to): Life| from.saturating_add(to.saturating_sub(from).saturating_mul(part) / of);
    u64::try_from(lived(a).min(lived(b))).unwrap_or(0)
}

fn before_three_quarters(a: Life, b: Life, now: u64, random: u64) -> u64 {
    let end = lived(a, b, 3, 4);
    let left = Duration::from_secs(end.saturating_sub(now));
    end - by_chance(left / SPREAD, random).as_secs()
}

fn before_four_fifths(a: Life, b: Life, random: u64) -> u64 {
    let end = lived(a, b, 4, 5);
    let between = Duration::from_secs(end.saturating_sub(lived(a, b, 3, 4)));
    end - by_chance(between / 2, random).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chances from none to all, and what the generator says.
    fn chances() -> impl Iterator<Item = u64> {
        [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX].into_iter().chain((0..1000).map(|_| random()))
    }

    #[test]
    fn a_limit_is_never_exceeded_nor_shortened_by_more_than_a_tenth() {
        for limit in [Duration::ZERO, Duration::from_millis(100), Duration::from_secs(600), Duration::MAX] {
            for chance in chances() {
                let age = spread(limit, chance);
                assert!(age <= limit && age >= limit - limit / 10, "{limit:?} became {age:?} by {chance}");
            }
        }
        assert_eq!(spread(Duration::from_secs(600), 0), Duration::from_secs(600));
    }

    #[test]
    fn connections_that_came_about_together_end_apart() {
        // Of a thousand, each of the ten hundredths that they are spread over gets its share.
        let mut ended = [0; 10];
        for _ in 0..1000 {
            let early = Duration::from_secs(1000) - spread(Duration::from_secs(1000), random());
            ended[usize::try_from(early.as_secs() / 10).unwrap()] += 1;
        }
        assert!(ended.iter().all(|count| (50..200).contains(count)), "{ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_over_at_its_age_and_not_much_before() {
        let limits = Limits { pool_age: Duration::from_secs(600), ..Limits::default() };
        let ages: Vec<_> = (0..200).map(|_| Age::begin(&limits, None)).collect();
        let over = || ages.iter().filter(|age| age.is_over(Instant::now())).count();
        tokio::time::advance(Duration::from_secs(539)).await;
        assert_eq!(over(), 0);
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!((50..150).contains(&over()), "{} of 200 at the middle of the spread", over());
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(over(), 200);
    }

    #[test]
    fn a_connection_is_over_when_its_moment_has_come() {
        assert!(Age::begin(&Limits::default(), Some(now())).is_over(Instant::now()));
        assert!(!Age::begin(&Limits::default(), Some(now() + 60)).is_over(Instant::now()));
    }

    #[test]
    fn a_caller_has_left_before_it_is_drained_whatever_chance_says() {
        let mine = (1_000, 87_400);
        for theirs in [(900, 87_300), (50_000, 136_400), (1_000, 4_600), (60_000, 60_010), (5, 5)] {
            let (three, four) = (lived(mine, theirs, 3, 4), lived(mine, theirs, 4, 5));
            for now in [0, 1_000, three.saturating_sub(1), three, four, 200_000] {
                for (calling, called) in chances().zip(chances().skip(3)) {
                    let leaves = before_three_quarters(mine, theirs, now, calling);
                    let drains = before_four_fifths(mine, theirs, called);
                    assert!(leaves <= three && three <= drains && drains <= four);
                    assert!(leaves >= three.min(now), "a new connection has its time");
                }
            }
        }
        let spread: std::collections::HashSet<_> =
            (0..100).map(|_| before_three_quarters(mine, mine, 1_000, random())).collect();
        assert!(spread.len() > 50, "certificates of one day end a connection at {} moments", spread.len());
    }
}
