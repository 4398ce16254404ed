//! MQTT control packets as the session sees them: one shape for 3.1.1 and 5, so that the session and the broker model
//! decide once. Turning them into bytes is the codec's job (`runtime::mqtt::codec`, on rumqttc); nothing here does I/O.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// The largest packet that the agent takes, in bytes; what is longer is read past, and refused. A command is at most
/// half of it, so that one that is too long can still be named.
pub const PACKET_MAX: u32 = 64 * 1024;
/// The largest packet that it announces on MQTT 5, in bytes. It is more than it takes ([`PACKET_MAX`]), so that what
/// lies between reaches it and is refused with a reason; what is longer still the broker keeps back, and nobody answers
/// it. The price is the traffic of reading past it.
pub const PACKET_MAX_ANNOUNCED: u32 = 256 * 1024;
/// Commands that a broker hands us before we have acknowledged the first of them. Each is written to the disk first,
/// and what the broker answers us waits behind them in the connection: with hundreds of them, on a slow disk, longer
/// than an answer may take.
pub const RECEIVE_MAX: u16 = 20;

/// The protocol version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// MQTT 3.1.1 (protocol level 4).
    V311,
    /// MQTT 5 (protocol level 5).
    V5,
}

impl Version {
    /// How it is called: MQTT …
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        }
    }
}

/// A control packet in either direction. QoS 2 is never used by the agent; the broker model speaks it for guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Client to broker: opens a session.
    Connect(Box<Connect>),
    /// Broker to client: accepts or refuses it.
    ConnAck(ConnAck),
    /// Either way: an application message.
    Publish(Publish),
    /// Either way: a QoS 1 message was taken over (or refused, on MQTT 5).
    PubAck {
        /// Packet identifier.
        pkid: u16,
        /// What became of it.
        reason: AckReason,
    },
    /// QoS 2, part 1.
    PubRec {
        /// Packet identifier.
        pkid: u16,
    },
    /// QoS 2, part 2.
    PubRel {
        /// Packet identifier.
        pkid: u16,
    },
    /// QoS 2, part 3.
    PubComp {
        /// Packet identifier.
        pkid: u16,
    },
    /// Client to broker: topic filters with what is wanted of each.
    Subscribe {
        /// Packet identifier.
        pkid: u16,
        /// Filter and options byte (MQTT 5, 3.8.3.1): the QoS, which is all that 3.1.1 has, and above it No Local (4),
        /// Retain As Published (8) and Retain Handling (16, 32).
        filters: Vec<(String, u8)>,
        /// MQTT 5: by what number its messages are to be known.
        identifier: Option<u32>,
    },
    /// Broker to client: the QoS granted per filter, or why it was refused.
    SubAck {
        /// Packet identifier.
        pkid: u16,
        /// In the order of the filters.
        granted: Vec<Result<u8, SubscribeRefusal>>,
    },
    /// Client to broker.
    Unsubscribe {
        /// Packet identifier.
        pkid: u16,
        /// Filters.
        filters: Vec<String>,
    },
    /// Broker to client.
    UnsubAck {
        /// Packet identifier.
        pkid: u16,
        /// Of each filter, whether there was such a subscription; empty in MQTT 3.1.1, which doesn't say.
        existed: Vec<bool>,
    },
    /// Client to broker: are you there.
    PingReq,
    /// Broker to client: yes.
    PingResp,
    /// Either way. From a client without error it discards the will.
    Disconnect {
        /// In words; "normal" where the peer gave none. What it says beside its code follows after ": ".
        reason: String,
        /// MQTT 5, from a client: how long the session is kept from now on, where it changes its mind.
        session_expiry_s: Option<u32>,
    },
    /// Inbound only: a publish whose body was over the limit. It was read past and thrown away, so that one oversize
    /// message costs neither the connection nor the memory.
    Oversize {
        /// Packet identifier; 0 for QoS 0.
        pkid: u16,
        /// Where it was sent.
        topic: String,
        /// Length of the whole packet in bytes.
        len: usize,
    },
}

impl Packet {
    /// Its name in the standard, for messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "CONNECT",
            Self::ConnAck(_) => "CONNACK",
            Self::Publish(_) => "PUBLISH",
            Self::PubAck { .. } => "PUBACK",
            Self::PubRec { .. } => "PUBREC",
            Self::PubRel { .. } => "PUBREL",
            Self::PubComp { .. } => "PUBCOMP",
            Self::Subscribe { .. } => "SUBSCRIBE",
            Self::SubAck { .. } => "SUBACK",
            Self::Unsubscribe { .. } => "UNSUBSCRIBE",
            Self::UnsubAck { .. } => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect { .. } => "DISCONNECT",
            Self::Oversize { .. } => "oversize PUBLISH",
        }
    }
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Which protocol is spoken from here on.
    pub version: Version,
    /// The device id.
    pub client_id: String,
    /// Discard an older session.
    pub clean_start: bool,
    /// Seconds; 0 turns it off.
    pub keep_alive_s: u16,
    /// User name, where there is one.
    pub username: Option<String>,
    /// Password, where there is one.
    pub password: Option<String>,
    /// Published by the broker when the connection is lost.
    pub will: Option<Publish>,
    /// MQTT 5: how long the broker waits with it for us to come back, in seconds.
    pub will_delay_s: u32,
    /// MQTT 5: how long the broker keeps the session, in seconds (3.1.1 keeps it as long as it likes).
    pub session_expiry_s: u32,
    /// MQTT 5: the largest packet that we take.
    pub packet_max: u32,
    /// MQTT 5: how many QoS 1 and 2 publishes we take before we have answered the first of them (3.1.2.11.3).
    pub receive_max: u16,
}

/// CONNACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnAck {
    /// The broker still had our session.
    pub session_present: bool,
    /// Accepted, or why not.
    pub code: ConnectCode,
    /// How many unacknowledged QoS 1 publishes the broker takes; 65535 where it says nothing.
    pub receive_max: u16,
    /// The largest packet that the broker takes; `None`: no limit said.
    pub packet_max: Option<u32>,
    /// The keep-alive that the broker orders instead of ours.
    pub keep_alive_s: Option<u16>,
    /// The broker's limit on QoS (2 where it says nothing).
    pub qos_max: u8,
    /// It keeps retained messages (it does where it says nothing).
    pub retains: bool,
    /// MQTT 5: the client id that it gave to a client which had none.
    pub assigned_id: Option<String>,
}

/// The outcome of CONNECT, in MQTT 5's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectCode {
    /// Connected.
    Success,
    /// The broker doesn't speak this version: try the other one.
    UnsupportedVersion,
    /// Client id refused.
    BadClientId,
    /// Wrong user name or password.
    BadCredentials,
    /// Known, but not allowed.
    NotAuthorized,
    /// The broker can't now.
    ServerUnavailable,
    /// The will is to be retained, and the broker keeps no retained messages.
    RetainNotSupported,
    /// The will is to go where nothing can be published.
    WillTopicInvalid,
    /// Anything else, in the broker's words.
    Other(String),
}

/// What the broker says, for a human. What to do about it depends on who connects.
impl fmt::Display for ConnectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "the broker accepts the connection",
            Self::UnsupportedVersion => "the broker doesn't speak this version of MQTT",
            Self::BadClientId => "the broker refuses the client id",
            Self::BadCredentials => "the broker refuses the user name or password",
            Self::NotAuthorized => "the broker says not authorized",
            Self::ServerUnavailable => "the broker says that it is unavailable",
            Self::RetainNotSupported => "the broker takes no retained will",
            Self::WillTopicInvalid => "the broker refuses the topic of the will",
            Self::Other(words) => return write!(f, "the broker refuses the connection: {words}"),
        })
    }
}

/// Why a subscription is refused, in MQTT 5's words; 3.1.1 says no more than that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribeRefusal {
    /// It is no topic filter.
    FilterInvalid,
    /// There are too many.
    QuotaExceeded,
    /// `$share/…`, which the broker doesn't do.
    SharedNotSupported,
    /// It has an identifier, which the broker doesn't do.
    IdentifierNotSupported,
    /// Not said, or something else.
    Unspecified,
}

/// PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Topic name.
    pub topic: String,
    /// Body.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Kept by the broker for later subscribers.
    pub retain: bool,
    /// May have been seen before.
    pub dup: bool,
    /// Packet identifier; 0 for QoS 0.
    pub pkid: u16,
    /// MQTT 5: what it says beside its body; `None` in all that the agent sends. Shared, because a broker hands one
    /// message to many.
    pub properties: Option<Arc<Properties>>,
}

impl Publish {
    /// Bytes of a packet beside its topic, payload and properties, at most: the fixed header with five, the topic's
    /// length and the packet identifier with two each, and the length of the properties (MQTT 5, 3.3).
    pub const OVERHEAD_MAX: usize = 10;
}

/// Properties of a PUBLISH or a will (MQTT 5, 3.3.2.3), which a broker hands on as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// Message Expiry Interval: for how long it is of use, in seconds; a broker takes off how long it waited there.
    pub expiry_s: Option<u32>,
    /// Payload Format Indicator: 1 for UTF-8.
    pub payload_format: Option<u8>,
    /// Response Topic.
    pub response_topic: Option<String>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// Content Type.
    pub content_type: Option<String>,
    /// User Properties, in their order.
    pub user: Vec<(String, String)>,
}

/// What a PUBACK says. On 3.1.1 it is always `Success`, even for what the broker's ACL denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckReason {
    /// Taken over.
    Success,
    /// Taken over; nobody was subscribed.
    NoMatchingSubscribers,
    /// The broker's ACL denies it.
    NotAuthorized,
    /// The broker refuses the topic.
    TopicNameInvalid,
    /// The broker refuses the payload.
    PayloadFormatInvalid,
    /// It is larger than the broker takes, whatever CONNACK said.
    TooLarge,
    /// Over quota, or too fast: later.
    QuotaExceeded,
    /// Another code that refuses it, and says nothing that could be acted on.
    Other(u8),
}

impl AckReason {
    /// Whether it is taken over.
    #[must_use]
    pub const fn is_taken(self) -> bool {
        matches!(self, Self::Success | Self::NoMatchingSubscribers)
    }

    /// Whether it may be taken another time, as it is.
    #[must_use]
    pub const fn is_for_now(self) -> bool {
        matches!(self, Self::QuotaExceeded | Self::Other(_))
    }

    /// Whether it may be for what is in it, and not for where it was sent, by whom and how often.
    #[must_use]
    pub const fn is_of_the_record(self) -> bool {
        matches!(self, Self::PayloadFormatInvalid | Self::TooLarge | Self::Other(_))
    }
}

/// Why it refuses a publish, for a human.
impl fmt::Display for AckReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::NoMatchingSubscribers => "no matching subscribers",
            Self::NotAuthorized => "not authorized",
            Self::TopicNameInvalid => "topic name invalid",
            Self::PayloadFormatInvalid => "payload format invalid",
            Self::TooLarge => "packet too large",
            Self::QuotaExceeded => "quota exceeded",
            Self::Other(code) => return write!(f, "reason code {code:#04x}"),
        })
    }
}
