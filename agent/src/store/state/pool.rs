//! sled's pool: seven threads, each of which wakes once a second to see that there is nothing to do. None of that can
//! be set. But a thread inherits from the one that starts it by how much the kernel may let its timers be late
//! (`prctl(2)`, PR_SET_TIMERSLACK), and there the kernel wakes those together that are due. Work wakes them at once, as
//! ever.

use std::num::NonZeroU64;

use rustix::thread::set_current_timer_slack;

/// As long as can be asked back, in whole seconds: prctl answers with an int.
const SLACK_NS: u64 = 2_000_000_000;

/// As long as this lives, threads that the current one starts are in no hurry.
#[derive(Debug)]
pub(super) struct Calm(());

impl Calm {
    pub(super) fn begin() -> Self {
        // Where the kernel doesn't take it, the threads wake as often as they did.
        let _ = set_current_timer_slack(NonZeroU64::new(SLACK_NS));
        Self(())
    }
}

impl Drop for Calm {
    fn drop(&mut self) {
        // Back to what this thread began with.
        let _ = set_current_timer_slack(None);
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::current_timer_slack;

    use super::*;

    #[test]
    fn threads_that_sled_starts_are_in_no_hurry_and_those_of_others_are_as_before() {
        let before = current_timer_slack().unwrap();
        assert!(before < SLACK_NS, "{before}");
        let inherited = {
            let _calm = Calm::begin();
            std::thread::spawn(|| current_timer_slack().unwrap()).join().unwrap()
        };
        assert_eq!(inherited, SLACK_NS);
        assert_eq!(current_timer_slack().unwrap(), before);
    }
}
