//! Charts as SVG: panels side by side, a line for each contender, readable on light and on dark backgrounds.
//!
//! A viewer may show the file on white or on black, and GitHub shows it on either without telling it; so nothing is painted
//! behind it, and every colour is of a middle lightness. Lines differ by marker too.

use std::fmt::Write as _;

/// Size of a panel's plot area, in user units.
const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 180.0;
/// Room for the labels around a plot area.
const LEFT: f64 = 74.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 52.0;
/// Room for the legend above the panels.
const LEGEND: f64 = 44.0;
/// Panels in a row.
const COLUMNS: usize = 2;
/// Text and axes: 4.2 to 1 on white, 4.6 to 1 on GitHub's dark background.
const INK: &str = "#767e88";

/// How values become places on an axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scale {
    /// From zero to a round number.
    Linear {
        /// The largest value that has a place.
        most: f64,
    },
    /// The same way for the same factor, with a tick at each value.
    Log {
        /// In ascending order, above zero.
        values: Vec<f64>,
    },
}

impl Scale {
    /// From zero to a round number that no value is above.
    pub(crate) fn linear(values: impl IntoIterator<Item = f64>) -> Self {
        let largest = values.into_iter().filter(|value| value.is_finite()).fold(0.0, f64::max);
        let step = step(largest);
        Self::Linear { most: (largest / step).ceil().max(1.0) * step }
    }

    /// Over these values, each of which has a tick.
    pub(crate) fn log(values: &[f64]) -> Self {
        Self::Log { values: values.to_vec() }
    }

    /// Over the powers of ten around these values.
    pub(crate) fn decades(values: impl IntoIterator<Item = f64>) -> Self {
        let (least, most) = values
            .into_iter()
            .filter(|value| *value > 0.0 && value.is_finite())
            .fold((f64::INFINITY, 0.0f64), |(least, most), value| (least.min(value), most.max(value)));
        if most <= 0.0 {
            return Self::Log { values: vec![1.0, 10.0] };
        }
        let first = least.log10().floor() as i32;
        let last = (most.log10().ceil() as i32).max(first + 1);
        Self::Log { values: (first..=last).map(|power| 10f64.powi(power)).collect() }
    }

    /// Where a value is, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        match self {
            Self::Linear { most } => value / most,
            Self::Log { values } => match (values.first(), values.last()) {
                (Some(first), Some(last)) if last > first => (value / first).ln() / (last / first).ln(),
                _ => 0.5,
            },
        }
    }

    fn ticks(&self) -> Vec<f64> {
        match self {
            Self::Linear { most } => {
                let step = step(*most);
                (0..=(most / step).round() as usize).map(|tick| tick as f64 * step).collect()
            }
            Self::Log { values } => values.clone(),
        }
    }
}

/// A round number that goes about five times into `largest`: 1, 2 or 5 times a power of ten.
fn step(largest: f64) -> f64 {
    if largest <= 0.0 {
        return 1.0;
    }
    let rough = largest / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| round * power >= rough * 0.999);
    round.unwrap_or(10.0) * power
}

/// An axis.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// What it has, unit included.
    pub(crate) label: String,
    pub(crate) scale: Scale,
}

/// One line of a panel.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) style: Style,
    /// In ascending order of x.
    pub(crate) points: Vec<(f64, f64)>,
}

/// How a line looks, the same in each panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    /// What the legend calls it.
    pub(crate) name: &'static str,
    /// A colour of middle lightness.
    pub(crate) colour: &'static str,
    pub(crate) marker: Marker,
}

/// What stands at each point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
}

/// One plot.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

/// A whole file: title, legend and panels.
pub(crate) fn figure(title: &str, panels: &[Panel]) -> String {
    let rows = panels.len().div_ceil(COLUMNS);
    let (wide, high) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
    let width = wide * COLUMNS.min(panels.len()) as f64;
    let height = LEGEND + high * rows as f64;
    let mut svg = String::new();
    put(
        &mut svg,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"11\" fill=\"{INK}\" role=\"img\" aria-label=\"{title}\">\n\
             <title>{title}</title>\n",
            title = escaped(title),
        ),
    );
    legend(&mut svg, panels);
    for (number, panel) in panels.iter().enumerate() {
        let x = LEFT + wide * (number % COLUMNS) as f64;
        let y = LEGEND + TOP + high * (number / COLUMNS) as f64;
        put(&mut svg, format_args!("<g transform=\"translate({x:.1} {y:.1})\">\n"));
        panel.draw(&mut svg);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Every style once, in the order in which they come.
fn legend(svg: &mut String, panels: &[Panel]) {
    let mut styles: Vec<Style> = Vec::new();
    for line in panels.iter().flat_map(|panel| &panel.lines) {
        if !styles.contains(&line.style) {
            styles.push(line.style);
        }
    }
    let mut x = LEFT;
    for style in styles {
        put(
            svg,
            format_args!("<path d=\"M{x:.1} 18h24\" stroke=\"{}\" stroke-width=\"2\"/>\n", style.colour),
        );
        marker(svg, style, x + 12.0, 18.0);
        put(
            svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"22\" font-size=\"12\">{}</text>\n",
                x + 30.0,
                escaped(style.name)
            ),
        );
        // The width of a letter is not known here; this is above the average.
        x += 54.0 + 7.0 * style.name.chars().count() as f64;
    }
}

