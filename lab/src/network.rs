//! A lab that is up, its nodes and what runs on them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::signal::Signal;

use crate::capture::{Capture, Watch};
use crate::keeper::{self, Keeper};
use crate::process::{self, Process, cannot_start, only_child, path_variable, shown};
use crate::state::{self, State};
use crate::topology::{
    CommandLine, Contents, Destination, LONGEST_NAME, Link, Nat, NatPorts, Topology, is_name,
};
use crate::{Error, read_text};

/// A lab that is up. Dropping the one that made it takes it down.
pub struct Lab {
    state: State,
    folder: PathBuf,
    /// Only with the creator.
    keeper: Option<Keeper>,
    nodes: BTreeMap<String, Node>,
    wrappers: Vec<Child>,
    daemons: Vec<Daemon>,
}

/// A machine of a lab; copies are the same one.
#[derive(Debug, Clone)]
pub struct Node {
    name: String,
    holder: Process,
    user_namespace: bool,
    folder: PathBuf,
    routes: BTreeMap<Destination, IpAddr>,
}

/// A program that runs on a node until it is told to end, or the lab does.
#[derive(Debug)]
pub struct Daemon {
    node: String,
    command: String,
    wrapper: Child,
    process: Process,
    log: PathBuf,
}

impl Lab {
    /// Makes the lab and starts its daemons.
    ///
    /// # Errors
    /// What failed first; nothing is left behind then.
    pub fn up(topology: &Topology) -> Result<Self, Error> {
        let mut lab = Self::create(topology)?;
        lab.start_daemons(topology)?;
        Ok(lab)
    }

    /// Makes the lab without starting its daemons.
    ///
    /// # Errors
    /// What failed first; nothing is left behind then.
    pub fn create(topology: &Topology) -> Result<Self, Error> {
        let name = topology.name.as_deref().unwrap_or("lab");
        if !is_name(name, LONGEST_NAME) {
            return Err(Error::Choice(format!("`{name}` cannot be a lab's name; choose: --name")));
        }
        let folder = state::claim(name)?;
        let keeper = match prepare(topology, &folder).and_then(|()| Keeper::start()) {
            Ok(keeper) => keeper,
            Err(error) => {
                let _ = fs::remove_dir_all(&folder);
                return Err(error);
            }
        };
        let mut lab = Self {
            state: State {
                name: name.to_owned(),
                keeper: keeper.process,
                user_namespace: keeper.user_namespace,
                nodes: BTreeMap::new(),
                links: topology.links.keys().cloned().collect(),
                daemons: BTreeMap::new(),
            },
            folder,
            keeper: Some(keeper),
            nodes: BTreeMap::new(),
            wrappers: Vec::new(),
            daemons: Vec::new(),
        };
        lab.state.save(&lab.folder)?;
        lab.build(topology)?;
        lab.state.save(&lab.folder)?;
        Ok(lab)
    }

