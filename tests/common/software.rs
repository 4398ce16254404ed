//! The brokers that are tested with, as Debian packages them: how each is configured in a directory of its own, started
//! in the foreground, and known to be ready. None of them touches the files of an installed service.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::broker::free_port;
use super::process::{Process, tool};

/// A broker's program, and what it does with its sessions when it is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Software {
    /// Keeps its sessions and queues over a restart.
    Mosquitto,
    /// The same without persistence: forgets all over a restart.
    ForgetfulMosquitto,
    /// RabbitMQ with its MQTT plugin; keeps them.
    RabbitMq,
    /// NATS with JetStream; keeps them.
    Nats,
}

/// Where a broker listens, all on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub gateways: u16,
    /// Open to everybody, whatever the access for gateways.
    pub fleet: u16,
    /// What it needs besides.
    aid: u16,
    inner: u16,
}

impl Software {
    /// Its program and package.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mosquitto | Self::ForgetfulMosquitto => "mosquitto",
            Self::RabbitMq => "rabbitmq-server",
            Self::Nats => "nats-server",
        }
    }

    /// Whether it can be started here; says so loudly if not.
    pub fn is_installed(self) -> bool {
        let found = std::env::var("PATH")
            .unwrap_or_default()
            .split(':')
            .chain(["/usr/sbin"])
            .any(|dir| Path::new(dir).join(self.name()).exists());
        if !found {
            println!("SKIPPED, AND SO NOT TESTED: there is no {} here: install it as tests/run does", self.name());
        }
        found
    }

    pub(super) fn ports(self) -> Ports {
        let gateways = free_port();
        let fleet = match self {
            Self::Mosquitto | Self::ForgetfulMosquitto => free_port(),
            Self::RabbitMq | Self::Nats => gateways,
        };
        Ports { gateways, fleet, aid: free_port(), inner: free_port() }
    }

    /// Writes its configuration; `access` is what mosquitto's says about the gateways' listener.
    pub(super) fn configure(self, dir: &Path, ports: &Ports, access: &str) {
        let path = dir.display();
        let (file, config) = match self {
            Self::Mosquitto | Self::ForgetfulMosquitto => {
                ("mosquitto.conf", mosquitto_config(self == Self::Mosquitto, dir, ports, access))
            }
            Self::RabbitMq => {
                std::fs::write(dir.join("enabled_plugins"), "[rabbitmq_mqtt].\n").unwrap();
                let config = format!(
                    "listeners.tcp = none\nmqtt.listeners.tcp.1 = 127.0.0.1:{}\nmqtt.allow_anonymous = true\n\
                     log.file = false\n",
                    ports.gateways
                );
                ("rabbitmq.conf", config)
            }
            Self::Nats => {
                let config = format!(
                    "server_name: fieldmedic\nlisten: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{path}\" }}\n\
                     mqtt {{ listen: \"127.0.0.1:{}\", ack_wait: \"2s\" }}\n",
                    ports.inner, ports.gateways
                );
                ("nats.conf", config)
            }
        };
        std::fs::write(dir.join(file), config).unwrap();
    }

    /// Starts what has to be there before it. RabbitMQ would leave a port mapper behind that nobody ends.
    pub(super) fn start_aid(self, ports: &Ports) -> Option<Process> {
        (self == Self::RabbitMq).then(|| {
            let mut command = tool("epmd");
            command.args(["-d", "-d", "-address", "127.0.0.1", "-port", &ports.aid.to_string()]);
            let epmd = Process::start("epmd", &mut command);
            let listening = |lines: &[String]| {
                lines.iter().any(|line| line.contains("entering the main select() loop")).then_some(())
            };
            epmd.log.wait_since(0, "RabbitMQ's port mapper", listening);
            epmd
        })
    }

    /// Starts it, and waits until it takes connections.
    pub(super) fn start(self, dir: &Path, ports: &Ports) -> Process {
        self.run(&mut self.command(dir, ports))
    }

    fn run(self, command: &mut Command) -> Process {
        let process = Process::start(self.name(), command);
        let ready = |lines: &[String]| lines.iter().any(|line| self.is_ready(line)).then_some(());
        process.log.wait_since(0, "the broker to be ready", ready);
        process
    }

    /// The command that runs it in the foreground, with its log on standard error.
    fn command(self, dir: &Path, ports: &Ports) -> Command {
        match self {
            Self::Mosquitto | Self::ForgetfulMosquitto => mosquitto_command(&dir.join("mosquitto.conf")),
            Self::RabbitMq => rabbitmq_command(dir, ports),
            Self::Nats => {
                let mut command = tool("nats-server");
                command.arg("-c").arg(dir.join("nats.conf"));
                command
            }
        }
    }

    /// Whether it loses what it has acknowledged over its own end. NATS does (2.9.10): shutting down it forgets its
    /// subscribers first and goes on to acknowledge messages; and once it is back, now and then it gives a subscriber
    /// whose session it has kept no more messages after a while, though it stores and acknowledges them.
    pub const fn loses_over_its_end(self) -> bool {
        matches!(self, Self::Nats)
    }

    /// The signal that ends it in good order. NATS tells its end by TERM as a failure.
    pub(super) const fn stop_signal(self) -> Signal {
        match self {
            Self::Mosquitto | Self::ForgetfulMosquitto | Self::RabbitMq => Signal::TERM,
            Self::Nats => Signal::INT,
        }
    }

    /// Whether this line of its log says that it takes connections.
    fn is_ready(self, line: &str) -> bool {
        match self {
            Self::Mosquitto | Self::ForgetfulMosquitto => line.ends_with(" running"),
            Self::RabbitMq => line.contains("Server startup complete"),
            Self::Nats => line.ends_with("Server is ready"),
        }
    }
}

