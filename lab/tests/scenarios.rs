//! Labs that are really made: up, used, and gone without a trace.
#![allow(clippy::unwrap_used)] // helpers of tests are not known as tests

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use lab::decode::{Kind, Packet};
use lab::{Error, Lab, Topology};

const THREE: &str = include_str!("../../configs/lab/three.yaml");

fn topology(name: &str, text: &str) -> Topology {
    let mut topology = Topology::parse(Path::new("test.yaml"), text).unwrap();
    topology.name = Some(format!("{name}-{}", std::process::id()));
    topology
}

/// Is there a process in this network namespace? A zombie is in none.
fn inhabited(namespace: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        fs::read_link(entry.path().join("ns/net")).is_ok_and(|link| link == Path::new(namespace))
    })
}

#[test]
fn three_nodes_reach_each_other_and_a_capture_sees_it() {
    let lab = Lab::up(&topology("three", THREE)).unwrap();
    let capture = lab.capture("left").unwrap();
    let alice = lab.node("alice").unwrap();
    alice.run(["ping", "-c", "3", "-i", "0.01", "198.51.100.10"]).unwrap();
    alice.run(["ping", "-6", "-c", "1", "bob"]).unwrap();

    let captured = capture.stop().unwrap();
    assert_eq!(captured.lost, 0);
    let kinds: Vec<_> = captured.packets.iter().map(|p| Packet::of(&p.bytes).kind).collect();
    for (kind, count) in
        [(Kind::Icmp(8), 3), (Kind::Icmp(0), 3), (Kind::Icmp(128), 1), (Kind::Icmp(129), 1)]
    {
        assert_eq!(kinds.iter().filter(|k| **k == kind).count(), count, "{kind} in {kinds:?}");
    }
    assert!(captured.packets.is_sorted_by_key(|packet| packet.time));
}

#[test]
fn a_node_has_its_own_name_files_and_run() {
    let text = r#"
nodes:
  one:
    files: { /etc/nhrpd/nhrpd.yaml: "of one\n", /run/nhrpd/x: "" }
  two: {}
setup: [touch made]
"#;
    let lab = Lab::up(&topology("own", text)).unwrap();
    let one = lab.node("one").unwrap();
    assert_eq!(one.run(["hostname"]).unwrap(), "one\n");
    assert_eq!(one.run(["cat", "/etc/nhrpd/nhrpd.yaml"]).unwrap(), "of one\n");
    assert_eq!(one.run(["stat", "-c", "%a", "/etc/nhrpd/nhrpd.yaml"]).unwrap(), "600\n");
    assert!(one.run(["cat", "/etc/passwd"]).unwrap().contains("root"));
    let issue = fs::read("/etc/issue").ok();
    one.write_file(Path::new("/etc/issue"), "of one\n").unwrap();
    assert_eq!(one.run(["cat", "/etc/issue"]).unwrap(), "of one\n");
    assert_eq!(fs::read("/etc/issue").ok(), issue, "the host keeps its own");
    one.write_file(Path::new("/etc/default/of-one"), "").unwrap();
    assert!(!Path::new("/etc/default/of-one").exists(), "in a folder of the host, too");
    let [own, beside] = [1, fs::read_dir("/etc/default").unwrap().count()];
    assert_eq!(one.run(["ls", "-A", "/etc/default"]).unwrap().lines().count(), own + beside);
    assert!(lab.node("two").unwrap().run(["ls", "/run/nhrpd"]).is_err());
    assert!(lab.folder().join("made").exists());
    assert!(matches!(lab.node("three"), Err(Error::Unknown { .. })));
}

#[test]
fn an_address_changes_at_run_time_and_the_route_stays() {
    let lab = Lab::up(&topology("renumber", THREE)).unwrap();
    let alice = lab.node("alice").unwrap();
    alice.renumber("eth0", "192.0.2.77/24".parse().unwrap()).unwrap();
    let addresses = alice.run(["ip", "-4", "address", "show", "dev", "eth0"]).unwrap();
    assert!(addresses.contains("192.0.2.77/24") && !addresses.contains("192.0.2.10/"));
    alice.run(["ping", "-4", "-c", "1", "198.51.100.10"]).unwrap();
}

