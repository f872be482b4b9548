//! `pki bundle`: one file to carry to a branch, with all that its nhrpd needs.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use ipnet::IpNet;
use pki::{Certificate, Credential, UnixTime};
use serde::Serialize;

use super::store::{self, Overwrite, Store};
use super::{Folder, file_name, prefix};

#[derive(Debug, Args)]
pub(crate) struct Bundle {
    /// Name of the node.
    #[arg(value_parser = file_name)]
    name: String,
    #[command(flatten)]
    folder: Folder,
    /// Next-hop server: tunnel address and NBMA address or name. May be repeated.
    #[arg(long, value_name = "ADDRESS=NBMA", value_parser = server)]
    nhs: Vec<(IpAddr, String)>,
    /// Prefix that is reached through the tunnel. May be repeated.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    route: Vec<IpNet>,
    /// Prefix length of the tunnel's network.
    #[arg(long, default_value_t = 24)]
    length: u8,
    /// GRE key.
    #[arg(long)]
    key: Option<u32>,
    /// Device of the uplink at the branch.
    #[arg(long, default_value = "eth0")]
    source: String,
    /// The file, instead of NAME.tar.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file.
    #[arg(long)]
    force: bool,
}

fn server(text: &str) -> Result<(IpAddr, String), String> {
    let parts = text.split_once('=').and_then(|(a, nbma)| Some((a.parse().ok()?, nbma)));
    let (address, nbma) = parts.ok_or("expected such as 172.16.0.1=hub.example.net")?;
    let good = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    if nbma.is_empty() || !nbma.chars().all(good) {
        return Err(format!("\"{nbma}\" is neither an address nor a name"));
    }
    Ok((address, nbma.to_owned()))
}

/// What was put together.
#[derive(Debug, Serialize)]
pub(super) struct Bundled {
    file: PathBuf,
    files: Vec<&'static str>,
}

impl Bundled {
    pub(super) fn text(&self) -> String {
        let file = self.file.display();
        format!(
            "{file}: {}\nIt holds the private key: carry it by a way that nobody else sees. At the \
             branch:\n  tar -xpf {file} -C /etc/nhrpd && chown -R nhrpd: /etc/nhrpd\n  systemctl enable \
             --now nhrpd\n",
            self.files.join(", ")
        )
    }
}

pub(super) fn bundle(arguments: &Bundle, now: UnixTime) -> anyhow::Result<Bundled> {
    let store = Store::open(&arguments.folder.dir)?;
    let issued = |ending: &str| store.issued().join(format!("{}.{ending}", arguments.name));
    let (certificate, key) = (store::read(&issued("crt"))?, store::read(&issued("key"))?);
    let own = Credential::from_pem(&certificate, &key)
        .with_context(|| format!("{} with {}", issued("crt").display(), issued("key").display()))?;
    if own.certificate().not_after < now {
        bail!("{} has expired: overlayctl pki renew {}", issued("crt").display(), arguments.name);
    }
    let file = match &arguments.out {
        Some(file) => file.clone(),
        None => PathBuf::from(format!("{}.tar", arguments.name)),
    };
    let overwrite = Overwrite::if_forced(arguments.force);
    overwrite.check(&file)?;
    let yaml = configuration(arguments, own.certificate())?;
    let (ca, crl) = (store::read(&store.ca_certificate())?, store::read(&store.revocation_list())?);
    let contents: [(&'static str, u32, &[u8]); 5] = [
        ("nhrpd.yaml", 0o640, yaml.as_bytes()),
        ("node.crt", 0o644, &certificate),
        ("node.key", 0o600, &key),
        ("ca.crt", 0o644, &ca),
        ("crl.pem", 0o644, &crl),
    ];
    let mut archive = tar::Builder::new(Vec::new());
    for (name, mode, octets) in contents {
        let mut header = tar::Header::new_gnu();
        header.set_size(octets.len() as u64);
        header.set_mode(mode);
        header.set_mtime(now.as_secs());
        archive.append_data(&mut header, name, octets).context("cannot put the file together")?;
    }
    let octets = zeroize::Zeroizing::new(archive.into_inner()?);
    store::write_secret(&file, &octets, overwrite)?;
    Ok(Bundled { file, files: contents.map(|(name, ..)| name).to_vec() })
}

/// nhrpd.yaml of the branch: checked here, so that it is not found bad there.
fn configuration(arguments: &Bundle, certificate: &Certificate) -> anyhow::Result<String> {
    let Some(address) = certificate.identity.addresses.first() else {
        bail!("the certificate of {} has no tunnel address (issue --address)", arguments.name);
    };
    let tunnel = IpNet::new(*address, arguments.length)
        .with_context(|| format!("--length {}", arguments.length))?;
    let key = arguments.key.map_or_else(String::new, |key| format!(", key: {key}"));
    // Writing to a String cannot fail.
    let mut yaml = format!("tunnel: {{ interface: dmvpn0, address: '{tunnel}'{key} }}\n");
    let _ = writeln!(yaml, "underlay: {{ source: {} }}", arguments.source);
    let _ = writeln!(
        yaml,
        "security: {{ certificate: node.crt, private-key: node.key, ca: ca.crt, crl: crl.pem }}"
    );
    if !arguments.nhs.is_empty() {
        yaml.push_str("nhs:\n");
    }
    for (address, nbma) in &arguments.nhs {
        let _ = writeln!(yaml, "  - {{ address: '{address}', nbma: '{nbma}' }}");
    }
    if !certificate.prefixes().is_empty() {
        yaml.push_str("advertise: certificate\n");
    }
    if !arguments.route.is_empty() {
        yaml.push_str("routes:\n");
    }
    for route in &arguments.route {
        let _ = writeln!(yaml, "  - '{route}'");
    }
    let name = PathBuf::from("nhrpd.yaml");
    nhrpd::config::parse(&yaml, &name).context("these options give no good configuration")?;
    Ok(yaml)
}
