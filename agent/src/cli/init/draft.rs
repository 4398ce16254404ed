//! The files as they are to be: texts, which are judged by the same code that will read them, before they are written.

use std::fmt::Write as _;
use std::path::Path;

use super::ask::{Answers, Login};
use super::files::Planned;
use super::{Ended, InitArgs};
use crate::config::{self, Loaded, Problem, array, quoted};
use crate::helper::Policy;

pub(super) const AGENT_FILE: &str = "agent.toml";
const POLICY_FILE: &str = "policy.toml";
/// As in systemd/tmpfiles.d: readable for the agent, writable for root alone.
const SECRETS_DIR: &str = "secrets";
const PASSWORD_FILE: &str = "mqtt.password";
/// What root's policy takes for the broker's unless it says otherwise.
const USUAL_PORTS: [u16; 2] = [1883, 8883];

pub(super) fn private_name(kid: &str) -> String {
    format!("{kid}.key")
}

pub(super) fn public_name(kid: &str) -> String {
    format!("{kid}.pub")
}

/// What is there already and stays unless --force is said, for whoever is about to be asked: answers that make the same
/// files are welcome, as they try the broker again.
pub(super) fn in_the_way(args: &InitArgs) -> Option<String> {
    let policy = (!args.bench).then_some(POLICY_FILE);
    let files = [AGENT_FILE].into_iter().chain(policy).map(|name| args.out.join(name));
    let there: Vec<String> =
        files.filter(|file| file.symlink_metadata().is_ok()).map(|file| file.display().to_string()).collect();
    (!args.force && !there.is_empty()).then(|| {
        format!(
            "Already there: {}. Answers that would make another are refused at the end: to have it replaced, begin \
             again with --force.",
            there.join(" and ")
        )
    })
}

/// What is to be written.
pub(super) struct Draft {
    agent: String,
    /// `None`: there is no helper to go by it.
    policy: Option<String>,
}

impl Draft {
    pub(super) fn of(answers: &Answers, args: &InitArgs) -> Self {
        let policy = (!args.bench).then(|| policy(answers));
        Self { agent: agent(answers, args), policy }
    }

    /// Whether they can be used.
    ///
    /// # Errors
    /// Every mistake.
    pub(super) fn judge(&self, out: &Path) -> Result<Loaded, Vec<Problem>> {
        let loaded = config::check_text(&out.join(AGENT_FILE), &self.agent)?;
        if let Some(policy) = &self.policy {
            Policy::check_text(&out.join(POLICY_FILE), policy)?;
        }
        Ok(loaded)
    }

    /// All files, in the order of writing: the one that lets the agent start comes last.
    pub(super) fn plan(self, args: &InitArgs, answers: &Answers) -> Result<Vec<Planned>, Ended> {
        let mut plan = Vec::new();
        if let Some(pair) = &answers.pair {
            let kid = &pair.trusted.kid;
            let private = args.out.join(private_name(kid));
            plan.push(Planned::private_key(private, &pair.private_pem, "signs commands (mode 0600)"));
            let public = args.out.join(public_name(kid));
            plan.push(Planned::public_key(public, &pair.public_pem, "its public half"));
        }
        if let Login::New(_, password) = &answers.login {
            if !password.is_empty() {
                let file = args.out.join(SECRETS_DIR).join(PASSWORD_FILE);
                plan.push(Planned::secret(file, &format!("{password}\n"), "the password for the broker"));
            }
        }
        if let Some(policy) = &self.policy {
            let file = args.out.join(POLICY_FILE);
            plan.push(Planned::text(file, policy, "root's policy: what may be done to this gateway"));
        }
        plan.push(Planned::text(args.out.join(AGENT_FILE), &self.agent, "the configuration"));
        Ok(plan)
    }
}

