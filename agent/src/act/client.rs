//! Has root's helper act: one connection an act. It hands over what was ordered and by whose word, and hands back how
//! it ended; it decides nothing. An act whose helper goes away in the middle is interrupted (`helper_lost`): it may
//! have been done, so it is not asked for again. One that the helper has not begun in time it never begins: it sees how
//! long ago it was asked, and that nobody waits for it any more.

#![expect(clippy::disallowed_methods, reason = "an act has a deadline of its own, and a busy helper is asked again")]

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::{Able, Order};
use crate::collect::clock;
use crate::engine::io::{Act, ActOutcome, Ending};
use crate::helper::link::{self, Link, Received};
use crate::helper::protocol::{Answer, DATAGRAM_MAX, Request};
use crate::wire::Reason;

/// Where the helper listens (systemd/fieldmedic-act.socket).
pub const DEFAULT_SOCKET: &str = "/run/fieldmedic-act.sock";
/// How long each step of asking the helper what it may do may take: it is being started by that question.
const HELLO_MAX: Duration = Duration::from_secs(5);
/// How much longer than the act a helper that has not begun may take: it may just be saying that it comes too late.
const LATE_MAX: Duration = Duration::from_secs(1);
/// And one that has begun, and ends a runbook with patience: it should tell the end itself.
const GRACE: Duration = Duration::from_secs(9);
/// How long to wait where the helper is asked too often; within the act's own time.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);
const CANCEL: &[u8] = br#"{"cancel":true}"#;

/// The way to root's helper.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    /// Whether it said what it may do when it was asked last, if it was.
    answers: AtomicBool,
}

impl Client {
    /// The way to a helper's socket, if there is one. Nobody need listen yet: systemd does, and starts the helper.
    #[must_use]
    pub fn find(socket: &Path) -> Option<Self> {
        socket.exists().then(|| Self { socket: socket.to_owned(), answers: AtomicBool::new(true) })
    }

    /// What the helper may do for this user, and what is in force; `None` if it doesn't say. Blocks, for 5 s at most
    /// each to connect, to ask and to hear the answer.
    #[must_use]
    pub fn able(&self) -> Option<Able> {
        let said = self.said_able();
        let has_answered = self.answers.swap(said.is_ok(), Ordering::Relaxed);
        said.inspect_err(|why| {
            let why = format!("{} doesn't say what it may do: {why}", self.socket.display());
            // It is asked for as long as it is silent.
            if has_answered { tracing::warn!("{why}") } else { tracing::debug!("{why}") }
        })
        .ok()
    }