#[test]
fn daemons_are_killed_and_started_again() {
    let text = "nodes:\n  one:\n    run: [[sh, -c, 'echo started $$; exec sleep 1000']]\n";
    let mut lab = Lab::up(&topology("daemons", text)).unwrap();
    let first = lab.take_daemon("one", "sh").unwrap();
    first.wait_for("started", Duration::from_secs(10)).unwrap();
    assert!(first.running());
    assert!(!first.kill().unwrap().success());

    let again = ["sh", "-c", "echo again; exec sleep 1000"];
    let second = lab.node("one").unwrap().start(again).unwrap();
    second.wait_for("again", Duration::from_secs(10)).unwrap();
    assert!(second.log().unwrap().contains("started"));
    drop(lab);
    assert!(!second.running());
}

/// Source ports of two datagrams on both sides of a NAT router.
fn ports_inside_and_outside(ports: &str) -> [Vec<u16>; 2] {
    let text = format!(
        r#"
links: {{ inside: , outside: }}
nodes:
  client:
    interfaces: {{ eth0: {{ link: inside, address: 192.168.1.2/24 }} }}
    routes: {{ default: 192.168.1.1 }}
  nat:
    interfaces:
      eth0: {{ link: outside, address: 198.51.100.254/24 }}
      eth1: {{ link: inside, address: 192.168.1.1/24 }}
    nat: {{ outside: eth0, ports: {ports} }}
  server:
    interfaces:
      eth0: {{ link: outside, address: [198.51.100.1/24, 198.51.100.2/24] }}
"#
    );
    let lab = Lab::up(&topology(&format!("nat-{ports}"), &text)).unwrap();
    let captures = ["inside", "outside"].map(|link| lab.capture(link).unwrap());
    let client = lab.node("client").unwrap();
    for server in ["198.51.100.1", "198.51.100.2"] {
        let send = format!("echo hello > /dev/udp/{server}/4500");
        client.run(["bash", "-c", &send]).unwrap();
    }
    // The reply to a ping comes after what was sent before it.
    client.run(["ping", "-c", "1", "198.51.100.1"]).unwrap();
    let sources = ["192.168.1.2", "198.51.100.254"].map(|source| source.parse().unwrap());
    let mut sides = captures.into_iter().zip(sources).map(|(capture, source): (_, IpAddr)| {
        let packets = capture.stop().unwrap().packets;
        let from_source = packets.iter().filter(|packet| {
            let packet = Packet::of(&packet.bytes);
            packet.addresses.is_some_and(|(from, _)| from == source) && packet.kind == Kind::Esp
        });
        from_source.map(|packet| u16::from_be_bytes([packet.bytes[34], packet.bytes[35]])).collect()
    });
    [sides.next().unwrap(), sides.next().unwrap()]
}

#[test]
fn nat_that_preserves_ports() {
    let [inside, outside] = ports_inside_and_outside("preserve");
    assert_eq!(inside.len(), 2);
    assert_eq!(inside, outside);
}

#[test]
fn nat_with_random_ports() {
    let [inside, outside] = ports_inside_and_outside("random");
    assert_eq!(outside.len(), 2);
    assert_ne!(inside, outside);
}

#[test]
fn delay_where_the_kernel_has_it() {
    let text = THREE.replace("  left:\n", "  left: { delay: 20ms }\n");
    match Lab::up(&topology("delay", &text)) {
        Ok(lab) => {
            let begun = Instant::now();
            lab.node("alice").unwrap().run(["ping", "-c", "1", "192.0.2.1"]).unwrap();
            assert!(begun.elapsed() >= Duration::from_millis(40));
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("this kernel has no netem"), "{error}");
        }
    }
}

#[test]
fn a_failure_half_way_leaves_nothing() {
    let text = THREE.replace("[198.51.100.1/24,", "[198.51.100.1/24, 198.51.100.1/24,");
    let topology = topology("broken", &text);
    let error = Lab::up(&topology).err().unwrap().to_string();
    assert!(error.contains("ip -batch"), "{error}");
    let name = topology.name.unwrap();
    assert!(!lab::state::list().unwrap().iter().any(|lab| lab.name == name));
}

