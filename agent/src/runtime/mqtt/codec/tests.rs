use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::engine::packet::{AckReason, Properties, SubscribeRefusal};

const LIMIT: usize = 64 * 1024;

fn encode(version: Version, packet: &Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    Codec::new(version, LIMIT).encode(packet, &mut bytes).unwrap();
    bytes
}

fn decode_all(codec: &mut Codec, input: &mut BytesMut) -> Vec<Packet> {
    std::iter::from_fn(|| codec.decode(input).unwrap()).collect()
}

fn publish(topic: &str, qos: u8, pkid: u16, payload: Vec<u8>) -> Packet {
    Packet::Publish(Publish {
        topic: topic.to_owned(),
        payload: Bytes::from(payload),
        qos,
        retain: false,
        dup: false,
        pkid,
        properties: None,
    })
}

fn any_properties(version: Version) -> impl Strategy<Value = Option<Arc<Properties>>> {
    let words = || proptest::option::of("[a-zö]{0,12}");
    let user = vec(("[a-z]{0,8}", "[a-zß]{0,8}"), 0..4);
    let data = proptest::option::of(vec(any::<u8>(), 0..20));
    let (expiry, format) = (proptest::option::of(any::<u32>()), proptest::option::of(0_u8..2));
    (expiry, format, words(), data, words(), user).prop_map(
        move |(expiry_s, payload_format, response_topic, data, content_type, user)| {
            let correlation_data = data.map(Bytes::from);
            let properties =
                Properties { expiry_s, payload_format, response_topic, correlation_data, content_type, user };
            (version == Version::V5 && properties != Properties::default()).then(|| Arc::new(properties))
        },
    )
}

fn any_publish(version: Version) -> impl Strategy<Value = Publish> {
    let body = vec(any::<u8>(), 0..600);
    ("[a-zäß/]{1,40}", body, 0_u8..3, any::<bool>(), any::<bool>(), 1_u16.., any_properties(version)).prop_map(
        |(topic, payload, qos, retain, dup, pkid, properties)| Publish {
            topic,
            payload: Bytes::from(payload),
            qos,
            retain,
            dup,
            pkid: if qos == 0 { 0 } else { pkid },
            properties,
        },
    )
}

fn any_connect(version: Version) -> impl Strategy<Value = Connect> {
    let login = (proptest::option::of("[a-z]{1,12}"), proptest::option::of("[a-zÄ!]{1,12}"));
    let will = proptest::option::of((any_publish(version), any::<u32>()));
    let maxima = (1_u32.., 1_u16..);
    ("[A-Za-z0-9:._-]{0,128}", any::<bool>(), any::<u16>(), login, will, any::<u32>(), maxima).prop_map(
        move |(client_id, clean_start, keep_alive_s, (username, password), will, expiry, maxima)| Connect {
            version,
            client_id,
            clean_start,
            keep_alive_s,
            username,
            password,
            will_delay_s: will.as_ref().filter(|_| version == Version::V5).map_or(0, |(_, delay_s)| *delay_s),
            will: will.map(|(will, _)| Publish { dup: false, pkid: 0, ..will }),
            session_expiry_s: match version {
                Version::V5 => expiry,
                Version::V311 if clean_start => 0,
                Version::V311 => u32::MAX,
            },
            packet_max: if version == Version::V5 { maxima.0 } else { u32::MAX },
            receive_max: if version == Version::V5 { maxima.1 } else { u16::MAX },
        },
    )
}

