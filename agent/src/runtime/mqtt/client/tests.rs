#![expect(clippy::disallowed_types, reason = "the other end of the socket, and a real broker, are played here")]

use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::super::transport::tests::url;
use super::*;
use crate::engine::packet::SubscribeRefusal;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A password file with viewer:right, made by mosquitto_passwd.
const VIEWER_RIGHT: &str = "viewer:$7$101$Zahwn32BQQt7t7HW$szIOTZXz+NOnB9v1rGlizXG91E34IOlbBKdne+9tHBcIgiLy+MPi78SsOCj3t2PhyQ3crsExzj1mb1uo3SWn6w==\n";

/// A real broker; ends with the test.
struct Mosquitto {
    _child: Child,
    _dir: TempDir,
    target: Arc<Target>,
}

impl Mosquitto {
    async fn start(settings: &str, files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Read by the user that mosquitto changes to.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        // Bound and let go: mosquitto can't be handed a socket.
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let settings = settings.replace("DIR", &dir.path().display().to_string());
        let config = dir.path().join("mosquitto.conf");
        std::fs::write(&config, format!("listener {port} 127.0.0.1\n{settings}\n")).unwrap();
        let child = Command::new(program())
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("mosquitto (Debian: mosquitto)");
        let listening = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, listening).await.expect("mosquitto does not listen");
        let target = Arc::new(Target::new(url(false, "127.0.0.1", port), None));
        Self { _child: child, _dir: dir, target }
    }
}

/// Debian puts it where only root's PATH leads.
fn program() -> &'static str {
    let known = "/usr/sbin/mosquitto";
    if Path::new(known).exists() { known } else { "mosquitto" }
}

/// A broker made of a script.
struct Script {
    listener: TcpListener,
    target: Arc<Target>,
}

impl Script {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, target: Arc::new(Target::new(url(false, "127.0.0.1", port), None)) }
    }

    async fn accept(&self) -> Peer {
        let (stream, _) = self.listener.accept().await.unwrap();
        Peer { stream, input: BytesMut::new(), codec: None }
    }
}

struct Peer {
    stream: TcpStream,
    input: BytesMut,
    codec: Option<Codec>,
}

