//! Draws graphs as SVG for light and dark pages: lines over two axes, and bars.

use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 460.0;
/// Left edge of the plot area.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 690.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 404.0;
/// On a logarithmic axis, 0 is drawn this far before the first value.
const ZERO_GAP: f64 = 34.0;

const STYLE: &str = "\
.page{fill:#fff}text{fill:#1f2937}.faint{fill:#6b7280}.grid{stroke:#e5e7eb}.axis{stroke:#6b7280}\
.mark{stroke:#dc2626;stroke-dasharray:4 3}.band{fill:#fee2e2}\
.line{fill:none;stroke-width:2}.talk{stroke-width:1.3}.thin{stroke-width:1}\
.c0{stroke:#c2410c;fill:#c2410c}.c1{stroke:#1d4ed8;fill:#1d4ed8}.c2{stroke:#15803d;fill:#15803d}\
.c3{stroke:#a21caf;fill:#a21caf}\
.r0,.r1,.r2,.r3{stroke:#8b95a3;fill:#8b95a3}.r1{stroke-dasharray:7 3}\
.r2{stroke-dasharray:2 3}.r3{stroke-dasharray:9 3 2 3}\
.line{fill:none}.dot{stroke:none}\
@media (prefers-color-scheme:dark){.page{fill:#111827}text{fill:#e5e7eb}.faint{fill:#9ca3af}\
.grid{stroke:#1f2937}.axis{stroke:#9ca3af}\
.mark{stroke:#f87171}.band{fill:#3f1d1d}\
.c0{stroke:#fb923c;fill:#fb923c}.c1{stroke:#60a5fa;fill:#60a5fa}\
.c2{stroke:#4ade80;fill:#4ade80}\
.c3{stroke:#e879f9;fill:#e879f9}.r0,.r1,.r2,.r3{stroke:#6b7280;fill:#6b7280}.line{fill:none}\
.dot{stroke:none}}";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Starts at 0.
    Linear,
    /// Logarithmic, with 0 at a separate place before the first value.
    Log,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hue {
    /// A mode of ours: each number has a different color.
    Own(usize),
    /// The same as a thin line.
    OwnThin(usize),
    /// One of the talk's handlers: grey, each number has a different dash.
    Talk(usize),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    /// Uncertainty of `y`, from and to.
    pub range: Option<(f64, f64)>,
}

/// A line with its name in the legend.
#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    pub hue: Hue,
    pub points: Vec<Point>,
}

/// A graph of lines over two axes.
#[derive(Debug, Clone)]
pub struct Plot {
    pub title: String,
    /// What the graph shows, for screen readers.
    pub description: String,
    pub x: (String, Scale),
    pub y: (String, Scale),
    pub series: Vec<Series>,
    /// Values of the first axis that are marked, each with a text.
    pub marks: Vec<(f64, String)>,
    /// A range of the first axis with a background of its own.
    pub band: Option<(f64, f64)>,
}

/// A bar with its name.
#[derive(Debug, Clone)]
pub struct Bar {
    pub name: String,
    pub hue: Hue,
    pub value: f64,
    /// Lowest and highest value.
    pub range: (f64, f64),
}

impl Hue {
    fn class(self) -> String {
        match self {
            Self::Own(n) => format!("c{}", n % 4),
            Self::OwnThin(n) => format!("thin c{}", n % 4),
            Self::Talk(n) => format!("talk r{}", n % 4),
        }
    }
}

/// Maps values to positions.
struct Axis {
    scale: Scale,
    /// Lowest and highest value; on a logarithmic axis their logarithms.
    from: f64,
    to: f64,
    /// Positions of the lowest and of the highest value.
    start: f64,
    end: f64,
}

impl Axis {
    /// An axis for `values`, from position `start` to position `end`.
    fn new(scale: Scale, values: impl Iterator<Item = f64> + Clone, start: f64, end: f64) -> Self {
        let sign = (end - start).signum();
        match scale {
            Scale::Linear => {
                let most = values.fold(0.0, f64::max);
                // Values that are all 0 have the axis of 1.
                let step = step(if most > 0.0 { most } else { 1.0 });
                Self { scale, from: 0.0, to: (most / step).ceil().max(1.0) * step, start, end }
            }
            Scale::Log => {
                let positive = values.clone().filter(|value| *value > 0.0);
                let least = positive.clone().fold(f64::INFINITY, f64::min).log10();
                let most = positive.fold(f64::NEG_INFINITY, f64::max).log10();
                let (least, most) = if least.is_finite() { (least, most) } else { (0.0, 1.0) };
                let zero = values.into_iter().any(|value| value <= 0.0);
                let start = if zero { start + sign * ZERO_GAP } else { start };
                // At least half a decade, so that equal values have an axis too.
                let (from, to) = (nice(least, f64::floor), nice(most, f64::ceil));
                let to = to.max(from + 0.5);
                Self { scale, from, to, start, end }
            }
        }
    }