/// Not a test by itself: the process that the next test kills.
#[test]
fn helper_that_holds_a_lab() {
    let Ok(name) = std::env::var("HOLD_LAB") else { return };
    let mut topology = Topology::parse(Path::new("test.yaml"), THREE).unwrap();
    topology.name = Some(name);
    let lab = Lab::up(&topology).unwrap();
    let namespace = lab.node("bob").unwrap().run(["readlink", "/proc/self/ns/net"]).unwrap();
    println!("holding {namespace}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn a_killed_creator_takes_the_lab_along() {
    let name = format!("killed-{}", std::process::id());
    let mut creator = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_that_holds_a_lab", "--nocapture"])
        .env("HOLD_LAB", &name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(creator.stdout.take().unwrap()).lines().map(Result::unwrap);
    let namespace = lines.find_map(|line| line.split_once("holding ").map(|(_, n)| n.to_owned()));
    let namespace = namespace.unwrap();
    assert!(inhabited(&namespace));

    creator.kill().unwrap();
    creator.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while inhabited(&namespace) || lab::state::list().unwrap().iter().any(|l| l.name == name) {
        assert!(Instant::now() < deadline, "{namespace} lives on");
        std::thread::yield_now();
    }
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let lab = Lab::up(&topology("missing", "nodes: { one: {} }")).unwrap();
    let error = lab.node("one").unwrap().run(["no-such-program"]).unwrap_err().to_string();
    assert_eq!(
        error,
        "no program `no-such-program` here; install it: apt-get install no-such-program"
    );
}

/// The binary, its topology and a home, where every user can reach them.
struct Cli {
    folder: tempfile::TempDir,
    user: Option<u32>,
    name: String,
}

impl Cli {
    fn new(user: Option<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_lab"), folder.path().join("lab-program")).unwrap();
        fs::write(folder.path().join("three.yaml"), THREE).unwrap();
        let name = format!("cli{}-{}", user.unwrap_or(0), std::process::id());
        Self { folder, user, name }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let binary = self.folder.path().join("lab-program");
        let mut command = match self.user {
            None => Command::new(binary),
            Some(user) => {
                let mut command = Command::new("setpriv");
                let user = user.to_string();
                command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]).arg(binary);
                command
            }
        };
        command.args(["--name", &self.name]).args(arguments).current_dir(self.folder.path());
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn whole_life(&self) {
        self.good(&["up", "three.yaml"]);
        let again = self.run(&["up", "three.yaml"]);
        assert_eq!(again.status.code(), Some(1));
        let again = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(again.contains("is up already"), "{again}");
        assert!(self.good(&["list"]).contains("nodes alice, bob, router; links left, right"));

        let pong = self.good(&["exec", "alice", "--", "ping", "-c", "1", "198.51.100.10"]);
        assert!(pong.contains(" 1 received"), "{pong}");
        self.good(&["exec", "alice", "--", "ip", "address", "add", "192.0.2.99/24", "dev", "eth0"]);
        assert_eq!(self.run(&["exec", "alice", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));

        let namespace = self.good(&["exec", "alice", "--", "readlink", "/proc/self/ns/net"]);
        let namespace = namespace.trim();
        assert!(inhabited(namespace));

        self.good(&["down"]);
        assert!(!self.good(&["list"]).contains(&self.name));
        assert!(!self.folder.path().join("lab").join(&self.name).exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("host-etc"), "{mounts}");
        assert!(!inhabited(namespace));
    }
}

#[test]
fn a_daemon_that_ends_at_once_fails_the_start() {
    let cli = Cli::new(None);
    let text = "nodes: { one: { run: [[sh, -c, 'echo bad key; exit 1']] } }\n";
    fs::write(cli.folder.path().join("bad.yaml"), text).unwrap();
    let output = cli.run(&["up", "bad.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("bad key") && error.lines().count() == 1, "{error}");
    assert!(!cli.good(&["list"]).contains(&cli.name));
}

#[test]
fn wrong_usage_and_bad_names() {
    let mut cli = Cli::new(None);
    assert_eq!(cli.run(&["exec"]).status.code(), Some(2));
    let output = cli.run(&["exec", "alice", "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.starts_with(&format!("lab: no lab `{}`", cli.name)), "{error}");
    cli.name = "../x".into();
    assert_eq!(cli.run(&["up", "three.yaml"]).status.code(), Some(1));
}

#[test]
fn command_line_whole_life() {
    Cli::new(None).whole_life();
}

#[test]
fn command_line_whole_life_without_root() {
    const NOBODY: u32 = 65534;
    if !nix::unistd::geteuid().is_root() {
        return; // then the test above is this one
    }
    Cli::new(Some(NOBODY)).whole_life();
}
