//! May it be done? Root's answer, which trusts nothing that the agent says: what it asks for must be in root's policy,
//! and either be what somebody with a trusted key has signed for this device, once, or be left to the gateway's own
//! rules. Counts what it lets pass, before it is done; does nothing itself.

use std::iter;

use super::ledger::{Ledger, Moment};
use super::policy::Policy;
use super::protocol::Refusal;
use crate::act::Order;
use crate::engine::command::Command;
use crate::engine::io::{Act, Ending, Trigger};
use crate::wire::token::{self, Audience};
use crate::wire::{CommandId, Reason, VerifiedCommand};

/// Judges an order. When this has returned `Ok` it is counted on disk, and has to be carried out now or never.
///
/// # Errors
/// Why not.
pub(super) fn judge(order: &Order, policy: &Policy, ledger: &mut Ledger, moment: &Moment) -> Result<(), Refusal> {
    policy.lets(&order.act, &order.trigger)?;
    // It is of the level in force, which was counted.
    if matches!(order.act, Act::Refresh { .. }) {
        return Ok(());
    }
    let command = match &order.trigger {
        Trigger::Command(id) => Some(commanded(order, id, policy)?),
        Trigger::Rule(_) | Trigger::Own(_) => None,
    };
    let command = command.as_ref().map(|command| (command, policy.commands.max_clock_skew));
    let action = order.act.action();
    let budget = policy.budget.get(&action).filter(|_| order.act.spends());
    ledger.count(action, budget, command, moment)
}

/// The command that orders this act, and no other.
fn commanded(order: &Order, id: &CommandId, policy: &Policy) -> Result<VerifiedCommand, Refusal> {
    let Some(token) = &order.token else {
        // As of an agent that obeys commands without one (commands.require_signature = false).
        let detail = format!("root's helper takes signed commands only, and command {id} comes without a signature");
        return Err(Refusal::because(Reason::BadSignature, detail));
    };
    let command = verified(token, policy)?;
    if command.id != *id {
        let detail = format!("the token is that of {}, the request is for {id}", command.id);
        return Err(Refusal::new(Ending::WrongAct, detail));
    }
    let ordered = Command::parse(&command).map_err(|(reason, detail)| Refusal::because(reason, detail))?;
    if ordered.act() == Some(&order.act) {
        return Ok(VerifiedCommand { expires_at: lasts_until(&command, &ordered), ..command });
    }
    let target = order.act.target();
    Err(Refusal::new(
        Ending::WrongAct,
        format!("{} was signed, {target} or how to do it is something else", command.name),
    ))
}

/// Until when it may be carried out, in seconds since 1970: who signs a reboot to come after a while signs that it
/// comes then.
fn lasts_until(command: &VerifiedCommand, ordered: &Command) -> i64 {
    let delay = match ordered {
        Command::Reboot { delay } => i64::try_from(delay.as_secs()).unwrap_or(0),
        _ => 0,
    };
    command.expires_at.saturating_add(delay)
}

/// The topic that a command came by isn't known here: it may be for the device, or for any of its groups.
fn verified(token: &str, policy: &Policy) -> Result<VerifiedCommand, Refusal> {
    let audience = Audience { device: policy.device.as_str(), groups: &policy.groups };
    let topics = iter::once(None).chain(policy.groups.iter().map(|group| Some(group.as_str())));
    let mut refusal = None;
    for topic in topics {
        match token::verify(token.as_bytes(), &audience, topic, &policy.commands) {
            Ok(command) => return Ok(command),
            Err(refused) if refused.reason == Reason::WrongAudience => refusal = refusal.or(Some(refused)),
            // The agent has such a list, too, and says the same of it.
            Err(refused) if refused.reason == Reason::UnknownKey => {
                return Err(Refusal::because(refused.reason, format!("root's policy.toml: {}", refused.detail)));
            }
            Err(refused) => return Err(Refusal::because(refused.reason, refused.detail)),
        }
    }
    let detail = refusal.map(|refused| refused.detail).unwrap_or_default();
    Err(Refusal::because(Reason::WrongAudience, format!("{detail}, nor one of its groups")))
}
