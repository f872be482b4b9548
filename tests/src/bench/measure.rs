//! The loads, and what is read off them.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use lab::Node;
use serde_json::Value;

use super::contender::Scene;

/// One figure: a name for tables, its unit, whether more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its key in [`Sample`] and in the JSON report.
    pub key: &'static str,
    /// What it is.
    pub title: &'static str,
    /// Of its values.
    pub unit: &'static str,
    /// More is better.
    pub more: bool,
}

/// All figures, in the order of the tables.
pub const METRICS: [Metric; 11] = [
    metric("tcp1_up", "1 TCP stream, spoke to hub", "Gbit/s", true),
    metric("tcp1_down", "1 TCP stream, hub to spoke", "Gbit/s", true),
    metric("tcp4_up", "4 TCP streams, spoke to hub", "Gbit/s", true),
    metric("tcp4_down", "4 TCP streams, hub to spoke", "Gbit/s", true),
    metric("tcp1_forward", "1 TCP stream, spoke to spoke through the hub", "Gbit/s", true),
    metric("udp64", "UDP of 64 bytes, received", "packets/s", true),
    metric("udp1400", "UDP of 1,400 bytes, received", "packets/s", true),
    metric("ping_p50", "ping beside one TCP stream, median", "ms", false),
    metric("ping_p99", "ping beside one TCP stream, 99th percentile", "ms", false),
    metric("cpu", "CPU of both daemons, 1 TCP stream", "s/Gbit", false),
    metric("memory", "memory of the hub's daemon after all", "MiB", false),
];

const fn metric(key: &'static str, title: &'static str, unit: &'static str, more: bool) -> Metric {
    Metric { key, title, unit, more }
}

/// Figures of one contender in one round, by [`Metric::key`]; a contender without daemons has
/// no CPU and memory.
pub type Sample = BTreeMap<&'static str, f64>;

/// Measures what has one of these keys, or everything.
pub(super) fn all(
    scene: &Scene,
    time: Duration,
    keys: &[String],
    mut progress: impl FnMut(&str),
) -> Result<Sample, String> {
    let node = |name| scene.lab.node(name).map_err(|error| error.to_string());
    let (hub, a, b) = (node("hub")?, node("a")?, node("b")?);
    let [to_hub, to_b] = scene.addresses;
    let mut sample = Sample::new();
    let mut servers = Vec::new();
    for node in [hub, b] {
        servers.push(node.start(["iperf3", "-s"]).map_err(|error| error.to_string())?);
        let listens = |said: &str| said.contains(":5201");
        node.until(["ss", "-Htln"], Duration::from_secs(10), listens)
            .map_err(|error| error.to_string())?;
    }
    let wanted = |metric: &Metric| keys.is_empty() || keys.iter().any(|key| key == metric.key);
    for metric in METRICS.into_iter().filter(wanted) {
        let tcp = |more: &[&str]| tcp(a, to_hub, time, more);
        let figure = match metric.key {
            "tcp1_up" => {
                let (said, spent) = again(|| {
                    let before = cpu(scene)?;
                    let said = iperf_once(a, to_hub, time, &AFTER_THE_FIRST)?;
                    Ok((said, cpu(scene)? - before))
                })?;
                if !scene.daemons.is_empty() {
                    sample.insert("cpu", spent / gbit_sent(&said));
                }
                rate(&said)
            }
            "tcp1_down" => tcp(&["-R"])?,
            "tcp4_up" => tcp(&["-P", "4"])?,
            "tcp4_down" => tcp(&["-P", "4", "-R"])?,
            "tcp1_forward" => self::tcp(a, to_b, time, &[])?,
            "udp64" => packets(&iperf(a, to_hub, time, &["-u", "-b", "0", "-l", "64"])?),
            "udp1400" => packets(&iperf(a, to_hub, time, &["-u", "-b", "0", "-l", "1400"])?),
            "ping_p50" => {
                let [p50, p99] = ping_under_load(a, to_hub, time)?;
                sample.insert("ping_p99", p99);
                p50
            }
            "memory" if !scene.daemons.is_empty() => {
                status(scene.daemons[0].pid(), "VmRSS:")? / 1024.0
            }
            _ => continue,
        };
        sample.insert(metric.key, figure);
        progress(&format!("{}: {}", metric.title, super::report::value(figure, metric.unit)));
    }
    for server in servers {
        server.stop().map_err(|error| error.to_string())?;
    }
    Ok(sample)
}

/// A tunnel that is overrun loses the load generator's own messages too: it is asked again.
fn again<T>(mut once: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let mut result = once();
    for _ in 1..5 {
        if result.is_err() {
            result = once();
        }
    }
    result
}

fn iperf(from: &Node, to: Ipv4Addr, time: Duration, more: &[&str]) -> Result<Value, String> {
    again(|| iperf_once(from, to, time, more))
}

