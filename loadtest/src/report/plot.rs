//! Plots as inline SVG: lines over time or over percentiles, and bars with whiskers.
//!
//! Colours, fonts and dark mode come from the page's style sheet by class: `s0` to `s5` are the
//! series. Whatever is not a finite number leaves a gap instead of a path that a browser refuses.

mod axis;
mod bars;
mod labels;

use std::fmt::Write as _;

pub use axis::{Axis, Scale};
pub use bars::{Bar, bar, ruler};

use super::html::escape;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 250.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 46.0;
/// The least margins beside the axes, so that plots below each other line up.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 92.0;
/// More points than this on a line cannot be told apart on a screen; see [`thin`].
const POINTS: usize = 480;

/// A line of a plot.
pub struct Line {
    /// Its label.
    pub name: String,
    /// Which colour it has, 0 to 5.
    pub series: usize,
    /// Its points, with ascending x; gaps are values that are not finite.
    pub points: Vec<(f64, f64)>,
    /// Whether every point is marked and told.
    pub marked: bool,
}

impl Line {
    /// A line without marks.
    pub fn new(name: &str, series: usize, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: name.to_owned(),
            series,
            points,
            marked: false,
        }
    }
}

/// A plot of lines.
pub struct Plot<'a> {
    /// What it shows.
    pub title: &'a str,
    /// The name of the y axis, without its unit.
    pub name: &'a str,
    /// The unit of y, as `units::scale` knows it.
    pub unit: &'a str,
    /// Whether y is logarithmic.
    pub scale: Scale,
    /// The lines.
    pub lines: Vec<Line>,
}

impl Plot<'_> {
    /// The plot over seconds since the start; nothing where there is nothing to draw.
    pub fn over_time(&self) -> String {
        let ends = self.drawn().map(|(x, _)| x);
        let last = ends.fold(0.0_f64, f64::max);
        let x = Axis::new(0.0, last, "s", Scale::Linear).exactly(0.0, last);
        self.figure(&x, "time")
    }

    /// The plot over places that have names; `ticks` are (place, name), from the first to the last.
    pub fn over_names(&self, ticks: &[(f64, &str)], name: &str) -> String {
        // Room before the first point, for the value beside it.
        let low = ticks.first().map_or(0.0, |tick| tick.0 - 0.5);
        let high = ticks.last().map_or(1.0, |tick| tick.0);
        let named = ticks.iter().map(|&(at, name)| (at, name.to_owned()));
        let x = Axis::named(low, high, named.collect());
        self.figure(&x, name)
    }

    fn drawn(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let points = self
            .lines
            .iter()
            .flat_map(|line| line.points.iter().copied());
        points.filter(|&(x, y)| x.is_finite() && self.shows(y))
    }

    fn shows(&self, y: f64) -> bool {
        y.is_finite() && (self.scale == Scale::Linear || y > 0.0)
    }

    fn figure(&self, x: &Axis, x_name: &str) -> String {
        let values: Vec<f64> = self.drawn().map(|(_, y)| y).collect();
        let Some((low, high)) = super::units::bounds(&values) else {
            return String::new();
        };
        let y = Axis::new(low, high, self.unit, self.scale);
        let left = text_width(y.ticks.iter().map(|tick| tick.1.as_str())) + 10.0;
        let left = left.max(LEFT);
        let right = text_width(self.lines.iter().map(|line| line.name.as_str())) + 24.0;
        let right = right.max(RIGHT);
        let frame = Frame {
            left,
            right: WIDTH - right,
            top: TOP,
            bottom: HEIGHT - BOTTOM,
        };
        let mut svg = self.head();
        frame.grid(&mut svg, x, &y);
        let title = y.title(self.name);
        let _ = write!(
            svg,
            "<text class=\"axis\" x=\"2\" y=\"14\">{}</text>",
            escape(&title)
        );
        let (at, title) = (HEIGHT - 5.0, escape(&x.title(x_name)));
        let _ = write!(
            svg,
            "<text class=\"axis\" text-anchor=\"end\" x=\"{:.1}\" y=\"{at:.1}\">{title}</text>",
            frame.right,
        );
        let mut ends = Vec::new();
        let mut values = String::new();
        for line in &self.lines {
            if let Some(end) = self.line((&mut svg, &mut values), line, &frame, x, &y) {
                ends.push((end, line.series, line.name.as_str()));
            }
        }
        svg.push_str(&values);
        labels::at_ends(&mut svg, ends, frame.right, (frame.top, frame.bottom));
        svg.push_str("</svg>");
        let title = escape(self.title);
        format!("<figure><figcaption>{title}</figcaption>{svg}</figure>")
    }

    fn head(&self) -> String {
        let names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
        let (title, names) = (escape(self.title), escape(&names.join(", ")));
        format!(
            "<svg class=\"plot\" role=\"img\" aria-label=\"{title}: {names}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\"><title>{title}: {names}</title>"
        )
    }

    /// Draws a line and says where it ends. The values along it go above all lines.
    fn line(
        &self,
        (svg, values): (&mut String, &mut String),
        line: &Line,
        frame: &Frame,
        x: &Axis,
        y: &Axis,
    ) -> Option<(f64, f64)> {
        let mut path = String::new();
        let mut marks = String::new();
        let mut end = None;
        let mut run = 0;
        let points = thin(&line.points);
        for (index, &(at, value)) in points.iter().enumerate() {
            if !at.is_finite() || !self.shows(value) {
                run = 0;
                continue;
            }
            let (px, py) = (frame.x(x.place(at)), frame.y(y.place(value)));
            let _ = write!(path, "{}{px:.1} {py:.1}", if run == 0 { "M" } else { "L" });
            run += 1;
            let next = points.get(index + 1);
            // A path of one point draws nothing, so a lone point needs a mark to be seen.
            let alone = run == 1 && next.is_none_or(|&(_, value)| !self.shows(value));
            if alone || line.marked {
                let _ = write!(marks, "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"2.5\"/>");
            }
            if line.marked && line.series == 0 {
                let text = escape(&super::units::with_unit(value, self.unit));
                let _ = write!(
                    values,
                    "<text class=\"value\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
                    px + 3.0,
                    py - 6.0,
                );
            }
            end = Some((px, py));
        }
        let series = line.series % 6;
        let _ = write!(
            svg,
            "<g class=\"line s{series}\"><path d=\"{path}\"/>{marks}</g>"
        );
        end
    }
}

