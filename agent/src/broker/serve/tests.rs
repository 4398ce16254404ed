use std::net::SocketAddr;
use std::process::{Output, Stdio};

use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::*;
use crate::config::BrokerUrl;
use crate::engine::io::LinkFaultKind;
use crate::engine::packet::{AckReason, Version};
use crate::runtime::mqtt::client::{Client, Credentials};
use crate::runtime::mqtt::transport::Target;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    control: mpsc::Sender<Control>,
    served: JoinHandle<io::Result<Counts>>,
}

impl Running {
    async fn start(settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (control, orders) = mpsc::channel(4);
        Self { address, control, served: tokio::spawn(serve(listener, settings, orders)) }
    }

    fn target(&self) -> Arc<Target> {
        let url = BrokerUrl { tls: false, host: "127.0.0.1".to_owned(), port: self.address.port() };
        Arc::new(Target::new(url, None))
    }

    async fn client(&self, id: &str) -> Client {
        Client::connect(&self.target(), id, None).await.unwrap()
    }

    fn tool(&self, name: &str, version: &str, args: &[&str]) -> Child {
        Command::new(name)
            .args(["-h", "127.0.0.1", "-p", &self.address.port().to_string(), "-V", version])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} (Debian: mosquitto-clients): {error}"))
    }

    async fn stop(self) -> Counts {
        self.control.send(Control::Stop).await.unwrap();
        self.served.await.unwrap().unwrap()
    }
}

async fn ended(child: Child) -> (String, String) {
    let Output { stdout, stderr, status } =
        timeout(PATIENCE, child.wait_with_output()).await.expect("the tool hangs").unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{status}: {out}{err}");
    (out, err)
}

/// Publishes until `sub` was there to hear it: its subscription has no other sign.
async fn heard(running: &Running, sub: Child, topic: &str, payload: &str) -> String {
    let mut client = running.client("speaker").await;
    let heard = async {
        loop {
            let reason = client.publish(topic, Bytes::copy_from_slice(payload.as_bytes()), false).await.unwrap();
            if reason == AckReason::Success {
                return;
            }
        }
    };
    timeout(PATIENCE, heard).await.expect("nobody subscribed");
    ended(sub).await.0
}