    fn place(&self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Log if value <= 0.0 => {
                return self.start - (self.end - self.start).signum() * ZERO_GAP;
            }
            Scale::Log => value.log10(),
        };
        self.start + (value - self.from) / (self.to - self.from) * (self.end - self.start)
    }

    /// Values of the grid lines.
    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = step(self.to);
                let count = (self.to / step).round() as u32;
                (0..=count).map(|n| f64::from(n) * step).collect()
            }
            Scale::Log => {
                let steps: &[f64] =
                    if self.to - self.from > 3.2 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let decades = self.from.floor() as i32..=self.to.ceil() as i32;
                let all = decades
                    .flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
                let inside =
                    |tick: &f64| (self.from - 1e-6..=self.to + 1e-6).contains(&tick.log10());
                all.filter(inside).collect()
            }
        }
    }
}

/// The logarithm of the next 1, 2 or 5 times a power of ten, below or above.
fn nice(log: f64, round: fn(f64) -> f64) -> f64 {
    let decade = log.floor();
    let steps = [0.0, 2f64.log10(), 5f64.log10(), 1.0];
    let up = round(0.5) > 0.5;
    let within = log - decade;
    let found = if up {
        steps.into_iter().find(|step| *step >= within - 1e-9)
    } else {
        steps.into_iter().rev().find(|step| *step <= within + 1e-9)
    };
    decade + found.unwrap_or(0.0)
}

/// A distance of grid lines, 1, 2 or 5 times a power of ten: about five up to `most`.
fn step(most: f64) -> f64 {
    let rough = most / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= rough)
        .unwrap_or(power)
}

/// A value as text, as in `0.5`, `20`, `3,000`.
fn label(value: f64) -> String {
    if value >= 1000.0 {
        let text = format!("{value:.0}");
        let mut grouped = String::new();
        for (at, digit) in text.chars().enumerate() {
            if at > 0 && (text.len() - at).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        return grouped;
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Escapes text for XML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// An SVG document while it is written.
struct Svg(String);

impl Svg {
    fn new(title: &str, description: &str, height: f64) -> Self {
        let (title, description) = (escape(title), escape(description));
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <title>{title}</title>\n<desc>{description}</desc>\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"100%\" height=\"100%\"/>\n\
             <text x=\"16\" y=\"25\" font-size=\"16\">{title}</text>\n"
        ))
    }

    fn text(&mut self, x: f64, y: f64, attributes: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(self.0, "<text x=\"{x:.1}\" y=\"{y:.1}\"{attributes}>{text}</text>");
    }

    fn path(&mut self, class: &str, d: &str) {
        let _ = writeln!(self.0, "<path class=\"{class}\" d=\"{d}\"/>");
    }

    fn finish(self) -> String {
        self.0 + "</svg>\n"
    }
}

const MIDDLE: &str = " text-anchor=\"middle\"";
const END: &str = " text-anchor=\"end\"";

/// Draws lines and their legend.
pub fn lines(plot: &Plot) -> String {
    let points = plot.series.iter().flat_map(|series| &series.points);
    let x = Axis::new(plot.x.1, points.clone().map(|point| point.x), LEFT, RIGHT);
    let ys = points.flat_map(|point| {
        let (from, to) = point.range.unwrap_or((point.y, point.y));
        // A range that reaches below zero can't be drawn on a logarithmic axis.
        [point.y, if from > 0.0 { from } else { point.y }, to]
    });
    let y = Axis::new(plot.y.1, ys, BOTTOM, TOP);
    let mut svg = Svg::new(&plot.title, &plot.description, HEIGHT);
    if let Some((from, to)) = plot.band.map(|(from, to)| (x.place(from), x.place(to))) {
        svg.path("band", &format!("M{from:.1} {TOP}H{to:.1}V{BOTTOM}H{from:.1}Z"));
    }
    grid(&mut svg, plot, &x, &y);
    for (at, what) in &plot.marks {
        let at = x.place(*at);
        svg.path("mark", &format!("M{at:.1} {TOP}V{BOTTOM}"));
        svg.text(at + 3.0, TOP + 12.0, " class=\"faint\" font-size=\"11\"", what);
    }
    for (row, series) in (0..).zip(&plot.series) {
        draw(&mut svg, series, &x, &y);
        let at = TOP + 10.0 + f64::from(row) * 20.0;
        let class = format!("line {}", series.hue.class());
        svg.path(&class, &format!("M{} {at}h26", RIGHT + 14.0));
        svg.text(RIGHT + 46.0, at + 4.0, "", &series.name);
    }
    svg.finish()
}

/// Puts graphs of [`lines`] below each other.
pub fn column(graphs: &[String]) -> String {
    let height = HEIGHT * graphs.len() as f64;
    let mut svg =
        format!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\">\n");
    for (row, graph) in (0..).zip(graphs) {
        let place = format!("<svg y=\"{}\" height=\"{HEIGHT}\" ", HEIGHT * f64::from(row));
        svg += &graph.replacen("<svg ", &place, 1);
    }
    svg + "</svg>\n"
}

