//! Figures as people read them: three significant digits, and a unit that suits the size.

/// What stands where there is no figure.
pub const NONE: &str = "–";

/// The divisor and the suffix, with its leading space, that show `value` best in `unit`.
///
/// Known units are `µs`, `s`, `B`, `B/s` and `1/s`; others keep their name and get `k` and `M`. A
/// whole axis, or a median and its spread, uses the scale of one value and stays comparable.
#[must_use]
pub fn scale(value: f64, unit: &str) -> (f64, String) {
    let size = value.abs();
    match unit {
        "µs" => {
            let (divisor, name) = time_scale(size);
            (divisor, format!(" {name}"))
        }
        "s" => {
            let (divisor, name) = time_scale(size * 1e6);
            (divisor / 1e6, format!(" {name}"))
        }
        "B" | "B/s" => {
            const STEPS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
            let mut step = 0;
            let mut divisor = 1.0;
            while size >= divisor * 1023.5 && step + 1 < STEPS.len() {
                divisor *= 1024.0;
                step += 1;
            }
            (divisor, format!(" {}{}", STEPS[step], &unit[1..]))
        }
        _ => {
            let (divisor, letter) = match size {
                s if s >= 999.5e6 => (1e9, "G"),
                s if s >= 999.5e3 => (1e6, "M"),
                s if s >= 9_995.0 => (1e3, "k"),
                _ => (1.0, ""),
            };
            let suffix = match unit {
                "" => letter.to_owned(),
                "1/s" => format!("{letter}/s"),
                name => format!("{letter} {name}"),
            };
            (divisor, suffix)
        }
    }
}

fn time_scale(micros: f64) -> (f64, &'static str) {
    match micros {
        m if m >= 7.2e9 => (3.6e9, "h"),
        m if m >= 600e6 => (60e6, "min"),
        m if m >= 999.5e3 => (1e6, "s"),
        m if m >= 999.5 => (1e3, "ms"),
        _ => (1.0, "µs"),
    }
}

/// A figure with its unit: `12.3 ms`, `1.50 MiB`, `512k/s`.
#[must_use]
pub fn with_unit(value: f64, unit: &str) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
    }
    if value == 0.0 && matches!(unit, "µs" | "s") {
        // A unit would be a claim about precision; zero has none.
        return "0".to_owned();
    }
    let (divisor, suffix) = scale(value, unit);
    format!("{}{suffix}", significant(value / divisor))
}

/// A median and the spread of its rounds, all in the median's unit: `12.3 µs (11.9–12.8)`.
#[must_use]
pub fn spread(median: f64, rounds: &[f64], unit: &str) -> String {
    let middle = with_unit(median, unit);
    match bounds(rounds) {
        Some((low, high)) if rounds.len() > 1 && median.is_finite() => {
            let (divisor, _) = scale(median, unit);
            let (low, high) = (significant(low / divisor), significant(high / divisor));
            format!("{middle} ({low}–{high})")
        }
        _ => middle,
    }
}

/// The least and the greatest finite value.
#[must_use]
pub fn bounds(values: &[f64]) -> Option<(f64, f64)> {
    let mut finite = values.iter().copied().filter(|value| value.is_finite());
    let first = finite.next()?;
    Some(finite.fold((first, first), |(low, high), value| {
        (low.min(value), high.max(value))
    }))
}

/// A number in three significant digits, without letters: `0.0123`, `12.3`, `12,300`.
#[must_use]
pub fn significant(value: f64) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
    }
    // Rounding first, so that 9.999 is 10.0 and not 10.00.
    let value: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    let size = value.abs();
    let decimals = match size {
        s if s == 0.0 || s >= 100.0 => 0,
        s if s >= 10.0 => 1,
        s if s >= 1.0 => 2,
        s if s >= 0.1 => 3,
        s if s >= 0.01 => 4,
        s if s >= 0.001 => 5,
        _ => 6,
    };
    if (1000.0..1e15).contains(&size) {
        let sign = if value < 0.0 { "−" } else { "" };
        return format!("{sign}{}", count(size as u64));
    }
    format!("{value:.decimals$}").replace('-', "−")
}

/// A number as short as it is exact to three digits, for ticks: `0.5`, `20`, `1.25`.
#[must_use]
pub fn short(value: f64) -> String {
    let text = significant(value);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A count in full, with separators: `1,234,567`.
#[must_use]
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share of 1 in percent. What is short of everything never reads as 100 %.
#[must_use]
pub fn percent(share: f64) -> String {
    if !share.is_finite() {
        return NONE.to_owned();
    }
    match share * 100.0 {
        100.0 => "100 %".to_owned(),
        p if p > 99.0 && p < 100.0 => format!("{:.3} %", p.min(99.999)),
        p => format!("{} %", significant(p)),
    }
}

/// One number by another, not a number where there is nothing to divide by.
#[must_use]
pub fn per(value: f64, by: f64) -> f64 {
    if by == 0.0 { f64::NAN } else { value / by }
}

/// A time of day in UTC: `2026-11-21 07:41 UTC`.
#[must_use]
pub fn date(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    // Howard Hinnant's days-to-civil: years begin in March, so that leap days come last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3600, seconds % 3600 / 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_suitable_unit() {
        for (value, unit, text) in [
            (0.0, "µs", "0"),
            (5.0, "µs", "5.00 µs"),
            (999.6, "µs", "1.00 ms"),
            (12_345.0, "µs", "12.3 ms"),
            (2_500_000.0, "µs", "2.50 s"),
            (0.002, "s", "2.00 ms"),
            (3600.0, "s", "60.0 min"),
            (1536.0, "B", "1.50 KiB"),
            (3_221_225_472.0, "B", "3.00 GiB"),
            (2_097_152.0, "B/s", "2.00 MiB/s"),
            (512_345.0, "1/s", "512k/s"),
            (4_120.0, "1/s", "4,120/s"),
            (999_900.0, "1/s", "1.00M/s"),
            (0.0123, "", "0.0123"),
            (1.5, "cores", "1.50 cores"),
            (-2048.0, "B", "−2.00 KiB"),
            (f64::NAN, "B", NONE),
            (f64::INFINITY, "µs", NONE),
        ] {
            assert_eq!(with_unit(value, unit), text, "{value} {unit}");
        }
    }

    #[test]
    fn a_spread_is_in_the_unit_of_its_median() {
        let rounds = [950.0, 1100.0, 1000.0];
        assert_eq!(spread(1000.0, &rounds, "µs"), "1.00 ms (0.950–1.10)");
        assert_eq!(spread(7.0, &[7.0], "µs"), "7.00 µs");
        assert_eq!(spread(f64::NAN, &[], "µs"), NONE);
    }

    #[test]
    fn counts_percents_and_ticks() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.999_999_99), "99.999 %");
        assert_eq!(percent(0.5), "50.0 %");
        assert_eq!(percent(f64::NAN), NONE);
        assert_eq!(short(0.5), "0.5");
        assert_eq!(short(20.0), "20");
        assert_eq!(short(200.0), "200");
    }

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_795_246_864), "2026-11-21 07:41 UTC");
    }
}