/// What iperf3 said, JSON.
fn iperf_once(from: &Node, to: Ipv4Addr, time: Duration, more: &[&str]) -> Result<Value, String> {
    let seconds = time.as_secs().to_string();
    let to = to.to_string();
    let base = ["iperf3", "-J", "-c", &to, "-t", &seconds];
    let said = from.run(base.iter().chain(more)).map_err(|error| error.to_string())?;
    let said: Value = serde_json::from_str(&said).map_err(|error| format!("iperf3: {error}"))?;
    match said.get("error") {
        Some(error) => Err(format!("iperf3: {error}")),
        None => Ok(said),
    }
}

/// The first second is sent, but is in no sum of iperf3's.
const AFTER_THE_FIRST: [&str; 2] = ["-O", "1"];

/// Gbit/s after the first second.
fn tcp(from: &Node, to: Ipv4Addr, time: Duration, more: &[&str]) -> Result<f64, String> {
    Ok(rate(&iperf(from, to, time, &[&AFTER_THE_FIRST, more].concat())?))
}

/// Gbit/s, as received.
fn rate(said: &Value) -> f64 {
    said["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0) / 1e9
}

/// All that was sent, the first second too.
fn gbit_sent(said: &Value) -> f64 {
    let intervals = said["intervals"].as_array().into_iter().flatten();
    intervals.filter_map(|interval| interval["sum"]["bytes"].as_f64()).sum::<f64>() * 8.0 / 1e9
}

fn packets(said: &Value) -> f64 {
    let sum = &said["end"]["sum"];
    let number = |key: &str| sum[key].as_f64().unwrap_or(0.0);
    (number("packets") - number("lost_packets")) / number("seconds").max(1.0)
}

/// Median and 99th percentile of the round trips beside a bulk stream, ms; one that is lost
/// counts as a second.
fn ping_under_load(from: &Node, to: Ipv4Addr, time: Duration) -> Result<[f64; 2], String> {
    const INTERVAL_MS: u64 = 10;
    let count = time.as_millis() as u64 / INTERVAL_MS;
    let (interval, count) = (format!("{:.3}", INTERVAL_MS as f64 / 1e3), count.to_string());
    let target = to.to_string();
    let said = std::thread::scope(|scope| {
        let load = scope.spawn(|| iperf(from, to, time + Duration::from_secs(1), &[]));
        let argv = ["ping", "-i", &interval, "-c", &count, "-W", "1", &target];
        let script = "sleep 1; \"$@\" || true";
        let said = from.run(["sh", "-c", script, "sh"].into_iter().chain(argv));
        load.join().map_err(|_| "the load generator ended early".to_owned())??;
        said.map_err(|error| error.to_string())
    })?;
    let time_of = |line: &str| line.split("time=").nth(1)?.split(' ').next()?.parse::<f64>().ok();
    let mut times: Vec<f64> = said.lines().filter_map(time_of).collect();
    let sent: usize = count.parse().unwrap_or(0);
    times.resize(sent.max(times.len()), 1000.0);
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Ok([at(0.5), at(0.99)])
}

/// CPU seconds that the daemons of `hub` and `a` have used.
fn cpu(scene: &Scene) -> Result<f64, String> {
    scene.daemons.iter().take(2).map(|daemon| cpu_seconds(daemon.pid())).sum()
}

/// CPU seconds that a process has used.
pub(super) fn cpu_seconds(pid: i32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    // utime and stime, behind the name, which may have blanks.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let ticks: u64 = fields.take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every architecture of Linux that matters here.
    Ok(ticks as f64 / 100.0)
}

/// A figure of /proc/PID/status, KiB.
pub(super) fn status(pid: i32, key: &str) -> Result<f64, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| e.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let figure = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    figure.ok_or_else(|| format!("no {key} in /proc/{pid}/status"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Two seconds after one that is omitted, as iperf3 tells of them.
    fn said() -> Value {
        let interval =
            |bytes: u64, omitted: bool| json!({"sum": {"bytes": bytes, "omitted": omitted}});
        json!({
            "intervals": [
                interval(50_069_504, true),
                interval(49_938_432, false),
                interval(50_069_504, false),
            ],
            "end": {
                "sum_sent": {"bytes": 100_007_936, "bits_per_second": 400_032_144.03},
                "sum_received": {"bytes": 100_007_936, "bits_per_second": 400_023_743.53},
            },
        })
    }

    #[test]
    fn cpu_time_is_for_all_that_was_sent_and_the_rate_is_of_what_follows_the_first_second() {
        assert_eq!(gbit_sent(&said()), 150_077_440.0 * 8.0 / 1e9);
        assert!((rate(&said()) - 0.400_023_743_53).abs() < 1e-12);
    }

    #[test]
    fn of_several_tries_the_one_that_succeeds_counts() {
        let mut tries = 0;
        let result = again(|| {
            tries += 1;
            if tries < 3 { Err("lost".to_owned()) } else { Ok(tries) }
        });
        assert_eq!(result, Ok(3));
        let mut tries = 0;
        let result: Result<(), _> = again(|| {
            tries += 1;
            Err(format!("try {tries}"))
        });
        assert_eq!(result, Err("try 5".to_owned()));
    }
}
