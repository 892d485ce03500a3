//! Labels that do not cover each other.

use std::fmt::Write as _;

use crate::report::html::escape;

/// The least distance of two lines of text.
const LINE: f64 = 16.0;

/// The ticks that fit side by side on an axis of a length: every one, every second, and so on, back
/// from the last, which says how far the axis goes. `width` tells what a label needs.
pub fn apart(
    ticks: &[(f64, String)],
    length: f64,
    width: impl Fn(&str) -> f64,
) -> Vec<(f64, &str)> {
    let every = |step: usize| {
        let kept = ticks.iter().rev().step_by(step);
        let mut kept: Vec<(f64, &str)> = kept.map(|(place, name)| (*place, &**name)).collect();
        kept.reverse();
        kept
    };
    let fits = |kept: &Vec<(f64, &str)>| {
        kept.windows(2).all(|pair| {
            let needed = f64::midpoint(width(pair[0].1), width(pair[1].1));
            (pair[1].0 - pair[0].0) * length >= needed - 1e-6
        })
    };
    let found = (1..=ticks.len()).map(every).find(fits);
    found.unwrap_or_default()
}

/// The names of lines beside their ends, moved apart where ends meet, each with a stroke in the
/// line's colour: text in a pale colour would be hard to read.
pub fn at_ends(
    svg: &mut String,
    mut ends: Vec<((f64, f64), usize, &str)>,
    right: f64,
    (top, bottom): (f64, f64),
) {
    ends.sort_by(|((_, a), ..), ((_, b), ..)| a.total_cmp(b));
    let mut places: Vec<f64> = ends.iter().map(|((_, y), ..)| *y).collect();
    spread(&mut places, top, bottom);
    for (((x, y), series, name), place) in ends.into_iter().zip(places) {
        let (from, to, text, base) = (right.max(x), right + 10.0, right + 13.0, place + 4.0);
        let (series, name) = (series % 6, escape(name));
        let _ = write!(
            svg,
            "<g class=\"line s{series}\"><path d=\"M{from:.1} {y:.1}L{to:.1} {place:.1}\"/></g>\
             <text x=\"{text:.1}\" y=\"{base:.1}\">{name}</text>"
        );
    }
}

/// Moves ascending places apart by a line of text, within bounds as far as they have room.
fn spread(places: &mut [f64], top: f64, bottom: f64) {
    let mut least = top;
    for place in places.iter_mut() {
        *place = place.max(least);
        least = *place + LINE;
    }
    let mut most = bottom;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - LINE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_distance() {
        let mut places = [10.0, 11.0, 12.0, 199.0, 200.0];
        spread(&mut places, 20.0, 200.0);
        assert!(
            places.windows(2).all(|pair| pair[1] - pair[0] >= LINE),
            "{places:?}"
        );
        assert!(places[0] >= 20.0 && places[4] <= 200.0);
    }

    #[test]
    fn crowded_ticks_are_dropped_and_the_last_stays() {
        let ticks: Vec<(f64, String)> = (0..=10)
            .map(|i| (f64::from(i) / 10.0, i.to_string()))
            .collect();
        let kept = apart(&ticks, 50.0, |_| 10.0);
        let names: Vec<&str> = kept.iter().map(|tick| tick.1).collect();
        assert_eq!(names, ["0", "2", "4", "6", "8", "10"]);
    }
}
