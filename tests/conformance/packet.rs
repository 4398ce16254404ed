//! MQTT 3.1.1 and 5 as the standards write it, from the broker's side: a strict reader of what a client may send, and
//! the few packets that a broker sends. Nothing of it is the agent's own codec or the library below it, so that an
//! error which both directions of those share is still found. The reader takes nothing that a broker may close a
//! connection for.

use std::collections::BTreeMap;

/// Protocol level of MQTT 5.
pub const V5: u8 = 5;
/// Protocol level of MQTT 3.1.1.
pub const V311: u8 = 4;
/// PINGRESP (3.13).
pub const PINGRESP: [u8; 2] = [0xd0, 0];
/// Session Expiry Interval, in CONNECT (MQTT 5, 3.1.2.11.2).
pub const SESSION_EXPIRY: u8 = 0x11;
/// Receive Maximum, in CONNECT and CONNACK.
pub const RECEIVE_MAX: u8 = 0x21;
/// Server Keep Alive, in CONNACK.
pub const SERVER_KEEP_ALIVE: u8 = 0x13;
/// Maximum Packet Size, in CONNECT and CONNACK.
pub const PACKET_MAX: u8 = 0x27;

/// What a client may send, the parts of QoS 2 and AUTH left out: the agent never has a reason to send those.
#[derive(Debug, Clone, PartialEq)]
pub enum Packet {
    Connect(Box<Connect>),
    Publish(Publish),
    PubAck { pkid: u16, reason: u8 },
    Subscribe { pkid: u16, filters: Vec<(String, u8)> },
    Unsubscribe { pkid: u16, filters: Vec<String> },
    PingReq,
    Disconnect { reason: u8 },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Connect {
    pub level: u8,
    pub client_id: String,
    pub clean: bool,
    pub keep_alive_s: u16,
    pub will: Option<Publish>,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
    /// Those of MQTT 5 that are numbers, by their identifiers.
    pub properties: BTreeMap<u8, u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub pkid: u16,
}

impl Publish {
    /// The last level of its topic.
    pub fn leaf(&self) -> &str {
        self.topic.rsplit('/').next().unwrap_or_default()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|error| panic!("{}: {error}", self.topic))
    }
}

/// The first packet in `input` and its length; `None` if it isn't there yet.
pub fn read(level: u8, input: &[u8]) -> Result<Option<(Packet, usize)>, String> {
    let Some((&first, rest)) = input.split_first() else { return Ok(None) };
    let mut rest = Reader(rest);
    let body = match rest.varint() {
        Ok(body) => body,
        Err(_) if rest.0.len() < 4 => return Ok(None),
        Err(error) => return Err(error),
    };
    let Ok(body) = rest.take(body as usize) else { return Ok(None) };
    let len = input.len() - rest.0.len();
    let packet = parse(level, first, Reader(body)).map_err(|error| format!("packet type {}: {error}", first >> 4))?;
    Ok(Some((packet, len)))
}

fn parse(level: u8, first: u8, mut body: Reader<'_>) -> Result<Packet, String> {
    let (kind, flags) = (first >> 4, first & 0x0f);
    let wanted = if matches!(kind, 8 | 10) { 2 } else { 0 };
    if kind != 3 && flags != wanted {
        return Err(format!("flags {flags:#x} in the fixed header (2.1.3)"));
    }
    let packet = match kind {
        1 => Packet::Connect(Box::new(connect(&mut body)?)),
        3 => Packet::Publish(publish(level, flags, &mut body)?),
        4 => Packet::PubAck { pkid: body.pkid()?, reason: body.reason(level)? },
        8 => {
            let pkid = body.pkid()?;
            body.properties(level)?;
            let filters = body.list(|body| Ok((body.text()?, body.u8()?)))?;
            if let Some((filter, options)) = filters.iter().find(|(_, options)| *options > 2) {
                return Err(format!("options {options:#x} of the subscription to {filter}"));
            }
            Packet::Subscribe { pkid, filters }
        }
        10 => {
            let pkid = body.pkid()?;
            body.properties(level)?;
            Packet::Unsubscribe { pkid, filters: body.list(Reader::text)? }
        }
        12 => Packet::PingReq,
        14 => Packet::Disconnect { reason: body.reason(level)? },
        other => return Err(format!("type {other} is not for a client like this one")),
    };
    if body.0.is_empty() { Ok(packet) } else { Err(format!("{} bytes after its end", body.0.len())) }
}

fn connect(body: &mut Reader<'_>) -> Result<Connect, String> {
    if body.text()? != "MQTT" {
        return Err("another protocol name".into());
    }
    let level = body.u8()?;
    if !matches!(level, V311 | V5) {
        return Err(format!("protocol level {level}"));
    }
    let flags = body.u8()?;
    let has_will = flags & 0x04 != 0;
    let (qos, retain) = ((flags >> 3) & 3, flags & 0x20 != 0);
    if flags & 1 != 0 || qos > 2 || (!has_will && (qos > 0 || retain)) {
        return Err(format!("connect flags {flags:#x} (3.1.2.3)"));
    }
    let keep_alive_s = body.u16()?;
    let properties = body.properties(level)?;
    let client_id = body.text()?;
    let will = if has_will {
        body.properties(level)?;
        let (topic, payload) = (body.text()?, body.field()?.to_vec());
        Some(Publish { topic, payload, qos, retain, dup: false, pkid: 0 })
    } else {
        None
    };
    let username = if flags & 0x80 != 0 { Some(body.text()?) } else { None };
    let password = if flags & 0x40 != 0 { Some(body.field()?.to_vec()) } else { None };
    Ok(Connect { level, client_id, clean: flags & 2 != 0, keep_alive_s, will, username, password, properties })
}

