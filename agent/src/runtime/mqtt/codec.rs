//! Packets to bytes and back, for MQTT 3.1.1 and 5, in both directions (the broker model uses it too). Framing is done
//! here; the body of a frame is left to rumqttc's packet types, but for what stands before the payload of an outbound
//! PUBLISH: rumqttc can't write that alone. Its one state is an inbound PUBLISH over the limit that is being read past:
//! nothing of it is buffered but the topic. It knows no session, and it must not panic whatever arrives: rumqttc is
//! only ever given one whole frame, so that it can't wait for bytes that won't come.

mod answer;
mod v311;
mod v5;

#[cfg(test)]
mod tests;

use bytes::{Buf, BufMut, BytesMut};

use crate::engine::io::{LinkFault, LinkFaultKind};
use crate::engine::packet::{ConnAck, Connect, ConnectCode, Packet, Publish, Version};

/// The longest string or binary field of MQTT (1.5.3, 1.5.6): its length is a u16. rumqttc cuts it off silently.
const FIELD_MAX: usize = u16::MAX as usize;
/// The longest variable byte integer (1.5.5), and the largest one.
const LENGTH_BYTES_MAX: usize = 4;
const LENGTH_MAX: usize = (1 << (7 * LENGTH_BYTES_MAX)) - 1;

/// Encodes and decodes the packets of one connection.
#[derive(Debug)]
pub struct Codec {
    version: Version,
    packet_max: usize,
    skipping: Option<Skip>,
}

/// An inbound PUBLISH over the limit, of which `left` bytes are still to come.
#[derive(Debug)]
struct Skip {
    left: usize,
    pkid: u16,
    topic: String,
    len: usize,
}

/// Why a packet could not be encoded or decoded. The connection is of no use after a decode error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The frame's length field is longer than MQTT allows.
    #[error(
        "the length of a packet runs over {LENGTH_BYTES_MAX} bytes: the peer does not speak MQTT, or a byte was lost"
    )]
    Length,
    /// Larger than we take.
    #[error("{what} packet of {len} B, the limit is {max} B")]
    TooLarge {
        /// Packet type.
        what: &'static str,
        /// Whole length.
        len: usize,
        /// Limit.
        max: usize,
    },
    /// The frame is whole, but what it holds is not MQTT.
    #[error("{what} packet of {len} B can't be read: {detail}")]
    Malformed {
        /// Packet type.
        what: &'static str,
        /// Whole length.
        len: usize,
        /// What the decoder found.
        detail: String,
    },
    /// The first packet of a connection is not a CONNECT of a version that is spoken here.
    #[error("the first packet is not a CONNECT of MQTT 3.1.1 or 5 ({detail})")]
    NotConnect {
        /// What it is.
        detail: String,
    },
    /// A field of a packet to be sent does not fit.
    #[error("encode {what}: {field} is {len} B, MQTT's limit is {FIELD_MAX} B")]
    FieldTooLong {
        /// Packet type.
        what: &'static str,
        /// Field.
        field: &'static str,
        /// Length.
        len: usize,
    },
    /// A packet to be sent makes no sense.
    #[error("encode {what}: {detail}")]
    Encode {
        /// Packet type.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
}

impl From<CodecError> for LinkFault {
    fn from(error: CodecError) -> Self {
        Self::new(LinkFaultKind::Protocol, error.to_string())
    }
}

impl Codec {
    /// A codec for a connection that speaks `version` and takes packets of at most `packet_max` bytes.
    #[must_use]
    pub const fn new(version: Version, packet_max: usize) -> Self {
        Self { version, packet_max, skipping: None }
    }

    /// The protocol version of a connection, from the first bytes that came in on it: name and level of its CONNECT.
    /// `None`: not enough bytes yet.
    ///
    /// # Errors
    /// [`CodecError::NotConnect`], [`CodecError::Length`]
    pub fn for_connect(input: &[u8]) -> Result<Option<Version>, CodecError> {
        let Some(header) = Header::parse(input)? else { return Ok(None) };
        if header.kind != Kind::Connect {
            return Err(CodecError::NotConnect { detail: format!("it is a {}", header.kind.name()) });
        }
        let Some(start) = input.get(header.len..header.len + 7) else { return Ok(None) };
        match start {
            [0, 4, b'M', b'Q', b'T', b'T', 4] => Ok(Some(Version::V311)),
            [0, 4, b'M', b'Q', b'T', b'T', 5] => Ok(Some(Version::V5)),
            [0, 4, b'M', b'Q', b'T', b'T', level] => {
                Err(CodecError::NotConnect { detail: format!("protocol level {level}") })
            }
            _ => Err(CodecError::NotConnect { detail: "unknown protocol name".to_owned() }),
        }
    }

