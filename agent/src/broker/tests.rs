use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::engine::packet::Properties;

/// A broker and the packets that it sent, per connection.
struct World {
    broker: Broker,
    now: Mono,
    sent: BTreeMap<ConnId, Vec<Packet>>,
    closed: Vec<ConnId>,
}

impl World {
    fn new(settings: Settings) -> Self {
        Self { broker: Broker::new(settings), now: Mono(0), sent: BTreeMap::new(), closed: Vec::new() }
    }

    fn settle(&mut self) {
        while let Some((conn, output)) = self.broker.poll_output() {
            match output {
                BrokerOutput::Packet(packet) => self.sent.entry(conn).or_default().push(packet),
                BrokerOutput::Close => self.closed.push(conn),
            }
        }
    }

    fn connect(&mut self, conn: u64, connect: Connect) -> ConnAck {
        self.broker.connected(self.now, ConnId(conn));
        self.give(conn, Packet::Connect(Box::new(connect)));
        let sent = self.sent.entry(ConnId(conn)).or_default();
        let Packet::ConnAck(ack) = sent.remove(0) else { panic!("{sent:?}") };
        ack
    }

    fn give(&mut self, conn: u64, packet: Packet) {
        self.broker.receive(self.now, ConnId(conn), packet);
        self.settle();
    }

    fn subscribe(&mut self, conn: u64, filter: &str) {
        self.subscribe_with(conn, filter, 0);
    }

    fn subscribe_with(&mut self, conn: u64, filter: &str, options: u8) {
        self.give(
            conn,
            Packet::Subscribe { pkid: 1, filters: vec![(filter.to_owned(), 1 | options)], identifier: None },
        );
        let sent = self.sent.entry(ConnId(conn)).or_default();
        let Packet::SubAck { granted, .. } = sent.remove(0) else { panic!("{sent:?}") };
        assert_eq!(granted, [Ok(1)], "{filter}");
    }

    fn lose(&mut self, conn: u64) {
        self.broker.disconnected(self.now, ConnId(conn), false);
        self.settle();
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.broker.wake(self.now);
        self.settle();
    }

    fn take(&mut self, conn: u64) -> Vec<Packet> {
        self.sent.remove(&ConnId(conn)).unwrap_or_default()
    }

    /// The publishes that went to a connection: topic, payload, packet id, dup.
    fn published(&mut self, conn: u64) -> Vec<(String, String, u16, bool)> {
        self.take(conn)
            .into_iter()
            .filter_map(|packet| match packet {
                Packet::Publish(p) => Some((p.topic, String::from_utf8(p.payload.to_vec()).unwrap(), p.pkid, p.dup)),
                _ => None,
            })
            .collect()
    }
}

fn client(id: &str) -> Connect {
    Connect {
        version: Version::V5,
        client_id: id.to_owned(),
        clean_start: true,
        keep_alive_s: 30,
        username: None,
        password: None,
        will: None,
        will_delay_s: 0,
        session_expiry_s: 0,
        packet_max: u32::MAX,
        receive_max: u16::MAX,
    }
}

fn keeping(id: &str, expiry_s: u32) -> Connect {
    Connect { clean_start: false, session_expiry_s: expiry_s, ..client(id) }
}

fn message(topic: &str, payload: &str, qos: u8, pkid: u16) -> Publish {
    Publish {
        topic: topic.to_owned(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        dup: false,
        pkid,
        properties: None,
    }
}

fn publish(topic: &str, payload: &str, pkid: u16) -> Packet {
    Packet::Publish(message(topic, payload, 1, pkid))
}

fn ack(pkid: u16) -> Packet {
    Packet::PubAck { pkid, reason: AckReason::Success }
}

fn got(topic: &str, payload: &str, pkid: u16, dup: bool) -> (String, String, u16, bool) {
    (topic.to_owned(), payload.to_owned(), pkid, dup)
}

#[test]
fn a_second_connection_with_the_same_id_takes_over_and_the_first_one_s_will_is_published() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("watcher"));
    world.subscribe(1, "will/#");
    world.connect(2, Connect { will: Some(message("will/gw", "lost", 1, 0)), ..client("gw") });
    world.connect(3, client("gw"));

    assert_eq!(world.take(2), [Packet::Disconnect { reason: "session taken over".to_owned(), session_expiry_s: None }]);
    assert_eq!(world.closed, [ConnId(2)]);
    assert_eq!(world.published(1), [got("will/gw", "lost", 1, false)]);
    world.give(3, Packet::PingReq);
    assert_eq!(world.take(3), [Packet::PingResp]);
}

