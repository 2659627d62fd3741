//! The standing counters and gauges: an owned `metrics` recorder, fed from the catalog, never installed globally.

use std::fmt;
use std::sync::Arc;

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::{Kind, Metric};

const METADATA: Metadata<'static> = Metadata::new("aquifer", Level::INFO, None);

/// Makes instruments out of metrics of the catalog. Clones share one set of values.
#[derive(Clone)]
pub(crate) struct Recorder(Arc<PrometheusRecorder>);

impl Recorder {
    pub(crate) fn new() -> Self {
        Self(Arc::new(PrometheusBuilder::new().build_recorder()))
    }

    /// A counter without labels. It stands at 0 from here on.
    pub(crate) fn counter(&self, metric: &'static Metric) -> Counter {
        debug_assert!(metric.labels.is_empty(), "{} has labels", metric.name);
        self.register_counter(metric, Key::from_static_name(metric.name))
    }

    /// The counter with one label of this value. Values are words of the code, so there are only as many as it has.
    pub(crate) fn counter_with(&self, metric: &'static Metric, value: &'static str) -> Counter {
        self.register_counter(metric, labelled(metric, value))
    }

    /// The counter with two labels of these values, in the order of the catalog.
    pub(crate) fn counter_with_two(&self, metric: &'static Metric, values: [&'static str; 2]) -> Counter {
        debug_assert_eq!(metric.labels.len(), 2, "{}", metric.name);
        let labels = metric.labels.iter().zip(values);
        let labels: Vec<Label> = labels.map(|(name, value)| Label::from_static_parts(name, value)).collect();
        self.register_counter(metric, Key::from_parts(metric.name, labels))
    }

    /// A gauge without labels. It stands at 0 from here on.
    pub(crate) fn gauge(&self, metric: &'static Metric) -> Gauge {
        debug_assert!(metric.labels.is_empty(), "{} has labels", metric.name);
        self.register_gauge(metric, Key::from_static_name(metric.name))
    }

    /// The gauge with one label of this value.
    pub(crate) fn gauge_with(&self, metric: &'static Metric, value: &'static str) -> Gauge {
        self.register_gauge(metric, labelled(metric, value))
    }

    /// What the recorder's own exporter makes of it.
    pub(crate) fn render(&self) -> String {
        self.0.handle().render()
    }

    fn register_counter(&self, metric: &'static Metric, key: Key) -> Counter {
        debug_assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
        self.0.describe_counter(metric.name.into(), None, metric.help.into());
        self.0.register_counter(&key, &METADATA)
    }

    fn register_gauge(&self, metric: &'static Metric, key: Key) -> Gauge {
        debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
        self.0.describe_gauge(metric.name.into(), None, metric.help.into());
        self.0.register_gauge(&key, &METADATA)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

fn labelled(metric: &'static Metric, value: &'static str) -> Key {
    let labels: Vec<Label> =
        metric.labels.iter().take(1).map(|name| Label::from_static_parts(name, value)).collect();
    debug_assert_eq!(metric.labels.len(), 1, "{}", metric.name);
    Key::from_parts(metric.name, labels)
}
