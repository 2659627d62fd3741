//! A node's flow record, read from its JSON lines as any log pipeline would read it.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
};

use serde::Deserialize;

/// Flow records that are kept of one node; the oldest go first.
const FLOWS_KEPT: usize = 200_000;

/// A node's log, read on as it grows.
#[derive(Debug)]
pub(super) struct FlowLog {
    reader: BufReader<File>,
    /// The last line as long as its end is not written.
    line: Vec<u8>,
    flows: VecDeque<FlowRecord>,
}

impl FlowLog {
    /// Begins at the start of a log.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let reader = BufReader::with_capacity(1 << 16, File::open(path)?);
        Ok(Self { reader, line: Vec::new(), flows: VecDeque::new() })
    }

    /// Reads what was written since, and returns all that is kept.
    pub(super) fn read(&mut self) -> io::Result<&mut VecDeque<FlowRecord>> {
        while self.reader.read_until(b'\n', &mut self.line)? > 0 {
            if self.line.last() != Some(&b'\n') {
                break;
            }
            if let Some(flow) = FlowRecord::parse(&self.line) {
                if self.flows.len() == FLOWS_KEPT {
                    self.flows.pop_front();
                }
                self.flows.push_back(flow);
            }
            self.line.clear();
        }
        Ok(&mut self.flows)
    }
}

/// One connection as one side's node tells it. Texts that the record leaves out are empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FlowRecord {
    /// `source` or `destination`: whose node writes.
    pub reporter: String,
    /// `tunnel`, `same-node`, `plaintext` or `passthrough`.
    pub path: String,
    /// `allowed`, `denied` or `failed`.
    pub verdict: String,
    /// Why it was denied or failed, as a code.
    pub reason: String,
    /// Policy and rule that decided.
    pub policy: String,
    /// The client's address.
    pub source_address: Option<SocketAddr>,
    /// The client's workload.
    pub source_workload: String,
    /// The client's pod.
    pub source_pod: String,
    /// The client's namespace.
    pub source_namespace: String,
    /// The client's proved identity.
    pub source_identity: String,
    /// The server's address.
    pub destination_address: Option<SocketAddr>,
    /// The server's workload.
    pub destination_workload: String,
    /// The server's pod.
    pub destination_pod: String,
    /// The server's namespace.
    pub destination_namespace: String,
    /// The server's proved identity.
    pub destination_identity: String,
    /// Host name of the Service called.
    pub destination_service: String,
    /// The address that the client called.
    pub original_destination: Option<SocketAddr>,
    /// Bytes from client to server.
    pub bytes_sent: u64,
    /// Bytes from server to client.
    pub bytes_received: u64,
    /// Milliseconds from first to last.
    pub duration_ms: f64,
    /// `source`, `destination` or `proxy`.
    pub closed_by: String,
    /// Whether mutual TLS carried it.
    pub tls: bool,
    /// Where it failed.
    pub hop: String,
    /// What was wrong, in a sentence.
    pub error: String,
    /// What to do about it.
    pub advice: String,
    target: String,
}

impl FlowRecord {
    /// Reads a line of a log; `None` where it is something else than a flow record.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        if line.first() != Some(&b'{') {
            return None;
        }
        serde_json::from_slice::<Self>(line).ok().filter(|record| record.target == "flow")
    }

    /// Whether it is the record of the client's node.
    pub fn is_source(&self) -> bool {
        self.reporter == "source"
    }

    /// Whether it tells of a call between these pods (`namespace/name`).
    pub fn is_between(&self, source: &str, destination: &str) -> bool {
        let is = |full: &str, namespace: &str, pod: &str| full.split_once('/') == Some((namespace, pod));
        is(source, &self.source_namespace, &self.source_pod)
            && is(destination, &self.destination_namespace, &self.destination_pod)
    }
}

impl fmt::Display for FlowRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |address: Option<SocketAddr>| address.map_or_else(|| "?".into(), |at| at.to_string());
        write!(
            f,
            "{}: {} {}/{} ({}) -> {}/{} ({}) by {}, {} up, {} down",
            self.reporter,
            self.verdict,
            self.source_namespace,
            self.source_pod,
            address(self.source_address),
            self.destination_namespace,
            self.destination_pod,
            address(self.destination_address),
            self.path,
            self.bytes_sent,
            self.bytes_received,
        )?;
        for (name, value) in [("reason", &self.reason), ("policy", &self.policy), ("error", &self.error)] {
            if !value.is_empty() {
                write!(f, ", {name} {value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_log_is_read_on_as_it_grows() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut log = FlowLog::open(file.path()).unwrap();
        file.write_all(b"starting\n{\"target\":\"flow\",\"bytes_sent\":1}\n{\"target\":\"fl").unwrap();
        assert_eq!(log.read().unwrap().len(), 1);
        file.write_all(b"ow\",\"bytes_sent\":2}\n").unwrap();
        assert_eq!(log.read().unwrap().back().unwrap().bytes_sent, 2);
    }

    #[test]
    fn only_flow_records_are_read() {
        let line = br#"{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","target":"flow","connection":1,"reporter":"source",
            "path":"tunnel","verdict":"allowed","source_pod":"a","source_namespace":"n","destination_pod":"b",
            "destination_namespace":"m","bytes_sent":3,"destination_address":"[fd00::1]:80","duration_ms":1.5,"tls":true}"#;
        let flow = FlowRecord::parse(line).unwrap();
        assert!(flow.is_source() && flow.is_between("n/a", "m/b") && !flow.is_between("m/b", "n/a"));
        assert_eq!((flow.bytes_sent, flow.destination_address.unwrap().port(), flow.tls), (3, 80, true));
        assert!(FlowRecord::parse(br#"{"target":"aquifer","message":"started"}"#).is_none());
        assert!(FlowRecord::parse(b"plain text").is_none());
    }
}