#[test]
fn the_will_is_published_on_loss_and_on_silence_but_not_on_goodbye() {
    let mut world = World::new(Settings::default());
    world.connect(1, Connect { keep_alive_s: 0, ..client("watcher") });
    world.subscribe(1, "will");
    let with_will = || Connect { will: Some(message("will", "x", 1, 0)), ..client("gw") };

    world.connect(2, with_will());
    world.give(2, Packet::Disconnect { reason: "normal".to_owned(), session_expiry_s: None });
    assert_eq!(world.published(1), []);

    world.connect(3, with_will());
    world.lose(3);
    assert_eq!(world.published(1), [got("will", "x", 1, false)]);

    world.connect(4, with_will());
    world.wait(Duration::from_millis(44_999));
    assert_eq!(world.published(1), []);
    assert_eq!(world.broker.poll_deadline(), Some(Mono(45_000)));
    world.wait(Duration::from_millis(1));
    assert_eq!(world.published(1), [got("will", "x", 2, false)]);
    assert_eq!(world.take(4), [Packet::Disconnect { reason: "keep alive timeout".to_owned(), session_expiry_s: None }]);
}

#[test]
fn a_ping_in_time_keeps_a_connection() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("gw"));
    world.wait(Duration::from_secs(40));
    world.give(1, Packet::PingReq);
    world.wait(Duration::from_secs(40));
    assert_eq!((world.take(1), world.closed), (vec![Packet::PingResp], vec![]));
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let mut world = World::new(Settings::default());
    world.broker.connected(world.now, ConnId(1));
    world.wait(CONNECT_TIMEOUT);
    assert_eq!(world.closed, [ConnId(1)]);
    assert_eq!(world.broker.poll_deadline(), None);
}

#[test]
fn a_retained_message_reaches_a_later_subscriber_until_it_is_emptied() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("gw"));
    let retained = |payload| Packet::Publish(Publish { retain: true, ..message("p/online", payload, 1, 1) });
    world.give(1, retained("yes"));
    world.connect(2, client("early"));
    world.subscribe(2, "p/+");
    let sent = world.take(2);
    assert!(matches!(&sent[..], [Packet::Publish(p)] if p.retain && p.payload == "yes"), "{sent:?}");

    world.give(1, retained("no"));
    let sent = world.take(2);
    assert!(matches!(&sent[..], [Packet::Publish(p)] if !p.retain && p.payload == "no"), "{sent:?}");

    world.give(1, retained(""));
    world.connect(3, client("late"));
    world.subscribe(3, "#");
    assert_eq!(world.published(3), []);
}

#[test]
fn what_was_not_acknowledged_comes_again_with_dup_before_what_waited() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("cloud"));
    world.connect(2, keeping("gw", 3600));
    world.subscribe(2, "c");
    world.give(1, publish("c", "one", 1));
    world.give(1, publish("c", "two", 2));
    assert_eq!(world.published(2), [got("c", "one", 1, false), got("c", "two", 2, false)]);
    world.give(2, ack(1));
    world.lose(2);
    world.give(1, publish("c", "three", 3));

    assert!(world.connect(3, keeping("gw", 3600)).session_present);
    assert_eq!(world.published(3), [got("c", "two", 2, true), got("c", "three", 3, false)]);
    assert_eq!(world.broker.counts().redelivered, 1);
}

#[test]
fn a_session_ends_when_it_expires_and_by_a_clean_start() {
    let mut world = World::new(Settings::default());
    world.connect(1, keeping("gw", 60));
    world.lose(1);
    world.wait(Duration::from_secs(59));
    assert!(world.connect(2, keeping("gw", 60)).session_present);
    world.lose(2);
    world.wait(Duration::from_secs(60));
    assert!(!world.connect(3, keeping("gw", u32::MAX)).session_present);
    world.lose(3);
    world.wait(Duration::from_secs(1_000_000));
    assert!(world.connect(4, keeping("gw", u32::MAX)).session_present);
    world.lose(4);
    assert!(!world.connect(5, Connect { clean_start: true, ..keeping("gw", 60) }).session_present);
}

