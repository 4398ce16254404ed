//! What has to be known: from flags, and from whoever sits at the terminal for what no flag says. Each answer is parsed
//! where it is given, so that a typing error is mended on the spot.

use std::io::{self, BufRead, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context as _, bail};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use super::{Ended, InitArgs, draft, parse_group, parse_id, parse_unit, parse_url};
use crate::cli::keygen::{self, NewPair};
use crate::config::{self, BrokerUrl, DeviceId, TrustedKey, UnitName};
use crate::runtime::mqtt::transport;

/// Answers to one question that can't be used: whoever gives so many has another program in mind.
const TRIES_MAX: usize = 10;
/// Ctrl-C, Ctrl-\ and Ctrl-Z: what a terminal makes a signal of, unless its echo is off.
const INTERRUPT: u8 = 0x03;
const QUIT: u8 = 0x1c;
const SUSPEND: u8 = 0x1a;
/// The pair that is made where no name is given.
const KID: &str = "ops-1";

/// All that was answered.
pub(super) struct Answers {
    pub(super) url: BrokerUrl,
    /// `None`: the hostname, at each start.
    pub(super) id: Option<DeviceId>,
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) login: Login,
    pub(super) groups: Vec<String>,
    pub(super) units: Vec<UnitName>,
    /// Who may command.
    pub(super) keys: Vec<TrustedKey>,
    /// The pair that is to be made, or was made before.
    pub(super) pair: Option<NewPair>,
}

/// How the gateway logs in at the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Login {
    None,
    /// With the password that stands in a file, if it is to have one.
    File(String, PathBuf),
    /// With a password that was typed, and is to be written; empty: none.
    New(String, String),
}

/// Takes the flags, and asks for what they leave open if there is somebody to be asked.
pub(super) fn gather<R: BufRead, W: Write>(
    args: &InitArgs,
    mut asker: Option<&mut Asker<'_, R, W>>,
) -> Result<Answers, Ended> {
    let asker = &mut asker;
    let url = match (&args.url, asker.as_mut()) {
        (Some(url), _) => url.clone(),
        (None, Some(asker)) => asker.ask("Broker (mqtt:// or mqtts://)", "", parse_url)?,
        (None, None) => {
            let why = if args.yes { "--yes asks nothing" } else { "stdin is no terminal, so nobody can be asked" };
            return Err(Ended::Wrong(format!(
                "fieldmedic: --url is missing, and {why}; for example --url mqtts://broker.example"
            )));
        }
    };
    let id = match (&args.id, asker.as_mut()) {
        (None, Some(asker)) => Some(ask_id(asker)?),
        (id, _) => id.clone(),
    };
    let tls_given = args.ca.is_some() || args.cert.is_some();
    let [ca, cert, key] = match asker.as_mut() {
        Some(asker) if url.tls && !tls_given => ask_tls(asker)?,
        _ => [args.ca.clone(), args.cert.clone(), args.key.clone()],
    };
    let login = match (&args.username, &args.password_file, asker.as_mut()) {
        (Some(name), Some(file), _) => Login::File(name.clone(), whole(file)?),
        (Some(name), None, None) => Login::New(name.clone(), String::new()),
        (Some(name), None, Some(asker)) => ask_password(asker, name)?,
        (None, _, None) => Login::None,
        (None, _, Some(asker)) => ask_login(asker)?,
    };
    let groups = match asker.as_mut() {
        Some(asker) if args.groups.is_empty() => asker.ask(
            "Groups, by which it can be commanded with others; spaces between them",
            "",
            words(parse_group),
        )?,
        _ => args.groups.clone(),
    };
    let units = match asker.as_mut() {
        Some(asker) if args.units.is_empty() => {
            asker.ask("Units that may be restarted, such as app.service; spaces between them", "", words(parse_unit))?
        }
        _ => args.units.clone(),
    };
    let (files, new_key) = match asker.as_mut() {
        Some(asker) if args.trusted_keys.is_empty() && args.new_key.is_none() => ask_who_commands(asker)?,
        _ => (args.trusted_keys.clone(), args.new_key.clone()),
    };
    let mut keys = files.iter().map(|file| trusted_key(file)).collect::<Result<Vec<_>, _>>()?;
    let pair = new_key.map(|kid| find_or_make_pair(&args.out, &kid)).transpose()?;
    keys.extend(pair.iter().map(|pair| pair.trusted.clone()));
    let [ca, cert, key] = [ca, cert, key].map(|file| file.map(|file| whole(&file)).transpose());
    Ok(Answers { url, id, ca: ca?, cert: cert?, key: key?, login, groups, units, keys, pair })
}

