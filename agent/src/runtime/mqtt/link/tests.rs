#![expect(clippy::disallowed_types, reason = "the other end of the socket, and a real broker, are played here")]

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::super::codec::Codec;
use super::super::transport::tests::{Ca, Files, acceptor, url};
use super::*;
use crate::engine::packet::{AckReason, Publish};

const ID: EffectId = EffectId(7);
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A link to a listener, and what it reports.
struct Fixture {
    listener: TcpListener,
    link: LinkHandle,
    events: mpsc::Receiver<LinkEvent>,
}

impl Fixture {
    async fn new(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::new(url(false, "127.0.0.1", port(&listener)), None);
        let (sender, events) = mpsc::channel(8);
        let link = spawn_with(ID, Version::V5, Arc::new(target), sender, limits);
        Self { listener, link, events }
    }

    async fn up(&mut self) -> TcpStream {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        assert_eq!(self.event().await, LinkEvent::Up { id: ID, lookup: None });
        stream
    }

    async fn event(&mut self) -> LinkEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("no event").expect("the link ended without a word")
    }

    async fn down(&mut self) -> LinkFault {
        let event = self.event().await;
        let LinkEvent::Down { id: ID, fault } = event else { panic!("{event:?}") };
        assert_eq!(timeout(PATIENCE, self.events.recv()).await.unwrap(), None, "Down was not the last");
        fault
    }
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().map(|address: SocketAddr| address.port()).unwrap()
}

fn encoded(packets: &[Packet]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for packet in packets {
        Codec::new(Version::V5, PACKET_MAX as usize).encode(packet, &mut bytes).unwrap();
    }
    bytes
}

fn publish(pkid: u16, len: usize) -> Packet {
    let payload = Bytes::from(vec![b'x'; len]);
    Packet::Publish(Publish {
        topic: "t".to_owned(),
        payload,
        qos: 1,
        retain: false,
        dup: false,
        pkid,
        properties: None,
    })
}

#[tokio::test]
async fn packets_go_both_ways_and_the_peer_s_end_is_the_last_word() {
    let mut fixture = Fixture::new(Limits::default()).await;
    let mut peer = fixture.up().await;
    let sent: Vec<Packet> = (1..=50).map(|pkid| publish(pkid, 100)).collect();
    for packet in &sent {
        fixture.link.send(packet.clone()).unwrap();
    }
    let expected = encoded(&sent);
    let mut received = vec![0; expected.len()];
    timeout(PATIENCE, peer.read_exact(&mut received)).await.unwrap().unwrap();
    assert_eq!(received, expected);

    let ack = Packet::PubAck { pkid: 3, reason: AckReason::Success };
    peer.write_all(&encoded(&[ack.clone(), Packet::PingResp])).await.unwrap();
    assert_eq!(fixture.event().await, LinkEvent::Packet { id: ID, packet: ack });
    assert_eq!(fixture.event().await, LinkEvent::Packet { id: ID, packet: Packet::PingResp });
    drop(peer);
    assert_eq!(fixture.down().await.kind, LinkFaultKind::Server);
}

#[tokio::test]
async fn a_peer_that_never_reads_is_a_stalled_link_and_what_it_says_still_arrives() {
    let limits = Limits { stall: Duration::from_millis(300), ..Limits::default() };
    let mut fixture = Fixture::new(limits).await;
    let mut peer = fixture.up().await;
    // More than both sockets' buffers hold, so that the queue fills.
    let jam = async {
        while fixture.link.send(publish(1, 60_000)).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, jam).await.unwrap();
    assert_eq!(fixture.link.send(Packet::PingReq), Err(Stalled));

    peer.write_all(&encoded(&[Packet::PingResp])).await.unwrap();
    assert_eq!(fixture.event().await, LinkEvent::Packet { id: ID, packet: Packet::PingResp });
    let fault = fixture.down().await;
    assert_eq!(fault.kind, LinkFaultKind::Stalled);
    assert!(fault.detail.contains("for 300ms"), "{}", fault.detail);
}

#[tokio::test]
async fn an_engine_that_takes_no_packets_does_not_stop_writes() {
    let mut fixture = Fixture::new(Limits::default()).await;
    let mut peer = fixture.up().await;
    let flood = encoded(&vec![Packet::PingResp; 500]);
    peer.write_all(&flood).await.unwrap();
    fixture.link.send(Packet::PingReq).unwrap();
    let mut received = [0; 2];
    timeout(PATIENCE, peer.read_exact(&mut received)).await.unwrap().unwrap();
    assert_eq!(received, [0xc0, 0]);
    for _ in 0..500 {
        assert_eq!(fixture.event().await, LinkEvent::Packet { id: ID, packet: Packet::PingResp });
    }
}