impl Panel {
    fn draw(&self, svg: &mut String) {
        let title = escaped(&self.title);
        put(
            svg,
            format_args!("<text x=\"0\" y=\"-14\" font-size=\"13\" font-weight=\"600\">{title}</text>\n"),
        );
        for tick in self.y.scale.ticks() {
            let y = self.height_of(tick);
            let label = number(tick);
            put(
                svg,
                format_args!(
                    "<path d=\"M0 {y:.1}h{WIDTH}\" stroke=\"{INK}\" stroke-opacity=\"0.3\"/>\
                     <text x=\"-6\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n",
                    y + 4.0
                ),
            );
        }
        for tick in self.x.scale.ticks() {
            let x = self.x.scale.place(tick) * WIDTH;
            let label = number(tick);
            put(
                svg,
                format_args!(
                    "<path d=\"M{x:.1} {HEIGHT}v4\" stroke=\"{INK}\"/>\
                     <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>\n",
                    HEIGHT + 17.0
                ),
            );
        }
        put(svg, format_args!("<path d=\"M0 0V{HEIGHT}H{WIDTH}\" fill=\"none\" stroke=\"{INK}\"/>\n"));
        put(
            svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
                 <text transform=\"translate({:.1} {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                WIDTH / 2.0,
                HEIGHT + 34.0,
                escaped(&self.x.label),
                14.0 - LEFT,
                HEIGHT / 2.0,
                escaped(&self.y.label),
            ),
        );
        self.lines.iter().for_each(|line| self.draw_line(svg, line));
    }

    fn draw_line(&self, svg: &mut String, line: &Line) {
        let places: Vec<(f64, f64)> =
            line.points.iter().map(|&(x, y)| (self.x.scale.place(x) * WIDTH, self.height_of(y))).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        if path.len() > 1 {
            put(
                svg,
                format_args!(
                    "<path d=\"M{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n",
                    path.join("L"),
                    line.style.colour
                ),
            );
        }
        for (x, y) in places {
            marker(svg, line.style, x, y);
        }
    }

    /// Distance of a value from the upper edge: SVG counts downwards.
    fn height_of(&self, value: f64) -> f64 {
        (1.0 - self.y.scale.place(value)) * HEIGHT
    }
}

fn marker(svg: &mut String, style: Style, x: f64, y: f64) {
    let colour = style.colour;
    let shape = match style.marker {
        Marker::Circle => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"),
        Marker::Square => {
            let (left, top) = (x - 3.5, y - 3.5);
            format!("<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"7\" height=\"7\" fill=\"{colour}\"/>")
        }
        Marker::Triangle => format!("<path d=\"M{x:.1} {:.1}l4.5 8h-9z\" fill=\"{colour}\"/>", y - 5.0),
        Marker::Diamond => format!("<path d=\"M{x:.1} {:.1}l5 5l-5 5l-5-5z\" fill=\"{colour}\"/>", y - 5.0),
    };
    svg.push_str(&shape);
    svg.push('\n');
}

/// A tick's number, short: thousands as `k`, and no digits that say nothing.
fn number(value: f64) -> String {
    if value >= 1_000_000.0 {
        return format!("{}M", trimmed(value / 1_000_000.0));
    }
    if value >= 1_000.0 {
        return format!("{}k", trimmed(value / 1_000.0));
    }
    trimmed(value)
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn put(svg: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = svg.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_scale_goes_from_zero_to_a_round_number() {
        let scale = Scale::linear([3.0, 87.0, f64::NAN]);
        assert_eq!(scale, Scale::Linear { most: 100.0 });
        assert_eq!(scale.ticks(), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!((scale.place(0.0), scale.place(50.0), scale.place(100.0)), (0.0, 0.5, 1.0));
        assert_eq!(Scale::linear([202_141.0]), Scale::Linear { most: 250_000.0 });
        assert_eq!(Scale::linear([]), Scale::Linear { most: 1.0 });
    }

    #[test]
    fn a_log_scale_has_the_same_way_for_the_same_factor() {
        let scale = Scale::log(&[1.0, 8.0, 64.0, 512.0]);
        let places: Vec<f64> = scale.ticks().into_iter().map(|tick| scale.place(tick)).collect();
        for (place, expected) in places.into_iter().zip([0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0]) {
            assert!((place - expected).abs() < 1e-9, "{place} {expected}");
        }
        assert_eq!(Scale::log(&[8.0]).place(8.0), 0.5);
    }

    #[test]
    fn decades_lie_around_the_values() {
        assert_eq!(Scale::decades([66.0, 5_000.0]).ticks(), [10.0, 100.0, 1_000.0, 10_000.0]);
        assert_eq!(Scale::decades([10.0]).ticks(), [10.0, 100.0]);
        assert_eq!(Scale::decades([0.0]).ticks(), [1.0, 10.0]);
    }

    #[test]
    fn numbers_are_short() {
        let short: Vec<String> =
            [0.0, 0.25, 5.0, 1_000.0, 2_500.0, 100_000.0, 2e6].into_iter().map(number).collect();
        assert_eq!(short, ["0", "0.25", "5", "1k", "2.5k", "100k", "2M"]);
    }

    #[test]
    fn a_figure_is_whole() {
        let style = Style { name: "a & b", colour: "#123456", marker: Marker::Diamond };
        let axis = |label: &str, scale| Axis { label: label.into(), scale };
        let panel = Panel {
            title: "speed".into(),
            x: axis("connections", Scale::log(&[1.0, 8.0])),
            y: axis("requests/s", Scale::linear([10.0])),
            lines: vec![Line { style, points: vec![(1.0, 5.0), (8.0, 10.0)] }],
        };
        let svg = figure("growth", &[panel.clone(), panel.clone(), panel]);
        assert_eq!(svg.matches("<g ").count(), 3);
        assert_eq!(svg.matches("</g>").count(), 3);
        // The legend has each style once, and names are escaped.
        assert_eq!(svg.matches("a &amp; b").count(), 1);
        assert!(svg.contains("M0.0 90.0L300.0 0.0") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