fn ask_id<R: BufRead, W: Write>(asker: &mut Asker<'_, R, W>) -> anyhow::Result<DeviceId> {
    let uname = rustix::system::uname();
    let default = DeviceId::from_hostname(&uname.nodename().to_string_lossy());
    asker.ask("This gateway's id", default.as_ref().map_or("", DeviceId::as_str), parse_id)
}

fn ask_tls<R: BufRead, W: Write>(asker: &mut Asker<'_, R, W>) -> anyhow::Result<[Option<PathBuf>; 3]> {
    let ca = asker.ask("The broker's CA, a PEM file; empty: the system's roots", "", file_or_none)?;
    let cert = asker.ask("This gateway's client certificate, a PEM file; empty: none", "", file_or_none)?;
    let key = match cert {
        Some(_) => Some(asker.ask("Its private key, a PEM file", "", file)?),
        None => None,
    };
    Ok([ca, cert, key])
}

fn ask_login<R: BufRead, W: Write>(asker: &mut Asker<'_, R, W>) -> anyhow::Result<Login> {
    let name = asker.ask("User name at the broker; empty: none", "", ok)?;
    if name.is_empty() { Ok(Login::None) } else { ask_password(asker, &name) }
}

fn ask_password<R: BufRead, W: Write>(asker: &mut Asker<'_, R, W>, name: &str) -> anyhow::Result<Login> {
    let password = asker.ask_hidden("Its password")?;
    Ok(Login::New(name.to_owned(), password))
}

type WhoCommands = (Vec<PathBuf>, Option<String>);

fn ask_who_commands<R: BufRead, W: Write>(asker: &mut Asker<'_, R, W>) -> anyhow::Result<WhoCommands> {
    let question = "Who may command it: a public key file (NAME.pub), or \"new\" to make a pair; empty: nobody";
    asker.ask(question, "", |text| match text {
        "" => Ok((Vec::new(), None)),
        "new" => Ok((Vec::new(), Some(KID.to_owned()))),
        name => Ok((vec![file(name)?], None)),
    })
}

fn ok(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn file(text: &str) -> Result<PathBuf, String> {
    if transport::is_handed_over(Path::new(text)) {
        return Ok(PathBuf::from(text));
    }
    match std::fs::metadata(text) {
        Ok(metadata) if metadata.is_dir() => Err(format!("{text} is a directory")),
        Ok(_) => Ok(PathBuf::from(text)),
        Err(error) => Err(format!("{text:?} can't be looked at: {error}")),
    }
}

fn file_or_none(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() { Ok(None) } else { file(text).map(Some) }
}

fn words<T>(parse: impl Fn(&str) -> Result<T, String>) -> impl Fn(&str) -> Result<Vec<T>, String> {
    move |text| text.split([' ', ',']).filter(|word| !word.is_empty()).map(&parse).collect()
}

/// The agent starts somewhere else: a path has to say where it is from there, too.
fn whole(file: &Path) -> anyhow::Result<PathBuf> {
    absolute(file).with_context(|| format!("find {}", file.display()))
}

fn trusted_key(file: &Path) -> Result<TrustedKey, Ended> {
    let text = config::read_text(file).map_err(|error| Ended::Wrong(format!("fieldmedic: --trusted-key: {error}")))?;
    let kid = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    TrustedKey::from_pem(kid, &text)
        .map_err(|unfit| Ended::Wrong(format!("fieldmedic: --trusted-key: {}: {unfit}", file.display())))
}

/// The pair of this name that is there already is kept: the old key may be the last that a fleet obeys.
fn find_or_make_pair(out: &Path, kid: &str) -> Result<NewPair, Ended> {
    let (private, public) = (out.join(draft::private_name(kid)), out.join(draft::public_name(kid)));
    let made = match config::read_text(&private) {
        Ok(pem) => keygen::pair_of(kid, pem).with_context(|| private.display().to_string()),
        Err(_) if private.exists() => Err(anyhow::anyhow!("{} can't be read", private.display())),
        Err(_) if public.exists() => {
            let public = public.display();
            Err(anyhow::anyhow!(
                "{public} is there without its private key: choose another name, or --trusted-key {public}"
            ))
        }
        Err(_) => keygen::make_pair(kid),
    };
    made.map_err(|error| Ended::Wrong(format!("fieldmedic: --new-key: {error:#}")))
}

/// Asks on a terminal.
pub(super) struct Asker<'a, R, W> {
    input: &'a mut R,
    output: &'a mut W,
}

