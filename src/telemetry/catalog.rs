//! Every metric and every field of a flow record, with its meaning: the table that code, tests and documents share.

/// Prometheus type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes both ways.
    Gauge,
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its whole name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What it counts, unit included.
    pub help: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
}

/// A field of a flow record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Key in JSON.
    pub name: &'static str,
    /// What it says. Fields that do not apply are left out of a record.
    pub help: &'static str,
}

/// All metrics.
pub const METRICS: &[Metric] = &[];

/// All fields of a flow record.
pub const FIELDS: &[Field] = &[];
