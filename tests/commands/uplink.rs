//! An uplink that an agent restarts without root's helper, in a network namespace of its own: nobody may be in reach
//! but by it, so it comes up again whatever becomes of the agent.

use std::process::Stdio;

use crate::common::process::Process;
use crate::common::{Gateway, Namespace, until};

const ROUTE: &str = "default via 10.77.0.254 dev wwan0";

/// A gateway's network, with an uplink whose other end is in it, too. `None`, loudly, where there can be none.
fn network() -> Option<Namespace> {
    let network = Namespace::new("an uplink that is restarted")?;
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

/// The agent of a gateway, in this network.
fn start(network: &Namespace, gateway: &Gateway) -> Process {
    let mut command = network.command(&gateway.command("run"));
    command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(Stdio::null());
    Process::start(gateway.device(), &mut command)
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
    let Some(network) = network() else { return };
    let is_up = || network.ip("link show wwan0").contains(",UP");
    let was_killed_in_time = (0..TRIES_MAX).any(|_| {
        let gateway = restless();
        let agent = start(&network, &gateway);
        until("the uplink to be taken down", || !is_up());
        drop(agent);
        let is_down = !is_up();
        until("the uplink to be up again", is_up);
        until("its route to be back", || network.ip("route show default").contains(ROUTE));
        is_down
    });
    assert!(was_killed_in_time, "{TRIES_MAX} times the uplink was up again before the agent was killed");
}