fn any_connack(version: Version) -> impl Strategy<Value = ConnAck> {
    let code = prop_oneof![
        Just(ConnectCode::Success),
        Just(ConnectCode::UnsupportedVersion),
        Just(ConnectCode::BadClientId),
        Just(ConnectCode::BadCredentials),
        Just(ConnectCode::NotAuthorized),
        Just(ConnectCode::ServerUnavailable),
        // 3.1.1 has no code for it.
        Just(if version == Version::V5 { ConnectCode::RetainNotSupported } else { ConnectCode::ServerUnavailable }),
        Just(if version == Version::V5 { ConnectCode::WillTopicInvalid } else { ConnectCode::ServerUnavailable }),
    ];
    let limits =
        (1_u16.., proptest::option::of(any::<u32>()), proptest::option::of(any::<u16>()), 0_u8..3, any::<bool>());
    let id = proptest::option::of("[a-z0-9-]{1,30}");
    (any::<bool>(), code, limits, id).prop_map(move |(session_present, code, limits, id)| {
        let assigned_id = id.filter(|_| version == Version::V5);
        let (receive_max, packet_max, keep_alive_s, qos_max, retains) = match version {
            Version::V5 => limits,
            Version::V311 => (u16::MAX, None, None, 2, true),
        };
        ConnAck { session_present, code, receive_max, packet_max, keep_alive_s, qos_max, retains, assigned_id }
    })
}

fn any_reason(version: Version) -> impl Strategy<Value = AckReason> {
    let all = [
        AckReason::Success,
        AckReason::NoMatchingSubscribers,
        AckReason::NotAuthorized,
        AckReason::TopicNameInvalid,
        AckReason::PayloadFormatInvalid,
        AckReason::TooLarge,
        AckReason::QuotaExceeded,
        AckReason::Other(0x80),
        AckReason::Other(0xff),
    ];
    let known = if version == Version::V5 { all.len() } else { 1 };
    proptest::sample::select(all[..known].to_vec())
}

fn any_farewell(version: Version) -> impl Strategy<Value = String> {
    let words = ["normal", "with will", "session taken over", "keep alive timeout", "packet too large"];
    let known = if version == Version::V5 { words.len() } else { 1 };
    proptest::sample::select(words[..known].to_vec()).prop_map(str::to_owned)
}

fn any_options(version: Version) -> impl Strategy<Value = u8> {
    (0_u8..3, 0_u8..4, 0_u8..3).prop_map(move |(qos, flags, handling)| match version {
        Version::V5 => qos | flags << 2 | handling << 4,
        Version::V311 => qos,
    })
}

fn any_granted(version: Version) -> impl Strategy<Value = Result<u8, SubscribeRefusal>> {
    let all = [
        SubscribeRefusal::Unspecified,
        SubscribeRefusal::FilterInvalid,
        SubscribeRefusal::QuotaExceeded,
        SubscribeRefusal::SharedNotSupported,
        SubscribeRefusal::IdentifierNotSupported,
    ];
    let known = if version == Version::V5 { all.len() } else { 1 };
    prop_oneof![(0_u8..3).prop_map(Ok), proptest::sample::select(all[..known].to_vec()).prop_map(Err)]
}

fn any_packet(version: Version) -> impl Strategy<Value = Packet> {
    let pkid = 1_u16..;
    prop_oneof![
        any_connect(version).prop_map(|connect| Packet::Connect(Box::new(connect))),
        any_connack(version).prop_map(Packet::ConnAck),
        any_publish(version).prop_map(Packet::Publish),
        (pkid.clone(), any_reason(version)).prop_map(|(pkid, reason)| Packet::PubAck { pkid, reason }),
        pkid.clone().prop_map(|pkid| Packet::PubRec { pkid }),
        pkid.clone().prop_map(|pkid| Packet::PubRel { pkid }),
        pkid.clone().prop_map(|pkid| Packet::PubComp { pkid }),
        (pkid.clone(), vec(("[a-z/+#]{1,20}", any_options(version)), 1..8))
            .prop_map(|(pkid, filters)| Packet::Subscribe { pkid, filters, identifier: None }),
        (pkid.clone(), vec(any_granted(version), 1..8)).prop_map(|(pkid, granted)| Packet::SubAck { pkid, granted }),
        (pkid.clone(), vec("[a-z/+#]{1,20}", 1..8)).prop_map(|(pkid, filters)| Packet::Unsubscribe { pkid, filters }),
        (pkid, vec(any::<bool>(), 1..8)).prop_map(move |(pkid, existed)| Packet::UnsubAck {
            pkid,
            existed: if version == Version::V5 { existed } else { Vec::new() },
        }),
        Just(Packet::PingReq),
        Just(Packet::PingResp),
        (any_farewell(version), proptest::option::of(any::<u32>())).prop_map(move |(reason, expiry)| {
            Packet::Disconnect { reason, session_expiry_s: expiry.filter(|_| version == Version::V5) }
        }),
    ]
}

