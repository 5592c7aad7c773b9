//! Curves over a factor, drawn as SVG: panels one below the other, axes from zero.

use std::fmt::Write;

pub struct Plot {
    pub title: String,
    pub curves: Vec<Curve>,
}

pub struct Curve {
    pub name: String,
    /// The factor, and the value there.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const PANEL: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 42.0;
const BOTTOM: f64 = 44.0;
/// Told apart by people who do not see all colours, and by dashes.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];
const DASHES: [&str; 2] = ["none", "6 4"];

impl Plot {
    pub fn draw(panels: &[Plot]) -> String {
        let height = PANEL * panels.len() as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        for (at, panel) in panels.iter().enumerate() {
            let _ = writeln!(svg, "<g transform=\"translate(0 {})\">", PANEL * at as f64);
            panel.panel(&mut svg);
            svg.push_str("</g>\n");
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn panel(&self, svg: &mut String) {
        let all = || self.curves.iter().flat_map(|curve| &curve.points);
        let most = nice(all().map(|(_, y)| *y).filter(|y| y.is_finite()).fold(0.0, f64::max));
        let mut factors: Vec<f64> = all().map(|(x, _)| *x).collect();
        factors.sort_by(f64::total_cmp);
        factors.dedup();
        let widest = factors.last().copied().unwrap_or(2.0).max(2.0);
        // A doubling is always as wide.
        let x =
            |factor: f64| LEFT + (WIDTH - LEFT - RIGHT) * factor.max(1.0).log2() / widest.log2();
        let y = |value: f64| PANEL - BOTTOM - (PANEL - TOP - BOTTOM) * value / most;
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{}</text>",
            escaped(&self.title)
        );
        for step in 0..=4 {
            let value = most * f64::from(step) / 4.0;
            let at = y(value);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0,
                number(value)
            );
        }
        for factor in &factors {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">×{factor}</text>",
                x(*factor),
                PANEL - BOTTOM + 20.0
            );
        }
        for (at, curve) in self.curves.iter().enumerate() {
            let (colour, dash) = (COLOURS[at % COLOURS.len()], DASHES[at % DASHES.len()]);
            let points: Vec<String> = curve
                .points
                .iter()
                .filter(|(_, value)| value.is_finite())
                .map(|(factor, value)| format!("{:.1},{:.1}", x(*factor), y(*value)))
                .collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
                 stroke-dasharray=\"{dash}\"/>",
                points.join(" ")
            );
            for point in &points {
                if let Some((cx, cy)) = point.split_once(',') {
                    let _ = writeln!(
                        svg,
                        "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3\" fill=\"{colour}\"/>"
                    );
                }
            }
            let (from, line) = (WIDTH - RIGHT + 14.0, TOP + 20.0 * at as f64);
            let _ = writeln!(
                svg,
                "<line x1=\"{from}\" x2=\"{}\" y1=\"{line}\" y2=\"{line}\" stroke=\"{colour}\" \
                 stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>\
                 <text x=\"{}\" y=\"{}\">{}</text>",
                from + 26.0,
                from + 32.0,
                line + 4.0,
                escaped(&curve.name)
            );
        }
    }
}

/// The next number above that is easy to divide by four.
fn nice(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let unit = 10f64.powf(most.log10().floor());
    [1.0, 2.0, 4.0, 8.0, 10.0]
        .map(|step| step * unit)
        .into_iter()
        .find(|top| *top >= most)
        .unwrap_or(most)
}

fn number(value: f64) -> String {
    if value >= 100.0 || value == value.trunc() {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_inside_of_its_panel() {
        let curve = |name: &str, top: f64| Curve {
            name: name.into(),
            points: vec![(1.0, top / 3.0), (4.0, f64::NAN), (16.0, top)],
        };
        let panel = |top| Plot {
            title: "a < b".into(),
            curves: vec![curve("p50", 0.02), curve("p99", top)],
        };
        let svg = Plot::draw(&[panel(937.0), panel(0.0)]);
        assert!(svg.contains("a &lt; b") && svg.matches("<polyline").count() == 4);
        let circles: Vec<_> = svg.lines().filter(|line| line.starts_with("<circle")).collect();
        assert_eq!(circles.len(), 8, "what is no number is left out");
        for circle in circles {
            let value = |name: &str| -> f64 {
                let (_, rest) = circle.split_once(&format!("{name}=\"")).unwrap();
                rest.split('"').next().unwrap().parse().unwrap()
            };
            assert!((LEFT..=WIDTH - RIGHT).contains(&value("cx")), "{circle}");
            assert!((TOP..=PANEL - BOTTOM).contains(&value("cy")), "{circle}");
        }
    }

    #[test]
    fn an_axis_ends_at_an_even_number() {
        assert_eq!([0.03, 1.0, 7.9, 81.0].map(nice), [0.04, 1.0, 8.0, 100.0]);
    }
}
