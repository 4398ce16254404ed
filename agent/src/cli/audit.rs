//! `fieldmedic audit`: what is wrong with this gateway and its configuration, and what to do about it, whether or not
//! the daemon runs. Changes nothing. What only root may read is only looked at for root.

use std::io::{self, Write};

use clap::Args;
use serde_json::json;

use super::{BAD_USAGE, ConfigArgs, DONE, FAILED, block_on, check, fail};
use crate::act::jobs;
use crate::audit::Audit;
use crate::collect::clock::Clock;
use crate::config;
use crate::engine::observation::{Finding, Severity};

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
    let clock = Clock::new(config.clock.trust, &config.collect.root).read();
    let findings = Audit::new(config, [files, key_files].concat()).look(clock, &failed).findings;
    let shown = if args.json { show_json(&findings, &mut io::stdout()) } else { show(&findings, &mut io::stdout()) };
    match shown {
        Ok(()) => exit_code(&findings),
        // Whoever read it has gone: head, or a pager.
        Err(_) => FAILED,
    }
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