fn any_stream() -> impl Strategy<Value = (Version, Vec<Packet>)> {
    prop_oneof![Just(Version::V311), Just(Version::V5)]
        .prop_flat_map(|version| (Just(version), vec(any_packet(version), 1..12)))
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_to_the_same_in_chunks_of_any_size(
        (version, packets) in any_stream(), chunk in 1_usize..700,
    ) {
        let codec = Codec::new(version, LIMIT);
        let mut wire = BytesMut::new();
        for packet in &packets {
            codec.encode(packet, &mut wire).unwrap();
        }
        let (mut codec, mut input, mut decoded) = (codec, BytesMut::new(), Vec::new());
        for piece in wire.chunks(chunk) {
            input.extend_from_slice(piece);
            decoded.extend(decode_all(&mut codec, &mut input));
        }
        prop_assert_eq!(decoded, packets);
        prop_assert!(input.is_empty());
    }

    #[test]
    fn garbage_ends_in_an_error_or_in_packets_and_never_in_a_panic(
        bytes in vec(any::<u8>(), 0..2000), v5 in any::<bool>(), max in 1_usize..400,
    ) {
        let mut codec = Codec::new(if v5 { Version::V5 } else { Version::V311 }, max);
        let mut input = BytesMut::from(bytes.as_slice());
        while let Ok(Some(_)) = codec.decode(&mut input) {}
    }

    #[test]
    fn a_packet_with_flipped_bits_never_panics(
        (version, packets) in any_stream(), flips in vec((any::<prop::sample::Index>(), 0_u8..8), 1..6),
    ) {
        let mut wire = BytesMut::new();
        for packet in &packets {
            Codec::new(version, LIMIT).encode(packet, &mut wire).unwrap();
        }
        for (at, bit) in flips {
            let at = at.index(wire.len());
            wire[at] ^= 1 << bit;
        }
        let mut codec = Codec::new(version, LIMIT);
        while let Ok(Some(_)) = codec.decode(&mut wire) {}
    }
}

#[test]
fn a_publish_over_the_limit_is_read_past_without_being_kept_and_the_next_packet_is_intact() {
    for version in [Version::V311, Version::V5] {
        let big = encode(version, &publish("fieldmedic/gw/commands", 1, 7, vec![0; 300_000]));
        let mut codec = Codec::new(version, 1024);
        let (mut input, mut decoded, mut most) = (BytesMut::new(), Vec::new(), 0);
        for piece in big.chunks(4096) {
            input.extend_from_slice(piece);
            decoded.extend(decode_all(&mut codec, &mut input));
            most = most.max(input.len());
        }
        input.extend_from_slice(&encode(version, &Packet::PingResp));
        decoded.extend(decode_all(&mut codec, &mut input));

        let topic = "fieldmedic/gw/commands".to_owned();
        assert_eq!(decoded, [Packet::Oversize { pkid: 7, topic, len: big.len() }, Packet::PingResp]);
        assert_eq!(most, 0, "bytes of the oversize packet that were kept");
    }
}

#[test]
fn an_oversize_packet_that_comes_in_single_bytes_is_the_same() {
    let big = encode(Version::V5, &publish("t", 0, 0, vec![1; 200]));
    let mut codec = Codec::new(Version::V5, 100);
    let (mut input, mut decoded) = (BytesMut::new(), Vec::new());
    for byte in &big {
        input.extend_from_slice(&[*byte]);
        decoded.extend(decode_all(&mut codec, &mut input));
    }
    assert_eq!(decoded, [Packet::Oversize { pkid: 0, topic: "t".to_owned(), len: big.len() }]);
}

