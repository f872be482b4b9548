//! Tables, JSON and a plot.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::measure::{METRICS, Metric, Sample};

/// All figures of a run.
#[derive(Debug, Default, Serialize)]
pub struct Results {
    /// Contenders in the order of the run.
    order: Vec<String>,
    /// Contender, then metric, then one value a round.
    figures: BTreeMap<String, BTreeMap<&'static str, Vec<f64>>>,
}

impl Results {
    pub(super) fn add(&mut self, contender: String, sample: Sample) {
        if !self.order.contains(&contender) {
            self.order.push(contender.clone());
        }
        let figures = self.figures.entry(contender).or_default();
        for (key, value) in sample {
            figures.entry(key).or_default().push(value);
        }
    }

    fn values(&self, contender: &str, metric: Metric) -> Option<&[f64]> {
        Some(self.figures.get(contender)?.get(metric.key)?)
    }

    /// Ratios to another contender, round by round, sorted; above 1 is better than it.
    fn ratios(&self, contender: &str, to: &str, metric: Metric) -> Vec<f64> {
        let (Some(ours), Some(theirs)) = (self.values(contender, metric), self.values(to, metric))
        else {
            return Vec::new();
        };
        let ratio = |(a, b): (&f64, &f64)| if metric.more { a / b } else { b / a };
        let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }
}

/// Of an even number the mean of the middle two.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted[..] {
        [] => f64::NAN,
        _ if sorted.len().is_multiple_of(2) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// A figure with its unit.
pub(super) fn value(figure: f64, unit: &str) -> String {
    let digits = match figure {
        figure if figure >= 100.0 => 0,
        figure if figure >= 10.0 => 1,
        figure if figure >= 1.0 => 2,
        _ => 3,
    };
    format!("{figure:.digits$} {unit}")
}

/// Markdown: one table a metric; ratios to `to` with their spread.
pub fn table(results: &Results, to: &str) -> String {
    let mut text = String::new();
    for metric in METRICS {
        if !results.order.iter().any(|contender| results.values(contender, metric).is_some()) {
            continue;
        }
        let better = if metric.more { "more is better" } else { "less is better" };
        let _ = writeln!(text, "\n### {} ({}, {better})\n", metric.title, metric.unit);
        let _ = writeln!(text, "| | median | lowest to highest | times as good as {to} |");
        let _ = writeln!(text, "|---|---:|---:|---:|");
        for contender in &results.order {
            let Some(values) = results.values(contender, metric) else { continue };
            let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = values.iter().copied().fold(0.0, f64::max);
            let ratios = results.ratios(contender, to, metric);
            let ratio = match (ratios.first(), ratios.last()) {
                (Some(low), Some(high)) => {
                    format!("{:.2} ({low:.2} to {high:.2})", median(&ratios))
                }
                _ => "–".into(),
            };
            let _ = writeln!(
                text,
                "| {contender} | {} | {} to {} | {ratio} |",
                value(median(values), ""),
                value(lowest, "").trim(),
                value(highest, "").trim(),
            );
        }
    }
    text
}

/// An SVG with bars for one metric; readable on light and dark ground.
pub fn plot(results: &Results, key: &str) -> Option<String> {
    const ROW: usize = 34;
    const LEFT: usize = 190;
    const WIDTH: usize = 520;
    let metric = METRICS.into_iter().find(|metric| metric.key == key)?;
    let bars: Vec<(&str, f64)> = results
        .order
        .iter()
        .filter_map(|name| Some((name.as_str(), median(results.values(name, metric)?))))
        .collect();
    let largest = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let height = 50 + bars.len() * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" \
         font-family=\"sans-serif\" font-size=\"14\" fill=\"#888\">\n\
         <text x=\"10\" y=\"24\" font-size=\"16\">{} ({})</text>\n",
        LEFT + WIDTH + 130,
        metric.title,
        metric.unit
    );
    for (row, (name, figure)) in bars.iter().enumerate() {
        let y = 40 + row * ROW;
        let width = (figure / largest * WIDTH as f64).max(1.0);
        let colour = match *name {
            name if name.starts_with("nhrpd") => "#2a7de1",
            name if name.starts_with("veth") => "#aaaaaa",
            _ => "#d98032",
        };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.0}\" height=\"24\" fill=\"{colour}\"/>\
             <text x=\"{:.0}\" y=\"{}\">{}</text>",
            LEFT - 10,
            y + 17,
            LEFT as f64 + width + 8.0,
            y + 17,
            value(*figure, metric.unit)
        );
    }
    svg += "</svg>\n";
    Some(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let mut results = Results::default();
        for (ours, theirs) in [(4.0, 2.0), (6.0, 2.0), (9.0, 2.0)] {
            results.add("ours".into(), Sample::from([("tcp1_up", ours), ("ping_p99", ours)]));
            results.add("theirs".into(), Sample::from([("tcp1_up", theirs), ("ping_p99", theirs)]));
        }
        results
    }

    #[test]
    fn ratios_are_those_of_one_round_and_say_what_is_better() {
        let table = table(&results(), "theirs");
        assert!(table.contains("| ours | 6.00  | 4.00 to 9.00 | 3.00 (2.00 to 4.50) |"), "{table}");
        assert!(table.contains("| ours | 6.00  | 4.00 to 9.00 | 0.33 (0.22 to 0.50) |"), "{table}");
        assert!(table.contains("| theirs | 2.00  | 2.00 to 2.00 | 1.00 (1.00 to 1.00) |"));
    }

    #[test]
    fn the_median_of_an_even_number_is_the_mean_of_the_middle_two() {
        assert_eq!(median(&[5.0]), 5.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(median(&[8.0, 1.0, 4.0, 3.0]), 3.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn bars_are_in_proportion() {
        let svg = plot(&results(), "tcp1_up").unwrap();
        assert!(svg.contains("width=\"520\"") && svg.contains("width=\"173\""), "{svg}");
        assert!(plot(&results(), "nothing").is_none());
    }
}
