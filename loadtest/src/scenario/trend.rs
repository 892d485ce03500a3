//! Whether something grows: the slope of the second half of a soak, when caches are filled and rooms are full.

use crate::report::model::Sample;

/// The least samples that say anything.
const LEAST: usize = 10;

/// One sentence about memory and descriptors of the server; none where there are too few samples, or no processes
/// were named.
pub(super) fn sentence(samples: &[Sample]) -> Option<String> {
    let half = &samples[samples.len() / 2..];
    if half.len() < LEAST || half.iter().all(|sample| sample.rss == 0) {
        return None;
    }
    let memory = per_hour(half, |sample| sample.rss as f64) / (1 << 20) as f64;
    let descriptors = per_hour(half, |sample| sample.descriptors as f64);
    Some(format!(
        "In the second half the server's memory changed by {memory:+.1} MiB an hour, its descriptors by \
         {descriptors:+.0} an hour."
    ))
}

/// The slope of a least-squares line.
fn per_hour(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (at, level) = (mean(&|sample| sample.at), mean(&|sample| value(sample)));
    let (mut both, mut square) = (0.0, 0.0);
    for sample in samples {
        both += (sample.at - at) * (value(sample) - level);
        square += (sample.at - at).powi(2);
    }
    if square > 0.0 {
        both / square * 3_600.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rss: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample = |at: u64| Sample {
            at: at as f64,
            rss: rss(at),
            descriptors: 7,
            ..Sample::default()
        };
        (0..100).map(sample).collect()
    }

    #[test]
    fn a_leak_is_told_and_a_warm_up_is_not() {
        let leaks = samples(|at| (10 << 20) + at * 1024);
        assert!(sentence(&leaks).unwrap().contains("+3.5 MiB an hour"));
        let warms_up = samples(|at| (10 << 20) + at.min(40) * 1024);
        assert!(sentence(&warms_up).unwrap().contains("+0.0 MiB an hour"));
        assert_eq!(sentence(&samples(|_| 0)), None);
        assert_eq!(sentence(&[]), None);
    }
}
