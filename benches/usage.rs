//! What processes have used of the processors, with all their threads and descendants, read from /proc.

use std::{collections::HashMap, fs, time::Duration};

/// Length of the kernel's unit of CPU time towards user space: USER_HZ is 100 on every architecture we run on. So a figure
/// over a second of CPU time is good to one per cent.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of a set of processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time of all threads, ended ones included, and of children that were waited for.
    pub(crate) cpu: Duration,
    /// Processes.
    pub(crate) processes: usize,
}

impl Usage {
    /// Of these processes and their descendants, now. A process that has ended counts as nothing.
    pub(crate) fn of(roots: &[u32]) -> Self {
        let all = stats();
        all.iter().filter(|&(&pid, _)| descends(pid, roots, &all)).fold(Self::default(), |sum, (_, stat)| {
            Self { cpu: sum.cpu + stat.cpu, processes: sum.processes + 1 }
        })
    }
}

/// A process and its descendants, now; empty once it has ended.
pub(crate) fn family(root: u32) -> Vec<u32> {
    let all = stats();
    all.keys().copied().filter(|&pid| descends(pid, &[root], &all)).collect()
}

fn stats() -> HashMap<u32, Stat> {
    processes().filter_map(|pid| Some((pid, Stat::read(pid)?))).collect()
}

/// Whether `pid` is one of `roots` or has one of them among its ancestors.
fn descends(mut pid: u32, roots: &[u32], all: &HashMap<u32, Stat>) -> bool {
    // Parents were read one after another while processes came and went, so a cycle is thinkable: bounded.
    for _ in 0..64 {
        if roots.contains(&pid) {
            return true;
        }
        match all.get(&pid) {
            Some(stat) => pid = stat.parent,
            None => return false,
        }
    }
    false
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    cpu: Duration,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Parses /proc/PID/stat (proc(5)): after the command in parentheses come state, parent, and as 12th to 15th fields utime,
    /// stime, cutime and cstime.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u32>().ok()).sum::<Option<u32>>()?;
        Some(Self { parent: fields.get(1)?.parse().ok()?, cpu: TICK * ticks })
    }
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::{hint, process, process::Command, time::Instant};

    use super::*;

    #[test]
    fn stat_is_read_past_a_command_with_blanks_and_parentheses() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 20 5 20 0 3 0 99 1 2";
        assert_eq!(Stat::parse(text), Some(Stat { parent: 7, cpu: Duration::from_millis(2250) }));
        assert_eq!(Stat::parse("42 (cut) S 7"), None);
    }

    #[test]
    fn work_shows_as_cpu_time() {
        let own = [process::id()];
        let before = Usage::of(&own);
        let deadline = Instant::now() + Duration::from_secs(20);
        while Usage::of(&own).cpu < before.cpu + 3 * TICK {
            hint::black_box((0..100_000).sum::<u64>());
            assert!(Instant::now() < deadline, "no CPU time after 20 s of work");
        }
        assert!(before.processes >= 1, "{before:?}");
        assert!(family(process::id()).contains(&process::id()));
    }

    #[test]
    fn children_count_with_their_parents() {
        let mut shell = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while Usage::of(&[shell.id()]).processes < 2 {
            assert!(Instant::now() < deadline, "the shell's child does not appear");
        }
        let children: Vec<u32> = processes()
            .filter(|&pid| Stat::read(pid).is_some_and(|stat| stat.parent == shell.id()))
            .collect();
        shell.kill().unwrap();
        shell.wait().unwrap();
        for child in children {
            Command::new("kill").arg(child.to_string()).status().unwrap();
        }
        assert_eq!(Usage::of(&[shell.id()]).processes, 0);
    }
}
