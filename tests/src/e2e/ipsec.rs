//! charon and pluto on nodes of a lab, as Debian packages strongSwan and libreswan.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ike::Refusal;
use lab::{Daemon, Node};
use zeroize::Zeroizing;

use super::{Identity, good, until};
use crate::matrix::Peer;

/// What such a daemon is to do: ESP in transport mode for GRE, as ours does it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Its own address.
    pub local: String,
    /// The other one's; `%any` for whoever comes.
    pub remote: String,
    /// Where it speaks IKE, and where the other one does at first: 500, or 4500.
    pub port: u16,
    /// What it proves itself with.
    pub proof: Secret,
    /// IKE proposal by strongSwan's keywords; none for its defaults.
    pub ike: Option<String>,
    /// ESP proposal; none for its defaults.
    pub esp: Option<String>,
    /// GRE that has no SA makes it begin.
    pub trap: bool,
    /// For measurements: neither log nor probes, and tables that are made for thousands.
    pub quiet: bool,
}

/// Credentials of both sides.
#[derive(Debug, Clone)]
pub enum Secret {
    /// Own certificate; whoever has one of the same CA is welcome.
    Certificate(Identity),
    /// Names of this side and of the other one, and what they share.
    Shared {
        /// Own name.
        own: String,
        /// The other one's name.
        other: String,
        /// The key.
        key: String,
    },
}

/// For an engine of ours without a daemon: a certificate with its name. Whoever presents one with
/// his own name is welcome.
pub struct Credentials {
    identity: ike::Identity,
    certificate: Vec<u8>,
    private_key: Zeroizing<Vec<u8>>,
}

impl Credentials {
    /// Of this certificate.
    pub fn new(identity: &Identity) -> Self {
        let der = |text: &str| good("read PEM", pem::parse(text)).into_contents();
        let certificate = der(&identity.certificate);
        let read = good("read a certificate", pki::Certificate::parse(&certificate));
        Self {
            identity: ike::Identity { kind: 9, data: read.identity.subject_der.clone() },
            certificate,
            private_key: Zeroizing::new(der(&identity.private_key)),
        }
    }
}

impl ike::Credentials for Credentials {
    fn identity(&self) -> ike::Identity {
        self.identity.clone()
    }

    fn certificates(&self) -> Vec<Vec<u8>> {
        vec![self.certificate.clone()]
    }

    fn private_key(&self) -> Zeroizing<Vec<u8>> {
        self.private_key.clone()
    }

    fn authenticate(&self, identity: &ike::Identity, chain: &[Vec<u8>]) -> Result<(), Refusal> {
        let refused = |why: &str| Refusal(why.into());
        let leaf = chain.first().ok_or_else(|| refused("no certificate"))?;
        let read = pki::Certificate::parse(leaf).map_err(|error| Refusal(error.to_string()))?;
        if read.identity.subject_der != identity.data {
            return Err(refused("the certificate is for another name"));
        }
        Ok(())
    }
}

/// A daemon for IPsec that is not ours.
pub struct Foreign {
    kind: Peer,
    node: Node,
    folder: PathBuf,
    connection: Connection,
    daemon: Option<Daemon>,
}

/// Without a list charon loads all plugins that there are, also such as take ESP from the kernel.
const PLUGINS: &str = "\
charon-systemd { load = random nonce x509 constraints pubkey pkcs1 pkcs8 pem openssl curve25519 kdf \
kernel-netlink socket-default vici }
swanctl { load = random openssl pem pkcs1 pkcs8 pubkey x509 }
";
const TALKATIVE: &str = "charon-systemd {
  retransmit_tries = 2
  retransmit_timeout = 1.0
  retransmit_base = 1.0
  filelog { stderr { default = 1
                     ike = 2
                     cfg = 2 } }
}
";
/// As strongSwan's documentation has it for thousands of IKE SAs.
const QUIET: &str = "charon-systemd {
  ikesa_table_size = 4096
  ikesa_table_segments = 16
  filelog { stderr { default = -1 } }
  journal { default = -1 }
}
";
/// The first SA of a boot loads modules: in the virtual machine that takes seconds, in which charon
/// answers nobody.
const CIPHERS: &str = "
ends='src 192.0.2.1 dst 192.0.2.2 proto esp'
key=$(printf %064d 0)
ip xfrm state add $ends spi 1 mode transport aead 'rfc4106(gcm(aes))' 0x${key}00000000 128
ip xfrm state add $ends spi 2 mode transport aead 'rfc7539esp(chacha20,poly1305)' 0x${key}00000000 128
ip xfrm state add $ends spi 3 mode transport auth-trunc 'hmac(sha256)' 0x$key 128 enc 'cbc(aes)' 0x$key
for spi in 1 2 3; do ip xfrm state delete $ends spi $spi; done";
/// How libreswan calls what the proposals name.
const LIBRESWAN: [(&str, &str); 7] = [
    ("aes256gcm16", "aes_gcm256"),
    ("aes128gcm16", "aes_gcm128"),
    ("prf", ""),
    ("sha", "sha2_"),
    ("x25519", "dh31"),
    ("ecp256", "dh19"),
    ("ecp384", "dh20"),
];