#[test]
fn at_most_a_window_is_in_flight_and_an_acknowledgement_lets_the_next_go() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("cloud"));
    world.connect(2, client("gw"));
    world.subscribe(2, "c");
    for pkid in 1..=30 {
        world.give(1, publish("c", &pkid.to_string(), pkid));
    }
    assert_eq!(world.published(2).len(), INFLIGHT_MAX);
    world.give(2, ack(7));
    assert_eq!(world.published(2), [got("c", "21", 21, false)]);
}

#[test]
fn a_full_queue_drops_what_comes_and_counts_it() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("cloud"));
    world.connect(2, keeping("gw", 3600));
    world.subscribe(2, "c");
    world.lose(2);
    for _ in 0..QUEUE_MAX + 5 {
        world.give(1, publish("c", "x", 1));
    }
    assert_eq!(world.broker.counts().dropped_queue_full, 5);
}

#[test]
fn a_message_larger_than_the_subscriber_takes_is_dropped_and_counted() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("cloud"));
    world.connect(2, Connect { packet_max: 100, ..client("gw") });
    world.subscribe(2, "c");
    world.give(1, publish("c", &"x".repeat(100), 1));
    world.give(1, publish("c", "small", 2));
    assert_eq!(world.published(2), [got("c", "small", 1, false)]);
    assert_eq!(world.broker.counts().dropped_too_large, 1);
}

#[test]
fn a_subscriber_gets_no_more_at_a_time_than_it_takes() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("cloud"));
    world.connect(2, Connect { receive_max: 2, ..client("gw") });
    world.subscribe(2, "c");
    for pkid in 1..=3 {
        world.give(1, publish("c", "x", pkid));
    }
    let first = world.published(2);
    assert_eq!(first, [got("c", "x", 1, false), got("c", "x", 2, false)]);
    world.give(2, Packet::PubAck { pkid: 1, reason: AckReason::Success });
    assert_eq!(world.published(2), [got("c", "x", 3, false)]);
}

#[test]
fn qos_2_from_a_guest_is_handed_on_once_as_qos_1() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("guest"));
    world.connect(2, client("gw"));
    world.subscribe(2, "c");
    let exactly = |dup| Packet::Publish(Publish { dup, ..message("c", "x", 2, 9) });
    world.give(1, exactly(false));
    world.give(1, exactly(true));
    world.give(1, Packet::PubRel { pkid: 9 });
    let rec = Packet::PubRec { pkid: 9 };
    assert_eq!(world.take(1), [rec.clone(), rec, Packet::PubComp { pkid: 9 }]);
    assert_eq!(world.published(2), [got("c", "x", 1, false)]);
}

#[test]
fn a_publish_that_nobody_wants_says_so() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("gw"));
    world.give(1, publish("t", "x", 4));
    assert_eq!(world.take(1), [Packet::PubAck { pkid: 4, reason: AckReason::NoMatchingSubscribers }]);
}

#[test]
fn a_wrong_password_is_refused_and_closed() {
    let mut world = World::new(Settings { login: Some(("u".to_owned(), "right".to_owned())), ..Settings::default() });
    let with = |password: &str| Connect {
        username: Some("u".to_owned()),
        password: Some(password.to_owned()),
        ..client("gw")
    };
    assert_eq!(world.connect(1, with("wrong")).code, ConnectCode::BadCredentials);
    assert_eq!(world.connect(2, client("gw")).code, ConnectCode::BadCredentials);
    assert_eq!(world.closed, [ConnId(1), ConnId(2)]);
    assert_eq!(world.connect(3, with("right")).code, ConnectCode::Success);
}