#[test]
fn a_packet_of_exactly_the_limit_is_taken() {
    let packet = publish("t", 1, 9, vec![1; 100]);
    let mut wire = encode(Version::V311, &packet);
    assert_eq!(Codec::new(Version::V311, wire.len()).decode(&mut wire), Ok(Some(packet)));
}

#[test]
fn the_length_of_a_publish_is_written_in_as_many_bytes_as_it_takes() {
    for version in [Version::V311, Version::V5] {
        let beside_payload = encode(version, &publish("t", 1, 9, Vec::new())).len() - 2;
        for (body, bytes) in [(127, 1), (128, 2), (16_383, 2), (16_384, 3), (2_097_151, 3), (2_097_152, 4)] {
            let packet = publish("t", 1, 9, vec![7; body - beside_payload]);
            let mut wire = encode(version, &packet);
            assert_eq!(wire.len(), 1 + bytes + body);
            assert_eq!(Codec::new(version, wire.len()).decode(&mut wire), Ok(Some(packet)));
        }
    }
}

#[test]
fn any_other_packet_over_the_limit_is_an_error_before_it_is_read() {
    let mut header = BytesMut::from(&[0x90, 0xff, 0xff, 0xff, 0x7f][..]);
    let error = Codec::new(Version::V5, 1024).decode(&mut header).unwrap_err();
    assert_eq!(error.to_string(), "SUBACK packet of 268435460 B, the limit is 1024 B");
}

#[test]
fn a_disconnect_that_can_not_be_read_is_a_disconnect() {
    let cases: [(&[u8], &str); 6] = [
        (&[0xe0, 0], "normal"),
        (&[0xe0, 1, 0x8e], "session taken over"),
        (&[0xe0, 1, 0x77], "reason 119"),
        (&[0xe0, 3, 0x98, 9, 9], "administrative action"),
        (&[0xe0, 4, 0x77, 2, 9, 9], "reason 119"),
        (&[0xe0, 8, 0x87, 6, 31, 0, 3, b'n', b'o', b'!'], "not authorized: no!"),
    ];
    for (bytes, expected) in cases {
        let decoded = Codec::new(Version::V5, LIMIT).decode(&mut BytesMut::from(bytes));
        let Ok(Some(Packet::Disconnect { reason, .. })) = decoded else { panic!("{bytes:x?}: {decoded:?}") };
        assert!(reason.starts_with(expected), "{bytes:x?}: {reason}");
    }
}

#[test]
fn what_a_broker_says_as_it_hangs_up_is_one_line_of_a_bounded_length() {
    let text = format!("moved\x1b[31m\nWARN {}", "x".repeat(1_000));
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    let varint = |n: usize| [0x80 | u8::try_from(n % 128).unwrap(), u8::try_from(n / 128).unwrap()];
    let properties = [&[31][..], &length, text.as_bytes()].concat();
    let body = [&[0x9d][..], &varint(properties.len()), &properties].concat();
    let packet = [&[0xe0][..], &varint(body.len()), &body].concat();
    let decoded = Codec::new(Version::V5, LIMIT).decode(&mut BytesMut::from(&packet[..]));
    let Ok(Some(Packet::Disconnect { reason, .. })) = decoded else { panic!("{decoded:?}") };
    assert!(reason.starts_with("server moved: moved\u{fffd}[31m\u{fffd}WARN xx"), "{reason:?}");
    assert!(reason.len() < 300, "{} B", reason.len());
}

