//! What came of one run, for a human: its figures, what is promised, and what was expected. Pure: a run in, text out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::figures::{a_day, whole};
use super::look::{Look, Tone, count, labelled, plural, printable, span};
use crate::engine::io::Act;
use crate::helper::POLICY_FILE;
use crate::sim::report::{Summary, Unmet};
use crate::sim::scenario::Expectation;
use crate::sim::{self, Plan};
use crate::text::size;

/// That the timeline has less than happened; empty where it hasn't.
pub(super) fn not_kept(summary: &Summary, look: Look) -> String {
    match summary.moments_not_kept {
        0 => String::new(),
        more => format!("{} {} not in the timeline, but counted\n", look.ellipsis(), plural(more, "later moment")),
    }
}

/// The figures of a run, in a few lines.
pub(super) fn figures(summary: &Summary, look: Look) -> String {
    let s = summary;
    let line = |label: &str, items: &[String]| labelled(label, items, look.width);
    let mut text = String::new();
    text += &line("lasted", &[span(s.lasted_s)]);
    let power = format!("machine on power {:.2} % of the time", s.powered_pct);
    let uptime = format!("agent up {:.2} % of that", s.uptime_pct);
    text += &line("uptime", &[power, uptime, plural(s.reboots, "reboot"), crashes(s.crashes)]);
    let connected = format!("{:.2} % of the agent's time", s.connected_pct);
    let sessions = format!("{} in {}", plural(s.connects, "session"), tries(s.tries));
    text += &line("connected", &[connected, sessions]);
    if let Some(charge) = s.charge_min_pct {
        text += &line("battery", &[format!("lowest charge {charge:.1} %")]);
    }
    text += &line("alarms", &alarms(s));
    text += &line("remedies", &endings(&s.remedies));
    text += &line("commands", &endings(&s.commands));
    text += &line("events", &counts(&s.events));
    let per_day = format!("{} a day", size(whole(a_day(s, s.sent_bytes))));
    text += &line("sent", &[size(s.sent_bytes), per_day, plural(s.messages, "message")]);
    let stored = format!("{} stored", count(s.records));
    text += &line("records", &[stored, format!("{} wait", count(s.waiting)), plural(s.duplicates, "duplicate")]);
    text += &line("dropped", &counts(&s.dropped));
    let per_day = format!("{} a day", size(whole(a_day(s, s.flash_bytes))));
    let most = format!("store at most {}", size(s.store_max_bytes));
    text += &line("flash", &[format!("{} written", size(s.flash_bytes)), per_day, most]);
    text
}

/// What this simulation can't show of its configuration: rules that nothing in the world can raise, whether the battery
/// is there under its name, and root's policy.
pub(super) fn not_shown(plan: &Plan, look: Look) -> String {
    let mut text = String::new();
    let unmoved: Vec<String> =
        sim::unmoved(plan).iter().map(|it| printable(&format!("{} ({})", it.rule, it.metric))).collect();
    if !unmoved.is_empty() {
        text +=
            &look.paint(Tone::Doubtful, "Not raised by anything in this world, which doesn't move what they watch:");
        text.push('\n');
        text += &labelled("", &unmoved, look.width);
    }
    let battery = &plan.config.collect.battery;
    if battery.enabled && !battery.supply.is_empty() && plan.scenario.battery.is_some() {
        let supply = printable(&battery.supply);
        let words =
            format!("The battery of this world goes by no name: it is taken for {supply} (collect.battery.supply).");
        text += &look.paint(Tone::Doubtful, &words);
        text.push('\n');
    }
    let asks_root = plan.config.ladders.values().flatten().any(|step| Act::of(&step.remedy).changes());
    if plan.policy.is_none() && asks_root {
        let words = format!(
            "Root's policy ({POLICY_FILE}) is no part of this: what it doesn't let rules do is refused on a gateway;\n\
             --policy FILE takes one in."
        );
        text += &look.paint(Tone::Doubtful, &words);
        text.push('\n');
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

fn crashes(number: u64) -> String {
    if number == 1 { "1 crash".to_owned() } else { format!("{} crashes", count(number)) }
}

fn tries(number: u64) -> String {
    if number == 1 { "1 try".to_owned() } else { format!("{} tries", count(number)) }
}

fn alarms(summary: &Summary) -> Vec<String> {
    let mut items = counts(&summary.alarms);
    if !summary.standing.is_empty() {
        items.push(printable(&format!("standing at the end: {}", summary.standing.join(" "))));
    }
    items
}

/// `none`, or each name with its count.
fn counts(by_name: &BTreeMap<String, u64>) -> Vec<String> {
    let items: Vec<String> =
        by_name.iter().map(|(name, times)| printable(&format!("{name} {}", count(*times)))).collect();
    or_none(items)
}

/// `none`, or each name with how often it ended how.
fn endings(by_name: &BTreeMap<String, BTreeMap<String, u64>>) -> Vec<String> {
    let one = |(name, endings): (&String, &BTreeMap<String, u64>)| {
        let endings: Vec<String> =
            endings.iter().map(|(status, times)| format!("{status} {}", count(*times))).collect();
        printable(&format!("{name}: {}", endings.join(" ")))
    };
    or_none(by_name.iter().map(one).collect())
}

fn or_none(items: Vec<String>) -> Vec<String> {
    if items.is_empty() { vec!["none".to_owned()] } else { items }
}

/// Each expectation, whether it was met, and what was found where it was not. Empty without any.
pub(super) fn expectations(expect: &[Expectation], unmet: &[Unmet], replay: &str, look: Look) -> String {
    if expect.is_empty() {
        return String::new();
    }
    let (mut lines, mut met) = (String::new(), 0);
    for expectation in expect {
        let words = printable(&expectation.text);
        let Some(unmet) = unmet.iter().find(|unmet| unmet.expectation == expectation.text) else {
            met += 1;
            let _ = writeln!(lines, "  {} {words}", look.paint(Tone::Good, "met    "));
            continue;
        };
        let _ = writeln!(lines, "  {} {words}", look.paint(Tone::Bad, "NOT MET"));
        let _ = writeln!(lines, "          found: {}", printable(&unmet.found));
    }
    if !unmet.is_empty() {
        let _ = writeln!(lines, "  replay  {replay}");
    }
    format!("{} of {} met:\n{lines}", count(met), plural(expect.len() as u64, "expectation"))
}