#[tokio::test]
async fn closing_writes_what_was_queued_and_says_so() {
    let mut fixture = Fixture::new(Limits::default()).await;
    let mut peer = fixture.up().await;
    let goodbye = [
        publish(1, 60_000),
        publish(2, 60_000),
        Packet::Disconnect { reason: "normal".to_owned(), session_expiry_s: None },
    ];
    for packet in &goodbye {
        fixture.link.send(packet.clone()).unwrap();
    }
    fixture.link.close();
    let mut received = Vec::new();
    timeout(PATIENCE, peer.read_to_end(&mut received)).await.unwrap().unwrap();
    assert_eq!(received.len(), encoded(&goodbye).len());
    assert_eq!(fixture.down().await.kind, LinkFaultKind::Local);
    // Its end was told: a packet that comes too late is no news.
    assert_eq!(fixture.link.send(Packet::PingReq), Ok(()));
}

#[tokio::test]
async fn closing_is_not_held_up_by_a_peer_that_does_not_read() {
    let limits = Limits { close: Duration::from_millis(50), ..Limits::default() };
    let mut fixture = Fixture::new(limits).await;
    let _peer = fixture.up().await;
    while fixture.link.send(publish(1, 60_000)).is_ok() {
        tokio::task::yield_now().await;
    }
    fixture.link.close();
    assert_eq!(fixture.down().await.kind, LinkFaultKind::Local);
}

#[tokio::test]
async fn a_peer_that_does_not_speak_mqtt_is_a_fault_of_the_protocol() {
    let mut fixture = Fixture::new(Limits::default()).await;
    let mut peer = fixture.up().await;
    peer.write_all(&[0xf0, 0xff, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    assert_eq!(fixture.down().await.kind, LinkFaultKind::Protocol);
}

#[tokio::test]
async fn an_oversize_publish_becomes_a_notice_and_the_link_lives_on() {
    let mut fixture = Fixture::new(Limits::default()).await;
    let mut peer = fixture.up().await;
    let mut big = BytesMut::new();
    Codec::new(Version::V5, usize::MAX).encode(&publish(9, 10_000_000), &mut big).unwrap();
    let len = big.len();
    big.extend_from_slice(&encoded(&[Packet::PingResp]));
    timeout(PATIENCE, peer.write_all(&big)).await.unwrap().unwrap();
    let packet = Packet::Oversize { pkid: 9, topic: "t".to_owned(), len };
    assert_eq!(fixture.event().await, LinkEvent::Packet { id: ID, packet });
    assert_eq!(fixture.event().await, LinkEvent::Packet { id: ID, packet: Packet::PingResp });
}

#[tokio::test]
async fn dropping_the_handle_cuts_the_connection_without_an_event() {
    let mut fixture = Fixture::new(Limits::default()).await;
    let mut peer = fixture.up().await;
    let Fixture { link, mut events, .. } = fixture;
    drop(link);
    assert_eq!(timeout(PATIENCE, peer.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
    assert_eq!(timeout(PATIENCE, events.recv()).await.unwrap(), None);
}

#[tokio::test]
async fn closing_while_the_handshake_hangs_ends_it_at_once() {
    let files = Files::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::new(url(true, "localhost", port(&listener)), Some(files.trusting(&Ca::new("ours"))));
    let (sender, events) = mpsc::channel(8);
    let link = spawn(ID, Version::V5, Arc::new(target), sender);
    let mut fixture = Fixture { listener, link, events };
    // Accepted, and never answered.
    let _peer = timeout(PATIENCE, fixture.listener.accept()).await.unwrap().unwrap();
    fixture.link.close();
    assert_eq!(fixture.down().await.kind, LinkFaultKind::Local);
}

#[tokio::test]
async fn a_rejected_client_certificate_is_the_reason_although_our_connect_was_on_its_way() {
    let (ca, files) = (Ca::new("ours"), Files::new());
    let acceptor = acceptor(&ca.issue("localhost"), Some(&ca));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = files.with(&Ca::new("stranger").issue("gw-1"), files.trusting(&ca));
    let target = Target::new(url(true, "localhost", port(&listener)), Some(tls));
    let broker = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        assert!(acceptor.accept(tcp).await.is_err());
    });
    let (sender, mut events) = mpsc::channel(8);
    let link = spawn(ID, Version::V5, Arc::new(target), sender);
    let up = timeout(PATIENCE, events.recv()).await.unwrap();
    assert!(matches!(up, Some(LinkEvent::Up { id: ID, lookup: Some(_) })), "localhost is a name: {up:?}");
    link.send(publish(1, 100)).unwrap();
    let event = timeout(PATIENCE, events.recv()).await.unwrap();
    let Some(LinkEvent::Down { fault, .. }) = event else { panic!("{event:?}") };
    assert_eq!(fault.kind, LinkFaultKind::Tls, "{}", fault.detail);
    assert!(fault.detail.contains("rejected this gateway's certificate"), "{}", fault.detail);
    broker.await.unwrap();
}