/// A mosquitto with a configuration of the test's own, once it takes connections.
pub fn mosquitto(config: &Path) -> Process {
    Software::Mosquitto.run(&mut mosquitto_command(config))
}

fn mosquitto_command(config: &Path) -> Command {
    let mut command = tool("mosquitto");
    command.arg("-c").arg(config);
    command
}

fn mosquitto_config(keeps: bool, dir: &Path, ports: &Ports, access: &str) -> String {
    // Started by root it would give up root, and with it the right to write into this directory.
    let user = if rustix::process::geteuid().is_root() { "user root" } else { "" };
    let persistence = if keeps {
        format!("persistence true\npersistence_location {}/\nautosave_interval 0", dir.display())
    } else {
        "persistence false".to_owned()
    };
    format!(
        "per_listener_settings true\n{user}\nlog_dest stderr\nlog_type all\n{persistence}\nmax_queued_messages 0\n\
         listener {} 127.0.0.1\n{access}\nlistener {} 127.0.0.1\nallow_anonymous true\n",
        ports.gateways, ports.fleet
    )
}

/// Debian's wrapper in the search path insists on its own user and directories; what it wraps runs anywhere.
fn rabbitmq_command(dir: &Path, ports: &Ports) -> Command {
    let mut command = tool("sh");
    command.args(["-c", "exec /usr/lib/rabbitmq/bin/rabbitmq-server >&2"]);
    let in_dir = |name: &str| dir.join(name).into_os_string();
    command
        .env("HOME", dir)
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", ports.aid.to_string())
        .env("RABBITMQ_NODENAME", format!("fieldmedic-{}@localhost", ports.gateways))
        .env("RABBITMQ_DIST_PORT", ports.inner.to_string())
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_CONFIG_FILE", in_dir("rabbitmq.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", in_dir("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", in_dir("mnesia"))
        .env("RABBITMQ_LOG_BASE", in_dir("log"))
        .env("RABBITMQ_PID_FILE", in_dir("pid"))
        .env("RABBITMQ_LOGS", "-")
        // One scheduler that doesn't spin: the agent beside it needs a processor too.
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none")
        // Makes the script become the broker, so that the broker can be ended by the pid that was started.
        .env("RUNNING_UNDER_SYSTEMD", "1");
    command
}