impl<'a, R: BufRead, W: Write> Asker<'a, R, W> {
    pub(super) const fn new(input: &'a mut R, output: &'a mut W) -> Self {
        Self { input, output }
    }

    pub(super) fn say(&mut self, text: &str) -> anyhow::Result<()> {
        writeln!(self.output, "{text}").context("write to the terminal")
    }

    /// Asks until the answer can be used; an empty one is the default.
    pub(super) fn ask<T>(
        &mut self,
        question: &str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        for _ in 0..TRIES_MAX {
            let shown = if default.is_empty() { String::new() } else { format!(" [{default}]") };
            let line = self.line(&format!("{question}{shown}: "))?;
            let answer = if line.trim().is_empty() { default } else { line.trim() };
            match parse(answer) {
                Ok(value) => return Ok(value),
                Err(why) => self.say(&format!("  {why}"))?,
            }
        }
        bail!("{TRIES_MAX} answers to {question:?} that can't be used: nothing was written")
    }

    /// No unless it is a yes.
    pub(super) fn confirm(&mut self, question: &str) -> anyhow::Result<bool> {
        let line = self.line(&format!("{question} [y/N] "))?;
        Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// Asks for what nobody shall read over a shoulder, and need not be.
    fn ask_hidden(&mut self, question: &str) -> anyhow::Result<String> {
        let hidden = Hidden::begin();
        let shown = if hidden.is_some() { "not shown" } else { "this terminal shows it" };
        let line = self.line(&format!("{question} ({shown}); empty: none: "));
        if hidden.is_some() {
            // The end of the line wasn't shown either.
            self.say("")?;
        }
        line
    }

    fn line(&mut self, prompt: &str) -> anyhow::Result<String> {
        write!(self.output, "{prompt}").and_then(|()| self.output.flush()).context("write to the terminal")?;
        let mut line = Vec::new();
        // Of a terminal the kernel gives at most 4096 bytes a line (termios(3)).
        while !line.ends_with(b"\n") {
            let read = self.input.fill_buf().context("read from the terminal")?;
            let end = read.iter().position(|byte| *byte == b'\n').map_or(read.len(), |newline| newline + 1);
            let read = read.get(..end).unwrap_or_default();
            if read.iter().any(|byte| [INTERRUPT, QUIT, SUSPEND].contains(byte)) {
                bail!("canceled: nothing was written");
            }
            line.extend_from_slice(read);
            self.input.consume(end);
            if end == 0 {
                break;
            }
        }
        if line.is_empty() {
            bail!("the input ended before everything was asked: nothing was written");
        }
        let line = String::from_utf8(line).context("read from the terminal")?;
        // A password may begin or end with a space.
        Ok(line.trim_end_matches(['\n', '\r']).to_owned())
    }
}

/// The terminal on stdin without its echo, until this is dropped. A signal would end the program before that: of the
/// keys that send one Ctrl-C and Ctrl-\ end the line instead, and what Ctrl-Z was pressed in is no answer.
struct Hidden {
    before: Termios,
}

impl Hidden {
    /// `None` where stdin is no terminal, or one that can't.
    fn begin() -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(stdin.as_fd()).ok()?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        silent.special_codes[SpecialCodeIndex::VEOL2] = QUIT;
        tcsetattr(stdin.as_fd(), OptionalActions::Flush, &silent).ok()?;
        Some(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Gone with the terminal where it fails.
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &self.before);
    }
}
