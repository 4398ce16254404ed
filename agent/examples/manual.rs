//! Makes the man pages and the shell completions, from the command line's own definition, when a package is made:
//! `cargo run --example manual -- DIR`. Not a part of the shipped program: it would take room on every gateway. They
//! are of the commands that a program with the same features has.
#![expect(clippy::disallowed_methods, reason = "it runs where packages are made, and writes files")]

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap_complete::Shell;

fn main() -> anyhow::Result<()> {
    let dir = PathBuf::from(std::env::args_os().nth(1).context("say where to: manual DIR")?);
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut fieldmedic::cli::command(), "fieldmedic", &dir)?;
    }
    clap_mangen::generate_to(fieldmedic::cli::command(), &dir)?;
    fs::write(dir.join("fieldmedic-act.8"), helper_page(fieldmedic::helper::USAGE))?;
    Ok(())
}

/// The helper's command line is read by hand (clap would be most of that program): its usage, word for word, in man(7).
fn helper_page(usage: &str) -> String {
    let usage = usage.replace('\\', "\\e").replace('-', "\\-");
    let version = env!("CARGO_PKG_VERSION");
    format!(
        ".TH fieldmedic\\-act 8 \"\" \"fieldmedic {version}\"\n.SH NAME\nfieldmedic\\-act \\- root's helper of fieldmedic(1)\n\
         .SH DESCRIPTION\n.nf\n{usage}\n.fi\n.SH SEE ALSO\nfieldmedic(1), /usr/share/fieldmedic/policy.toml\n"
    )
}
