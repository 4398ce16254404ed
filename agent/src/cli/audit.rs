//! `fieldmedic audit`: what is wrong with this gateway and its configuration, and what to do about it, whether or not
//! the daemon runs. Changes nothing. What only root may read is only looked at for root.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use clap::Args;
use serde_json::{Value as Json, json};

use super::{BAD_USAGE, ConfigArgs, DONE, FAILED, block_on, check, fail};
use crate::act::jobs;
use crate::audit::Audit;
use crate::collect::clock::Clock;
use crate::config;
use crate::engine::observation::{Finding, Severity};
use crate::runtime::local::ask_status;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sudo fieldmedic audit\n  fieldmedic audit --config agent.toml --json | jq -r .check\n\n\
    Exit codes: 0 nothing worse than a notice, 1 a warning or worse, 2 bad usage or config."
)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: AuditArgs) -> u8 {
    let files = args.config.files();
    let (config, key_files) = match config::load(&files) {
        Ok(loaded) => (loaded.config, loaded.key_files),
        Err(errors) => return check::refuse(&errors, "configuration", &mut io::stderr().lock()).unwrap_or(BAD_USAGE),
    };
    let failed = match block_on(jobs::failed()) {
        Ok(failed) => failed,
        Err(error) => return fail(&error),
    };
    if let Err(why) = &failed {
        eprintln!("fieldmedic: which units failed isn't known: {why}");
    }
    let refused = match block_on(refused(&config.local.socket)) {
        Ok(refused) => refused,
        Err(error) => return fail(&error),
    };
    let clock = Clock::new(config.clock.trust, &config.collect.root).read();
    let findings = Audit::new(config, [files, key_files].concat()).look(clock, &failed, refused.as_deref()).findings;
    let shown = if args.json { show_json(&findings, &mut io::stdout()) } else { show(&findings, &mut io::stdout()) };
    match shown {
        Ok(()) => exit_code(&findings),
        // Whoever read it has gone: head, or a pager.
        Err(_) => FAILED,
    }
}

/// What the broker refuses of the agent that runs, as it says itself; of one that doesn't run, nothing.
async fn refused(socket: &Path) -> Option<Vec<String>> {
    match ask_status(socket).await {
        Ok(answer) => refused_in(&answer).map(|fault| vec![fault]),
        Err(error) => {
            if error.kind() == ErrorKind::PermissionDenied {
                eprintln!(
                    "fieldmedic: what the broker refuses isn't known: {}: {error}; run as root",
                    socket.display()
                );
            }
            None
        }
    }
}

/// Without a connection its fault is another one, of which `status` tells.
fn refused_in(answer: &str) -> Option<String> {
    let status: Json = serde_json::from_str(answer).ok()?;
    let broker = status.get("broker").filter(|broker| broker["online"] == true)?;
    broker.get("fault")?.as_str().map(str::to_owned)
}

fn exit_code(findings: &[Finding]) -> u8 {
    let is_bad = findings.iter().any(|finding| finding.severity <= Severity::Warning);
    if is_bad { FAILED } else { DONE }
}

fn show(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    for Finding { check, severity, what, advice, .. } in findings {
        writeln!(out, "{:<9} {check}: {what}\n{:<9} {advice}", severity.word(), "")?;
    }
    match findings.len() {
        0 => writeln!(out, "nothing found"),
        1 => writeln!(out, "1 finding"),
        n => writeln!(out, "{n} findings"),
    }
}

fn show_json(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    for Finding { check, subject, severity, what, advice } in findings {
        let finding = json!({
            "severity": severity.word(), "check": check, "subject": subject, "what": what, "advice": advice,
        });
        writeln!(out, "{finding}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity) -> Finding {
        let text = |text: &str| text.to_owned();
        Finding {
            check: "disk_full",
            subject: text("/var"),
            severity,
            what: text("/var is 97 % full"),
            advice: text("make room"),
        }
    }

    #[test]
    fn each_finding_is_told_with_what_to_do_and_a_warning_is_a_failure() {
        let mut out = Vec::new();
        show(&[finding(Severity::Warning)], &mut out).unwrap();
        let expected = "warning   disk_full: /var is 97 % full\n          make room\n1 finding\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(exit_code(&[finding(Severity::Warning)]), FAILED);
        assert_eq!(exit_code(&[finding(Severity::Notice)]), DONE);
    }

    #[test]
    fn what_the_broker_refuses_is_asked_of_the_agent_that_is_connected() {
        let refuses = r#"{"broker":{"online":true,"fault":"it refuses our telemetry"}}"#;
        assert_eq!(refused_in(refuses).as_deref(), Some("it refuses our telemetry"));
        for other in [r#"{"broker":{"online":true}}"#, r#"{"broker":{"online":false,"fault":"away"}}"#, "", "[]"] {
            assert_eq!(refused_in(other), None, "{other}");
        }
    }

    #[test]
    fn json_has_an_object_a_line() {
        let mut out = Vec::new();
        show_json(&[finding(Severity::Error), finding(Severity::Info)], &mut out).unwrap();
        let lines: Vec<serde_json::Value> =
            out.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["check"], "disk_full");
        assert_eq!(lines[1]["severity"], "info");
    }
}