#[test]
fn nonsense_closes_only_the_connection_that_talks_it() {
    let mut world = World::new(Settings::default());
    let oversize = Packet::Oversize { pkid: 1, topic: "t".to_owned(), len: 9 };
    let cases = [
        (publish("a/+/b", "x", 1), "topic name invalid"),
        (publish("", "x", 1), "topic name invalid"),
        (Packet::PingResp, "protocol error"),
        (Packet::Connect(Box::new(client("twice"))), "protocol error"),
        (oversize, "packet too large"),
    ];
    world.connect(100, client("bystander"));
    for (conn, (packet, reason)) in (1..).zip(cases) {
        world.connect(conn, client(&format!("guest-{conn}")));
        world.give(conn, packet);
        assert_eq!(world.take(conn), [Packet::Disconnect { reason: reason.to_owned(), session_expiry_s: None }]);
        assert_eq!(world.closed.pop(), Some(ConnId(conn)));
    }
    world.give(100, Packet::PingReq);
    assert_eq!(world.take(100), [Packet::PingResp]);
}

#[test]
fn more_sessions_than_the_bound_are_refused() {
    let mut world = World::new(Settings::default());
    for conn in 0..SESSIONS_MAX as u64 {
        assert_eq!(world.connect(conn, client(&format!("c{conn}"))).code, ConnectCode::Success);
    }
    assert_eq!(world.connect(9999, client("one more")).code, ConnectCode::ServerUnavailable);
    assert_eq!(world.broker.counts().refused, 1);
}

#[test]
fn where_there_is_no_room_the_session_that_was_away_for_longest_goes() {
    let mut world = World::new(Settings::default());
    for conn in 0..SESSIONS_MAX as u64 {
        world.connect(conn, keeping(&format!("c{conn}"), u32::MAX));
    }
    for conn in [7, 3, 5] {
        world.lose(conn);
        world.wait(Duration::from_secs(1));
    }
    assert_eq!(world.connect(1000, client("one more")).code, ConnectCode::Success);
    assert_eq!((world.broker.counts().evicted_sessions, world.broker.counts().refused), (1, 0));
    for conn in [3, 5] {
        let again = world.connect(2000 + conn, keeping(&format!("c{conn}"), u32::MAX));
        assert!(again.session_present, "c{conn}");
    }
    assert_eq!(world.connect(3000, client("c7")).code, ConnectCode::ServerUnavailable, "all are in use");
}

#[test]
fn overlapping_subscriptions_deliver_once_and_an_unsubscribe_ends_it() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("gw"));
    world.subscribe(1, "a/#");
    world.subscribe(1, "a/+");
    world.give(1, publish("a/b", "x", 1));
    assert_eq!(world.published(1).len(), 1);
    let filters = ["a/#", "a/+", "b"].map(str::to_owned).to_vec();
    world.give(1, Packet::Unsubscribe { pkid: 2, filters });
    assert_eq!(world.take(1), [Packet::UnsubAck { pkid: 2, existed: vec![true, true, false] }]);
    world.give(1, publish("a/b", "x", 3));
    assert_eq!(world.published(1), []);
}

#[test]
fn filters_match_as_section_4_7_says() {
    let matching = [
        ("#", "a/b"),
        ("a/#", "a"),
        ("a/#", "a/b/c"),
        ("a/+/c", "a/b/c"),
        ("+/+", "/a"),
        ("/+", "/a"),
        ("$SYS/#", "$SYS/x"),
        ("ü/+", "ü/ö"),
    ];
    let others =
        [("a/+", "a"), ("a/+", "a/b/c"), ("+", "/a"), ("a/b", "a/bc"), ("#", "$SYS/x"), ("+/x", "$SYS/x"), ("a", "a/")];
    for (filter, name) in matching {
        assert!(topic::matches(filter, name), "{filter} should match {name}");
    }
    for (filter, name) in others {
        assert!(!topic::matches(filter, name), "{filter} should not match {name}");
    }
    for filter in ["", "a#", "#/a", "a/b+", "a/#/b", "$share/g/a"] {
        assert!(!topic::is_filter(filter), "{filter:?} should be refused");
    }
}