#[tokio::test]
async fn stock_tools_of_both_versions_publish_and_subscribe_at_every_qos() {
    let running = Running::start(Settings::default()).await;
    for version in ["311", "5"] {
        for qos in ["0", "1", "2"] {
            let mut client = running.client("listener").await;
            client.subscribe(&["stock/#"]).await.unwrap();
            let topic = format!("stock/{version}/{qos}");
            ended(running.tool("mosquitto_pub", version, &["-q", qos, "-t", &topic, "-m", "hello"])).await;
            let message = timeout(PATIENCE, client.next_message()).await.unwrap().unwrap();
            assert_eq!((message.topic, &message.payload[..]), (topic.clone(), &b"hello"[..]));

            let sub = running.tool("mosquitto_sub", version, &["-q", qos, "-t", "down/+", "-C", "1", "-v"]);
            assert_eq!(heard(&running, sub, "down/x", "back").await, "down/x back\n", "{version} QoS {qos}");
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn a_retained_message_of_a_stock_tool_is_there_for_a_later_one() {
    let running = Running::start(Settings::default()).await;
    for version in ["311", "5"] {
        ended(running.tool("mosquitto_pub", version, &["-q", "1", "-r", "-t", "keep", "-m", version])).await;
        let sub = running.tool("mosquitto_sub", version, &["-t", "keep", "-C", "1", "-F", "%r %p"]);
        assert_eq!(ended(sub).await.0, format!("1 {version}\n"));
    }
    running.stop().await;
}

#[tokio::test]
async fn a_kept_session_of_a_stock_tool_gets_what_came_while_it_was_away() {
    let running = Running::start(Settings::default()).await;
    for version in ["311", "5"] {
        let id = format!("keeper-{version}");
        let mut keep = vec!["-c", "-i", &id, "-q", "1", "-t", "later"];
        if version == "5" {
            keep.extend(["-x", "3600"]);
        }
        // -E: subscribe and leave.
        ended(running.tool("mosquitto_sub", version, &[&keep[..], &["-E"]].concat())).await;
        for payload in ["one", "two", "three"] {
            ended(running.tool("mosquitto_pub", version, &["-q", "1", "-t", "later", "-m", payload])).await;
        }
        let sub = running.tool("mosquitto_sub", version, &[&keep[..], &["-C", "3"]].concat());
        assert_eq!(ended(sub).await.0, "one\ntwo\nthree\n", "version {version}");
    }
    running.stop().await;
}

#[tokio::test]
async fn the_will_of_a_killed_stock_tool_is_published() {
    let running = Running::start(Settings::default()).await;
    for version in ["311", "5"] {
        let mut client = running.client("listener").await;
        client.subscribe(&["will", "ready"]).await.unwrap();
        let will = ["--will-topic", "will", "--will-payload", "gone", "--will-qos", "1", "-t", "hold"];
        let mut doomed = running.tool("mosquitto_sub", version, &[&will[..], &["-C", "2"]].concat());
        let mut speaker = running.client("speaker").await;
        let subscribed = async {
            while speaker.publish("hold", Bytes::from_static(b"x"), false).await.unwrap() != AckReason::Success {}
        };
        timeout(PATIENCE, subscribed).await.unwrap();
        doomed.kill().await.unwrap();
        let message = timeout(PATIENCE, client.next_message()).await.unwrap().unwrap();
        assert_eq!((message.topic.as_str(), &message.payload[..]), ("will", &b"gone"[..]));
    }
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_password_is_said_plainly_and_the_right_one_lets_in() {
    let login = Some(("viewer".to_owned(), "right".to_owned()));
    let running = Running::start(Settings { login, ..Settings::default() }).await;
    let with = |password: &str| Credentials { username: "viewer".to_owned(), password: password.to_owned() };
    let fault = Client::connect(&running.target(), "a", Some(&with("wrong"))).await.unwrap_err();
    assert_eq!(fault.kind, LinkFaultKind::Refused);
    assert_eq!(
        fault.detail,
        "the broker refuses the user name or password: check mqtt.username and mqtt.password_file"
    );
    let client = Client::connect(&running.target(), "a", Some(&with("right"))).await.unwrap();
    assert_eq!(client.version(), Version::V5);
    running.stop().await;
}

#[tokio::test]
async fn a_cut_drops_everyone_and_keeps_the_sessions() {
    let running = Running::start(Settings::default()).await;
    let mut client = running.client("viewer").await;
    client.subscribe(&["#"]).await.unwrap();
    let keep = ["-V", "5", "-c", "-i", "gw", "-x", "3600", "-q", "1", "-t", "later"];
    ended(running.tool("mosquitto_sub", "5", &[&keep[2..], &["-E"]].concat())).await;

    // For longer than the test takes, however busy the machine is: it is ended by another.
    running.control.send(Control::Cut(Duration::from_secs(3600))).await.unwrap();
    let fault = timeout(PATIENCE, client.next_message()).await.unwrap().unwrap_err();
    assert_eq!(fault.kind, LinkFaultKind::Server, "{fault:?}");
    let fault = Client::connect(&running.target(), "viewer", None).await.unwrap_err();
    assert_eq!(fault.kind, LinkFaultKind::Server, "{fault:?}");

    running.control.send(Control::Cut(Duration::ZERO)).await.unwrap();
    let back = async {
        loop {
            if let Ok(client) = Client::connect(&running.target(), "viewer", None).await {
                return client;
            }
        }
    };
    let mut client = timeout(PATIENCE, back).await.unwrap();
    let reason = client.publish("later", Bytes::from_static(b"x"), false).await.unwrap();
    assert_eq!(reason, AckReason::Success, "the kept session of gw is still subscribed");
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_resumes_gets_what_it_missed() {
    let running = Running::start(Settings::default()).await;
    let resume = async || Client::resume(&running.target(), "viewer", None, PATIENCE).await.unwrap();
    let mut viewer = resume().await;
    viewer.subscribe(&["missed"]).await.unwrap();
    drop(viewer);
    running.client("speaker").await.publish("missed", Bytes::from_static(b"x"), false).await.unwrap();
    let message = timeout(PATIENCE, resume().await.next_message()).await.unwrap().unwrap();
    assert_eq!(message.topic, "missed");
    running.stop().await;
}

#[tokio::test]
async fn a_guest_that_never_reads_is_cut_off_and_the_others_are_served() {
    let running = Running::start(Settings::default()).await;
    let mut deaf = TcpStream::connect(running.address).await.unwrap();
    let connect: &[u8] = &[0x10, 16, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 4, b'd', b'e', b'a', b'f'];
    deaf.write_all(connect).await.unwrap();
    deaf.write_all(&[0x82, 6, 0, 1, 0, 1, b'#', 0]).await.unwrap();
    let mut answers = [0; 9];
    deaf.read_exact(&mut answers).await.unwrap();
    assert_eq!(answers[..4], [0x20, 2, 0, 0]);

    let mut client = running.client("speaker").await;
    let body = Bytes::from(vec![0; 200_000]);
    let cut_off = async { while client.publish("flood", body.clone(), false).await.unwrap() == AckReason::Success {} };
    timeout(Duration::from_secs(60), cut_off).await.expect("the deaf guest is still subscribed");
    running.stop().await;
}

#[tokio::test]
async fn garbage_from_a_guest_harms_nobody_else() {
    let running = Running::start(Settings::default()).await;
    let mut client = running.client("bystander").await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x10, 0xff, 0xff, 0xff, 0xff, 0xff], &[0xf0; 64]] {
        let mut guest = TcpStream::connect(running.address).await.unwrap();
        guest.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        // Closed, whether by an end or by a reset.
        let _ = timeout(PATIENCE, guest.read_to_end(&mut rest)).await.expect("still open");
        assert!(rest.is_empty());
    }
    assert_eq!(client.publish("t", Bytes::new(), false).await.unwrap(), AckReason::NoMatchingSubscribers);
    running.stop().await;
}

#[test]
fn a_failed_accept_is_tried_again_after_a_pause_unless_there_is_nothing_to_accept_on() {
    let after = |errno: Errno| pause_after(io::Error::from(errno)).ok();
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::HOSTUNREACH] {
        assert_eq!(after(errno), Some(ACCEPT_PAUSE), "{errno}");
    }
    assert_eq!(after(Errno::CONNABORTED), Some(Duration::ZERO));
    assert_eq!(after(Errno::NOTSOCK), None);
}
