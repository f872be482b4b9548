//! What this machine says of itself through its own tools.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The way of a packet by the kernel's routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KernelRoute {
    /// Device that it leaves by.
    #[serde(rename(deserialize = "dev"))]
    pub(crate) device: String,
    /// Next hop; `null` = on the link.
    pub(crate) gateway: Option<IpAddr>,
    /// Source address that this machine's own packets get.
    #[serde(rename(deserialize = "prefsrc"))]
    pub(crate) source: Option<IpAddr>,
}

/// Where the kernel sends a packet for `destination`; an error says why it would not.
pub(crate) fn route(destination: IpAddr) -> anyhow::Result<KernelRoute> {
    let answer = json("ip", &["-json", "route", "get", &destination.to_string()])?;
    let first = answer.get(0).cloned().unwrap_or_default();
    serde_json::from_value(first).context("cannot read what `ip route get` says")
}

/// Runs a tool to its end and reads the JSON that it prints.
pub(crate) fn json(program: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", arguments.join(" "), words.lines().next().unwrap_or("failed"));
    }
    if output.stdout.is_empty() {
        return Ok(Value::Array(Vec::new()));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("cannot read {program}'s JSON"))
}
