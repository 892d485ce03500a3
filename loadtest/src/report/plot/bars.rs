//! A bar with a whisker for a row of a table, and the ruler below such rows.

use std::fmt::Write as _;

use super::{Axis, labels};
use crate::report::html::escape;

/// A bar: a median, and the least and the greatest round.
pub struct Bar<'a> {
    /// Which colour it has, 0 to 5.
    pub series: usize,
    /// What it says to those who do not see it.
    pub label: &'a str,
    /// The median.
    pub median: f64,
    /// The spread.
    pub bounds: Option<(f64, f64)>,
}

/// How many widths of a label fit beside each other below bars; they are as wide as their column.
const LABELS: f64 = 5.0;

/// A bar as SVG that is stretched to its cell: lengths in percent, strokes unstretched.
pub fn bar(bar: &Bar<'_>, axis: &Axis) -> String {
    let label = escape(bar.label);
    let mut svg = format!(
        "<svg class=\"bar\" role=\"img\" aria-label=\"{label}\" viewBox=\"0 0 100 20\" \
         preserveAspectRatio=\"none\"><title>{label}</title>"
    );
    for (place, _) in labels::apart(&axis.ticks, LABELS, |_| 1.0) {
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M{:.2} 0V20\"/>",
            place * 100.0
        );
    }
    let series = bar.series % 6;
    if bar.median.is_finite() {
        let width = axis.place(bar.median) * 100.0;
        let _ = write!(
            svg,
            "<rect class=\"s{series}\" x=\"0\" y=\"3\" width=\"{width:.2}\" height=\"14\"/>"
        );
    }
    if let Some((low, high)) = bar.bounds.filter(|(low, high)| high > low) {
        let (low, high) = (axis.place(low) * 100.0, axis.place(high) * 100.0);
        let _ = write!(
            svg,
            "<path class=\"whisker\" d=\"M{low:.2} 10H{high:.2}M{low:.2} 6V14M{high:.2} 6V14\"/>"
        );
    }
    svg.push_str("</svg>");
    svg
}

/// The ticks of an axis below its bars.
pub fn ruler(axis: &Axis) -> String {
    let mut html = String::from("<div class=\"ruler\" aria-hidden=\"true\">");
    for (place, name) in labels::apart(&axis.ticks, LABELS, |_| 1.0) {
        let (at, name) = (place * 100.0, escape(name));
        let _ = write!(html, "<span style=\"left:{at:.2}%\">{name}</span>");
    }
    html.push_str("</div>");
    html
}