#[test]
fn what_a_message_says_beside_its_body_is_handed_on_unaltered_live_kept_and_as_a_will() {
    let properties = Some(Arc::new(Properties {
        expiry_s: None,
        payload_format: Some(1),
        response_topic: Some("answers/1".to_owned()),
        correlation_data: Some(Bytes::from_static(b"\x00\x01")),
        content_type: Some("text/plain".to_owned()),
        user: vec![("k".to_owned(), "1".to_owned()), ("k".to_owned(), "2".to_owned())],
    }));
    let with = |topic: &str, pkid| Publish { properties: properties.clone(), ..message(topic, "x", 1, pkid) };
    let mut world = World::new(Settings::default());
    world.connect(1, client("watcher"));
    world.subscribe(1, "#");
    world.connect(2, Connect { will: Some(with("will", 0)), ..client("gw") });
    world.give(2, Packet::Publish(Publish { retain: true, ..with("kept", 1) }));
    world.lose(2);
    world.connect(3, client("late"));
    world.subscribe(3, "kept");
    for conn in [1, 1, 3] {
        let sent = world.sent.entry(ConnId(conn)).or_default();
        let Packet::Publish(publish) = sent.remove(0) else { panic!("{sent:?}") };
        assert_eq!(publish.properties, properties, "{}", publish.topic);
    }
}

const NO_LOCAL: u8 = 4;
const AS_PUBLISHED: u8 = 8;
const RETAINED_IF_NEW: u8 = 0x10;
const RETAINED_NEVER: u8 = 0x20;

#[test]
fn a_subscriber_that_wants_nothing_of_its_own_gets_what_others_publish_only() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("gw"));
    world.connect(2, client("other"));
    world.give(1, Packet::Publish(Publish { retain: true, ..message("t", "kept", 0, 0) }));
    world.subscribe_with(1, "t", NO_LOCAL);
    world.give(1, publish("t", "mine", 2));
    world.give(2, publish("t", "theirs", 3));
    assert_eq!(world.published(1), [got("t", "theirs", 1, false)]);

    world.subscribe(1, "#");
    world.take(1);
    world.give(1, publish("t", "mine", 2));
    assert_eq!(world.published(1).len(), 1, "the other subscription has no such wish");
}

#[test]
fn the_retain_flag_goes_on_as_published_where_that_is_asked_for() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("gw"));
    world.connect(2, client("bridge"));
    world.subscribe_with(2, "t", AS_PUBLISHED);
    for retain in [true, false] {
        world.give(1, Packet::Publish(Publish { retain, ..message("t", "x", 1, 1) }));
        let sent = world.take(2);
        assert!(matches!(&sent[..], [Packet::Publish(p)] if p.retain == retain), "{retain}: {sent:?}");
    }
}

#[test]
fn retained_messages_are_sent_at_each_subscription_or_at_a_new_one_or_never_as_asked() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("gw"));
    world.give(1, Packet::Publish(Publish { retain: true, ..message("t", "x", 0, 0) }));
    for (conn, options, first, again) in [(2, 0, 1, 1), (3, RETAINED_IF_NEW, 1, 0), (4, RETAINED_NEVER, 0, 0)] {
        world.connect(conn, client(&format!("c{conn}")));
        for expected in [first, again] {
            world.subscribe_with(conn, "t", options);
            assert_eq!(world.published(conn).len(), expected, "options {options:#x}");
        }
    }
}

#[test]
fn a_will_that_could_not_be_published_is_refused_when_it_is_left() {
    let mut world = World::new(Settings::default());
    for (conn, topic) in (1..).zip(["", "a/#", "+", "a\0b"]) {
        let will = Some(Publish { retain: true, ..message(topic, "x", 1, 0) });
        let ack = world.connect(conn, Connect { will: will.clone(), ..client("gw") });
        assert_eq!(ack.code, ConnectCode::WillTopicInvalid, "{topic:?}");
        let (old, connect) = (conn + 100, Connect { version: Version::V311, will, ..client("gw") });
        world.broker.connected(world.now, ConnId(old));
        world.give(old, Packet::Connect(Box::new(connect)));
        assert_eq!(world.take(old), [], "{topic:?}");
        assert_eq!(world.closed.split_off(0), [ConnId(conn), ConnId(old)], "{topic:?}");
    }
    assert_eq!((world.broker.retained.len(), world.broker.counts().refused), (0, 8));
}

fn goodbye(reason: &str, session_expiry_s: Option<u32>) -> Packet {
    Packet::Disconnect { reason: reason.to_owned(), session_expiry_s }
}

