//! The `baggage` header: who a workload says it is, for metrics and logs of the other side. Never identity.

use std::fmt::{self, Write as _};

use http::{HeaderMap, HeaderValue};

use crate::request::BAGGAGE;

/// Longest header that is read or written, in bytes. Nine values of Kubernetes names fit several times.
const MAX_BAGGAGE: usize = 4096;
/// Longest single value, in bytes: a Kubernetes name has at most 253.
const MAX_VALUE: usize = 253;

/// What kind of object owns the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// `k8s.deployment.name`
    Deployment,
    /// `k8s.cronjob.name`
    CronJob,
    /// `k8s.pod.name`
    Pod,
    /// `k8s.job.name`
    Job,
}

impl WorkloadKind {
    const ALL: [Self; 4] = [Self::Deployment, Self::CronJob, Self::Pod, Self::Job];

    fn key(self) -> &'static str {
        match self {
            Self::Deployment => "k8s.deployment.name",
            Self::CronJob => "k8s.cronjob.name",
            Self::Pod => "k8s.pod.name",
            Self::Job => "k8s.job.name",
        }
    }
}

/// One workload's words about itself. Absent values are left out of the header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`
    pub cluster: Option<Box<str>>,
    /// `k8s.namespace.name`
    pub namespace: Option<Box<str>>,
    /// `k8s.<kind>.name`
    pub workload: Option<(WorkloadKind, Box<str>)>,
    /// `service.name`
    pub service: Option<Box<str>>,
    /// `service.version`
    pub version: Option<Box<str>>,
    /// `cloud.region`
    pub region: Option<Box<str>>,
    /// `cloud.availability_zone`
    pub zone: Option<Box<str>>,
}

impl Baggage {
    /// Reads a header's value. Unknown keys, and values that are too long or not text, are passed over.
    pub fn parse(text: &str) -> Self {
        let mut this = Self::default();
        if text.len() > MAX_BAGGAGE {
            return this;
        }
        for member in text.split(',') {
            // W3C baggage: properties of a member follow after a semicolon.
            let member = member.split(';').next().unwrap_or_default();
            let Some((key, value)) = member.split_once('=') else { continue };
            let Some(value) = decode(value.trim()) else { continue };
            let slot = match key.trim() {
                "k8s.cluster.name" => &mut this.cluster,
                "k8s.namespace.name" => &mut this.namespace,
                "service.name" => &mut this.service,
                "service.version" => &mut this.version,
                "cloud.region" => &mut this.region,
                "cloud.availability_zone" => &mut this.zone,
                key => {
                    if let Some(kind) = WorkloadKind::ALL.into_iter().find(|kind| kind.key() == key) {
                        this.workload = Some((kind, value));
                    }
                    continue;
                }
            };
            *slot = Some(value);
        }
        this
    }

    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let this = Self::parse(headers.get(BAGGAGE)?.to_str().ok()?);
        (this != Self::default()).then_some(this)
    }

    pub(crate) fn to_header(&self) -> Option<HeaderValue> {
        let text = self.to_string();
        if text.is_empty() || text.len() > MAX_BAGGAGE {
            return None;
        }
        HeaderValue::try_from(text).ok()
    }
}

impl fmt::Display for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = [
            ("k8s.cluster.name", self.cluster.as_deref()),
            ("k8s.namespace.name", self.namespace.as_deref()),
            (
                self.workload.as_ref().map_or("", |(kind, _)| kind.key()),
                self.workload.as_ref().map(|(_, name)| &**name),
            ),
            ("service.name", self.service.as_deref()),
            ("service.version", self.version.as_deref()),
            ("cloud.region", self.region.as_deref()),
            ("cloud.availability_zone", self.zone.as_deref()),
        ];
        let mut first = true;
        for (key, value) in members {
            let Some(value) = value.filter(|value| !value.is_empty() && value.len() <= MAX_VALUE) else {
                continue;
            };
            if !std::mem::take(&mut first) {
                f.write_char(',')?;
            }
            write!(f, "{key}=")?;
            encode(f, value)?;
        }
        Ok(())
    }
}

/// Bytes that W3C baggage allows in a value as they are, without `%`.
fn plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\' | b'%')
}

fn encode(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    for byte in value.bytes() {
        if plain(byte) { f.write_char(char::from(byte))? } else { write!(f, "%{byte:02X}")? }
    }
    Ok(())
}

fn decode(value: &str) -> Option<Box<str>> {
    let mut bytes = Vec::with_capacity(value.len().min(MAX_VALUE));
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' {
            let digit = |b: u8| char::from(b).to_digit(16);
            let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        };
        if bytes.len() == MAX_VALUE {
            return None;
        }
        bytes.push(byte);
    }
    let text = String::from_utf8(bytes).ok()?;
    // A line break or an escape sequence would end up in someone's log.
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Option<Box<str>>> {
        proptest::option::of("[^\\p{Cc}]{1,40}".prop_map(|s| s.into()))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            values in (value(), value(), value(), value(), value(), value(), value()), kind in 0usize..4
        ) {
            let (cluster, namespace, name, service, version, region, zone) = values;
            let workload = name.map(|name| (WorkloadKind::ALL[kind], name));
            let baggage = Baggage { cluster, namespace, workload, service, version, region, zone };
            prop_assert_eq!(Baggage::parse(&baggage.to_string()), baggage.clone());
            if baggage != Baggage::default() {
                prop_assert!(baggage.to_header().is_some());
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,300}", tail in "[%,;=a-f0-9.]{0,60}") {
            let _ = Baggage::parse(&text);
            let _ = Baggage::parse(&format!("service.name={tail}"));
        }
    }

    #[test]
    fn istio_s_own_header_is_understood() {
        let text = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1,cloud.region=r,cloud.availability_zone=z";
        let baggage = Baggage::parse(text);
        assert_eq!(baggage.workload, Some((WorkloadKind::Deployment, "web".into())));
        assert_eq!(baggage.zone.as_deref(), Some("z"));
        assert_eq!(baggage.to_string(), text);
    }

    #[test]
    fn a_value_cannot_smuggle_another_member() {
        let baggage =
            Baggage { service: Some("a,k8s.namespace.name=kube-system".into()), ..Baggage::default() };
        assert_eq!(Baggage::parse(&baggage.to_string()).namespace, None);
    }
}