    /// Appends `packet` to `output`, which is left as it was where that fails.
    ///
    /// # Errors
    /// [`CodecError::FieldTooLong`], [`CodecError::Encode`]
    pub fn encode(&self, packet: &Packet, output: &mut BytesMut) -> Result<(), CodecError> {
        self.encode_head(packet, output)?;
        if let Packet::Publish(publish) = packet {
            output.extend_from_slice(&publish.payload);
        }
        Ok(())
    }

    /// The same without the payload of a publish, which has to come right behind it.
    pub(super) fn encode_head(&self, packet: &Packet, output: &mut BytesMut) -> Result<(), CodecError> {
        check_outgoing(packet)?;
        let start = output.len();
        let written = match self.version {
            Version::V311 => v311::write(packet, output),
            Version::V5 => v5::write(packet, output),
        };
        written.map_err(|detail| {
            output.truncate(start);
            CodecError::Encode { what: packet.name(), detail }
        })
    }

    /// Takes the next packet off `input`; `None`: more bytes are needed.
    ///
    /// # Errors
    /// [`CodecError::Length`], [`CodecError::TooLarge`], [`CodecError::Malformed`]
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Packet>, CodecError> {
        if self.skipping.is_some() {
            return Ok(self.skip(input));
        }
        let Some(header) = Header::parse(input)? else { return Ok(None) };
        let len = header.frame_len();
        if len > self.packet_max {
            return self.refuse(&header, input);
        }
        if input.len() < len {
            input.reserve(len - input.len());
            return Ok(None);
        }
        let frame = input.split_to(len);
        let decoded = match (answer::read(self.version, &header, &frame), self.version) {
            (Some(read), _) => read,
            (None, Version::V311) => v311::read(&header, frame),
            (None, Version::V5) => v5::read(&header, frame),
        };
        decoded.map(Some).map_err(|detail| header.malformed(detail))
    }

    fn refuse(&mut self, header: &Header, input: &mut BytesMut) -> Result<Option<Packet>, CodecError> {
        let len = header.frame_len();
        if header.kind != Kind::Publish {
            return Err(CodecError::TooLarge { what: header.kind.name(), len, max: self.packet_max });
        }
        let Some((topic, pkid)) = header.publish_head(input)? else { return Ok(None) };
        self.skipping = Some(Skip { left: len, pkid, topic, len });
        Ok(self.skip(input))
    }

    fn skip(&mut self, input: &mut BytesMut) -> Option<Packet> {
        let skip = self.skipping.as_mut()?;
        let now = skip.left.min(input.len());
        input.advance(now);
        skip.left -= now;
        if skip.left > 0 {
            return None;
        }
        let Skip { pkid, topic, len, .. } = self.skipping.take()?;
        Some(Packet::Oversize { pkid, topic, len })
    }
}

/// Packet types (2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connect,
    ConnAck,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    SubAck,
    UnsubAck,
    Disconnect,
    Other(u8),
}

impl Kind {
    const fn of(first: u8) -> Self {
        match first >> 4 {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            9 => Self::SubAck,
            11 => Self::UnsubAck,
            14 => Self::Disconnect,
            other => Self::Other(other),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::SubAck => "SUBACK",
            Self::UnsubAck => "UNSUBACK",
            Self::Disconnect => "DISCONNECT",
            Self::Other(8) => "SUBSCRIBE",
            Self::Other(10) => "UNSUBSCRIBE",
            Self::Other(12) => "PINGREQ",
            Self::Other(13) => "PINGRESP",
            Self::Other(15) => "AUTH",
            Self::Other(_) => "reserved",
        }
    }
}

/// Fixed header (2.1.1).
#[derive(Debug)]
struct Header {
    first: u8,
    kind: Kind,
    /// Length of this header.
    len: usize,
    /// Length of what follows.
    body: usize,
}

impl Header {
    fn parse(input: &[u8]) -> Result<Option<Self>, CodecError> {
        let Some((&first, rest)) = input.split_first() else { return Ok(None) };
        let Some((body, len)) = read_length(rest)? else { return Ok(None) };
        Ok(Some(Self { first, kind: Kind::of(first), len: 1 + len, body }))
    }

    const fn frame_len(&self) -> usize {
        self.len + self.body
    }

    fn malformed(&self, detail: String) -> CodecError {
        CodecError::Malformed { what: self.kind.name(), len: self.frame_len(), detail }
    }

