//! `trace`: the verdict first, then every step up to where it stopped.

use std::fmt::Write as _;

use anstyle::AnsiColor;
use control::{Outcome, Trace, TraceStage, Verdict};
use serde::Serialize;

use crate::host::KernelRoute;
use crate::text::{Column, or_dash, painted, table};

/// What the daemon says, and what the kernel would do before.
#[derive(Debug, Serialize)]
pub(crate) struct Traced {
    /// The daemon's part.
    #[serde(flatten)]
    pub(crate) trace: Trace,
    /// Where the kernel sends the packet; `null` where it has no route.
    pub(crate) kernel_route: Option<KernelRoute>,
}

impl Traced {
    /// The kernel sends elsewhere what belongs into the tunnel.
    fn astray(&self) -> Option<String> {
        let Trace { destination, ref interface, verdict, .. } = self.trace;
        let of_underlay = self.trace.endpoint.is_some_and(|at| at.ip() == destination);
        if matches!(verdict, Verdict::Local | Verdict::Outside) || of_underlay {
            return None;
        }
        let leads = match &self.kernel_route {
            Some(route) if route.device == *interface => return None,
            Some(KernelRoute { device, gateway: Some(gateway), .. }) => {
                format!("sends it out of {device} to {gateway}")
            }
            Some(KernelRoute { device, .. }) => format!("sends it out of {device}"),
            None => "has no route for it".to_owned(),
        };
        Some(format!(
            "{destination} does not enter the tunnel: the kernel {leads}, not into {interface} \
             (`routes` in nhrpd.yaml makes routes; `ip rule` and other routes may win)"
        ))
    }
}

/// The verdict in the first line, the steps as a table below.
pub(crate) fn trace(traced: &Traced, width: Option<u16>) -> String {
    let trace = &traced.trace;
    let colour = match trace.verdict {
        Verdict::Local | Verdict::Direct => AnsiColor::Green,
        Verdict::ViaHub | Verdict::Outside => AnsiColor::Yellow,
        Verdict::Nowhere => AnsiColor::Red,
    };
    let mut out = String::new();
    if let Some(astray) = traced.astray() {
        out = painted(AnsiColor::Red.on_default(), &astray) + "\n";
    }
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}\n", painted(colour.on_default(), &trace.summary));
    let kernel = match &traced.kernel_route {
        Some(KernelRoute { device, gateway: Some(gateway), .. }) => {
            format!("to {gateway} on {device}")
        }
        Some(KernelRoute { device, .. }) => format!("into {device}"),
        None => "no route".to_owned(),
    };
    let _ = writeln!(out, " Kernel route:  {kernel}");
    let _ = writeln!(out, " Overlay route: {}", or_dash(trace.route));
    let _ = writeln!(out, " Next hop:      {}", or_dash(trace.next_hop));
    let _ = writeln!(out, " NBMA address:  {}", or_dash(trace.endpoint));
    let _ = writeln!(out, " Identity:      {}", or_dash(trace.identity.as_ref()));
    if let Some(sa) = &trace.ike {
        let suite = sa.suite.as_deref().unwrap_or("not agreed yet");
        let _ = writeln!(out, " IKE SA:        {}, {suite}", sa.initiator_spi);
    }
    if trace.steps.is_empty() {
        return out;
    }
    out.push('\n');
    let rows = trace.steps.iter().map(|step| {
        vec![
            stage(step.stage).to_owned(),
            match step.outcome {
                Outcome::Done => "ok",
                Outcome::Waiting => "wait",
                Outcome::Failed => "FAIL",
            }
            .to_owned(),
            or_dash(step.peer.as_ref()),
            step.text.clone(),
        ]
    });
    let columns = [
        Column::Left("Step"),
        Column::Left("State"),
        Column::Left("With"),
        Column::Left("What happened"),
    ];
    out.push_str(&table(&columns, rows.collect(), width));
    out
}

fn stage(stage: TraceStage) -> &'static str {
    match stage {
        TraceStage::Underlay => "underlay",
        TraceStage::Name => "name",
        TraceStage::KeyExchange => "key exchange",
        TraceStage::Session => "session",
        TraceStage::Registration => "registration",
        TraceStage::Resolution => "resolution",
        TraceStage::Refusal => "refused",
    }
}
