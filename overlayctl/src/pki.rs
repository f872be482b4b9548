//! `overlayctl pki`: a small CA in a folder, and a look at certificates. Needs no daemon.

mod bundle;
mod describe;
mod remote;
mod store;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use pki::authority::{Authority, Request, Serial, Validity};
use pki::{Certificate, ExtendedKeyUsage, KeyType, KeyUsage, UnixTime};
use serde::Serialize;

use self::describe::{Description, instant};
use self::store::{Entry, Index, Overwrite, Store};
use crate::text::{self, Column};

const DAY: Duration = Duration::from_secs(86_400);

/// That long before its end, a certificate is to be renewed.
const SOON: Duration = Duration::from_secs(30 * 86_400);

/// A certificate is valid from this long ago: a node's clock may lag behind the CA's.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// How long until the next revocation list is due.
const REVOCATION_LIST: Duration = Duration::from_secs(90 * 86_400);

/// Certificates: a small CA in a folder. Needs no daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum PkiCommand {
    /// Make a CA: ca.crt, ca.key and an empty crl.pem.
    Init(Init),
    /// Make a key and a certificate for a node: issued/NAME.crt and issued/NAME.key.
    Issue(Issue),
    /// Renew a node's certificate for the key that it has: issued/NAME.crt.
    Renew(remote::Renew),
    /// Make a key and a request for a certificate (PKCS#10): NAME.key and NAME.csr. Needs no CA.
    #[command(name = "request")]
    AskFor(remote::AskFor),
    /// Make a certificate from a request: issued/NAME.crt. What it may claim, you say here.
    Sign(remote::Sign),
    /// Put all that a branch needs into one file: key, certificates and nhrpd.yaml.
    Bundle(bundle::Bundle),
    /// Show the certificates in a file; without one, the CA and what it has issued.
    Show(Show),
    /// Revoke certificates and write crl.pem; without a name, only write it anew.
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// Folder of the CA.
    #[arg(long, value_name = "DIR", default_value = "pki")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    #[command(flatten)]
    folder: Folder,
    /// Common name of the CA.
    #[arg(long, default_value = "Overlay CA", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: String,
    /// Validity in days from now.
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// p256, p384, ed25519 or rsa.
    #[arg(long, default_value_t = KeyType::P256)]
    key_type: KeyType,
    /// Replace the CA that is there; what it has issued is worthless then.
    #[arg(long)]
    force: bool,
}

/// What a certificate is to say of a node.
#[derive(Debug, Args)]
pub(crate) struct Claims {
    /// Tunnel address that the node may register. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<IpAddr>,
    /// Prefix behind the node, which it may advertise. May be repeated.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    prefix: Vec<IpNet>,
    /// DNS name. May be repeated.
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// Validity in days from now, within that of the CA.
    #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

impl Claims {
    /// Unless forced, no address that a valid certificate of another node has.
    fn check(&self, force: bool, index: &Index, name: &str, now: UnixTime) -> anyhow::Result<()> {
        match index.owner_of(&self.address, name, now) {
            Some((owner, address)) if !force => {
                bail!("{address} is {owner}'s; revoke that certificate first, or use --force")
            }
            _ => Ok(()),
        }
    }