fn publish(level: u8, flags: u8, body: &mut Reader<'_>) -> Result<Publish, String> {
    let (dup, qos, retain) = (flags & 8 != 0, (flags >> 1) & 3, flags & 1 != 0);
    if qos > 2 || (qos == 0 && dup) {
        return Err(format!("flags {flags:#x} (3.3.1)"));
    }
    let topic = body.text()?;
    if topic.is_empty() || topic.contains(['+', '#']) {
        return Err(format!("topic {topic:?} (3.3.2.1)"));
    }
    let pkid = if qos > 0 { body.pkid()? } else { 0 };
    let properties = body.properties(level)?;
    if properties.contains_key(&0x23) {
        return Err("a topic alias that was never offered".into());
    }
    Ok(Publish { topic, payload: std::mem::take(&mut body.0).to_vec(), qos, retain, dup, pkid })
}

/// What is left of a packet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(format!("{len} bytes wanted of {}", self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().unwrap()))
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().unwrap()))
    }

    /// A variable byte integer (1.5.5), which must not be longer than it need be. On error nothing is taken.
    fn varint(&mut self) -> Result<u32, String> {
        let mut value = 0;
        for (index, byte) in self.0.iter().take(4).enumerate() {
            value |= u32::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                if *byte == 0 && index > 0 {
                    return Err("a length that is longer than it need be".into());
                }
                self.0 = &self.0[index + 1..];
                return Ok(value);
            }
        }
        Err("a length without an end".into())
    }

    fn field(&mut self) -> Result<&'a [u8], String> {
        let len = self.u16()?;
        self.take(len.into())
    }

    /// A UTF-8 string (1.5.4).
    fn text(&mut self) -> Result<String, String> {
        let text = std::str::from_utf8(self.field()?).map_err(|error| error.to_string())?;
        if text.contains('\0') { Err(format!("a null character in {text:?}")) } else { Ok(text.to_owned()) }
    }

    fn pkid(&mut self) -> Result<u16, String> {
        self.u16().and_then(|pkid| if pkid == 0 { Err("packet identifier 0 (2.2.1)".into()) } else { Ok(pkid) })
    }

    /// The reason code that PUBACK and DISCONNECT of MQTT 5 may end with.
    fn reason(&mut self, level: u8) -> Result<u8, String> {
        if level != V5 || self.0.is_empty() {
            return Ok(0);
        }
        let reason = self.u8()?;
        if !self.0.is_empty() {
            self.properties(level)?;
        }
        Ok(reason)
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        let mut items = vec![item(self)?];
        while !self.0.is_empty() {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// The properties of MQTT 5 (2.2.2): none of those that a client may send may come twice but the user property.
    fn properties(&mut self, level: u8) -> Result<BTreeMap<u8, u32>, String> {
        let mut seen = BTreeMap::new();
        if level != V5 {
            return Ok(seen);
        }
        let len = self.varint()?;
        let mut part = Reader(self.take(len as usize)?);
        while !part.0.is_empty() {
            let id = part.u8()?;
            let value = match id {
                0x01 | 0x17 | 0x19 => part.u8()?.into(),
                0x21..=0x23 => part.u16()?.into(),
                0x02 | 0x11 | 0x18 | 0x27 => part.u32()?,
                0x0b => part.varint()?,
                0x03 | 0x08 | 0x15 | 0x1f => part.text().map(|_| 0)?,
                0x09 | 0x16 => part.field().map(|_| 0)?,
                0x26 => part.text().and_then(|_| part.text()).map(|_| 0)?,
                _ => return Err(format!("property {id:#x} is not for a client")),
            };
            if seen.insert(id, value).is_some() && id != 0x26 {
                return Err(format!("property {id:#x} comes twice"));
            }
        }
        Ok(seen)
    }
}

/// CONNACK with properties, which 3.1.1 doesn't have.
pub fn connack(level: u8, session_present: bool, code: u8, properties: &[u8]) -> Vec<u8> {
    let mut body = vec![session_present.into(), code];
    if level == V5 {
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend_from_slice(properties);
    }
    framed(0x20, &body)
}

/// A property whose value has two bytes.
pub fn short(id: u8, value: u16) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

/// A property whose value has four bytes.
pub fn long(id: u8, value: u32) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

/// PUBLISH at QoS 1.
pub fn message(level: u8, pkid: u16, dup: bool, topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
    body.extend_from_slice(topic.as_bytes());
    body.extend_from_slice(&pkid.to_be_bytes());
    if level == V5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    framed(if dup { 0x3a } else { 0x32 }, &body)
}

/// PUBACK in its short form (3.4.2.1): success.
pub fn puback(pkid: u16) -> Vec<u8> {
    framed(0x40, &pkid.to_be_bytes())
}

/// SUBACK, with a code for each filter.
pub fn suback(level: u8, pkid: u16, codes: &[u8]) -> Vec<u8> {
    answer_each(0x90, level, pkid, codes)
}

/// UNSUBACK, which has codes in MQTT 5 only.
pub fn unsuback(level: u8, pkid: u16, filters: usize) -> Vec<u8> {
    answer_each(0xb0, level, pkid, &vec![0; if level == V5 { filters } else { 0 }])
}

fn answer_each(first: u8, level: u8, pkid: u16, codes: &[u8]) -> Vec<u8> {
    let mut body = pkid.to_be_bytes().to_vec();
    if level == V5 {
        body.push(0);
    }
    body.extend_from_slice(codes);
    framed(first, &body)
}

/// A packet of any body.
pub fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut left = body.len();
    loop {
        let low = u8::try_from(left & 0x7f).unwrap();
        left >>= 7;
        packet.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}