/// Draws axes, units, grid lines and their values.
fn grid(svg: &mut Svg, plot: &Plot, x: &Axis, y: &Axis) {
    let zero = |axis: &Axis, edge: f64| {
        (axis.scale == Scale::Log && (axis.start - edge).abs() > 1e-9).then_some(0.0)
    };
    for value in x.ticks().into_iter().chain(zero(x, LEFT)) {
        let at = x.place(value);
        svg.path("grid", &format!("M{at:.1} {TOP}V{BOTTOM}"));
        svg.text(at, BOTTOM + 18.0, MIDDLE, &label(value));
    }
    for value in y.ticks().into_iter().chain(zero(y, BOTTOM)) {
        let at = y.place(value);
        svg.path("grid", &format!("M{LEFT} {at:.1}H{RIGHT}"));
        svg.text(LEFT - 8.0, at + 4.0, END, &label(value));
    }
    svg.path("axis line\" style=\"stroke-width:1", &format!("M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"));
    let faint = format!(" class=\"faint\"{MIDDLE}");
    svg.text(f64::midpoint(LEFT, RIGHT), HEIGHT - 14.0, &faint, &plot.x.0);
    let turned =
        format!("{faint} transform=\"translate(18 {}) rotate(-90)\"", f64::midpoint(TOP, BOTTOM));
    svg.text(0.0, 0.0, &turned, &plot.y.0);
}

fn draw(svg: &mut Svg, series: &Series, x: &Axis, y: &Axis) {
    let class = series.hue.class();
    let mut path = String::new();
    for point in &series.points {
        let (at_x, at_y) = (x.place(point.x), y.place(point.y));
        let _ = write!(path, "{}{at_x:.1} {at_y:.1}", if path.is_empty() { 'M' } else { 'L' });
        if let Some((from, to)) = point.range {
            let (from, to) = (y.place(from.max(0.0)).min(BOTTOM), y.place(to));
            svg.path(&format!("line thin {class}"), &format!("M{at_x:.1} {from:.1}V{to:.1}"));
        }
    }
    svg.path(&format!("line {class}"), &path);
    // Dots of hundreds of points would overlap.
    if matches!(series.hue, Hue::Own(_)) && series.points.len() <= 60 {
        for point in &series.points {
            let (x, y) = (x.place(point.x), y.place(point.y));
            let _ = writeln!(
                svg.0,
                "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"
            );
        }
    }
}

