//! The operator: sends the scenario's commands, good ones and bad ones, signed with keys of its own. It knows of the
//! gateway only what the broker got: the nonce of the presence message that came last.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::dice::Dice;
use super::planted::Planted;
use super::scenario::{Flaw, Order};
use crate::config::{CheckedConfig, TrustedKey};
use crate::engine::time::Unix;
use crate::wire::CommandId;
use crate::wire::keys::{KeyError, SigningKey};
use crate::wire::token::{Claims, sign};

/// The operator's key, as the gateway's config names it.
const KID: &str = "sim-operator";
/// How long ago a command expired that is sent too late, in seconds.
const EXPIRED_FOR_S: i64 = 60;

/// The operator.
pub(super) struct Cloud {
    trusted: SigningKey,
    untrusted: SigningKey,
    dice: Dice,
    device: String,
    prefix: String,
    /// Of the presence message that came last.
    nonce: Option<String>,
    sent: u64,
    /// Commands that the agent has to answer for once it has acknowledged them: by payload.
    answerable: BTreeMap<Vec<u8>, String>,
    /// What is wrong with each flawed command that was published, by its id.
    flaws: BTreeMap<String, Flaw>,
    /// Flawed ones, and genuine ones, beyond [`REMEMBERED_MAX`].
    flaws_not_followed: u64,
    not_followed: u64,
    planted: Option<Planted>,
}

/// Messages remembered; more than a broker's queue holds.
const REMEMBERED_MAX: usize = 20_000;

/// A message to publish.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) command: String,
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) flaw: Option<Flaw>,
    /// When it stops being valid, by the true date.
    pub(super) expires: Unix,
}

impl Cloud {
    pub(super) fn new(config: &CheckedConfig, planted: Option<Planted>, mut dice: Dice) -> Result<Self, KeyError> {
        let mut key = || SigningKey::from_seed(std::array::from_fn(|_| u8::try_from(dice.below(256)).unwrap_or(0)));
        Ok(Self {
            trusted: key()?,
            untrusted: key()?,
            dice,
            device: config.device.id.to_string(),
            prefix: config.mqtt.topic_prefix.clone(),
            nonce: None,
            sent: 0,
            answerable: BTreeMap::new(),
            flaws: BTreeMap::new(),
            flaws_not_followed: 0,
            not_followed: 0,
            planted,
        })
    }

    /// What the gateway's config has to trust.
    pub(super) fn key(&self) -> TrustedKey {
        TrustedKey { kid: KID.to_owned(), public_key: self.trusted.public() }
    }

    /// The fleet saw a presence message.
    pub(super) fn saw_nonce(&mut self, nonce: &str) {
        self.nonce = Some(nonce.to_owned());
    }

    /// A command as the scenario wants it.
    pub(super) fn order(&mut self, order: &Order, date: Unix) -> Option<Message> {
        self.sent += 1;
        let name = order.name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "-");
        let id = CommandId::parse(&format!("{name}-{}", self.sent))?;
        let topic = match &order.group {
            Some(group) => format!("{}/groups/{group}/commands", self.prefix),
            None => format!("{}/{}/commands", self.prefix, self.device),
        };
        let payload = match order.flaw {
            Some(Flaw::Garbage) => self.garbage(),
            _ => self.token(order, &id, date)?.into_bytes(),
        };
        let expires_ms = i64::try_from(order.expires.as_millis()).unwrap_or(i64::MAX);
        let (id, command, flaw) = (id.as_str().to_owned(), order.name.clone(), order.flaw);
        Some(Message { id, command, topic, payload, flaw, expires: Unix(date.0.saturating_add(expires_ms)) })
    }

    /// A message was published. One that is genuine has to be answered for.
    pub(super) fn remember(&mut self, message: &Message) {
        if let Some(flaw) = message.flaw {
            if self.flaws.len() < REMEMBERED_MAX || self.flaws.contains_key(&message.id) {
                self.flaws.insert(message.id.clone(), flaw);
            } else {
                self.flaws_not_followed += 1;
            }
        }
        let genuine = matches!(message.flaw, None | Some(Flaw::Replayed | Flaw::Expired));
        let is_followed = self.answerable.len() < REMEMBERED_MAX || self.answerable.contains_key(&message.payload);
        if genuine && is_followed {
            self.answerable.insert(message.payload.clone(), message.id.clone());
        } else if genuine {
            self.not_followed += 1;
        }
    }

    /// The command in a payload, if it has to be answered for.
    pub(super) fn id_of(&self, payload: &[u8]) -> Option<String> {
        self.answerable.get(payload).cloned()
    }

    /// How many genuine commands nobody follows, since there were too many.
    pub(super) const fn not_followed(&self) -> u64 {
        self.not_followed
    }

    /// How many flawed commands nobody follows.
    pub(super) const fn flaws_not_followed(&self) -> u64 {
        self.flaws_not_followed
    }

    /// What is wrong with a command.
    pub(super) fn flaw_of(&self, id: &str) -> Option<Flaw> {
        self.flaws.get(id).copied()
    }

    fn token(&self, order: &Order, id: &CommandId, date: Unix) -> Option<String> {
        let now_s = date.0.div_euclid(1_000);
        let expires_s = i64::try_from(order.expires.as_secs()).unwrap_or(i64::MAX);
        let (iat, exp) = match order.flaw {
            Some(Flaw::Expired) if self.planted != Some(Planted::ExpiryIgnored) => {
                (now_s - EXPIRED_FOR_S - expires_s, now_s - EXPIRED_FOR_S)
            }
            _ => (now_s, now_s.saturating_add(expires_s)),
        };
        let audience = match (&order.flaw, &order.group) {
            (Some(Flaw::Misaddressed), _) => format!("not-{}", self.device),
            (_, Some(group)) => format!("group:{group}"),
            (_, None) => self.device.clone(),
        };
        let mut claims = Claims::new(&audience, id, &order.name, iat, exp);
        for (key, value) in &order.args {
            claims = claims.arg(key, Json::clone(value));
        }
        let claims = claims.nonce(self.nonce.clone().filter(|_| order.nonce));
        // The planted bug is played from here: to an agent that checks no signature a forged command is as good as a
        // genuine one, so it is signed with the trusted key; an expired one is dated afresh likewise.
        let forged = order.flaw == Some(Flaw::Forged) && self.planted != Some(Planted::SignatureIgnored);
        let key = if forged { &self.untrusted } else { &self.trusted };
        sign(&claims, KID, key).ok()
    }

    fn garbage(&mut self) -> Vec<u8> {
        let len = self.dice.below(2_000);
        (0..len).map(|_| u8::try_from(self.dice.below(256)).unwrap_or(0)).collect()
    }
}
