//! How much a sender may say: a process, and a user with all its processes, or one that starts a new process for each
//! line had no limit. What is refused costs next to nothing, and takes nothing from others.

use std::collections::BTreeMap;
use std::time::Duration;

/// Lines at once, and a second, of one process.
pub(super) const PROCESS: Allowance = Allowance { burst: 64.0, per_second: 16.0 };
/// The same of one user.
pub(super) const USER: Allowance = Allowance { burst: 256.0, per_second: 64.0 };
/// Processes, and users, that are remembered. The one unheard of for longest makes place.
const SENDERS_MAX: usize = 64;

#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    pub(super) burst: f64,
    per_second: f64,
}

/// Who sent a datagram, as the kernel says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) user: u32,
    pub(super) process: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Take,
    /// Too much, for the first time since there was room.
    FirstOverRate,
    OverRate,
}

#[derive(Debug, Default)]
pub(super) struct Limits {
    processes: BTreeMap<(u32, i32), Bucket>,
    users: BTreeMap<u32, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    seen: Duration,
    told: bool,
}

impl Limits {
    /// Whether a line may be taken; `now` since any fixed moment.
    pub(super) fn judge(&mut self, sender: Sender, now: Duration) -> Verdict {
        let process = entry(&mut self.processes, (sender.user, sender.process), PROCESS, now);
        let user = entry(&mut self.users, sender.user, USER, now);
        if process.tokens >= 1.0 && user.tokens >= 1.0 {
            process.tokens -= 1.0;
            user.tokens -= 1.0;
            return Verdict::Take;
        }
        // Of a user's many processes one is told.
        let told = if process.tokens < 1.0 { &mut process.told } else { &mut user.told };
        if std::mem::replace(told, true) { Verdict::OverRate } else { Verdict::FirstOverRate }
    }
}

/// The bucket of a sender, refilled.
fn entry<K: Ord + Copy>(buckets: &mut BTreeMap<K, Bucket>, key: K, allowance: Allowance, now: Duration) -> &mut Bucket {
    if !buckets.contains_key(&key) && buckets.len() >= SENDERS_MAX {
        let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.seen).map(|(key, _)| *key);
        oldest.and_then(|oldest| buckets.remove(&oldest));
    }
    let bucket = buckets.entry(key).or_insert(Bucket { tokens: allowance.burst, seen: now, told: false });
    let gained = now.saturating_sub(bucket.seen).as_secs_f64() * allowance.per_second;
    bucket.tokens = (bucket.tokens + gained).min(allowance.burst);
    bucket.told &= bucket.tokens < allowance.burst / 2.0;
    bucket.seen = now;
    bucket
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(limits: &mut Limits, sender: Sender, at_ms: u64, lines: usize) -> (usize, usize) {
        let verdicts: Vec<_> = (0..lines).map(|_| limits.judge(sender, Duration::from_millis(at_ms))).collect();
        let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
        (count(Verdict::Take), count(Verdict::FirstOverRate))
    }

    #[test]
    fn a_flood_costs_only_who_sends_it_and_is_told_once() {
        let mut limits = Limits::default();
        let (loud, quiet) = (Sender { user: 7, process: 1 }, Sender { user: 7, process: 2 });
        assert_eq!(taken(&mut limits, loud, 0, 10_000), (64, 1));
        assert_eq!(taken(&mut limits, quiet, 0, 10), (10, 0));
        assert_eq!(taken(&mut limits, loud, 1_000, 10_000), (16, 0), "it goes on");
        assert_eq!(taken(&mut limits, loud, 60_000, 10_000), (64, 1), "it is told again after a pause");
    }

    #[test]
    fn many_processes_of_one_user_share_what_it_has() {
        let mut limits = Limits::default();
        let all: usize = (0..1_000).map(|process| taken(&mut limits, Sender { user: 7, process }, 0, 10).0).sum();
        assert_eq!(all, 256);
        assert!(limits.processes.len() <= SENDERS_MAX, "{}", limits.processes.len());
        assert_eq!(taken(&mut limits, Sender { user: 8, process: 1 }, 0, 10), (10, 0), "another user");
    }
}
