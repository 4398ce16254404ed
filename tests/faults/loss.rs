//! Packets that are lost on their way between the gateway and a real broker, 30 % of them each way, some in a row, and
//! for a while all: below TCP, where what was sent is not what came.

use std::io::Write as _;
use std::process::{Output, Stdio};

use super::{BOUND, Came, DEVICE, assert_no_error, cut_off};
use crate::common::backlog::fill;
use crate::common::{Message, Namespace, World, tool};

/// Samples that wait in the store when the agent starts: as many as take some seconds.
const RECORDS: u64 = 5_000;

/// What is done with packets: three in a row of each ten are lost. Not the first ones: those make the connection, which
/// would but take seconds more.
const THREE_OF_TEN: &str = "numgen inc mod 10 > 6 counter name lost drop";

/// A link on loopback that loses packets to and from a port. They are lost where they would come in: of what is lost
/// where it goes out TCP is told.
struct Link {
    port: u16,
}

impl Link {
    /// `None`, loudly, where this kernel's nftables can't do it.
    fn new(port: u16) -> Option<Self> {
        let link = Self { port };
        let tried = link.rules(THREE_OF_TEN);
        if !tried.status.success() {
            eprintln!("SKIPPED: a link that loses packets takes nftables: {}", String::from_utf8_lossy(&tried.stderr));
            return None;
        }
        assert!(link.rules("accept").status.success());
        Some(link)
    }

    fn lose_some(&self) {
        assert!(self.rules(THREE_OF_TEN).status.success());
    }

    /// For the connections that there are it stays so, as where a router has forgotten them: else the kernel would
    /// still bring what it holds for them when they have been given up.
    fn lose_all(&self) {
        assert!(self.rules("counter name lost drop").status.success());
        assert!(self.nft(&["flush", "set", "inet", "link", "known"], "").status.success());
    }

    /// Lets this be done with what comes in each way, instead of what was done before.
    fn rules(&self, what: &str) -> Output {
        let port = self.port;
        self.nft(
            &["-f", "-"],
            &format!(
                "add table inet link\nadd counter inet link lost\n\
                 add set inet link known {{ type inet_service; flags dynamic; }}\n\
                 add chain inet link in {{ type filter hook input priority 0; }}\nflush chain inet link in\n\
                 add rule inet link in tcp dport {port} {what}\nadd rule inet link in tcp sport {port} {what}\n\
                 add rule inet link in tcp dport {port} tcp flags & (syn | ack) == syn add @known {{ tcp sport }}\n\
                 add rule inet link in tcp dport {port} tcp sport != @known counter name lost drop\n\
                 add rule inet link in tcp sport {port} tcp dport != @known counter name lost drop\n"
            ),
        )
    }

    /// Packets that were lost so far.
    fn lost(&self) -> u64 {
        let listed = self.nft(&["list", "counter", "inet", "link", "lost"], "");
        let text = String::from_utf8(listed.stdout).unwrap();
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no count in {text}"))
    }

    fn nft(&self, args: &[&str], script: &str) -> Output {
        let mut nft = tool("nft");
        nft.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut nft = nft.spawn().unwrap_or_else(|error| panic!("start nft: {error}; see tests/run"));
        nft.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        nft.wait_with_output().unwrap()
    }
}

#[test]
fn records_get_through_a_link_that_loses_a_third_of_its_packets_and_for_a_while_all() {
    let Some(namespace) = Namespace::new("a link that loses packets") else { return };
    namespace.ip("link set dev lo up");
    // A thread that has entered it never leaves it again.
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            namespace.enter();
            all_get_through();
        });
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn all_get_through() {
    let world = World::new();
    let Some(link) = Link::new(world.broker.port()) else { return };
    let gateway = cut_off(&world, "5");
    let stored = fill(&gateway.store(), RECORDS);
    let before = world.broker.accepted(DEVICE);

    link.lose_some();
    let agent = gateway.start();
    world.fleet.wait_all(BOUND, "the first half", |messages| {
        (messages.iter().flat_map(Message::samples).count() as u64 > RECORDS / 2).then_some(())
    });
    assert!(link.lost() > 0, "this link loses nothing");
    link.lose_all();
    gateway.wait_for_status("the silence to be noticed", |status| status["broker"]["online"] == false);
    link.lose_some();
    let came = Came::wait_for(&world, &stored);
    let connections = (world.broker.accepted(DEVICE) - before) as u64;
    println!("packet loss: {came}; {} packets lost, {connections} connections", link.lost());
    came.assert_no_more_again_than_the_window(connections - 1);
    assert!(connections > 1, "nothing was cut");
    assert_no_error(&agent);
}
