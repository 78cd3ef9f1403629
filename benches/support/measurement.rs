//! Collection and summary of latencies.

use std::time::Duration;

use catbird_bench_report::results::Sample;
use hdrhistogram::Histogram;

/// Maximum latency that is recorded, in microseconds. Longer ones count as this.
const LONGEST_US: u64 = 120_000_000;
/// End of the first stored bucket in microseconds, and the factor by which each further bucket is wider.
const FIRST_BUCKET_US: u64 = 10;
const BUCKET_GROWTH: f64 = 1.1;

/// Recorded latencies.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Self {
        // Three digits: a percentile is exact to 0.1 %.
        Self(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are in order"))
    }

    pub fn add(&mut self, took: Duration) {
        self.add_us(u64::try_from(took.as_micros()).unwrap_or(LONGEST_US));
    }

    pub fn add_us(&mut self, us: u64) {
        self.0.saturating_record(us);
    }

    /// Number of latencies.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency in µs that this share of the requests, such as 0.99, does not exceed.
    pub fn quantile_us(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64
    }

    /// A sample that has only these latencies.
    pub fn sample(&self) -> Sample {
        let buckets = self.0.iter_log(FIRST_BUCKET_US, BUCKET_GROWTH);
        Sample {
            p50_us: self.quantile_us(0.5),
            p90_us: self.quantile_us(0.9),
            p99_us: self.quantile_us(0.99),
            max_us: self.0.max() as f64,
            latency: buckets
                .map(|bucket| (bucket.value_iterated_to(), bucket.count_since_last_iteration()))
                .filter(|(_, count)| *count > 0)
                .collect(),
            ..Sample::default()
        }
    }
}
