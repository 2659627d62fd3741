//! What the kernel says about this process, read from /proc at each scrape.

use std::fs;

use crate::catalog::{CPU, FDS, MAX_FDS, RSS, STARTED, THREADS};
use crate::exposition::Exposition;

/// Ticks a second in /proc/PID/stat. The kernel fixes USER_HZ at 100 on the platforms we build for (x86-64, arm64).
const USER_HZ: f64 = 100.0;

/// Figures of one moment. What cannot be read is left out, and so is its metric.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Process {
    resident: Option<u64>,
    cpu: Option<f64>,
    threads: Option<u64>,
    started: Option<f64>,
    fds: Option<u64>,
    max_fds: Option<u64>,
}

impl Process {
    /// Reads /proc/self. /proc may be missing in a namespace: then everything is.
    pub(crate) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut process = Self::parse(
            &text("/proc/self/stat"),
            &text("/proc/self/status"),
            &text("/proc/stat"),
            &text("/proc/self/limits"),
        );
        // The listing holds the descriptor that lists, too.
        process.fds = fs::read_dir("/proc/self/fd").ok().map(|fds| (fds.count() as u64).saturating_sub(1));
        process
    }

    pub(crate) fn render(&self, out: &mut Exposition) {
        let whole =
            [(&RSS, self.resident), (&THREADS, self.threads), (&FDS, self.fds), (&MAX_FDS, self.max_fds)];
        for (metric, value) in whole {
            if let Some(value) = value {
                out.single(metric, value);
            }
        }
        for (metric, value) in [(&CPU, self.cpu), (&STARTED, self.started)] {
            if let Some(value) = value {
                out.single(metric, value);
            }
        }
    }

    fn parse(stat: &str, status: &str, system: &str, limits: &str) -> Self {
        // The name in parentheses may hold anything, so counting begins after the last one; proc(5) numbers from 1,
        // and what follows is field 3.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_ascii_whitespace().collect())
            .unwrap_or_default();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let line = |text: &str, key: &str, column: usize| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_ascii_whitespace().nth(column)?.parse::<u64>().ok()
        };
        let boot = line(system, "btime ", 0);
        Self {
            resident: line(status, "VmRSS:", 0).map(|kib| kib * 1024),
            cpu: field(14).zip(field(15)).map(|(user, system)| (user + system) as f64 / USER_HZ),
            threads: field(20),
            started: field(22).zip(boot).map(|(ticks, boot)| boot as f64 + ticks as f64 / USER_HZ),
            fds: None,
            max_fds: line(limits, "Max open files", 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_behind_a_hostile_process_name() {
        let stat = "42 (a) b) (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 7 0 12345 0 0";
        let status = "Name:\ta\nVmRSS:\t    2048 kB\nThreads:\t7\n";
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n";
        let process = Process::parse(stat, status, "cpu 1\nbtime 1000\n", limits);
        let expected = Process {
            resident: Some(2048 * 1024),
            cpu: Some(4.0),
            threads: Some(7),
            started: Some(1123.45),
            fds: None,
            max_fds: Some(1024),
        };
        assert_eq!(process, expected);
    }

    #[test]
    fn a_missing_proc_is_no_figures_rather_than_wrong_ones() {
        assert_eq!(Process::parse("", "", "", ""), Process::default());
    }

    #[test]
    fn this_process_has_all_figures() {
        let Process { resident, cpu, threads, started, fds, max_fds } = Process::read();
        assert!(resident.unwrap() > 100_000 && threads.unwrap() >= 1 && started.unwrap() > 1e9);
        assert!(cpu.unwrap() >= 0.0 && fds.unwrap() >= 3 && max_fds.unwrap() >= fds.unwrap());
    }
}
