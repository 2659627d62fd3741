//! Memory that a process needed for a while and keeps for nothing: it is given back when the process comes to rest.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};

/// A process that used less processor time than this between two ticks is at rest.
const REST: Duration = Duration::from_millis(20);
/// One that used more than this since memory was last given back may have memory to give.
const WORK: Duration = Duration::from_millis(50);

/// One that had more page faults than this since then has mapped pages that it may need no more: 2 MiB, as the kernel maps sixteen pages
/// at once.
const FAULTS: i64 = 32;
/// These alone are looked after so often: whatever the process does next finds its pages unmapped, some 100 µs all together.
const PAUSE: Duration = Duration::from_secs(60);

/// Sees when the process comes to rest, and gives memory back then. Tick it every few seconds.
#[derive(Debug, Default)]
pub struct Rest {
    last: Duration,
    given: Option<Given>,
}

/// When memory was last given back, and what the process had used until then.
#[derive(Debug)]
struct Given {
    at: Instant,
    used: Duration,
    faults: i64,
}

impl Rest {
    /// Looks at what was used since the last tick. Nearly free, but for some milliseconds once each time that the process has worked and now
    /// rests.
    pub fn tick(&mut self) {
        let (used, faults) = usage();
        let resting = used.saturating_sub(self.last) < REST;
        self.last = used;
        if !resting {
            return;
        }
        let given = self.given.as_ref();
        if given.is_none_or(|given| used.saturating_sub(given.used) > WORK) {
            // SAFETY: it takes no pointers, and is safe beside other threads' allocations.
            unsafe { libc::malloc_trim(0) };
        } else if given.is_some_and(|given| faults - given.faults <= FAULTS || given.at.elapsed() < PAUSE) {
            return;
        }
        unmap();
        let (used, faults) = usage();
        self.given = Some(Given { at: Instant::now(), used, faults });
    }
}

/// Processor time and page faults of the process until now.
fn usage() -> (Duration, i64) {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Default::default() };
    let time = usage.user_time() + usage.system_time();
    (Duration::from_micros(time.num_microseconds().unsigned_abs()), usage.minor_page_faults())
}

/// Unmaps those pages of programs and libraries that are as they are on disk: the kernel maps sixteen around each one that is touched, most
/// of them for code that runs at start only. What is used again is mapped again, from the page cache.
fn unmap() {
    let Ok(smaps) = fs::read_to_string("/proc/self/smaps") else { return };
    for range in clean_file_pages(&smaps) {
        // SAFETY: for a private mapping that cannot be written and has no page of its own, this drops page table entries and
        // no data: the next access maps the same bytes of the same file.
        unsafe { libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED) };
    }
}

/// The address ranges of files that are mapped without the right to write and that have no page of this process's own (as
/// relocated data has, which is made read-only later), of /proc/PID/smaps (proc(5)).
fn clean_file_pages(smaps: &str) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Anonymous:"), Some("0")) => ranges.extend(current.take()),
            (Some(addresses), Some("r--p" | "r-xp")) if line.contains('/') => current = range(addresses),
            (Some(addresses), Some(_)) if range(addresses).is_some() => current = None,
            _ => {}
        }
    }
    ranges
}

fn range(text: &str) -> Option<std::ops::Range<usize>> {
    let (start, end) = text.split_once('-')?;
    let hex = |text| usize::from_str_radix(text, 16).ok();
    Some(hex(start)?..hex(end)?).filter(|range| range.start < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clean_pages_of_files_are_chosen() {
        let smaps = "\
55d0c0000000-55d0c0400000 r--p 00000000 fd:00 1 /usr/bin/aquifer
Size:               4096 kB
Anonymous:             0 kB
55d0c0400000-55d0c0c00000 r-xp 00400000 fd:00 1 /usr/bin/aquifer
Anonymous:             0 kB
55d0c0c00000-55d0c0c80000 r--p 00c00000 fd:00 1 /usr/bin/aquifer
Anonymous:           512 kB
55d0c0c80000-55d0c0c90000 rw-p 00c80000 fd:00 1 /usr/bin/aquifer
Anonymous:             0 kB
7f0000000000-7f0000010000 r--p 00000000 00:00 0
Anonymous:             0 kB
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
";
        let expected = [0x55d0_c000_0000..0x55d0_c040_0000, 0x55d0_c040_0000..0x55d0_c0c0_0000];
        assert_eq!(clean_file_pages(smaps), expected);
    }

    #[test]
    fn a_process_is_smaller_after_it_and_goes_on() {
        let of_files = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let before = of_files();
        unmap();
        assert!(of_files() < before, "{before} KiB before, and {} after", of_files());
    }
}
