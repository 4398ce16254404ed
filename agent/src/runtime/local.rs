//! The local socket: one request a line, one JSON object a line in answer: `status`, and `released` by root, who has
//! ended a quarantine on the console. It listens on a path, never on a port, and only root and the agent's group may
//! open it.

#![expect(clippy::disallowed_methods, reason = "the socket's task is spawned here, and waits with bounds")]

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::engine::status::Status;
use crate::socket_file::SocketFile;

/// Connections at a time; one more is closed at once.
const CONNECTIONS_MAX: usize = 8;
/// How long to wait before accepting again when it failed.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of a request.
const REQUEST_MAX: u64 = 256;
/// How long a client may take to ask, and the agent to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Bytes of an answer that a client takes.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// What a client asks.
pub enum Request {
    /// How are you?
    Status(StatusRequest),
    /// Root has taken the rules of a quarantine away: look.
    Released,
}

/// A request for the status.
pub struct StatusRequest(oneshot::Sender<String>);

impl StatusRequest {
    /// Answers it. A client that has gone meanwhile is no concern of ours.
    pub fn answer(self, status: &Status) {
        let _ = self.0.send(serde_json::to_string(status).unwrap_or_default());
    }
}

/// A listening socket; gone when this is dropped.
#[derive(Debug)]
pub struct Socket {
    task: AbortHandle,
    _file: SocketFile,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens. An agent whose socket can't be opened still does its work: it says so, and `status` won't find it.
pub fn serve(path: &Path, requests: mpsc::Sender<Request>) -> Option<Socket> {
    match listen(path) {
        Ok((listener, file)) => {
            let task = tokio::spawn(accept(listener, requests)).abort_handle();
            Some(Socket { task, _file: file })
        }
        Err(error) => {
            tracing::warn!("local socket {}: {error}; `fieldmedic status` won't work", path.display());
            None
        }
    }
}

/// Whether an agent answers there, or nobody may ask.
pub(super) fn is_answered(path: &Path) -> bool {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    /// Root and the agent's group.
    const MODE: u32 = 0o660;
    let connect = |path: &Path| std::os::unix::net::UnixStream::connect(path).map(drop);
    SocketFile::make(path, MODE, connect, |path| UnixListener::bind(path))
}

async fn accept(listener: UnixListener, requests: mpsc::Sender<Request>) {
    let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut fails = false;
    loop {
        let Some((stream, _)) = accepted(listener.accept().await, &mut fails).await else { continue };
        let Ok(place) = std::sync::Arc::clone(&places).try_acquire_owned() else { continue };
        let requests = requests.clone();
        tokio::spawn(async move {
            // A client that is slow or speaks nonsense loses its connection, and nobody else notices.
            let _ = timeout(ANSWER_MAX, converse(stream, requests)).await;
            drop(place);
        });
    }
}

/// What was accepted; after a failure, a pause. Out of file descriptors, the next would fail in the same instant. The
/// first failure in a row is told.
async fn accepted<T>(result: io::Result<T>, fails: &mut bool) -> Option<T> {
    let failed_before = std::mem::replace(fails, result.is_err());
    match result {
        Ok(connection) => Some(connection),
        Err(error) => {
            if !failed_before {
                tracing::warn!("local socket: accept: {error}; trying again each second");
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn converse(stream: UnixStream, requests: mpsc::Sender<Request>) -> io::Result<()> {
    let is_root = stream.peer_cred()?.uid() == 0;
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(REQUEST_MAX)).read_line(&mut line).await?;
    let answer = match line.trim_end() {
        "status" => {
            let (answer_in, answer) = oneshot::channel();
            requests.try_send(Request::Status(StatusRequest(answer_in))).map_err(|_| io::Error::other("busy"))?;
            answer.await.map_err(io::Error::other)?
        }
        "released" if is_root => {
            requests.try_send(Request::Released).map_err(|_| io::Error::other("busy"))?;
            r#"{"ok":true}"#.to_owned()
        }
        "released" => r#"{"error":"only root may say that"}"#.to_owned(),
        _ => r#"{"error":"unknown request: there are \"status\" and \"released\""}"#.to_owned(),
    };
    write.write_all(answer.as_bytes()).await?;
    write.write_all(b"\n").await
}

/// Asks the running agent for its status: one line of JSON.
///
/// # Errors
/// Nobody listens on the path, or nobody answers within 5 s.
pub async fn ask_status(path: &Path) -> io::Result<String> {
    ask(path, "status\n").await
}

/// Tells the running agent that root has ended the quarantine, so that it says so at once instead of at its next look.
///
/// # Errors
/// Nobody listens on the path, or nobody answers within 5 s.
pub async fn tell_released(path: &Path) -> io::Result<String> {
    ask(path, "released\n").await
}

async fn ask(path: &Path, request: &str) -> io::Result<String> {
    let ask = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
        Ok(answer)
    };
    timeout(ANSWER_MAX, ask).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_in_the_sockets_place_is_left_alone_and_another_agents_socket_stays_when_this_one_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let (requests, _taken) = mpsc::channel(1);
        std::fs::write(&path, "precious").unwrap();
        assert!(serve(&path, requests.clone()).is_none());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");

        std::fs::remove_file(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = serve(&path, requests.clone()).expect("nobody answers there");
        assert!(serve(&path, requests.clone()).is_none(), "the first answers there");
        // Taken away under the first, as tmpfiles may.
        std::fs::remove_file(&path).unwrap();
        let second = serve(&path, requests).expect("nobody is there");
        drop(first);
        assert!(path.exists(), "it is the second's");
        drop(second);
        assert!(!path.exists(), "gone with its agent");
    }

    #[tokio::test]
    async fn without_file_descriptors_accepting_pauses() {
        let error = io::Error::from(rustix::io::Errno::MFILE);
        let mut fails = false;
        tokio::select! {
            biased;
            _ = accepted::<()>(Err(error), &mut fails) => panic!("it would be asked again at once"),
            () = tokio::task::yield_now() => {}
        }
        assert!(fails, "the next failure is no news");
        assert_eq!(accepted(Ok(7), &mut fails).await, Some(7));
        assert!(!fails);
    }
}