#[test]
fn a_goodbye_says_how_long_the_session_is_kept_from_then_on() {
    let mut world = World::new(Settings::default());
    world.connect(1, keeping("gw", 3600));
    world.give(1, goodbye("normal", Some(0)));
    assert!(!world.connect(2, keeping("gw", 60)).session_present, "it was to be forgotten");
    world.give(2, goodbye("normal", Some(3600)));
    world.wait(Duration::from_secs(61));
    assert!(world.connect(3, keeping("gw", 60)).session_present, "it was to be kept for longer");

    world.connect(4, client("guest"));
    world.give(4, goodbye("normal", Some(1)));
    assert_eq!(world.take(4), [goodbye("protocol error", None)]);
}

#[test]
fn a_goodbye_with_a_word_to_it_discards_the_will_too() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("watcher"));
    world.subscribe(1, "will");
    for (conn, reason, wills) in [(2, "normal: going home", 0), (3, "with will: going home", 1)] {
        world.connect(conn, Connect { will: Some(message("will", "x", 1, 0)), ..client("gw") });
        world.give(conn, goodbye(reason, None));
        assert_eq!(world.published(1).len(), wills, "{reason}");
    }
}

#[test]
fn a_will_with_a_delay_waits_for_its_client_and_no_longer_than_its_session() {
    let mut world = World::new(Settings::default());
    world.connect(1, Connect { keep_alive_s: 0, ..client("watcher") });
    world.subscribe(1, "will");
    let delayed = |expiry_s, delay_s| Connect {
        will: Some(message("will", "x", 1, 0)),
        will_delay_s: delay_s,
        ..keeping("gw", expiry_s)
    };
    for (conn, expiry_s, delay_s, after_s) in [(2, 3600, 10, 10), (3, 5, 10, 5), (4, 0, 10, 0), (5, u32::MAX, 7, 7)] {
        world.connect(conn, delayed(expiry_s, delay_s));
        world.lose(conn);
        if after_s > 0 {
            assert_eq!(world.published(1), [], "{delay_s} s, session {expiry_s} s");
            let left = Duration::from_secs(after_s).checked_sub(Duration::from_millis(1)).unwrap();
            world.wait(left);
            assert_eq!(world.published(1), [], "{delay_s} s, session {expiry_s} s");
            assert_eq!(world.broker.poll_deadline(), Some(world.now.after(Duration::from_millis(1))));
            world.wait(Duration::from_millis(1));
        }
        assert_eq!(world.published(1).len(), 1, "{delay_s} s, session {expiry_s} s");
    }

    world.connect(10, delayed(3600, 10));
    world.lose(10);
    world.connect(11, keeping("gw", 3600));
    world.wait(Duration::from_secs(10));
    assert_eq!(world.published(1), [], "it came back in time");

    world.connect(12, delayed(3600, 10));
    world.lose(12);
    world.connect(13, client("gw"));
    assert_eq!(world.published(1).len(), 1, "the session has ended");
}

/// A message that is of use for `expiry_s`.
fn passing(payload: &str, pkid: u16, expiry_s: u32) -> Publish {
    let properties = Some(Arc::new(Properties { expiry_s: Some(expiry_s), ..Properties::default() }));
    Publish { properties, ..message("t", payload, 1, pkid) }
}

#[test]
fn a_message_whose_time_is_over_is_not_sent_and_one_that_waited_says_what_is_left() {
    let mut world = World::new(Settings::default());
    world.connect(1, Connect { keep_alive_s: 0, ..client("cloud") });
    world.connect(2, keeping("gw", 3600));
    world.subscribe(2, "t");
    world.lose(2);
    world.give(1, Packet::Publish(passing("old", 1, 10)));
    world.give(1, Packet::Publish(Publish { retain: true, ..passing("new", 2, 30) }));
    world.wait(Duration::from_secs(20));
    world.connect(3, keeping("gw", 3600));
    let expected = Publish { pkid: 1, ..passing("new", 1, 10) };
    assert_eq!(world.take(3), [Packet::Publish(expected)]);
    assert_eq!(world.broker.counts().dropped_expired, 1);

    for (conn, waited_s, kept) in [(4, 10, 1), (5, 1, 0)] {
        world.wait(Duration::from_secs(waited_s));
        world.connect(conn, client("late"));
        world.subscribe(conn, "t");
        assert_eq!(world.published(conn).len(), kept, "the retained one");
    }
    assert_eq!(world.broker.retained.len(), 0);
}