fn agent(answers: &Answers, args: &InitArgs) -> String {
    // On a bench all lies in one directory.
    let aside = |text: &mut Toml, table, key, file| {
        if args.bench {
            text.table(table);
            text.path(key, &args.out.join(file));
        }
    };
    let mut text = Toml(
        "# Made by `fieldmedic init`. What isn't here stands at its default: `fieldmedic check` shows all of it.\n"
            .to_owned(),
    );
    if args.bench {
        text.line("# After a change: end `fieldmedic run` and start it again, or send it SIGHUP.");
    } else {
        text.line("# After a change: `fieldmedic check`, then `systemctl reload fieldmedic`; `fieldmedic status` says what takes a");
        text.line("# restart.");
    }
    text.table("device");
    match &answers.id {
        Some(id) => text.text("id", id.as_str()),
        None => text.line("# id: the hostname"),
    }
    text.list("groups", &answers.groups);
    text.table("mqtt");
    text.text("url", &answers.url.to_string());
    match &answers.login {
        Login::None => {}
        Login::File(name, file) => {
            text.text("username", name);
            text.path("password_file", file);
        }
        Login::New(name, password) => {
            text.text("username", name);
            if !password.is_empty() {
                text.path("password_file", &args.out.join(SECRETS_DIR).join(PASSWORD_FILE));
            }
        }
    }
    let files = [("ca_file", &answers.ca), ("cert_file", &answers.cert), ("key_file", &answers.key)];
    if files.iter().any(|(_, file)| file.is_some()) {
        text.table("mqtt.tls");
        for (key, file) in files {
            if let Some(file) = file {
                text.path(key, file);
            }
        }
    }
    aside(&mut text, "store", "path", "store");
    text.table("remediation");
    let root = if args.bench { "" } else { " Root's policy.toml has to allow it, too." };
    text.line(&format!("# Units that may be restarted.{root}"));
    text.list("units", &answers.units);
    aside(&mut text, "runbooks", "dir", "runbooks");
    text.table("commands");
    text.line("# Who may command this gateway: KID:KEY, or the path of a *.pub file.");
    text.list("trusted_keys", &answers.keys);
    aside(&mut text, "local", "socket", "agent.sock");
    text.0
}

fn policy(answers: &Answers) -> String {
    let mut text = Toml(
        "# Made by `fieldmedic init`. Root's own policy for fieldmedic-act, which does what needs root: what isn't named here\n\
         # is not done. `/usr/libexec/fieldmedic-act --check` says whether it is right. What more is allowed, the agent learns\n\
         # when it is started or reloaded.\n"
            .to_owned(),
    );
    text.table("device");
    match &answers.id {
        Some(id) => text.text("id", id.as_str()),
        None => text.line("# id: the hostname, as in agent.toml"),
    }
    text.list("groups", &answers.groups);
    text.table("commands");
    text.list("trusted_keys", &answers.keys);
    text.table("allow");
    text.line("# Of restart_unit, restart_link, reboot, rollback, quarantine, run.");
    let actions: &[&str] = if answers.units.is_empty() { &[] } else { &["restart_unit"] };
    text.list("actions", actions);
    text.list("units", &answers.units);
    text.table("local");
    text.line("# What of it the gateway's own rules may have done, too: nobody signs that.");
    text.list::<&str>("actions", &[]);
    let port = answers.url.port;
    if !USUAL_PORTS.contains(&port) {
        text.table("quarantine");
        text.line(&format!("broker_ports = [{port}]"));
    }
    text.0
}

/// A text in TOML that grows.
struct Toml(String);

impl Toml {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn table(&mut self, name: &str) {
        let _ = writeln!(self.0, "\n[{name}]");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.line(&format!("{key} = {}", quoted(value)));
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.text(key, &path.display().to_string());
    }

    fn list<T: ToString>(&mut self, key: &str, values: &[T]) {
        self.line(&format!("{key} = {}", array(values.iter().map(|value| quoted(&value.to_string())))));
    }
}