#[test]
fn a_puback_is_read_whatever_its_code_and_whatever_it_says_beside_it() {
    let said = [&[0x40, 16, 0, 7, 0x87, 12][..], b"\x1f\0\x02no", b"\x26\0\x01a\0\x01b"].concat();
    let cases: [(&[u8], AckReason); 9] = [
        (&[0x40, 2, 0, 7], AckReason::Success),
        (&[0x40, 3, 0, 7, 0x10], AckReason::NoMatchingSubscribers),
        (&[0x40, 4, 0, 7, 0x01, 0], AckReason::Success),
        (&[0x40, 3, 0, 7, 0x95], AckReason::TooLarge),
        (&[0x40, 4, 0, 7, 0x96, 0], AckReason::QuotaExceeded),
        (&[0x40, 4, 0, 7, 0x9e, 0], AckReason::Other(0x9e)),
        (&[0x40, 3, 0, 7, 0xff], AckReason::Other(0xff)),
        // A property that the standard doesn't have.
        (&[0x40, 6, 0, 7, 0x97, 2, 0x7d, 1], AckReason::QuotaExceeded),
        (&said, AckReason::NotAuthorized),
    ];
    for (bytes, reason) in cases {
        let decoded = Codec::new(Version::V5, LIMIT).decode(&mut BytesMut::from(bytes));
        assert_eq!(decoded, Ok(Some(Packet::PubAck { pkid: 7, reason })), "{bytes:x?}");
    }
}

#[test]
fn a_subscription_is_granted_or_refused_by_each_of_its_codes_known_or_not() {
    let read = |version, bytes: &[u8]| Codec::new(version, LIMIT).decode(&mut BytesMut::from(bytes));
    let answer = |granted| Ok(Some(Packet::SubAck { pkid: 7, granted }));
    let (refused, later) = (Err(SubscribeRefusal::Unspecified), Err(SubscribeRefusal::QuotaExceeded));
    let of_each = read(Version::V5, &[0x90, 7, 0, 7, 0, 1, 0x87, 0xff, 0x97]);
    assert_eq!(of_each, answer(vec![Ok(1), refused, refused, later]));
    let with_a_property = read(Version::V5, &[0x90, 6, 0, 7, 2, 0x7d, 1, 2]);
    assert_eq!(with_a_property, answer(vec![Ok(2)]));
    let older = read(Version::V311, &[0x90, 5, 0, 7, 0, 0x80, 0x87]);
    assert_eq!(older, answer(vec![Ok(0), refused, refused]));
    let taken_back = read(Version::V5, &[0xb0, 6, 0, 7, 0, 0, 0x11, 0x9f]);
    assert_eq!(taken_back, Ok(Some(Packet::UnsubAck { pkid: 7, existed: vec![true, false, false] })));
}

#[test]
fn a_refused_connection_is_one_whatever_the_code_and_whatever_is_said_beside_it() {
    let cases: [(&[u8], ConnectCode); 5] = [
        (&[0x20, 3, 0, 0x86, 0], ConnectCode::BadCredentials),
        (&[0x20, 2, 0, 0x87], ConnectCode::NotAuthorized),
        (&[0x20, 5, 0, 0x9a, 2, 0x7d, 1], ConnectCode::RetainNotSupported),
        (&[0x20, 3, 0, 0xee, 0], ConnectCode::Other("reason code 0xee".to_owned())),
        (&[0x20, 2, 0, 0xee], ConnectCode::Other("reason code 0xee".to_owned())),
    ];
    for (bytes, expected) in cases {
        let decoded = Codec::new(Version::V5, LIMIT).decode(&mut BytesMut::from(bytes));
        let Ok(Some(Packet::ConnAck(ack))) = decoded else { panic!("{bytes:x?}: {decoded:?}") };
        assert_eq!(ack.code, expected, "{bytes:x?}");
    }
}

#[test]
fn an_old_broker_that_refuses_version_5_in_the_old_form_is_understood() {
    let mut wire = BytesMut::from(&[0x20, 2, 0, 1][..]);
    let decoded = Codec::new(Version::V5, LIMIT).decode(&mut wire);
    let Ok(Some(Packet::ConnAck(ack))) = decoded else { panic!("{decoded:?}") };
    assert_eq!(ack.code, ConnectCode::UnsupportedVersion);
}