/// Draws bars on a logarithmic axis, each with its range.
pub fn bars(title: &str, description: &str, unit: &str, bars: &[Bar]) -> String {
    let height = 90.0 + bars.len() as f64 * 34.0;
    let values = bars.iter().flat_map(|bar| [bar.value, bar.range.0, bar.range.1]);
    let values = values.filter(|value| *value > 0.0);
    // A bar that starts at its own value would be invisible.
    let least = values.clone().fold(f64::INFINITY, f64::min) / 2.0;
    let axis = Axis::new(Scale::Log, values.chain([least]), 220.0, WIDTH - 90.0);
    let mut svg = Svg::new(title, description, height);
    for value in axis.ticks() {
        let at = axis.place(value);
        svg.path("grid", &format!("M{at:.1} {TOP}V{}", height - 42.0));
        svg.text(at, height - 26.0, MIDDLE, &label(value));
    }
    let faint = format!(" class=\"faint\"{MIDDLE}");
    svg.text(WIDTH / 2.0 + 60.0, height - 8.0, &faint, unit);
    for (row, bar) in (0..).zip(bars) {
        let top = TOP + 8.0 + f64::from(row) * 34.0;
        let place = |value: f64| axis.place(value.max(10f64.powf(axis.from)));
        let (end, from, to) = (place(bar.value), place(bar.range.0), place(bar.range.1));
        svg.text(210.0, top + 15.0, END, &bar.name);
        let _ = writeln!(
            svg.0,
            "<rect class=\"dot {}\" x=\"220\" y=\"{top}\" width=\"{:.1}\" height=\"20\"/>",
            bar.hue.class(),
            end - 220.0
        );
        let (upper, middle) = (top + 5.0, top + 10.0);
        let whisker =
            format!("M{from:.1} {middle}H{to:.1}M{from:.1} {upper}v10M{to:.1} {upper}v10");
        svg.path("axis\" style=\"stroke-width:1.5;fill:none", &whisker);
        svg.text(to.max(end) + 8.0, top + 15.0, "", &label(bar.value.round()));
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithmic_axis_has_round_ends_and_a_zero() {
        let axis = Axis::new(Scale::Log, [0.0, 30.0, 700.0].into_iter(), 100.0, 500.0);
        assert!((axis.place(20.0) - (100.0 + ZERO_GAP)).abs() < 1e-6);
        assert!((axis.place(1000.0) - 500.0).abs() < 1e-6);
        assert!((axis.place(0.0) - 100.0).abs() < 1e-6);
        let ticks: Vec<String> = axis.ticks().into_iter().map(label).collect();
        assert_eq!(ticks, ["20", "50", "100", "200", "500", "1,000"]);
        // Upside down, like a vertical axis.
        let axis = Axis::new(Scale::Log, [1.0, 10.0].into_iter(), 400.0, 100.0);
        assert!(axis.place(1.0) > axis.place(10.0));
    }

    #[test]
    fn linear_axis_starts_at_zero() {
        let axis = Axis::new(Scale::Linear, [3.0, 47.0].into_iter(), 0.0, 100.0);
        assert_eq!(axis.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        assert!((axis.place(25.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn empty_or_equal_values_have_an_axis() {
        for scale in [Scale::Linear, Scale::Log] {
            for values in [vec![], vec![0.0], vec![5.0, 5.0]] {
                let axis = Axis::new(scale, values.iter().copied(), 0.0, 100.0);
                assert!(values.iter().all(|value| axis.place(*value).is_finite()), "{values:?}");
                assert!((1..20).contains(&axis.ticks().len()));
            }
        }
    }

    #[test]
    fn labels_have_separators_and_names_are_escaped() {
        assert_eq!(
            [0.05, 2.5, 200.0, 12_000.0, 1_000_000.0].map(label),
            ["0.05", "2.5", "200", "12,000", "1,000,000"]
        );
        let point = |x, y| Point { x, y, range: Some((y / 2.0, y * 2.0)) };
        let series = Series {
            name: "a<b".to_owned(),
            hue: Hue::Own(0),
            points: vec![point(0.0, 5.0), point(10.0, 50.0)],
        };
        let plot = Plot {
            title: "x & y".to_owned(),
            description: "how <x> goes with y".to_owned(),
            x: ("load".to_owned(), Scale::Log),
            y: ("ms".to_owned(), Scale::Log),
            series: vec![series],
            marks: vec![(5.0, "kill".to_owned())],
            band: Some((2.0, 3.0)),
        };
        let svg = lines(&plot);
        assert!(
            svg.contains("a&lt;b") && svg.contains("x &amp; y") && svg.contains("class=\"mark\"")
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let bar =
            Bar { name: "b".to_owned(), hue: Hue::Talk(1), value: 220.0, range: (195.0, 220.0) };
        assert!(!bars("t", "it description", "per s", &[bar]).contains("NaN"));
    }
}