impl Peer {
    async fn next(&mut self) -> Packet {
        loop {
            if self.codec.is_none() {
                self.codec = Codec::for_connect(&self.input).unwrap().map(|version| Codec::new(version, 4096));
            }
            if let Some(packet) = self.codec.as_mut().and_then(|codec| codec.decode(&mut self.input).unwrap()) {
                return packet;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await.expect("the client is silent");
            assert_ne!(read.unwrap(), 0, "the client hung up");
        }
    }

    async fn say(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        self.codec.as_ref().unwrap().encode(packet, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// Reads the CONNECT and accepts it.
    async fn welcome(&mut self) {
        let Packet::Connect(_) = self.next().await else { panic!("no CONNECT") };
        self.say(&Packet::ConnAck(accepted())).await;
    }
}

fn accepted() -> ConnAck {
    ConnAck {
        session_present: false,
        code: ConnectCode::Success,
        receive_max: u16::MAX,
        packet_max: None,
        keep_alive_s: None,
        qos_max: 2,
        retains: true,
        assigned_id: None,
    }
}

async fn connected(script: &Script) -> (Client, Peer) {
    let peer = async {
        let mut peer = script.accept().await;
        peer.welcome().await;
        peer
    };
    let (client, peer) = tokio::join!(Client::connect(&script.target, "c", None), peer);
    (client.unwrap(), peer)
}

#[tokio::test]
async fn a_real_mosquitto_takes_and_gives_messages() {
    let broker = Mosquitto::start("allow_anonymous true", &[]).await;
    let mut listener = Client::connect(&broker.target, "listener", None).await.unwrap();
    assert_eq!(listener.version(), Version::V5);
    listener.subscribe(&["a/#", "b/+"]).await.unwrap();
    let mut speaker = Client::connect(&broker.target, "speaker", None).await.unwrap();
    let nobody = speaker.publish("c/d", Bytes::from_static(b"?"), false).await.unwrap();
    assert_eq!(nobody, AckReason::NoMatchingSubscribers);
    for n in 0..100 {
        let payload = Bytes::from(format!("message {n}"));
        assert_eq!(speaker.publish("a/b", payload, false).await.unwrap(), AckReason::Success);
    }
    for n in 0..100 {
        let message = timeout(PATIENCE, listener.next_message()).await.unwrap().unwrap();
        assert_eq!(message.payload, format!("message {n}"));
    }
    speaker.disconnect().await.unwrap();
}

#[tokio::test]
async fn a_real_mosquitto_s_refusals_are_understood() {
    let settings = "allow_anonymous false\npassword_file DIR/passwords";
    let broker = Mosquitto::start(settings, &[("passwords", VIEWER_RIGHT)]).await;
    let with = |password: &str| Credentials { username: "viewer".to_owned(), password: password.to_owned() };
    for wrong in [None, Some(with("wrong"))] {
        let fault = Client::connect(&broker.target, "c", wrong.as_ref()).await.unwrap_err();
        assert_eq!(fault.kind, LinkFaultKind::Refused);
        assert!(fault.detail.contains("password"), "{}", fault.detail);
    }
    Client::connect(&broker.target, "c", Some(&with("right"))).await.unwrap();
}

#[tokio::test]
async fn what_an_acl_denies_is_not_taken_for_delivered() {
    let settings = "allow_anonymous true\nacl_file DIR/acl";
    let broker = Mosquitto::start(settings, &[("acl", "topic readwrite ok/#\n")]).await;
    let mut client = Client::connect(&broker.target, "c", None).await.unwrap();
    let denied = client.publish("denied/x", Bytes::new(), false).await.unwrap();
    assert_eq!(denied, AckReason::NotAuthorized);
    assert_ne!(client.publish("ok/x", Bytes::new(), false).await.unwrap(), AckReason::NotAuthorized);
}

#[tokio::test]
async fn a_broker_of_3_1_1_is_spoken_to_in_3_1_1_whether_it_refuses_or_just_closes() {
    for refuses in [true, false] {
        let script = Script::new().await;
        let broker = async {
            let mut first = script.accept().await;
            let Packet::Connect(connect) = first.next().await else { panic!("no CONNECT") };
            assert_eq!(connect.version, Version::V5);
            if refuses {
                first.stream.write_all(&[0x20, 2, 0, 1]).await.unwrap();
            }
            drop(first);
            let mut second = script.accept().await;
            second.welcome().await;
        };
        let (client, ()) = tokio::join!(Client::connect(&script.target, "c", None), broker);
        assert_eq!(client.unwrap().version(), Version::V311, "refuses: {refuses}");
    }
}

#[tokio::test]
async fn messages_are_acknowledged_and_it_asks_whether_the_broker_is_there_and_gives_up_when_that_stays_unanswered() {
    let script = Script::new().await;
    let (mut client, mut peer) = connected(&script).await;
    let message = |pkid| {
        let topic = "t".to_owned();
        Packet::Publish(Publish {
            topic,
            payload: Bytes::new(),
            qos: 1,
            retain: false,
            dup: false,
            pkid,
            properties: None,
        })
    };
    client.ping_at = Instant::now();
    let broker = async {
        assert_eq!(peer.next().await, Packet::PingReq);
        peer.say(&Packet::PingResp).await;
        peer.say(&message(5)).await;
    };
    let (received, ()) = tokio::join!(client.next_message(), broker);
    assert_eq!(received.unwrap().pkid, 5);
    assert!(!client.ping_open, "the answer was not noticed");

    let broker = async {
        assert_eq!(peer.next().await, Packet::PubAck { pkid: 5, reason: AckReason::Success });
        peer.say(&message(6)).await;
    };
    let (received, ()) = tokio::join!(client.next_message(), broker);
    assert_eq!(received.unwrap().pkid, 6);

    client.ping_open = true;
    client.ping_at = Instant::now();
    assert_eq!(client.next_message().await.unwrap_err().kind, LinkFaultKind::KeepAlive);
}

#[tokio::test]
async fn waiting_for_a_message_may_be_given_up_at_any_point_and_none_is_lost() {
    let broker = Mosquitto::start("allow_anonymous true", &[]).await;
    let mut listener = Client::connect(&broker.target, "listener", None).await.unwrap();
    listener.subscribe(&["#"]).await.unwrap();
    let speaking = tokio::spawn({
        let target = Arc::clone(&broker.target);
        async move {
            let mut speaker = Client::connect(&target, "speaker", None).await.unwrap();
            for n in 0..500 {
                speaker.publish("t", Bytes::from(n.to_string()), false).await.unwrap();
            }
        }
    });
    let listening = async {
        for n in 0..500 {
            let message = loop {
                tokio::select! {
                    message = listener.next_message() => break message.unwrap(),
                    () = tokio::task::yield_now() => {}
                }
            };
            assert_eq!(message.payload, n.to_string());
        }
    };
    timeout(PATIENCE, listening).await.unwrap();
    speaking.await.unwrap();
}

#[tokio::test]
async fn a_disconnect_of_the_broker_is_told_with_its_reason() {
    let script = Script::new().await;
    let (mut client, mut peer) = connected(&script).await;
    peer.say(&Packet::Disconnect { reason: "session taken over".to_owned(), session_expiry_s: None }).await;
    let fault = client.next_message().await.unwrap_err();
    assert_eq!(fault.kind, LinkFaultKind::Server);
    assert_eq!(fault.detail, "the broker closed the connection: session taken over");
}

#[tokio::test]
async fn a_refused_subscription_names_the_filter() {
    let script = Script::new().await;
    let (mut client, mut peer) = connected(&script).await;
    let broker = async {
        let Packet::Subscribe { pkid, .. } = peer.next().await else { panic!("no SUBSCRIBE") };
        peer.say(&Packet::SubAck { pkid, granted: vec![Ok(1), Err(SubscribeRefusal::Unspecified)] }).await;
    };
    let (refusal, ()) = tokio::join!(client.subscribe(&["yes", "no"]), broker);
    assert_eq!(refusal.unwrap_err().detail, "the broker refuses the subscription to no");
}
