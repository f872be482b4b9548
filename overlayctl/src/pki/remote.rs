//! Certificates for keys that stay where they are: renewal, requests, signing.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use pki::authority::{Authority, Request, generate_key};
use pki::{Certificate, KeyType, PublicKey, SigningRequest, UnixTime, signing_request};
use serde::Serialize;

use super::describe::Description;
use super::store::{self, Entry, Index, Overwrite, Store};
use super::{Claims, Folder, file_name, serial, validity};

#[derive(Debug, Args)]
pub(crate) struct Renew {
    /// Name of the node.
    #[arg(value_parser = file_name)]
    name: String,
    #[command(flatten)]
    folder: Folder,
    /// Validity in days from now, within that of the CA.
    #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Folder of NAME.crt instead of DIR/issued.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AskFor {
    /// Name of the node: the common name, and the name of the files.
    #[arg(value_parser = file_name)]
    name: String,
    /// Folder for NAME.key and NAME.csr.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// p256, p384, ed25519 or rsa.
    #[arg(long, default_value_t = KeyType::P256)]
    key_type: KeyType,
    /// Replace the files.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Sign {
    /// The request, in PEM.
    file: PathBuf,
    #[command(flatten)]
    folder: Folder,
    /// Name of the node, instead of the one in the request.
    #[arg(long, value_parser = file_name)]
    name: Option<String>,
    #[command(flatten)]
    claims: Claims,
    /// Replace the node's certificate, and give an address that another node has.
    #[arg(long)]
    force: bool,
}

/// A certificate without its key.
#[derive(Debug, Serialize)]
pub(super) struct Signed {
    certificate_file: PathBuf,
    certificate: Description,
}

impl Signed {
    pub(super) fn text(&self) -> String {
        format!("{}\nCertificate: {}\n", self.certificate.text(), self.certificate_file.display())
    }
}

/// A key and a request for a certificate.
#[derive(Debug, Serialize)]
pub(super) struct Asked {
    request_file: PathBuf,
    key_file: PathBuf,
}

impl Asked {
    pub(super) fn text(&self) -> String {
        format!(
            "Request: {}\nPrivate key: {}\nCarry the request to the CA (overlayctl pki sign); the key \
             stays here.\n",
            self.request_file.display(),
            self.key_file.display()
        )
    }
}

pub(super) fn renew(arguments: &Renew, now: UnixTime) -> anyhow::Result<Signed> {
    let store = Store::open(&arguments.folder.dir)?;
    let (authority, mut index) = (store.authority()?, store.index()?);
    let folder = arguments.out.clone().unwrap_or_else(|| store.issued());
    let file = folder.join(format!("{}.crt", arguments.name));
    let name = || file.display().to_string();
    let chain = pki::certificates(&store::read(&file)?).with_context(name)?;
    let old = Certificate::parse(&chain[0]).with_context(name)?;
    if index.is_revoked(&old.serial) {
        bail!("{} is revoked: issue a certificate with a new key", name());
    }
    let request = Request {
        addresses: old.identity.addresses.clone(),
        prefixes: old.prefixes().clone(),
        dns: old.identity.dns.clone(),
        key_usage: old.key_usage,
        extended_key_usage: old.extended_key_usage.unwrap_or_default(),
        ..Request::new(arguments.name.as_str(), validity(now, arguments.days))
    };
    let key = PublicKey::of_certificate(&chain[0]).with_context(name)?;
    certify(&store, &authority, &mut index, (&request, &key), file, Overwrite::Replace, now)
}

pub(super) fn ask_for(arguments: &AskFor) -> anyhow::Result<Asked> {
    let overwrite = Overwrite::if_forced(arguments.force);
    let key_file = arguments.out.join(format!("{}.key", arguments.name));
    let request_file = arguments.out.join(format!("{}.csr", arguments.name));
    for file in [&key_file, &request_file] {
        overwrite.check(file)?;
    }
    store::make_folder(&arguments.out)?;
    let key = generate_key(arguments.key_type).context("cannot make a key")?;
    let request = signing_request(&arguments.name, &key).context("cannot make the request")?;
    store::write_private(&key_file, &key, overwrite)?;
    store::write_public(&request_file, &request, overwrite)?;
    Ok(Asked { request_file, key_file })
}

pub(super) fn sign(arguments: &Sign, now: UnixTime) -> anyhow::Result<Signed> {
    let store = Store::open(&arguments.folder.dir)?;
    let (authority, mut index) = (store.authority()?, store.index()?);
    let asked = SigningRequest::from_pem(&store::read(&arguments.file)?)
        .with_context(|| arguments.file.display().to_string())?;
    let name = match (&arguments.name, asked.common_name) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => file_name(&name).map_err(|why| {
            anyhow::anyhow!("the request's name \"{name}\" will not do ({why}); give --name")
        })?,
        (None, None) => bail!("the request has no common name; give --name"),
    };
    arguments.claims.check(arguments.force, &index, &name, now)?;
    let file = store.issued().join(format!("{name}.crt"));
    let overwrite = Overwrite::if_forced(arguments.force);
    overwrite.check(&file)?;
    let request = arguments.claims.request(&name, now);
    certify(&store, &authority, &mut index, (&request, &asked.public_key), file, overwrite, now)
}

fn certify(
    store: &Store,
    authority: &Authority,
    index: &mut Index,
    (request, key): (&Request, &PublicKey),
    file: PathBuf,
    overwrite: Overwrite,
    now: UnixTime,
) -> anyhow::Result<Signed> {
    let end_of_ca = authority.certificate().not_after;
    if end_of_ca <= now {
        bail!("the CA expired at {}; make a new one with pki init", pki::utc(end_of_ca));
    }
    let mut request = request.clone();
    request.validity.not_after = request.validity.not_after.min(end_of_ca);
    let der = authority
        .certify(&request, key, serial())
        .with_context(|| format!("cannot issue a certificate for {}", request.common_name))?;
    let certificate =
        Certificate::parse(&der).context("the certificate just made cannot be read")?;
    // Known before it can be used: what is not in the index cannot be revoked by name.
    index.certificates.push(Entry {
        name: request.common_name.clone(),
        serial: certificate.serial.clone(),
        addresses: request.addresses.clone(),
        not_after: certificate.not_after.as_secs(),
        revoked: None,
    });
    store.save(index)?;
    store::make_folder(&store.issued())?;
    store::write_public(&file, &pki::certificate_pem(&der), overwrite)?;
    Ok(Signed { certificate_file: file, certificate: Description::new(&certificate, now) })
}