impl Foreign {
    /// Starts it and waits until it has its connection. `folder` is for its files; nodes
    /// must see it.
    #[track_caller]
    pub fn start(kind: Peer, node: &Node, folder: &Path, connection: Connection) -> Self {
        let folder = folder.join(format!("{}-ipsec", node.name()));
        good("load the ciphers", node.run(["sh", "-c", CIPHERS]));
        let mut foreign = Self { kind, node: node.clone(), folder, connection, daemon: None };
        match kind {
            Peer::StrongSwan => foreign.configure_strongswan(),
            Peer::Libreswan => foreign.configure_libreswan(),
        }
        foreign.restart();
        foreign
    }

    /// Starts it again after its end.
    #[track_caller]
    pub fn restart(&mut self) {
        match self.kind {
            Peer::StrongSwan => {
                let daemon = self.node.start(self.with_settings(&["/usr/sbin/charon-systemd"]));
                self.daemon = Some(good("start charon", daemon));
                until("charon has its connection", || {
                    self.running();
                    self.node.run(self.with_settings(&["swanctl", "--load-all", "--noprompt"])).ok()
                });
            }
            Peer::Libreswan => {
                let config = self.file("ipsec.conf");
                let pluto = ["/usr/libexec/ipsec/pluto", "--nofork", "--stderrlog"];
                let argv = pluto.into_iter().chain(["--rundir", "/run", "--config", &config]);
                self.daemon = Some(good("start pluto", self.node.start(argv)));
                until("pluto listens", || {
                    self.running();
                    self.whack(&["--listen"])
                });
                let add = ["--config", &config, "--ctlsocket", "/run/pluto.ctl", "--autoall"];
                let argv = ["/usr/libexec/ipsec/addconn"].into_iter().chain(add);
                good("load the connection", self.node.run(argv));
            }
        }
    }

    fn running(&self) {
        let daemon = self.daemon.as_ref();
        assert!(daemon.is_some_and(Daemon::running), "ended: {}", self.log());
    }

    /// The daemon, where it runs.
    pub fn daemon(&self) -> Option<&Daemon> {
        self.daemon.as_ref()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.daemon.as_ref().and_then(|daemon| daemon.log().ok()).unwrap_or_default()
    }

    /// Has it an SA, of IKE or of ESP?
    #[track_caller]
    pub fn has_sas(&self) -> bool {
        match self.kind {
            Peer::StrongSwan => !self.swanctl(&["--list-sas"]).trim().is_empty(),
            Peer::Libreswan => {
                let told = self.whack(&["--showstates"]).unwrap_or_default();
                told.lines().any(|line| line.contains("#") && line.contains("STATE_V2_ESTABLISHED"))
            }
        }
    }

    /// Has it new keys made for the CHILD_SA, or for the IKE SA.
    #[track_caller]
    pub fn rekey(&self, ike: bool) {
        match (self.kind, ike) {
            (Peer::StrongSwan, true) => drop(self.swanctl(&["--rekey", "--ike", "gre"])),
            (Peer::StrongSwan, false) => drop(self.swanctl(&["--rekey", "--child", "gre"])),
            (Peer::Libreswan, true) => drop(self.whack(&["--rekey-ike", "--name", "gre"])),
            (Peer::Libreswan, false) => drop(self.whack(&["--rekey-ipsec", "--name", "gre"])),
        }
    }

    /// Has it delete its SAs.
    #[track_caller]
    pub fn delete(&self) {
        match self.kind {
            Peer::StrongSwan => drop(self.swanctl(&["--terminate", "--ike", "gre"])),
            Peer::Libreswan => drop(self.whack(&["--terminate", "--name", "gre"])),
        }
    }

