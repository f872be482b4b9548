//! What was measured, as a table and as a plot.

use std::fmt::Write as _;

use serde::Serialize;

/// One run of a hub.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Measured {
    /// Spokes that joined.
    pub spokes: u32,
    /// What protects their paths: `none` or `esp`.
    pub protection: &'static str,
    /// The hub's time for the key exchange and first registration of one spoke, microseconds.
    pub join: f64,
    /// Its time for one renewal, microseconds.
    pub renewal: f64,
    /// What it keeps of one spoke, bytes of heap.
    pub bytes: f64,
}

/// Markdown.
pub fn table(runs: &[Measured]) -> String {
    let mut text = String::from(
        "| spokes | protection | joining, µs | renewing, µs | kept, bytes |\n|---:|---|---:|---:|---:|\n",
    );
    for run in runs {
        let Measured { spokes, protection, join, renewal, bytes } = run;
        let _ =
            writeln!(text, "| {spokes} | {protection} | {join:.1} | {renewal:.1} | {bytes:.0} |");
    }
    text
}

/// An SVG with a line for each protection: a figure over the number of spokes, both from zero but
/// for the number, whose axis is logarithmic. Readable on light and dark ground.
pub fn plot(runs: &[Measured], title: &str, unit: &str, figure: fn(&Measured) -> f64) -> String {
    const LEFT: f64 = 90.0;
    const TOP: f64 = 60.0;
    const WIDTH: f64 = 560.0;
    const HEIGHT: f64 = 220.0;
    let decade = |run: &Measured| f64::from(run.spokes.max(1)).log10();
    let first = runs.iter().map(decade).fold(f64::INFINITY, f64::min);
    let last = runs.iter().map(decade).fold(first + f64::MIN_POSITIVE, f64::max);
    let most = runs.iter().map(figure).fold(f64::MIN_POSITIVE, f64::max) * 1.25;
    let x = |run: &Measured| LEFT + (decade(run) - first) / (last - first).max(1e-9) * WIDTH;
    let y = |value: f64| TOP + HEIGHT * (1.0 - value / most);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 330\" \
         font-family=\"sans-serif\" font-size=\"14\" fill=\"#888\">\n\
         <text x=\"10\" y=\"24\" font-size=\"16\">{title} ({unit})</text>\n\
         <path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#888\"/>\n",
        bottom = TOP + HEIGHT,
        right = LEFT + WIDTH,
    );
    for (protection, colour) in [("esp", "#2a7de1"), ("none", "#d98032")] {
        let line: Vec<&Measured> = runs.iter().filter(|r| r.protection == protection).collect();
        let points: Vec<String> =
            line.iter().map(|run| format!("{:.0},{:.0}", x(run), y(figure(run)))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"3\"/>",
            points.join(" ")
        );
        for run in &line {
            let _ = writeln!(
                svg,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"{colour}\">{:.0}</text>\
                 <text x=\"{0:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
                x(run),
                y(figure(run)) - 10.0,
                figure(run),
                TOP + HEIGHT + 20.0,
                run.spokes
            );
        }
        if let Some(run) = line.last() {
            let name = if protection == "esp" { "IKEv2 and ESP" } else { "NHRP alone" };
            let _ = writeln!(
                svg,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\" fill=\"{colour}\">{name}</text>",
                x(run) - 30.0,
                y(figure(run)) - 10.0
            );
        }
    }
    svg += "<text x=\"370\" y=\"318\" text-anchor=\"middle\">spokes</text>\n</svg>\n";
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_figure_is_drawn_twice_as_high() {
        let run =
            |spokes, bytes| Measured { spokes, protection: "esp", join: 1.0, renewal: 1.0, bytes };
        let runs = [run(1_000, 100.0), run(100_000, 200.0)];
        let svg = plot(&runs, "memory", "bytes", |run| run.bytes);
        assert!(svg.contains("points=\"90,192 650,104\""), "{svg}");
        assert!(table(&runs).contains("| 100000 | esp | 1.0 | 1.0 | 200 |"));
    }
}