    fn request(&self, name: &str, now: UnixTime) -> Request {
        Request {
            addresses: self.address.clone(),
            prefixes: self.prefix.iter().copied().collect(),
            dns: self.dns.clone(),
            ..Request::new(name, validity(now, self.days))
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Issue {
    /// Name of the node: the common name, and the name of the files.
    #[arg(value_parser = file_name)]
    name: String,
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    claims: Claims,
    /// p256, p384, ed25519 or rsa.
    #[arg(long, default_value_t = KeyType::P256)]
    key_type: KeyType,
    /// Names joined by +, hexadecimal such as 0xa0, or none.
    #[arg(long, value_name = "BITS", default_value = "digitalSignature", value_parser = key_usage)]
    key_usage: KeyUsageArgument,
    /// Extended key usage: a name or an object identifier. May be repeated.
    #[arg(long, value_name = "USAGE")]
    extended_key_usage: Vec<ExtendedKeyUsage>,
    /// Folder for NAME.crt and NAME.key instead of DIR/issued.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace the node's files, and give an address that another node has.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// PEM or DER.
    file: Option<PathBuf>,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// Names of nodes (all of their certificates) or serial numbers.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    folder: Folder,
}

/// `none` on the command line; an `Option` would mean that the argument is optional.
#[derive(Debug, Clone, Copy)]
struct KeyUsageArgument(Option<KeyUsage>);

fn key_usage(text: &str) -> Result<KeyUsageArgument, pki::KeyUsageError> {
    if text == "none" {
        return Ok(KeyUsageArgument(None));
    }
    text.parse().map(|usage| KeyUsageArgument(Some(usage)))
}

fn file_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_@".contains(c);
    if text.is_empty()
        || text.len() > 64
        || text.starts_with(['.', '-'])
        || !text.chars().all(allowed)
    {
        return Err("it names files too: up to 64 letters, digits, and . - _ @".to_owned());
    }
    Ok(text.to_owned())
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let prefix: IpNet =
        text.parse().map_err(|_| "expected a prefix such as 192.168.1.0/24".to_owned())?;
    if prefix.trunc() != prefix {
        return Err(format!("it has bits beyond its length; {} is meant?", prefix.trunc()));
    }
    Ok(prefix)
}

/// Carries out a command and prints what came of it: text, or one JSON document.
pub(crate) fn run(command: PkiCommand, json: bool) -> anyhow::Result<()> {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock of this machine is before 1970")?;
    let text = execute(command, json, UnixTime::since_unix_epoch(since_1970))?;
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write the answer"),
    }
}

fn execute(command: PkiCommand, json: bool, now: UnixTime) -> anyhow::Result<String> {
    match command {
        PkiCommand::Init(arguments) => render(json, &init(&arguments, now)?, Made::text),
        PkiCommand::Issue(arguments) => render(json, &issue(&arguments, now)?, Made::text),
        PkiCommand::Renew(arguments) => {
            render(json, &remote::renew(&arguments, now)?, remote::Signed::text)
        }
        PkiCommand::AskFor(arguments) => {
            render(json, &remote::ask_for(&arguments)?, remote::Asked::text)
        }
        PkiCommand::Sign(arguments) => {
            render(json, &remote::sign(&arguments, now)?, remote::Signed::text)
        }
        PkiCommand::Bundle(arguments) => {
            render(json, &bundle::bundle(&arguments, now)?, bundle::Bundled::text)
        }
        PkiCommand::Show(Show { file: Some(file), .. }) => {
            let certificates = describe::file(&file, now)?;
            render(json, &Shown { certificates }, |shown| {
                shown.certificates.iter().map(Description::text).collect::<Vec<_>>().join("\n")
            })
        }
        PkiCommand::Show(Show { file: None, folder }) => {
            render(json, &overview(&folder, now)?, Overview::text)
        }
        PkiCommand::Revoke(arguments) => render(json, &revoke(&arguments, now)?, Revocation::text),
    }
}

fn render<T: Serialize>(
    json: bool,
    result: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<String> {
    if !json {
        return Ok(text(result));
    }
    Ok(serde_json::to_string_pretty(result)? + "\n")
}

/// A new certificate and where it is.
#[derive(Debug, Serialize)]
struct Made {
    certificate_file: PathBuf,
    key_file: PathBuf,
    certificate: Description,
}

impl Made {
    fn text(&self) -> String {
        format!(
            "{}\nCertificate: {}\nPrivate key: {}\n",
            self.certificate.text(),
            self.certificate_file.display(),
            self.key_file.display()
        )
    }
}

#[derive(Debug, Serialize)]
struct Shown {
    certificates: Vec<Description>,
}

fn init(arguments: &Init, now: UnixTime) -> anyhow::Result<Made> {
    let store = Store::create(&arguments.folder.dir)?;
    let overwrite = Overwrite::if_forced(arguments.force);
    for file in [store.ca_key(), store.ca_certificate()] {
        overwrite.check(&file)?;
    }
    let validity = validity(now, arguments.days);
    let authority = Authority::create(&arguments.name, arguments.key_type, validity, serial())
        .context("cannot make the CA")?;
    // The key comes first: without it, the rest is worth nothing.
    store::write_private(&store.ca_key(), authority.key(), overwrite)?;
    let pem = pki::certificate_pem(authority.certificate_der());
    store::write_public(&store.ca_certificate(), &pem, overwrite)?;
    let mut index = Index::default();
    write_revocation_list(&store, &authority, &mut index, now)?;
    Ok(Made {
        certificate_file: store.ca_certificate(),
        key_file: store.ca_key(),
        certificate: Description::new(authority.certificate(), now),
    })
}

fn issue(arguments: &Issue, now: UnixTime) -> anyhow::Result<Made> {
    let store = Store::open(&arguments.folder.dir)?;
    let authority = store.authority()?;
    let mut index = store.index()?;
    let overwrite = Overwrite::if_forced(arguments.force);

    let folder = arguments.out.clone().unwrap_or_else(|| store.issued());
    let certificate_file = folder.join(format!("{}.crt", arguments.name));
    let key_file = folder.join(format!("{}.key", arguments.name));
    for file in [&certificate_file, &key_file] {
        overwrite.check(file)?;
    }
    arguments.claims.check(arguments.force, &index, &arguments.name, now)?;
    let end_of_ca = authority.certificate().not_after;
    if end_of_ca <= now {
        bail!("the CA expired at {}; make a new one with pki init", pki::utc(end_of_ca));
    }

    let mut request = Request {
        key_usage: arguments.key_usage.0,
        extended_key_usage: arguments.extended_key_usage.clone(),
        ..arguments.claims.request(&arguments.name, now)
    };
    request.validity.not_after = request.validity.not_after.min(end_of_ca);
    let issued = authority
        .issue(&request, arguments.key_type, serial())
        .with_context(|| format!("cannot issue a certificate for {}", arguments.name))?;
    let certificate = Certificate::parse(&issued.certificate)
        .context("the certificate just made cannot be read")?;

    store::make_folder(&folder)?;
    store::write_private(&key_file, &issued.key, overwrite)?;
    // Known before it can be used: what is not in the index cannot be revoked by name.
    index.certificates.push(Entry {
        name: arguments.name.clone(),
        serial: certificate.serial.clone(),
        addresses: arguments.claims.address.clone(),
        not_after: certificate.not_after.as_secs(),
        revoked: None,
    });
    store.save(&index)?;
    store::write_public(&certificate_file, &pki::certificate_pem(&issued.certificate), overwrite)?;
    Ok(Made { certificate_file, key_file, certificate: Description::new(&certificate, now) })
}

/// The CA and what it has issued.
#[derive(Debug, Serialize)]
struct Overview {
    ca: Description,
    issued: Vec<Issued>,
}

#[derive(Debug, Serialize)]
struct Issued {
    name: String,
    serial: String,
    addresses: Vec<IpAddr>,
    not_after: String,
    /// `valid`, `expired` or `revoked`.
    state: &'static str,
    /// Less than 30 days are left, and no newer one of this node is valid for longer.
    renew: bool,
}

impl Issued {
    fn new(entry: Entry, now: UnixTime) -> Self {
        Self {
            state: entry.state(now),
            renew: false,
            name: entry.name,
            serial: entry.serial,
            addresses: entry.addresses,
            not_after: instant(UnixTime::since_unix_epoch(Duration::from_secs(entry.not_after))),
        }
    }
}

impl Overview {
    fn text(&self) -> String {
        let columns = [
            Column::Left("Name"),
            Column::Left("State"),
            Column::Left("Valid until"),
            Column::Left("Serial"),
            Column::Left("Addresses"),
        ];
        let rows = self.issued.iter().map(|issued| {
            vec![
                issued.name.clone(),
                issued.state.to_owned(),
                issued.not_after.clone(),
                issued.serial.clone(),
                issued.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", "),
            ]
        });
        let mut text = self.ca.text();
        let count = self.issued.len();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\nIssued: {count} certificate{}", text::plural(count));
        if count > 0 {
            text += &text::table(&columns, rows.collect(), text::terminal_width());
        }
        for issued in self.issued.iter().filter(|issued| issued.renew) {
            let (name, end) = (&issued.name, &issued.not_after);
            let _ = writeln!(text, " {name} ends at {end}: overlayctl pki renew {name}");
        }
        text
    }
}

fn overview(folder: &Folder, now: UnixTime) -> anyhow::Result<Overview> {
    let store = Store::open(&folder.dir)?;
    let certificate = store.certificate()?;
    let index = store.index()?;
    let soon = later(now, SOON).as_secs();
    let lasts = |name: &str| {
        let mut others = index.certificates.iter().filter(|entry| entry.name == name);
        others.any(|entry| entry.state(now) == "valid" && entry.not_after >= soon)
    };
    let issued = index.certificates.iter().map(|entry| Issued {
        renew: entry.state(now) == "valid" && !lasts(&entry.name),
        ..Issued::new(entry.clone(), now)
    });
    Ok(Overview { ca: Description::new(&certificate, now), issued: issued.collect() })
}

/// What is newly revoked, and the list.
#[derive(Debug, Serialize)]
struct Revocation {
    revoked: Vec<Issued>,
    revocation_list_file: PathBuf,
    next_update: String,
}

impl Revocation {
    fn text(&self) -> String {
        let mut text = String::new();
        for entry in &self.revoked {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "Revoked: {} (serial {})", entry.name, entry.serial);
        }
        let _ = writeln!(
            text,
            "Revocation list: {}, next due {}\nCopy it to every node (crl: in its configuration).",
            self.revocation_list_file.display(),
            self.next_update
        );
        text
    }
}

fn revoke(arguments: &Revoke, now: UnixTime) -> anyhow::Result<Revocation> {
    let store = Store::open(&arguments.folder.dir)?;
    let authority = store.authority()?;
    let mut index = store.index()?;
    let mut revoked = Vec::new();
    for name in &arguments.names {
        let mut known = false;
        for entry in &mut index.certificates {
            let serial = entry.serial.eq_ignore_ascii_case(&name.replace(':', ""));
            if entry.name != *name && !serial {
                continue;
            }
            known = true;
            if entry.revoked.is_none() {
                entry.revoked = Some(now.as_secs());
                revoked.push(Issued::new(entry.clone(), now));
            }
        }
        if !known {
            bail!("this CA has issued no certificate with the name or serial number {name}");
        }
    }
    let next_update = write_revocation_list(&store, &authority, &mut index, now)?;
    Ok(Revocation {
        revoked,
        revocation_list_file: store.revocation_list(),
        next_update: instant(next_update),
    })
}

/// The index comes first: a list that lacks an entry of the index is made whole by the next run, an
/// index that lacks an entry of the list would lose it.
fn write_revocation_list(
    store: &Store,
    authority: &Authority,
    index: &mut Index,
    now: UnixTime,
) -> anyhow::Result<UnixTime> {
    index.revocation_list_number += 1;
    store.save(index)?;
    let next_update = later(now, REVOCATION_LIST);
    let list = authority
        .revocation_list(&index.revoked(), index.revocation_list_number, now, next_update)
        .context("cannot make the revocation list")?;
    let pem = pki::revocation_list_pem(&list);
    store::write_public(&store.revocation_list(), &pem, Overwrite::Replace)?;
    Ok(next_update)
}

fn validity(now: UnixTime, days: u32) -> Validity {
    let not_before = Duration::from_secs(now.as_secs()).saturating_sub(BACKDATED);
    Validity {
        not_before: UnixTime::since_unix_epoch(not_before),
        not_after: later(now, DAY * days),
    }
}

fn later(now: UnixTime, by: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()).saturating_add(by))
}

fn serial() -> Serial {
    Serial::new(rand::random())
}