    /// SIGKILL.
    #[track_caller]
    pub fn kill(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            good("kill it", daemon.kill());
        }
    }

    #[track_caller]
    fn swanctl(&self, command: &[&str]) -> String {
        let argv: Vec<&str> = std::iter::once("swanctl").chain(command.iter().copied()).collect();
        good("ask charon", self.node.run(self.with_settings(&argv)))
    }

    fn whack(&self, command: &[&str]) -> Option<String> {
        let argv = ["/usr/libexec/ipsec/whack", "--ctlsocket", "/run/pluto.ctl"];
        self.node.run(argv.iter().chain(command)).ok()
    }

    fn with_settings(&self, argv: &[&str]) -> Vec<String> {
        let settings = [
            "env".to_owned(),
            format!("STRONGSWAN_CONF={}", self.file("strongswan.conf")),
            format!("SWANCTL_DIR={}", self.file("swanctl")),
        ];
        settings.into_iter().chain(argv.iter().map(|word| (*word).to_owned())).collect()
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    #[track_caller]
    fn write(&self, name: &str, text: &str) {
        let path = self.folder.join(name);
        good("make a folder", fs::create_dir_all(path.parent().unwrap_or(&self.folder)));
        good("write a file", fs::write(path, text));
    }

    #[track_caller]
    fn configure_strongswan(&self) {
        let Connection { local, remote, port, proof, ike, esp, trap, quiet } = &self.connection;
        let (mut ends, mut secrets) = (String::new(), String::new());
        match proof {
            Secret::Certificate(identity) => {
                ends += "local { auth = pubkey\n certs = own.crt }\n remote { auth = pubkey }\n";
                self.write("swanctl/x509/own.crt", &identity.certificate);
                self.write("swanctl/private/own.key", &identity.private_key);
                self.write("swanctl/x509ca/ca.crt", &identity.ca);
            }
            Secret::Shared { own, other, key } => {
                ends += &format!("local {{ auth = psk\n id = {own} }}\n");
                ends += &format!("remote {{ auth = psk\n id = {other} }}\n");
                secrets =
                    format!("secrets {{ ike-gre {{ id = {other}\n secret = \"{key}\" }} }}\n");
            }
        }
        let begin = if *trap { "trap" } else { "none" };
        // A trap wants to know whom it is for.
        let whom = if remote == "%any" { "0.0.0.0/0" } else { "dynamic" };
        let (probes, manner) = if *quiet { ("0s", QUIET) } else { ("2s", TALKATIVE) };
        let ike = ike.as_deref().unwrap_or("default");
        let esp = esp.as_deref().unwrap_or("default");
        let connection = format!(
            "connections {{ gre {{
               version = 2
               local_addrs = {local}
               remote_addrs = {remote}
               local_port = {port}
               remote_port = {port}
               proposals = {ike}
               dpd_delay = {probes}
               {ends}
               children {{ gre {{ mode = transport
                                  local_ts = dynamic[gre]
                                  remote_ts = {whom}[gre]
                                  esp_proposals = {esp}
                                  start_action = {begin} }} }}
             }} }}\n"
        );
        self.write("strongswan.conf", &[PLUGINS, manner].concat());
        self.write("swanctl/swanctl.conf", &(connection + &secrets));
    }

    #[track_caller]
    fn configure_libreswan(&self) {
        let Connection { local, remote, port, proof, ike, esp, trap, .. } = &self.connection;
        let mut ends = String::new();
        let ports = match port {
            500 => String::new(),
            port => format!("leftikeport={port}\n    rightikeport={port}\n    "),
        };
        let nss = format!("sql:{}", self.file("nss"));
        good("make a folder", fs::create_dir_all(self.folder.join("nss")));
        run(Command::new("certutil").args(["-N", "--empty-password", "-d", &nss]));
        match proof {
            Secret::Certificate(identity) => {
                ends += "    authby=ecdsa\n    leftid=%fromcert\n    leftcert=own\n";
                ends += "    rightid=%fromcert\n    rightca=%same\n";
                self.write("own.pem", &(identity.certificate.clone() + &identity.private_key));
                self.write("ca.crt", &identity.ca);
                let (pem, bundle) = (self.file("own.pem"), self.file("own.p12"));
                let export = ["pkcs12", "-export", "-name", "own", "-passout", "pass:"];
                // Few rounds: the bundle lives for a second, and the machine may be a slow one.
                let cheap = ["-iter", "1", "-in", &pem, "-out", &bundle];
                run(Command::new("openssl").args(export).args(cheap));
                run(Command::new("pk12util").args(["-i", &bundle, "-W", "", "-d", &nss]));
                let (trust, ca) = (["-t", "CT,,", "-d", &nss], self.file("ca.crt"));
                run(Command::new("certutil").args(["-A", "-n", "ca", "-i", &ca]).args(trust));
                self.write("ipsec.secrets", "");
            }
            Secret::Shared { own, other, key } => {
                ends += &format!("    authby=secret\n    leftid=@{own}\n    rightid=@{other}\n");
                self.write("ipsec.secrets", &format!("@{own} @{other} : PSK \"{key}\"\n"));
            }
        }
        let (begin, gone) = if *trap { ("ondemand", "hold") } else { ("add", "clear") };
        for (key, proposal) in [("ike", ike), ("esp", esp)] {
            if let Some(proposal) = proposal {
                let rename = |text: String, (from, to): &(&str, &str)| text.replace(from, to);
                let proposal = LIBRESWAN.iter().fold(proposal.clone(), rename);
                ends += &format!("    {key}={proposal}\n");
            }
        }
        let config = format!(
            "config setup\n    protostack=xfrm\n    nssdir={}\n    secretsfile={}\n    dumpdir=/run\n\n\
             conn gre\n    ikev2=insist\n    type=transport\n    auto={begin}\n    left={local}\n    \
             right={remote}\n    {ports}leftprotoport=gre\n    \
             rightprotoport=gre\n    dpddelay=2\n    dpdtimeout=6\n    dpdaction={gone}\n    \
             retransmit-timeout=4s\n{ends}",
            self.file("nss"),
            self.file("ipsec.secrets"),
        );
        self.write("ipsec.conf", &config);
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = good("start a program", command.output());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {said}", command.get_program());
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("── log of {:?} on {}:\n{}", self.kind, self.node.name(), self.log());
        }
    }
}