/// Where the axes are, in the coordinates of the picture.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    fn x(&self, place: f64) -> f64 {
        self.left + place * (self.right - self.left)
    }

    fn y(&self, place: f64) -> f64 {
        self.bottom - place * (self.bottom - self.top)
    }

    fn grid(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let (left, right, bottom) = (self.left, self.right, self.bottom);
        for (place, name) in labels::apart(&y.ticks, (self.bottom - self.top) / 17.0, |_| 1.0) {
            let at = self.y(place);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{left:.1} {at:.1}H{right:.1}\"/>\
                 <text text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left - 6.0,
                at + 4.0,
                escape(name),
            );
        }
        let room = self.right - self.left;
        for (place, name) in
            labels::apart(&x.ticks, room, |name| text_width([name].into_iter()) + 8.0)
        {
            let at = self.x(place);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{at:.1} {bottom:.1}v4\"/>\
                 <text text-anchor=\"middle\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 20.0,
                escape(name),
            );
        }
    }
}

/// About how wide the longest of some labels is. The fonts of readers differ, so this errs upwards.
fn text_width<'a>(texts: impl Iterator<Item = &'a str>) -> f64 {
    let longest = texts.map(|text| text.chars().count()).max().unwrap_or(0);
    longest as f64 * 7.2
}

/// At most about [`POINTS`] points that keep every peak and every trough: of each bucket the least
/// and the greatest, in their order. A mean would hide the very outliers that people look for.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let size = points.len().div_ceil(POINTS / 2);
    let mut kept = Vec::with_capacity(POINTS);
    for bucket in points.chunks(size) {
        let by = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let finite = || bucket.iter().filter(|point| point.1.is_finite());
        let low = finite().min_by(by).or(bucket.first());
        let ends = [low, finite().max_by(by)];
        let mut ends: Vec<(f64, f64)> = ends.into_iter().flatten().copied().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends.dedup();
        kept.extend(ends);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>, scale: Scale) -> String {
        let plot = Plot {
            title: "a < b",
            name: "latency",
            unit: "µs",
            scale,
            lines: vec![Line::new("p50", 0, points)],
        };
        plot.over_time()
    }

    #[test]
    fn awkward_series_draw_no_nonsense() {
        for points in [
            vec![],
            vec![(0.0, 0.0)],
            vec![(1.0, 5.0)],
            vec![(0.0, 0.0), (1.0, 0.0)],
            vec![(0.0, f64::NAN), (1.0, 3.0), (2.0, f64::INFINITY)],
            vec![(0.0, 7.0), (1.0, 7.0)],
            vec![(0.0, 1e18), (1e9, 1e-9)],
        ] {
            for scale in [Scale::Linear, Scale::Log] {
                let svg = plot(points.clone(), scale);
                assert!(
                    !svg.contains("NaN") && !svg.contains("inf"),
                    "{points:?}: {svg}"
                );
            }
        }
        assert_eq!(plot(vec![], Scale::Linear), "");
        assert_eq!(plot(vec![(0.0, 0.0)], Scale::Log), "");
        assert!(plot(vec![(1.0, 5.0)], Scale::Log).contains("<circle"));
        assert!(plot(vec![(1.0, 5.0)], Scale::Log).contains("a &lt; b"));
    }

    #[test]
    fn a_gap_begins_a_new_stroke() {
        let points = vec![
            (0.0, 1.0),
            (1.0, 2.0),
            (2.0, f64::NAN),
            (3.0, 1.0),
            (4.0, 2.0),
        ];
        let svg = plot(points, Scale::Linear);
        let path = svg.split("<g class=\"line").nth(1).unwrap();
        let path = path
            .split("d=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        assert_eq!(path.matches('M').count(), 2, "{path}");
    }

    #[test]
    fn thinning_keeps_the_peak() {
        let mut points: Vec<(f64, f64)> = (0..30_000).map(|i| (f64::from(i), 1.0)).collect();
        points[12_345].1 = 99.0;
        let kept = thin(&points);
        assert!(kept.len() <= POINTS && kept.contains(&(12_345.0, 99.0)));
        assert!(kept.is_sorted_by(|a, b| a.0 <= b.0));
    }
}