    /// Topic and packet id of a PUBLISH that did not come in whole; `None`: not even these are there yet.
    fn publish_head(&self, input: &[u8]) -> Result<Option<(String, u16)>, CodecError> {
        let Some(body) = input.get(self.len..) else { return Ok(None) };
        let Some(topic_len) = read_u16(body, 0) else { return Ok(None) };
        let topic_end = 2 + usize::from(topic_len);
        let has_pkid = self.first & 0b0110 != 0;
        let end = topic_end + if has_pkid { 2 } else { 0 };
        if end > self.body {
            return Err(self.malformed(format!("its topic of {topic_len} B runs over its end")));
        }
        if body.len() < end {
            return Ok(None);
        }
        let topic = body.get(2..topic_end).unwrap_or_default();
        let topic = std::str::from_utf8(topic).map_err(|error| self.malformed(format!("topic: {error}")))?;
        let pkid = if has_pkid { read_u16(body, topic_end).unwrap_or_default() } else { 0 };
        Ok(Some((topic.to_owned(), pkid)))
    }
}

/// A variable byte integer (1.5.5), and how many bytes it takes; `None`: it isn't there yet.
fn read_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, CodecError> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(LENGTH_BYTES_MAX).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= LENGTH_BYTES_MAX { Err(CodecError::Length) } else { Ok(None) }
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

/// A PUBLISH up to its payload (3.3), with its properties as they are encoded, of which 3.1.1 has none.
fn write_publish_head(publish: &Publish, properties: &[u8], output: &mut BytesMut) -> Result<(), String> {
    let Publish { topic, payload, qos, retain, dup, pkid, .. } = publish;
    let pkid = pkid.to_be_bytes();
    let pkid = if *qos > 0 { pkid.as_slice() } else { &[] };
    let body = 2 + topic.len() + pkid.len() + properties.len() + payload.len();
    if body > LENGTH_MAX {
        return Err(format!("it has {body} B, MQTT's limit is {LENGTH_MAX} B"));
    }
    let topic_len = u16::try_from(topic.len()).map_err(|error| error.to_string())?;
    output.put_u8(0x30 | u8::from(*dup) << 3 | qos << 1 | u8::from(*retain));
    write_length(body, output);
    output.put_u16(topic_len);
    for part in [topic.as_bytes(), pkid, properties] {
        output.put_slice(part);
    }
    Ok(())
}

/// A variable byte integer (1.5.5).
fn write_length(mut left: usize, output: &mut BytesMut) {
    loop {
        let [low, ..] = (left & 0x7f).to_le_bytes();
        left >>= 7;
        if left == 0 {
            return output.put_u8(low);
        }
        output.put_u8(0x80 | low);
    }
}

/// A CONNACK of 3.1.1 (3.2): flags and code, no properties. An old broker answers so to a CONNECT of version 5 too.
fn read_short_connack(flags: u8, code: u8) -> ConnAck {
    let code = match code {
        0 => ConnectCode::Success,
        1 => ConnectCode::UnsupportedVersion,
        2 => ConnectCode::BadClientId,
        3 => ConnectCode::ServerUnavailable,
        4 => ConnectCode::BadCredentials,
        5 => ConnectCode::NotAuthorized,
        other => ConnectCode::Other(format!("return code {other}")),
    };
    ConnAck {
        session_present: flags & 1 == 1,
        code,
        receive_max: u16::MAX,
        packet_max: None,
        keep_alive_s: None,
        qos_max: 2,
        retains: true,
        assigned_id: None,
    }
}

/// What rumqttc would write wrongly rather than refuse.
fn check_outgoing(packet: &Packet) -> Result<(), CodecError> {
    let what = packet.name();
    let fits = |field: &'static str, len: usize| {
        if len > FIELD_MAX { Err(CodecError::FieldTooLong { what, field, len }) } else { Ok(()) }
    };
    match packet {
        Packet::Connect(connect) => {
            let Connect { client_id, username, password, will, .. } = connect.as_ref();
            fits("client id", client_id.len())?;
            fits("user name", username.as_ref().map_or(0, String::len))?;
            fits("password", password.as_ref().map_or(0, String::len))?;
            fits("topic of the will", will.as_ref().map_or(0, |will| will.topic.len()))?;
            fits("will", will.as_ref().map_or(0, |will| will.payload.len()))
        }
        Packet::Publish(Publish { topic, qos, pkid, .. }) => {
            if *qos > 2 || (*qos > 0) != (*pkid > 0) {
                let detail = format!("QoS {qos} with packet id {pkid}");
                return Err(CodecError::Encode { what, detail });
            }
            fits("topic", topic.len())
        }
        Packet::Subscribe { filters, .. } => {
            filters.iter().try_for_each(|(filter, _)| fits("topic filter", filter.len()))
        }
        Packet::Unsubscribe { filters, .. } => filters.iter().try_for_each(|filter| fits("topic filter", filter.len())),
        _ => Ok(()),
    }
}
