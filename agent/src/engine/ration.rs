//! How fast may be sent: token buckets for the backlog, and for all publishes where a broker cuts off who is faster.

use std::time::Duration;

use super::time::Mono;
use crate::config::BrokerLimits;

// AWS IoT Core counts what reaches it, a second at a time. That is what a bucket gives in a second, what it had saved
// up (a tenth of a second's worth), the packet that was let through whole, and what the gateway or the link held up
// before: there is room for another tenth of a second of that.

/// It takes 100 publishes a second on a connection: 80 + 8 + 1, and 8 that were late.
const AWS_PUBLISHES_PER_S: u32 = 80;
/// It takes 512 KiB a second, both ways together: 320 + 32 + the longest packet of 128, and 32 that were late. A
/// message of samples has 16, so that with a backlog the room is near half a second.
const AWS_BYTES_PER_S: u32 = 320 * 1024;
/// Its largest packet.
const AWS_PACKET_MAX: usize = 128 * 1024;
/// And how many publishes it lets be under way.
const AWS_INFLIGHT_MAX: u16 = 100;

/// A token bucket, in thousandths of what it counts.
#[derive(Debug, Default)]
pub(super) struct Ration {
    /// Less than none after something large: it was let through whole.
    tokens: i64,
    at: Mono,
    per_second: i64,
    most: i64,
}

impl Ration {
    const ONE: i64 = 1_000;

    /// Begins with one, and saves up at most a second's worth.
    pub(super) fn new(now: Mono, per_second: u32) -> Self {
        let mut ration = Self { tokens: Self::ONE, at: now, ..Self::default() };
        ration.set_rate(per_second);
        ration
    }

    /// The same, but it saves up a tenth of a second's worth only.
    fn even(now: Mono, per_second: u32) -> Self {
        let mut ration = Self::new(now, per_second);
        ration.most = (ration.most / 10).max(Self::ONE);
        ration
    }

    pub(super) fn set_rate(&mut self, per_second: u32) {
        self.per_second = i64::from(per_second.max(1));
        self.most = self.per_second * Self::ONE;
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Mono) -> bool {
        let open = self.is_open(now);
        if open {
            self.spend(1);
        }
        open
    }

    /// Whether there is one at least.
    fn is_open(&mut self, now: Mono) -> bool {
        let passed = i64::try_from(now.0.saturating_sub(self.at.0)).unwrap_or(i64::MAX);
        self.at = now;
        self.tokens = self.tokens.saturating_add(passed.saturating_mul(self.per_second)).min(self.most);
        self.tokens >= Self::ONE
    }

    /// One that was taken was not needed.
    pub(super) fn give_back(&mut self) {
        self.tokens = self.tokens.saturating_add(Self::ONE).min(self.most);
    }

    fn spend(&mut self, amount: usize) {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX).saturating_mul(Self::ONE);
        self.tokens = self.tokens.saturating_sub(amount);
    }

    /// When there will be one, if nothing is taken before.
    pub(super) fn next_at(&self) -> Mono {
        let missing = u64::try_from(Self::ONE.saturating_sub(self.tokens)).unwrap_or(0);
        let per_second = u64::try_from(self.per_second).unwrap_or(1).max(1);
        self.at.after(Duration::from_millis(missing.div_ceil(per_second)))
    }
}

/// What a broker allows a connection, where it would end one that takes more.
#[derive(Debug)]
pub(super) struct Allowance {
    publishes: Ration,
    bytes: Ration,
}

impl Allowance {
    /// For a new connection; `None`: no more is to be kept to than the broker announces.
    pub(super) fn new(limits: BrokerLimits, now: Mono) -> Option<Self> {
        match limits {
            BrokerLimits::None => None,
            BrokerLimits::AwsIot => Some(Self {
                publishes: Ration::even(now, AWS_PUBLISHES_PER_S),
                bytes: Ration::even(now, AWS_BYTES_PER_S),
            }),
        }
    }

    /// Whether another publish may go out now.
    pub(super) fn is_open(&mut self, now: Mono) -> bool {
        // Both grow, also where the first is spent.
        let publishes = self.publishes.is_open(now);
        self.bytes.is_open(now) && publishes
    }

    /// A publish of so many bytes went out.
    pub(super) fn spend(&mut self, bytes: usize) {
        self.publishes.spend(1);
        self.bytes.spend(bytes);
    }

    pub(super) fn next_at(&self) -> Mono {
        self.publishes.next_at().max(self.bytes.next_at())
    }
}

/// The largest packet, in bytes, and the most publishes under way that are known without asking.
pub(super) const fn known_bounds(limits: BrokerLimits) -> (usize, u16) {
    match limits {
        BrokerLimits::None => (usize::MAX, u16::MAX),
        BrokerLimits::AwsIot => (AWS_PACKET_MAX, AWS_INFLIGHT_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most that comes in any second of a minute in which as much as possible is sent, and what was sent in the
    /// `late_ms` before it comes in it, too.
    fn busiest_second(late_ms: usize, mut sent: impl FnMut(Mono) -> usize) -> usize {
        let sent: Vec<usize> = (0..60_000).map(|ms| sent(Mono(ms))).collect();
        sent.windows(1_000 + late_ms).map(|window| window.iter().sum()).max().unwrap_or(0)
    }

    #[test]
    fn no_second_has_more_publishes_or_bytes_than_aws_takes_also_where_what_went_before_is_late() {
        const LATE_MS: usize = 100;
        let packets = [(1, 100, 100), (16 * 1024, 100, 512 * 1024), (AWS_PACKET_MAX, 100, 512 * 1024)];
        for (len, publishes, bytes) in packets {
            let mut allowance = Allowance::new(BrokerLimits::AwsIot, Mono(0)).unwrap();
            let busiest = busiest_second(LATE_MS, |now| {
                let mut count = 0;
                while allowance.is_open(now) {
                    allowance.spend(len);
                    count += 1;
                }
                count
            });
            assert!(busiest <= publishes && busiest * len <= bytes, "{busiest} of {len} B in a second");
            assert!(busiest * 2 > publishes || busiest * len * 2 > bytes, "only {busiest} of {len} B in a second");
        }
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let mut ration = Ration::new(Mono(0), 10);
        assert!(ration.take(Mono(0)) && !ration.take(Mono(0)));
        let hour = Mono(3_600_000);
        let burst = std::iter::from_fn(|| ration.take(hour).then_some(())).count();
        assert_eq!(burst, 10);
        assert_eq!(ration.next_at(), Mono(hour.0 + 100));
    }
}