#[test]
fn a_connection_that_takes_less_than_the_one_before_it_gets_no_more_than_it_takes() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("cloud"));
    world.connect(2, Connect { receive_max: 4, ..keeping("gw", 3600) });
    world.subscribe(2, "c");
    let large = "x".repeat(100);
    for (pkid, payload) in (1..).zip(["one", &large, "three", "four", &large, "six"]) {
        world.give(1, publish("c", payload, pkid));
    }
    assert_eq!(world.published(2).len(), 4);
    world.lose(2);

    world.connect(3, Connect { receive_max: 2, packet_max: 100, ..keeping("gw", 3600) });
    assert_eq!(world.published(3), [got("c", "one", 1, true), got("c", "three", 3, true)]);
    world.give(3, ack(1));
    assert_eq!(world.published(3), [got("c", "four", 4, true)]);
    world.give(3, ack(3));
    assert_eq!(world.published(3), [got("c", "six", 5, false)]);
    let counts = world.broker.counts();
    assert_eq!((counts.dropped_too_large, counts.redelivered), (2, 3));
}

#[test]
fn a_subscription_that_is_refused_says_why_and_the_others_beside_it_are_granted() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("gw"));
    let filters = ["a", "$share/group/a", "a/#/b"].map(|filter| (filter.to_owned(), 1)).to_vec();
    world.give(1, Packet::Subscribe { pkid: 1, filters: filters.clone(), identifier: None });
    let granted = vec![Ok(1), Err(SubscribeRefusal::SharedNotSupported), Err(SubscribeRefusal::FilterInvalid)];
    assert_eq!(world.take(1), [Packet::SubAck { pkid: 1, granted }]);

    world.give(1, Packet::Subscribe { pkid: 2, filters, identifier: Some(7) });
    let granted = vec![Err(SubscribeRefusal::IdentifierNotSupported); 3];
    assert_eq!(world.take(1), [Packet::SubAck { pkid: 2, granted }]);

    for number in 1..FILTERS_MAX {
        world.subscribe(1, &number.to_string());
    }
    world.give(1, Packet::Subscribe { pkid: 3, filters: vec![("more".to_owned(), 1)], identifier: None });
    let granted = vec![Err(SubscribeRefusal::QuotaExceeded)];
    assert_eq!(world.take(1), [Packet::SubAck { pkid: 3, granted }]);
}

#[test]
fn a_client_without_an_id_is_told_the_one_it_got_which_is_nobody_else_s() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("anonymous-1"));
    let assigned = world.connect(2, client("")).assigned_id;
    assert_eq!(assigned.as_deref(), Some("anonymous-2"));
    assert_eq!(world.connect(3, client("named")).assigned_id, None);
    world.give(1, Packet::PingReq);
    assert_eq!((world.take(1), world.closed), (vec![Packet::PingResp], vec![]), "nobody was thrown out");
}

#[test]
fn no_more_retained_messages_are_kept_than_fit() {
    let mut world = World::new(Settings::default());
    world.connect(1, client("gw"));
    let half = "x".repeat(RETAINED_BYTES_MAX / 2 - 100);
    let mut retain = |topic: &str, payload: &str| {
        world.give(1, Packet::Publish(Publish { retain: true, ..message(topic, payload, 0, 0) }));
    };
    retain("a", &half);
    retain("b", &half);
    retain("c", &half);
    retain("b", "");
    retain("c", &half);
    retain("a", &half.repeat(2));
    for number in 0..RETAINED_MAX {
        retain(&number.to_string(), "x");
    }
    let kept: Vec<_> = world.broker.retained.keys().filter(|topic| topic.starts_with(char::is_alphabetic)).collect();
    assert_eq!(kept, ["c"], "half of the room was left, and what replaced a did not fit");
    assert_eq!((world.broker.retained.len(), world.broker.counts().dropped_retained), (RETAINED_MAX, 3));
    let bytes: usize = world.broker.retained.values().map(|kept| kept.message.len()).sum();
    assert_eq!(world.broker.retained_bytes, bytes);
}