#[test]
fn a_body_that_ends_early_is_malformed_and_not_a_wait_for_more() {
    // PUBACK of MQTT 5 whose length of properties never ends.
    let mut wire = BytesMut::from(&[0x40, 4, 0, 1, 0, 0x80][..]);
    let error = Codec::new(Version::V5, LIMIT).decode(&mut wire).unwrap_err();
    assert!(matches!(error, CodecError::Malformed { what: "PUBACK", len: 6, .. }), "{error}");
}

#[test]
fn a_length_of_more_than_four_bytes_is_an_error() {
    let mut wire = BytesMut::from(&[0x30, 0xff, 0xff, 0xff, 0xff, 1][..]);
    assert_eq!(Codec::new(Version::V311, LIMIT).decode(&mut wire), Err(CodecError::Length));
}

#[test]
fn the_first_bytes_tell_the_version() {
    assert_eq!(Codec::for_connect(&[0x10]), Ok(None));
    assert_eq!(Codec::for_connect(&[0x10, 20, 0, 4, b'M', b'Q', b'T']), Ok(None));
    assert_eq!(Codec::for_connect(&[0x10, 20, 0, 4, b'M', b'Q', b'T', b'T', 4]), Ok(Some(Version::V311)));
    assert_eq!(Codec::for_connect(&[0x10, 200, 1, 0, 4, b'M', b'Q', b'T', b'T', 5]), Ok(Some(Version::V5)));
    assert!(Codec::for_connect(&[0x10, 20, 0, 4, b'M', b'Q', b'T', b'T', 3]).is_err());
    assert!(Codec::for_connect(b"GET / HTTP/1.1\r\n").is_err());
}

#[test]
fn a_field_too_long_for_its_length_is_refused_and_nothing_is_written() {
    let packet = publish(&"t".repeat(65_536), 1, 1, Vec::new());
    let mut output = BytesMut::from(&b"before"[..]);
    let error = Codec::new(Version::V5, LIMIT).encode(&packet, &mut output).unwrap_err();
    assert_eq!(error.to_string(), "encode PUBLISH: topic is 65536 B, MQTT's limit is 65535 B");
    assert_eq!(output, b"before"[..]);
}

#[test]
fn a_connect_behind_other_bytes_is_not_torn() {
    let connect = Connect {
        version: Version::V311,
        client_id: "gw-1".to_owned(),
        clean_start: true,
        keep_alive_s: 30,
        username: Some("u".to_owned()),
        password: None,
        will: None,
        will_delay_s: 0,
        session_expiry_s: 0,
        packet_max: u32::MAX,
        receive_max: u16::MAX,
    };
    let mut output = encode(Version::V311, &Packet::PingReq);
    let connect = Packet::Connect(Box::new(connect));
    Codec::new(Version::V311, LIMIT).encode(&connect, &mut output).unwrap();
    let decoded = decode_all(&mut Codec::new(Version::V311, LIMIT), &mut output);
    assert_eq!(decoded, [Packet::PingReq, connect]);
}

#[test]
fn a_subscription_s_identifier_is_seen() {
    let filters = vec![("a/#".to_owned(), 1)];
    let packet = Packet::Subscribe { pkid: 1, filters, identifier: Some(268_435_455) };
    let decoded = Codec::new(Version::V5, LIMIT).decode(&mut encode(Version::V5, &packet));
    assert_eq!(decoded, Ok(Some(packet)));
}

#[test]
fn what_the_broker_does_not_do_is_said_when_it_accepts_a_connection() {
    let ack = read_short_connack(0, 0);
    let wire = encode(Version::V5, &Packet::ConnAck(ack));
    for property in [[41, 0], [42, 0]] {
        assert!(wire.windows(2).any(|window| window == property), "{property:?}: {wire:x?}");
    }
}