    /// It did not say so when it was asked last.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        !self.answers.load(Ordering::Relaxed)
    }

    fn said_able(&self) -> Result<Able, String> {
        match self.ask_able() {
            Ok(Answer::Able(able)) => Ok(able),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn ask_able(&self) -> io::Result<Answer> {
        let mut stream = link::connect_blocking(&self.socket, HELLO_MAX)?;
        match stream.write_all(&Request::Hello.to_datagram()) {
            // One that refuses who asks says so and closes: its answer is there to be read.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
        let mut buffer = vec![0; DATAGRAM_MAX];
        let len = match stream.read(&mut buffer) {
            // Told once where it did not read the question; what it said before is still to come.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => stream.read(&mut buffer)?,
            read => read?,
        };
        Answer::parse(buffer.get(..len).unwrap_or_default()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Has it done, within the order's timeout, unless it is canceled. What goes wrong on the way to the helper is
    /// `no_helper` (nothing was done) or `helper_lost`; what it refuses is rejected for its reason.
    pub async fn perform(
        &self,
        mut order: Order,
        mut canceled: oneshot::Receiver<()>,
        mut progress: impl FnMut(u8),
    ) -> ActOutcome {
        let within = order.timeout;
        let reboots = order.act == Act::Reboot;
        order.asked = Some(clock::boottime());
        let request = Request::Act(Box::new(order)).to_datagram();
        if request.len() > DATAGRAM_MAX {
            let detail = format!("{} B to ask for, the helper takes {DATAGRAM_MAX}", request.len());
            return ActOutcome::rejected(Reason::TooLarge, detail);
        }
        let begun = AtomicBool::new(false);
        let mut was_heard = false;
        let mut progress = |percent| {
            begun.store(true, Ordering::Relaxed);
            // With the first of them nothing is done yet.
            if std::mem::replace(&mut was_heard, true) || percent > 0 {
                progress(percent);
            }
        };
        let ask = async {
            loop {
                let outcome = self.ask(&request, &mut canceled, &mut progress).await;
                if outcome.ending() != Some(Ending::RateLimited) {
                    return outcome;
                }
                sleep(ASK_AGAIN_AFTER).await;
            }
        };
        let mut ask = std::pin::pin!(ask);
        let has_begun = || begun.load(Ordering::Relaxed);
        let at_most = within.saturating_add(LATE_MAX);
        let outcome = match timeout(at_most, &mut ask).await {
            Ok(outcome) => outcome,
            Err(_) if has_begun() => timeout(GRACE, ask).await.unwrap_or_else(|_| {
                let at_most = at_most.saturating_add(GRACE);
                ActOutcome::timed_out(format!("root's helper did not say within {at_most:?} how it ended"))
            }),
            Err(_) => ActOutcome::not_begun(format!(
                "root's helper did not begin it within {within:?}: it was not done, and will not be"
            )),
        };
        let is_lost = outcome.ending() == Some(Ending::HelperLost);
        if is_lost && !has_begun() {
            return ActOutcome::failed(Ending::NoHelper, "root's helper went away before it began: it was not done");
        }
        if reboots && is_lost {
            // It goes down with the machine, and may do so before it can say so. Whether the machine does, time tells.
            return ActOutcome::succeeded("the helper went away, as it does when the machine goes down");
        }
        outcome
    }

    async fn ask(
        &self,
        request: &[u8],
        canceled: &mut oneshot::Receiver<()>,
        progress: &mut impl FnMut(u8),
    ) -> ActOutcome {
        let no_helper = |error| ActOutcome::failed(Ending::NoHelper, format!("{}: {error}", self.socket.display()));
        let link = match Link::connect(&self.socket) {
            Ok(link) => link,
            Err(error) => return no_helper(error),
        };
        match link.send(request).await {
            Ok(()) => {}
            // One that is too busy to listen says so and closes: its answer is there to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return no_helper(error),
        }
        let mut cancelable = !canceled.is_terminated();
        let mut was_canceled = false;
        loop {
            let received = tokio::select! {
                received = link.recv() => received,
                cancel = &mut *canceled, if cancelable => {
                    // An error means that nobody can cancel any more.
                    cancelable = false;
                    if cancel.is_ok() {
                        was_canceled = true;
                        link.try_send(CANCEL);
                    }
                    continue;
                }
            };
            let answer = match received {
                Ok(Received::Datagram(datagram)) => Answer::parse(&datagram),
                Ok(Received::TooLong | Received::Closed) => None,
                Err(error) => return lost(&error.to_string()),
            };
            match answer {
                Some(Answer::Progress(percent)) => progress(percent),
                Some(Answer::Done(outcome)) => return outcome,
                // It would be asked again, and nobody could cancel it any more.
                Some(Answer::Refused { reason, .. }) if was_canceled && reason == Ending::RateLimited.word() => {
                    return ActOutcome::taken_back("canceled before the helper had taken it");
                }
                Some(Answer::Refused { reason, detail }) => return ActOutcome::rejected(reason, detail),
                Some(Answer::Able(_)) | None => return lost("it ended without an outcome"),
            }
        }
    }
}

fn lost(why: &str) -> ActOutcome {
    ActOutcome::interrupted(Ending::HelperLost, format!("what came of it can't be known: {why}"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::mpsc;
    use std::thread;

    use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};

    use super::*;
    use crate::act::Actor;
    use crate::act::units::Manager;
    use crate::config::Action;
    use crate::engine::io::{ActStatus, Trigger};

    fn listening(socket: &Path) -> OwnedFd {
        let listener = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        net::bind(&listener, &SocketAddrUnix::new(socket).unwrap()).unwrap();
        net::listen(&listener, 8).unwrap();
        listener
    }

    #[test]
    fn a_helper_that_refuses_who_asks_before_it_has_read_the_question_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("act.sock");
        let listener = listening(&socket);
        let refused = Answer::Refused { reason: "peer_refused".into(), detail: "uid 7".into() }.to_datagram();
        let times = 50;
        let helper = thread::spawn(move || {
            for _ in 0..times {
                let link = net::accept(&listener).unwrap();
                net::send(&link, &refused, SendFlags::empty()).unwrap();
            }
        });
        let client = Client::find(&socket).unwrap();
        for _ in 0..times {
            let said = client.said_able().unwrap_err();
            assert!(said.contains("peer_refused"), "{said}");
        }
        helper.join().unwrap();
    }

    /// A helper that ends so many acts at once, and so.
    pub(in crate::act) fn ending(socket: &Path, outcome: ActOutcome, acts: usize) -> thread::JoinHandle<()> {
        let listener = listening(socket);
        thread::spawn(move || {
            for _ in 0..acts {
                let link = net::accept(&listener).unwrap();
                net::recv(&link, &mut vec![0; DATAGRAM_MAX][..], RecvFlags::empty()).unwrap();
                net::send(&link, &Answer::Done(outcome.clone()).to_datagram(), SendFlags::empty()).unwrap();
            }
        })
    }

    /// A helper that is asked too often: it says so once it was also told to cancel. How often it was asked.
    fn busy(socket: &Path) -> thread::JoinHandle<usize> {
        let listener = listening(socket);
        let refused =
            Answer::Refused { reason: Ending::RateLimited.word().into(), detail: "later".into() }.to_datagram();
        thread::spawn(move || {
            let mut buffer = vec![0; DATAGRAM_MAX];
            for asked in 1.. {
                let link = net::accept(&listener).unwrap();
                let (_, len) = net::recv(&link, &mut buffer[..], RecvFlags::empty()).unwrap();
                if len == 0 {
                    return asked - 1;
                }
                net::recv(&link, &mut buffer[..], RecvFlags::empty()).unwrap();
                net::send(&link, &refused, SendFlags::empty()).unwrap();
            }
            unreachable!()
        })
    }

    #[test]
    fn a_helper_that_is_silent_is_taken_for_able_to_do_all_and_asked_again_until_it_answers() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("act.sock");
        let listener = listening(&socket);
        let actor = Actor::new(Manager::Systemd, "/nonexistent".into()).behind(&socket);
        let helper = thread::spawn(move || {
            for _ in 0..2 {
                drop(net::accept(&listener).unwrap());
            }
            let link = net::accept(&listener).unwrap();
            net::recv(&link, &mut vec![0; DATAGRAM_MAX][..], RecvFlags::empty()).unwrap();
            net::send(&link, br#"{"able":["reboot"],"withheld":["quarantine"]}"#, SendFlags::empty()).unwrap();
        });
        let able = actor.able();
        for action in [Action::RestartLink, Action::Rollback, Action::Quarantine, Action::Run] {
            assert!(able.actions.contains(&action), "{action} of {able:?}");
        }
        assert!(actor.has_silent_helper() && able.withheld.is_empty(), "{able:?}");
        let (keep, wanted) = mpsc::sync_channel(1);
        let able = actor.able_by_helper_at_last(&wanted).unwrap();
        assert!(able.actions.iter().eq([&Action::Reboot]) && able.withheld.contains(&Action::Quarantine), "{able:?}");
        assert!(!actor.has_silent_helper());
        helper.join().unwrap();
        drop(keep);
        assert_eq!(actor.able_by_helper_at_last(&wanted), None, "nobody wants to know any more");
    }

    #[tokio::test]
    async fn an_act_that_a_helper_never_begins_is_told_as_not_begun_though_it_never_said_anything() {
        let dir = tempfile::tempdir().unwrap();
        for (act, goes_away) in [(Act::MarkGood { target: "app".into() }, false), (Act::Reboot, true)] {
            let socket = dir.path().join(act.word());
            let listener = listening(&socket);
            // What systemd does for a helper that can't start: who asks is let in, and nobody answers.
            let helper = goes_away.then(|| {
                thread::spawn(move || {
                    let link = net::accept(&listener).unwrap();
                    net::recv(&link, &mut vec![0; DATAGRAM_MAX][..], RecvFlags::empty()).unwrap();
                })
            });
            let client = Client::find(&socket).unwrap();
            let (_keep, canceled) = oneshot::channel();
            let order = Order::new(act, Trigger::Rule("hot".into()), None, Duration::from_millis(100));
            let outcome = client.perform(order, canceled, |_| ()).await;
            assert_eq!(outcome.ending(), Some(Ending::NoHelper), "{outcome:?}");
            helper.map(thread::JoinHandle::join).transpose().unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_canceled_while_the_helper_is_asked_too_often_is_not_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("act.sock");
        let helper = busy(&socket);
        let client = Client::find(&socket).unwrap();
        let (cancel, canceled) = oneshot::channel();
        cancel.send(()).unwrap();
        let order = Order::new(Act::Reboot, Trigger::Rule("hot".into()), None, Duration::from_secs(30));
        let outcome = client.perform(order, canceled, |_| ()).await;
        assert_eq!(outcome.status, ActStatus::Canceled, "{outcome:?}");
        // One that says nothing ends the helper.
        drop(link::connect_blocking(&socket, HELLO_MAX).unwrap());
        assert_eq!(helper.join().unwrap(), 1);
    }
}
