//! Asks the system's resolver for a name. That has no bound of its own, and takes a thread for as long as it hangs: a
//! name that is being asked for isn't asked for again, and whoever wants it gets the same answer.

#![expect(clippy::disallowed_methods, reason = "a question outlives who asked it")]

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::own_thread::{NotDone, on_own_thread};

type Found = Result<Vec<SocketAddr>, LookupError>;
type Answer = Arc<Found>;
type Pending = watch::Receiver<Option<Answer>>;

/// Why there are no addresses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    /// The resolver's word.
    #[error(transparent)]
    Resolver(#[from] io::Error),
    /// It says nothing of the name.
    #[error(transparent)]
    NotAsked(#[from] NotDone),
}

/// What is being asked for: the broker's name, and those that the configuration keeps in reach.
static ASKED: Mutex<BTreeMap<String, Pending>> = Mutex::new(BTreeMap::new());

/// The addresses of a name, in the resolver's order and without a port; of an address itself. Takes as long as the
/// resolver does: whoever asks has the clock.
pub(crate) async fn addresses(host: &str) -> Answer {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Arc::new(Ok(vec![SocketAddr::new(address, 0)]));
    }
    let question = (host.to_owned(), 0);
    let resolve = async { Ok(on_own_thread("lookup", move || question.to_socket_addrs()).await??.collect()) };
    ask(host.to_owned(), resolve).await
}

async fn ask(name: String, resolve: impl Future<Output = Found> + Send + 'static) -> Answer {
    let mut pending = pending(name, resolve);
    let answer = pending.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
    answer.unwrap_or_else(|| Arc::new(Err(io::Error::other("whoever asked the resolver has ended").into())))
}

fn pending(name: String, resolve: impl Future<Output = Found> + Send + 'static) -> Pending {
    let mut asked = asked();
    // An error means that its runtime has ended, and it with that.
    if let Some(pending) = asked.get(&name).filter(|pending| pending.has_changed().is_ok()) {
        return pending.clone();
    }
    let (answer, pending) = watch::channel(None);
    asked.insert(name.clone(), pending.clone());
    tokio::spawn(async move {
        let found = Arc::new(resolve.await);
        self::asked().remove(&name);
        // An error means that nobody waits any more.
        let _ = answer.send(Some(found));
    });
    pending
}

fn asked() -> MutexGuard<'static, BTreeMap<String, Pending>> {
    ASKED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::one_thread::runtime;

    #[tokio::test]
    async fn a_resolver_that_hangs_is_asked_once_and_its_answer_is_for_all_who_wait_then() {
        let name = || "hangs.example".to_owned();
        let (resolver, hangs) = oneshot::channel();
        let first = ask(name(), async { Ok(hangs.await.map_err(io::Error::other)?) });
        assert!(timeout(Duration::from_millis(20), first).await.is_err());
        let [second, third] = [(); 2].map(|()| ask(name(), async { unreachable!("it is asked already") }));
        let found: Vec<SocketAddr> = vec!["192.0.2.1:1".parse().unwrap()];
        let answers = async { tokio::join!(second, third, async { resolver.send(found.clone()).unwrap() }) };
        let (second, third, ()) = answers.await;
        assert_eq!((second.as_ref().as_ref().unwrap(), third.as_ref().as_ref().unwrap()), (&found, &found));
        let anew = ask(name(), async { Err(io::Error::from(io::ErrorKind::NotFound).into()) }).await;
        assert!(anew.is_err(), "what was found is not kept");
    }

    #[test]
    fn a_question_that_ended_with_its_runtime_is_asked_anew() {
        let name = || "ended.example".to_owned();
        let ended = runtime().unwrap();
        ended.block_on(async { drop(pending(name(), std::future::pending())) });
        drop(ended);
        let answer = runtime().unwrap().block_on(ask(name(), async { Ok(vec![]) }));
        assert!(answer.as_ref().as_ref().is_ok_and(Vec::is_empty), "{answer:?}");
    }

    #[test]
    fn an_address_is_nobody_to_be_asked_for() {
        for address in ["192.0.2.1", "2001:db8::1"] {
            let mut asked = pin!(addresses(address));
            let Poll::Ready(found) = asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
                panic!("{address} is waited for");
            };
            let expected = SocketAddr::new(address.parse().unwrap(), 0);
            assert_eq!(found.as_ref().as_ref().unwrap(), &[expected]);
        }
    }
}
