//! The facts about the machine without which a figure says little.

use std::{fs, thread, time::Duration};

use serde::{Deserialize, Serialize};

/// How long the machine is watched before a run to see what else it does.
const WATCH: Duration = Duration::from_secs(1);

/// What a run was measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor model, with its number where the name says little.
    pub processor: String,
    /// Cores that are online.
    pub cores: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// Kernel release.
    pub kernel: String,
    /// Day of the run, UTC.
    pub date: String,
    /// Share of all cores that was busy with other work just before the run, 0 to 1.
    pub busy_before: f64,
}

impl Machine {
    /// Looks at this machine; takes a second.
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| value(&cpuinfo, name).unwrap_or("unknown").to_owned();
        Self {
            processor: format!(
                "{} (family {}, model {})",
                field("model name"),
                field("cpu family"),
                field("model")
            ),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory: memory(&read("/proc/meminfo")).unwrap_or(0),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            busy_before: busy(WATCH),
        }
    }

    /// One line for a report.
    pub fn facts(&self) -> String {
        format!(
            "{}, {} cores, {:.0} GB, Linux {}; {:.0} % busy with other work just before; {}",
            self.processor,
            self.cores,
            self.memory as f64 / 1e9,
            self.kernel,
            self.busy_before * 100.0,
            self.date,
        )
    }

    /// Whether other work was light enough for figures to mean something.
    pub fn is_quiet(&self) -> bool {
        self.busy_before < 0.05
    }
}

/// The value of the first `name : value` line.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, v)| v.trim())
}

fn memory(meminfo: &str) -> Option<u64> {
    let kilobytes: u64 = value(meminfo, "MemTotal")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

fn busy(watch: Duration) -> f64 {
    let sample = || times(&fs::read_to_string("/proc/stat").unwrap_or_default());
    let before = sample();
    thread::sleep(watch);
    match (before, sample()) {
        (Some((idle_before, all_before)), Some((idle, all))) if all > all_before => {
            1.0 - (idle - idle_before) as f64 / (all - all_before) as f64
        }
        _ => 0.0,
    }
}

/// Idle time (waiting for disks included) and all time, of all cores, in ticks: the first line of /proc/stat.
fn times(stat: &str) -> Option<(u64, u64)> {
    let ticks: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    Some((ticks.get(3)? + ticks.get(4)?, ticks.iter().take(8).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        assert_eq!(value("model\t\t: 167\nmodel name\t: A CPU\n", "model name"), Some("A CPU"));
        assert_eq!(memory("MemTotal:       24683568 kB\n"), Some(24_683_568 * 1024));
        assert_eq!(times("cpu  1 2 3 40 5 6 7 8 9 10\ncpu0 0\n"), Some((45, 72)));
    }

    #[test]
    fn this_machine_has_facts() {
        let machine = Machine::look();
        assert!(machine.cores > 0 && machine.memory > 0 && !machine.kernel.is_empty(), "{machine:?}");
        assert!((0.0..=1.0).contains(&machine.busy_before), "{machine:?}");
    }
}