    /// A lab that another process made: this name, or the only one that is up.
    ///
    /// # Errors
    /// When there is none, or several to choose from.
    pub fn open(name: Option<&str>) -> Result<Self, Error> {
        let (state, folder) = state::find(name)?;
        let node = |(name, &holder): (&String, &Process)| {
            let node = Node {
                name: name.clone(),
                holder,
                user_namespace: state.user_namespace,
                folder: folder.clone(),
                routes: BTreeMap::new(),
            };
            (name.clone(), node)
        };
        let nodes = state.nodes.iter().map(node).collect();
        Ok(Self { state, folder, keeper: None, nodes, wrappers: Vec::new(), daemons: Vec::new() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Where logs are and `setup` ran; goes away with the lab.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// One node.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn node(&self, name: &str) -> Result<&Node, Error> {
        self.nodes.get(name).ok_or_else(|| Error::unknown("node", name, self.nodes.keys()))
    }

    /// Starts recording what passes on a link; returns when every later packet will be seen.
    ///
    /// # Errors
    /// When there is no such link, or the recorder does not start.
    pub fn capture(&self, link: &str) -> Result<Capture, Error> {
        let count = self.folder.read_dir().map_or(0, Iterator::count);
        Capture::start(self.sniffer(link)?, self.folder.join(format!("{link}-{count}.pcap")))
    }

    /// Gives what passes on a link, packet by packet, from now on.
    ///
    /// # Errors
    /// When there is no such link, or the recorder does not start.
    pub fn watch(&self, link: &str) -> Result<Watch, Error> {
        Watch::start(self.sniffer(link)?)
    }

    fn sniffer(&self, link: &str) -> Result<Command, Error> {
        if !self.state.links.iter().any(|known| known == link) {
            return Err(Error::unknown("link", link, self.state.links.iter()));
        }
        let mut command = self.in_fabric();
        command.arg(process::program("lab")?).args(["sniff", link]);
        Ok(command)
    }

    /// Starts what the topology says under `run`.
    ///
    /// # Errors
    /// When one does not start, or ends at once.
    pub fn start_daemons(&mut self, topology: &Topology) -> Result<(), Error> {
        for (name, node) in &topology.nodes {
            for CommandLine(argv) in &node.run {
                let daemon = self.node(name)?.start(argv)?;
                self.state.daemons.insert(daemon.title(), daemon.process);
                self.daemons.push(daemon);
            }
        }
        self.state.save(&self.folder)
    }

    /// Hands over a daemon that the topology started, to be killed and started again.
    ///
    /// # Errors
    /// When no such program was started on that node.
    pub fn take_daemon(&mut self, node: &str, program: &str) -> Result<Daemon, Error> {
        let is = |daemon: &Daemon| daemon.node == node && daemon.program() == program;
        match self.daemons.iter().position(is) {
            Some(index) => Ok(self.daemons.swap_remove(index)),
            None => {
                let running: Vec<_> = self.daemons.iter().map(Daemon::title).collect();
                Err(Error::unknown("daemon", &format!("{program} on {node}"), running.iter()))
            }
        }
    }

    /// The daemons that the topology started and nobody took.
    pub fn daemons(&self) -> &[Daemon] {
        &self.daemons
    }

    /// Leaves the lab up after the end of this process.
    ///
    /// # Errors
    /// When the keeper does not listen any more.
    pub fn detach(mut self) -> Result<(), Error> {
        match self.keeper.take() {
            Some(keeper) => keeper.stay(),
            None => Ok(()),
        }
    }

    /// Takes the lab down, whoever made it.
    pub fn down(mut self) {
        self.end();
    }

    fn end(&mut self) {
        match self.keeper.as_mut() {
            Some(keeper) => keeper.end(),
            None => {
                self.state.keeper.signal(Signal::SIGKILL);
                self.state.keeper.wait_gone();
            }
        }
        let daemons = self.daemons.iter_mut().map(|daemon| &mut daemon.wrapper);
        for wrapper in self.wrappers.iter_mut().chain(daemons) {
            let _ = wrapper.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }

    /// The network namespace with the links in it.
    fn in_fabric(&self) -> Command {
        keeper::enter(self.state.keeper, self.state.user_namespace, &["--net"])
    }

    fn build(&mut self, topology: &Topology) -> Result<(), Error> {
        for (name, description) in &topology.nodes {
            let Some(keeper) = &self.keeper else { continue };
            let (wrapper, holder) = keeper::start_node(keeper, name)?;
            self.wrappers.push(wrapper);
            self.state.nodes.insert(name.clone(), holder);
            let node = Node {
                name: name.clone(),
                holder,
                user_namespace: self.state.user_namespace,
                folder: self.folder.clone(),
                routes: description.routes.clone(),
            };
            self.nodes.insert(name.clone(), node);
        }
        self.plug(topology)?;
        let hosts = hosts(topology);
        for (name, description) in &topology.nodes {
            let node = self.node(name)?;
            let mut files = vec![(PathBuf::from("/etc/hosts"), hosts.clone())];
            files.extend(description.sysctl.iter().map(|(key, value)| sysctl(key, value)));
            for (path, contents) in &description.files {
                let text = match contents {
                    Contents::Text(text) => text.clone(),
                    Contents::Copy { copy } => read_text(&self.folder.join(copy))?,
                };
                files.push((path.clone(), text));
            }
            node.write_files(files)?;
            let mut batch = String::new();
            for (device, interface) in &description.interfaces {
                for address in interface.address.iter() {
                    let _ = writeln!(batch, "address add {address} dev {device}");
                }
                let _ = writeln!(batch, "link set {device} up");
            }
            for (destination, gateway) in &description.routes {
                let _ = writeln!(batch, "{}", route(destination, *gateway));
            }
            node.ip(&batch)?;
            if let Some(nat) = &description.nat {
                node.translate(nat)?;
            }
        }
        Ok(())
    }

    /// Makes the bridges, and a veth pair from each to every interface on it.
    fn plug(&self, topology: &Topology) -> Result<(), Error> {
        let mut batch = String::new();
        for link in topology.links.keys() {
            // Unknown and multicast destinations go to every port, at once.
            let _ = writeln!(batch, "link add {link} type bridge forward_delay 0 mcast_snooping 0");
            // A bridge shows a recorder what it forwards only when promiscuous.
            let _ = writeln!(batch, "link set {link} up promisc on");
        }
        let mut ports = Vec::new();
        // Where both ends of a veth pair have one index (in two namespaces), the kernel takes up to a
        // second to notice that the pair is up.
        const FIRST_INDEX: usize = 0x1_0000;
        for (name, node) in &topology.nodes {
            let holder = self.node(name)?.holder.pid;
            for (device, interface) in &node.interfaces {
                let (port, link) = (format!("port.{}", ports.len()), &interface.link);
                let options = topology.links.get(link).cloned().flatten().unwrap_or_default();
                let mtu = options.mtu.unwrap_or(1500);
                let _ = writeln!(
                    batch,
                    "link add {port} index {} mtu {mtu} type veth peer name {device} mtu {mtu} netns \
                     {holder}",
                    FIRST_INDEX + ports.len()
                );
                let _ = writeln!(batch, "link set {port} master {link} up");
                ports.push((port, options, (name, device)));
            }
        }
        let mut command = self.in_fabric();
        process::run(command.args(["ip", "-batch", "-"]), "ip -batch (links)", &batch)?;
        for (port, options, (node, device)) in ports {
            self.impair(&port, &options)?;
            if options.gro {
                // A veth device merges only what comes from one that cuts segments.
                let mut command = self.in_fabric();
                command.args(["ethtool", "-K", &port, "tso", "off"]);
                process::run(&mut command, "ethtool -K … tso off", "")?;
                self.node(node)?.run(["ethtool", "-K", device, "gro", "on"])?;
            }
        }
        Ok(())
    }

    fn impair(&self, port: &str, link: &Link) -> Result<(), Error> {
        let mut arguments = Vec::new();
        if let Some(delay) = &link.delay {
            arguments.extend(["delay".to_owned(), delay.to_string()]);
        }
        if let Some(loss) = &link.loss {
            arguments.extend(["loss".to_owned(), loss.to_string()]);
        }
        if arguments.is_empty() {
            return Ok(());
        }
        let mut command = self.in_fabric();
        command.args(["tc", "qdisc", "add", "dev", port, "root", "netem"]).args(&arguments);
        match process::run(&mut command, "tc qdisc add … netem", "") {
            Err(Error::Command { outcome, .. }) if outcome.contains("qdisc kind is unknown") => {
                Err(Error::Missing {
                    what: "this kernel has no netem, which `delay` and `loss` of a link need"
                        .into(),
                    remedy:
                        "load it (modprobe sch_netem), use a kernel with CONFIG_NET_SCH_NETEM, \
                             or leave `delay` and `loss` out"
                            .into(),
                })
            }
            other => other.map(drop),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            self.end();
        }
    }
}

/// What writes files. Links in /etc lead to files and folders of the host.
const WRITE: &str = r#"
set -e
umask 077
own() {
    [ -n "$1" ] || return 0
    own "${1%/*}"
    [ -L "$1" ] || return 0
    from=$(readlink "$1")
    case $from in
        /run/host-etc/*)
            rm "$1"
            mkdir "$1"
            find "$from/" -mindepth 1 -maxdepth 1 -exec ln -s -t "$1" {} +
            ;;
    esac
}
put() {
    own "${1%/*}"
    [ -d "${1%/*}/" ] || mkdir -p "${1%/*}"
    [ ! -L "$1" ] || rm "$1"
    printf %s "$2" >"$1"
}
"#;

fn sysctl(key: &str, value: &impl ToString) -> (PathBuf, String) {
    (format!("/proc/sys/{}", key.replace('.', "/")).into(), value.to_string())
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run on this node, as its root, with our own programs on its PATH.
    pub fn command<I, S>(&self, argv: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let inside = ["--mount", "--net", "--uts", "--pid", "--ipc"];
        let mut command = keeper::enter(self.holder, self.user_namespace, &inside);
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        command.args(["sh", "-c", r#"cd "$0" 2>/dev/null; exec "$@""#]).arg(here).args(argv);
        command
    }

    /// Runs a command to its end and gives what it printed.
    ///
    /// # Errors
    /// When it does not start or its status is not 0.
    pub fn run<I, S>(&self, argv: I) -> Result<String, Error>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.run_with_input(argv, "")
    }

    fn run_with_input<I, S>(&self, argv: I, input: &str) -> Result<String, Error>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let argv: Vec<_> = argv.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let result = process::run(
            &mut self.command(&argv),
            &format!("{}: {}", self.name, shown(&argv)),
            input,
        );
        match (&result, argv.first()) {
            (Err(Error::Command { outcome, .. }), Some(program))
                if outcome.starts_with("failed (exit status: 127)") =>
            {
                Err(process::missing_program(&program.to_string_lossy()))
            }
            _ => result,
        }
    }

    /// Runs a command again and again until what it prints satisfies `enough`.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the last output.
    pub fn until<I, S>(
        &self,
        argv: I,
        within: Duration,
        enough: impl Fn(&str) -> bool,
    ) -> Result<String, Error>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let argv: Vec<_> = argv.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let what = format!("{}: {}", self.name, shown(&argv));
        until(&what, within, || self.run(&argv), enough)
    }

    /// Starts a daemon; its output goes to a log file of the lab.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start<I, S>(&self, argv: I) -> Result<Daemon, Error>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let argv: Vec<_> = argv.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let program = argv.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
        let log = self.folder.join(format!("{}.{}.log", self.name, program.to_string_lossy()));
        let failed = |source| Error::io(format!("open {}", log.display()), source);
        let output = OpenOptions::new().append(true).create(true).open(&log).map_err(failed)?;
        let errors = output.try_clone().map_err(failed)?;
        let inside = self.command(&argv);
        // A session of its own: neither ^C nor the end of a terminal is meant for it.
        let mut command = Command::new("setsid");
        command.arg(inside.get_program()).args(inside.get_args()).env("PATH", path_variable());
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let mut wrapper = command.spawn().map_err(|error| cannot_start(&command, &error))?;
        let Some(process) = only_child(&mut wrapper) else {
            let _ = wrapper.kill();
            let status = wrapper.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
            return Err(Error::Command {
                command: format!("{}: {}", self.name, shown(&argv)),
                outcome: format!("ended at once ({status}): {}", read_text(&log)?.trim_end()),
            });
        };
        let (node, command) = (self.name.clone(), shown(&argv));
        Ok(Daemon { node, command, wrapper, process, log })
    }

    /// Writes a file on this node, mode 0600; folders on the way are made.
    ///
    /// # Errors
    /// When the node's file system refuses.
    pub fn write_file(&self, path: &Path, text: &str) -> Result<(), Error> {
        self.write_files([(path.to_owned(), text.to_owned())])
    }

    /// The same for several, by one process: each costs more than all that it writes.
    fn write_files(&self, files: impl IntoIterator<Item = (PathBuf, String)>) -> Result<(), Error> {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let mut script = WRITE.to_owned();
        for (path, text) in files {
            let _ = writeln!(script, "put {} {}", quoted(&path.to_string_lossy()), quoted(&text));
        }
        self.run_with_input(["sh"], &script).map(drop)
    }

    /// Gives an interface another address in place of those of its family, as a provider does; the
    /// topology's routes through it are kept.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn renumber(&self, device: &str, address: IpNet) -> Result<(), Error> {
        let family = if address.addr().is_ipv4() { "inet" } else { "inet6" };
        let listed = self.run(["ip", "-json", "address", "show", "dev", device])?;
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap_or_default();
        let mut batch = String::new();
        for old in listed[0]["addr_info"].as_array().into_iter().flatten() {
            if old["family"] == family && old["scope"] == "global" {
                let (local, length) =
                    (old["local"].as_str().unwrap_or_default(), &old["prefixlen"]);
                let _ = writeln!(batch, "address del {local}/{length} dev {device}");
            }
        }
        let _ = writeln!(batch, "address add {address} dev {device}");
        for (destination, gateway) in &self.routes {
            if address.contains(gateway) {
                let _ = writeln!(batch, "{}", route(destination, *gateway));
            }
        }
        self.ip(&batch)
    }

    fn ip(&self, batch: &str) -> Result<(), Error> {
        self.run_with_input(["ip", "-batch", "-"], batch).map(drop)
    }

    fn translate(&self, nat: &Nat) -> Result<(), Error> {
        let families = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
        self.write_files(families.map(|key| sysctl(key, &1)))?;
        let ports = match nat.ports {
            NatPorts::Preserve => "",
            NatPorts::Random => " fully-random",
        };
        // As routers at home do, what nobody asked for is dropped. It matters for two nodes that
        // write to each other at the same time: an answer of the router itself would leave a
        // connection behind, and the mapping of the own node would get another port.
        let rules = format!(
            "table inet lab {{
               chain outbound {{
                 type nat hook postrouting priority srcnat
                 oifname \"{outside}\" masquerade{ports}
               }}
               chain inbound {{
                 type filter hook input priority filter
                 iifname \"{outside}\" meta l4proto {{ tcp, udp }} ct state new drop
               }}
             }}",
            outside = nat.outside
        );
        self.run_with_input(["nft", "-f", "-"], &rules).map(drop)
    }
}

impl Daemon {
    /// Process number, as the machine that runs the lab sees it.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// The node that it runs on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The program's name.
    pub fn program(&self) -> &str {
        let path = self.command.split(' ').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }

    /// As `nhrpd on hub`.
    pub fn title(&self) -> String {
        format!("{} on {}", self.program(), self.node)
    }

    /// Does it still run?
    pub fn running(&self) -> bool {
        self.process.alive()
    }

    /// All that it has printed, in this life and in earlier ones on the same node.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String, Error> {
        read_text(&self.log)
    }

    /// Waits until it has printed this text.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the log.
    pub fn wait_for(&self, text: &str, within: Duration) -> Result<(), Error> {
        let what = format!("{} printing `{text}`", self.title());
        until(&what, within, || self.log(), |log| log.contains(text)).map(drop)
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When its status cannot be had.
    pub fn stop(self) -> Result<ExitStatus, Error> {
        self.signal_and_wait(Signal::SIGTERM)
    }

    /// SIGKILL, and waits for its end.
    ///
    /// # Errors
    /// When its status cannot be had.
    pub fn kill(self) -> Result<ExitStatus, Error> {
        self.signal_and_wait(Signal::SIGKILL)
    }

    fn signal_and_wait(mut self, signal: Signal) -> Result<ExitStatus, Error> {
        self.process.signal(signal);
        self.wrapper
            .wait()
            .map_err(|source| Error::io(format!("wait for {}", self.command), source))
    }
}

/// Asks again and again until the answer is enough.
fn until(
    what: &str,
    within: Duration,
    ask: impl Fn() -> Result<String, Error>,
    enough: impl Fn(&str) -> bool,
) -> Result<String, Error> {
    let give_up = Instant::now() + within;
    loop {
        let last = match ask() {
            Ok(answer) if enough(&answer) => return Ok(answer),
            Ok(answer) => answer,
            Err(error) => error.to_string(),
        };
        if Instant::now() >= give_up {
            return Err(Error::Timeout { what: what.into(), seconds: within.as_secs(), last });
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs the topology's `setup` in the lab's folder.
fn prepare(topology: &Topology, folder: &Path) -> Result<(), Error> {
    for line in &topology.setup {
        let Some((program, arguments)) = line.0.split_first() else { continue };
        let mut command = Command::new("env");
        command.arg(program).args(arguments).current_dir(folder).env("PATH", path_variable());
        process::run(&mut command, &line.to_string(), "")?;
    }
    Ok(())
}

fn hosts(topology: &Topology) -> String {
    let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for (name, node) in &topology.nodes {
        for address in node.interfaces.values().flat_map(|interface| interface.address.iter()) {
            let _ = writeln!(hosts, "{} {name}", address.addr());
        }
    }
    hosts
}

fn route(destination: &Destination, gateway: IpAddr) -> String {
    let family = if gateway.is_ipv4() { "-4" } else { "-6" };
    // In a batch the family cannot be an option of `ip`; `default` takes it from the gateway.
    let destination = match (destination, family) {
        (Destination::Default, "-6") => "::/0".to_owned(),
        (Destination::Default, _) => "0.0.0.0/0".to_owned(),
        (Destination::Prefix(prefix), _) => prefix.to_string(),
    };
    format!("route replace {destination} via {gateway}")
}
