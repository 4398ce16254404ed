//! An uplink that an agent restarts without root's helper, in a network namespace of its own: nobody may be in reach
//! but by it, so it comes up again whatever becomes of the agent.

use std::process::{Command, Stdio};

use crate::common::process::Process;
use crate::common::{Gateway, until};

const ROUTE: &str = "default via 10.77.0.254 dev wwan0";

/// A gateway's network, with an uplink whose other end is in it, too.
struct Network(String);

impl Network {
    /// `None`, loudly, where this isn't root's or the machine lacks the tools: then nothing is shown.
    fn new() -> Option<Self> {
        let name = format!("fmu-{}", std::process::id());
        let added = Command::new("ip").args(["netns", "add", &name]).output();
        if !added.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: an uplink is restarted by root, with ip, in a network namespace");
            return None;
        }
        let network = Self(name);
        for line in [
            "link add wwan0 type veth peer name mast",
            "address add 10.77.0.1/24 dev wwan0",
            "link set dev wwan0 up",
            "link set dev mast up",
            &format!("route add {ROUTE}"),
        ] {
            network.ip(line);
        }
        Some(network)
    }

    fn ip(&self, line: &str) -> String {
        let output = Command::new("ip").args(["-n", &self.0]).args(line.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn is_up(&self) -> bool {
        self.ip("link show wwan0").contains(",UP")
    }

    /// The agent of a gateway, in this network.
    fn start(&self, gateway: &Gateway) -> Process {
        let agent = gateway.command("run");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(agent.get_program()).args(agent.get_args());
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(Stdio::null());
        Process::start(gateway.device(), &mut command)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).output();
    }
}

/// A gateway that restarts its uplink as soon as it runs.
fn restless() -> Gateway {
    Gateway::new("gw-uplink", "mqtt://127.0.0.1:1").with(
        r#"
        [[rules]]
        name = "always"
        metric = "host.mem_used_pct"
        above = 0
        remedy = "bounce"
        [[ladders]]
        name = "bounce"
        steps = [ { do = "restart_link", interface = "wwan0" } ]
        "#,
    )
}

#[test]
fn an_uplink_that_is_down_when_the_agent_is_killed_comes_up_again_with_its_routes() {
    /// It is down for a second, and where the machine is busy the agent may be killed after that.
    const TRIES_MAX: usize = 5;
    let Some(network) = Network::new() else { return };
    let was_killed_in_time = (0..TRIES_MAX).any(|_| {
        let gateway = restless();
        let agent = network.start(&gateway);
        until("the uplink to be taken down", || !network.is_up());
        drop(agent);
        let is_down = !network.is_up();
        until("the uplink to be up again", || network.is_up());
        until("its route to be back", || network.ip("route show default").contains(ROUTE));
        is_down
    });
    assert!(was_killed_in_time, "{TRIES_MAX} times the uplink was up again before the agent was killed");
}
