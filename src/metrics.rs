//! The metrics registry, the bucket sets, the figures of the process, and the page that Prometheus reads.
//!
//! Each component has a struct of its own metrics in `<component>/metrics.rs`: `register` puts them into the registry, and each method
//! records one thing. [`crate::app::Metrics`] registers all of them.
//!
//! Label values come from closed lists, so the number of series does not grow with users or conversations. The one exception, the
//! mailbox depth per conversation, is exported for the deepest mailboxes only.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Unit};

pub use prometheus_client::registry::Registry;

/// Name and value of a label.
pub type Label = (&'static str, &'static str);
/// Counters by `N` labels.
pub type Counters<const N: usize> = Family<[Label; N], Counter>;
/// Gauges by `N` labels.
pub type Gauges<const N: usize> = Family<[Label; N], Gauge>;
/// Histograms by `N` labels.
pub type Histograms<const N: usize> = Family<[Label; N], Histogram, Buckets>;

/// Upper bounds of a histogram's buckets, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Buckets(&'static [f64]);

impl Buckets {
    /// Half a millisecond to ten seconds: from a read in memory to the longest wait allowed.
    pub const COARSE: Self =
        Self(&[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
    /// Ten microseconds to ten seconds, because one stage of a request is often shorter than a whole quick request.
    pub const FINE: Self = Self(&[
        0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
        1.0, 2.5, 5.0, 10.0,
    ]);
}

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// Creates and registers a metric of any kind.
pub fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Shows counters as zeros before they first count.
pub fn show<const N: usize>(counters: &Counters<N>, series: impl IntoIterator<Item = [Label; N]>) {
    for labels in series {
        drop(counters.get_or_create(&labels));
    }
}

/// Creates and registers metrics of each kind.
pub trait Register {
    fn counter(&mut self, name: &str, help: &str) -> Counter;
    fn counters<const N: usize>(&mut self, name: &str, help: &str) -> Counters<N>;
    /// Counters that are shown as zeros before they first count, so that the first increase is one.
    fn counters_of<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = [Label; N]>,
    ) -> Counters<N>;
    fn gauge(&mut self, name: &str, help: &str) -> Gauge;
    fn gauges<const N: usize>(&mut self, name: &str, help: &str) -> Gauges<N>;
    /// A histogram of times. The unit follows the name.
    fn seconds(&mut self, name: &str, help: &str, buckets: Buckets) -> Histogram;
    /// Histograms of times, by label. The unit follows the name.
    fn seconds_by<const N: usize>(&mut self, name: &str, help: &str, buckets: Buckets) -> Histograms<N>;
}

impl Register for Registry {
    fn counter(&mut self, name: &str, help: &str) -> Counter {
        register(self, name, help)
    }

    fn counters<const N: usize>(&mut self, name: &str, help: &str) -> Counters<N> {
        register(self, name, help)
    }

    fn counters_of<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = [Label; N]>,
    ) -> Counters<N> {
        let counters = self.counters(name, help);
        show(&counters, series);
        counters
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        register(self, name, help)
    }

    fn gauges<const N: usize>(&mut self, name: &str, help: &str) -> Gauges<N> {
        register(self, name, help)
    }

    fn seconds(&mut self, name: &str, help: &str, buckets: Buckets) -> Histogram {
        let histogram = buckets.new_metric();
        self.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        histogram
    }

    fn seconds_by<const N: usize>(&mut self, name: &str, help: &str, buckets: Buckets) -> Histograms<N> {
        let histograms = Histograms::new_with_constructor(buckets);
        self.register_with_unit(name, help, Unit::Seconds, histograms.clone());
        histograms
    }
}

/// The page with all registered metrics. Cheap to clone.
#[derive(Clone)]
pub struct Page(Arc<Inner>);

struct Inner {
    registry: Registry,
    resident_memory: Gauge,
    cpu_seconds: Gauge<f64, AtomicU64>,
}

impl Page {
    /// Adds the figures of the process to the registry.
    pub fn new(mut registry: Registry) -> Self {
        let resident_memory = registry.gauge("process_resident_memory_bytes", "Resident memory");
        let help = "Processor time used since the start";
        let cpu_seconds = register(&mut registry, "process_cpu_seconds_total", help);
        Self(Arc::new(Inner { registry, resident_memory, cpu_seconds }))
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        if let Some((bytes, seconds)) = process_usage() {
            self.0.resident_memory.set(bytes);
            self.0.cpu_seconds.set(seconds);
        }
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

/// Resident bytes and processor seconds of this process (proc(5)); `None` where there is no /proc.
pub(crate) fn process_usage() -> Option<(i64, f64)> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    let resident = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse::<i64>().ok()?;
    // The second field, the command, may contain spaces and ends with the last parenthesis.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (user, system) = (fields.get(11)?.parse::<f64>().ok()?, fields.get(12)?.parse::<f64>().ok()?);
    Some((resident * page, (user + system) / ticks as f64))
}
