//! Axes: a range that begins and ends at a tick, and ticks at 1, 2 and 5.

use crate::report::units::{scale, short, with_unit};

/// How values lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from 0.
    Linear,
    /// By their magnitude; values from 0 down have no place.
    Log,
}

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    low: f64,
    high: f64,
    scale: Scale,
    /// The ticks: their places from 0 to 1, and what they say.
    pub ticks: Vec<(f64, String)>,
    /// The unit of all ticks, where they do not name their own.
    unit: String,
}

impl Axis {
    /// An axis for values from `low` to `high`. A linear one begins at 0.
    pub fn new(low: f64, high: f64, unit: &str, scale: Scale) -> Self {
        match scale {
            Scale::Linear => Self::linear(high, unit),
            Scale::Log => Self::log(low, high, unit),
        }
    }

    /// An axis whose ticks are given, as (value, name).
    pub fn named(low: f64, high: f64, ticks: Vec<(f64, String)>) -> Self {
        let mut axis = Self {
            low,
            high: if high > low { high } else { low + 1.0 },
            scale: Scale::Linear,
            ticks: Vec::new(),
            unit: String::new(),
        };
        let placed = ticks.into_iter().map(|(at, name)| (axis.place(at), name));
        axis.ticks = placed.collect();
        axis
    }

    fn linear(high: f64, unit: &str) -> Self {
        // All ticks are in one unit, and 1-2-5 in that unit: 512 MiB is a tick, 500,000,000 is none.
        let high = if high > 0.0 { high } else { 1.0 };
        let (divisor, suffix) = scale(high, unit);
        let step = step(high / divisor / 4.0);
        let steps = (high / divisor / step - 1e-9).ceil().max(1.0);
        let mut axis = Self {
            low: 0.0,
            high: steps * step * divisor,
            scale: Scale::Linear,
            ticks: Vec::new(),
            unit: match suffix.trim() {
                "/s" => "1/s".to_owned(),
                unit => unit.to_owned(),
            },
        };
        let ticks = 0..=steps as u32;
        axis.ticks = ticks
            .map(|index| f64::from(index) * step)
            .map(|value| (axis.place(value * divisor), short(value)))
            .collect();
        axis
    }

    fn log(low: f64, high: f64, unit: &str) -> Self {
        let (low, high) = (low.max(1e-6), high.max(1e-6));
        let mut values = vec![below(low)];
        while values
            .last()
            .is_some_and(|&last| last < high * (1.0 - 1e-9))
            || values.len() < 2
        {
            let last = values.last().copied().unwrap_or(low);
            values.push(step(last * 1.5));
        }
        let mut axis = Self {
            low: values[0],
            high: values[values.len() - 1],
            scale: Scale::Log,
            ticks: Vec::new(),
            unit: String::new(),
        };
        // Above three decades only the powers of ten fit.
        let many = axis.high / axis.low > 2_000.0;
        values.retain(|&value| !many || is_power(value));
        axis.ticks = values
            .iter()
            .map(|&value| (axis.place(value), tick(value, unit)))
            .collect();
        axis
    }

    /// The same ticks over just this range; ticks outside of it are dropped.
    pub fn exactly(mut self, low: f64, high: f64) -> Self {
        if high > low {
            let old = self.clone();
            (self.low, self.high) = (low, high);
            let value = |place: f64| old.low + place * (old.high - old.low);
            self.ticks = old
                .ticks
                .iter()
                .map(|(place, name)| ((value(*place) - low) / (high - low), name.clone()))
                .filter(|(place, _)| (-1e-6..=1.0 + 1e-6).contains(place))
                .collect();
        }
        self
    }

    /// Where a value lies, from 0 to 1.
    pub fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        place.clamp(0.0, 1.0)
    }

    /// The name of the axis with its unit.
    pub fn title(&self, name: &str) -> String {
        match (name, self.unit.as_str()) {
            (name, "") => name.to_owned(),
            ("", unit) => unit.to_owned(),
            (name, unit) => format!("{name}, {unit}"),
        }
    }
}

fn tick(value: f64, unit: &str) -> String {
    let (divisor, suffix) = scale(value, unit);
    if value < 1e-3 {
        return with_unit(value, unit);
    }
    format!("{}{suffix}", short(value / divisor))
}

/// The least of 1, 2, 5 times a power of ten that is not below `least`.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * power >= least * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// The greatest of 1, 2, 5 times a power of ten that is not above `most`.
fn below(most: f64) -> f64 {
    let power = 10_f64.powf((most * (1.0 + 1e-9)).log10().floor());
    let factor = [5.0, 2.0, 1.0]
        .into_iter()
        .find(|factor| factor * power <= most * (1.0 + 1e-9));
    factor.unwrap_or(1.0) * power
}

fn is_power(value: f64) -> bool {
    let exponent = value.log10();
    (exponent - exponent.round()).abs() < 1e-6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn linear_ticks_are_round_in_their_unit() {
        let axis = Axis::new(0.0, 62.0 * 1024.0 * 1024.0, "B", Scale::Linear);
        assert_eq!(names(&axis), ["0", "20", "40", "60", "80"]);
        assert_eq!(axis.title("memory"), "memory, MiB");
        let axis = Axis::new(0.0, 504_000.0, "1/s", Scale::Linear);
        assert_eq!(names(&axis), ["0", "200", "400", "600"]);
        assert_eq!(axis.title(""), "k/s");
        let axis = Axis::new(0.0, 0.77, "cores", Scale::Linear);
        assert_eq!(names(&axis), ["0", "0.2", "0.4", "0.6", "0.8"]);
    }

    #[test]
    fn logarithmic_ticks_name_their_units() {
        let axis = Axis::new(430.0, 8_000.0, "µs", Scale::Log);
        assert_eq!(
            names(&axis),
            ["200 µs", "500 µs", "1 ms", "2 ms", "5 ms", "10 ms"]
        );
        assert!(axis.ticks.iter().map(|tick| tick.0).is_sorted());
        let axis = Axis::new(12.0, 900_000.0, "µs", Scale::Log);
        assert_eq!(
            names(&axis),
            ["10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s"]
        );
        let axis = Axis::new(10.0, 10.0, "µs", Scale::Log);
        assert_eq!(names(&axis), ["10 µs", "20 µs"]);
    }

    #[test]
    fn a_time_axis_ends_where_the_run_ends() {
        let axis = Axis::new(0.0, 61.0, "s", Scale::Linear).exactly(0.0, 61.0);
        assert_eq!(names(&axis), ["0", "20", "40", "60"]);
        assert!((axis.place(61.0) - 1.0).abs() < 1e-9);
    }
}
